"""The options of `review init`, and those of `review push` that follow from them."""

import argparse
from collections.abc import Callable
from typing import Any

from captioner.contract import EMBEDDED


def add_init(
    actions: Any, add_label_studio: Callable[[argparse._ArgumentGroup, bool, str, str], None]
) -> None:
    """Add it to the actions of `review`.

    Args:
        actions: of the command.
        add_label_studio: adds the options that say where the project is.
    """
    init = actions.add_parser(
        "init",
        help="make the project in Label Studio, or see that it is ready, before the first push",
        description="Make the project in Label Studio that OUTPUT's captions are reviewed in, or "
        "adopt the one of that\ntitle: controls for what the model gives, hot keys, instructions, "
        "least certain captions first,\nand a storage for each bucket of the images. A project "
        "that is ready stays as it is; one with\nanother labelling config is not touched.",
    )
    init.add_argument("output", metavar="OUTPUT", help="folder written by annotate")
    project = init.add_argument_group("Label Studio")
    add_label_studio(project, True, "make the project in", "made if there is none of that title")
    init.add_argument(
        "--show_unsure_words",
        action="store_true",
        help="show reviewers the caption with the words marked that the model was unsure of",
    )
    init.add_argument(
        "--show_attention",
        action="store_true",
        help="show reviewers where the model looked for the words that it was least sure of; each "
        "push then needs the model, and captions anew what it makes tasks of",
    )
    init.set_defaults(parser=init)


def add_queue_model(push: argparse.ArgumentParser) -> None:
    """Add the options that say which model made what is pushed.

    Args:
        push: the parser of `review push`.
    """
    model = push.add_argument_group(
        "model", "Needed where the project shows where the model looked (init --show_attention)."
    )
    model.add_argument(
        "--model",
        help="the one that made the captions: a folder on any store, or the name of a model on the "
        f"Hugging Face hub (default: the one that OUTPUT/model names; else {EMBEDDED})",
    )
    model.add_argument(
        "--device", default="auto", choices=("auto", "cpu", "cuda", "mps"), help="(default: auto)"
    )
