"""The options of `promote`."""

import argparse
from collections.abc import Callable
from typing import Any

from captioner.contract import PRECISIONS

_EXAMPLE = """\
example:
  captioner promote captions --candidate model/best --label_studio_url http://localhost:8080

The first run captions the audited images with the candidate and sends those on which the two
models differ to Label Studio. Run it again once people have answered some: it says better, worse
or cannot tell yet, as often as you like.
"""


def add_promote(
    commands: Any,
    add_label_studio: Callable[[argparse._ArgumentGroup, bool, str, str], None],
    add_decoding: Callable[[argparse.ArgumentParser], None],
) -> None:
    """Add the command to a parser's commands.

    Args:
        commands: of the program.
        add_label_studio: adds the options that say where the project is.
        add_decoding: adds those that say how captions are made.
    """
    promote = commands.add_parser(
        "promote",
        help="have people say whether another model is better; only a better one becomes the "
        "default",
        description="Compare another model with the present one on the images that the audit "
        "drew. Where their captions\ndiffer, people say which is better, not knowing whose it is. "
        "A better one becomes OUTPUT/model,\nwhich annotate takes from then on.",
        epilog=_EXAMPLE,
    )
    promote.add_argument("output", metavar="OUTPUT", help="folder written by annotate")
    promote.add_argument("--model_id", help="of the present model, if the output has several")
    promote.add_argument(
        "--decoding", help="how its captions were decoded, if they were in several ways"
    )
    candidate = promote.add_argument_group("candidate")
    candidate.add_argument(
        "--candidate",
        required=True,
        metavar="MODEL",
        help="a model folder on any store, or the name of a model on the Hugging Face hub",
    )
    candidate.add_argument(
        "--device", default="auto", choices=("auto", "cpu", "cuda", "mps"), help="(default: auto)"
    )
    candidate.add_argument(
        "--precision", default="float32", choices=PRECISIONS, help="(default: float32)"
    )
    add_decoding(promote)
    project = promote.add_argument_group(
        "Label Studio", "Captions are compared in a project of their own: 'TITLE: which is better'."
    )
    add_label_studio(project, True, "have captions compared in", "that of the reviews")
    promote.set_defaults(parser=promote)
