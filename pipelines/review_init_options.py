"""The options of `review init`."""

import argparse
from collections.abc import Callable
from typing import Any


def add_init(
    actions: Any, add_label_studio: Callable[[argparse._ArgumentGroup, bool], None]
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
    add_label_studio(init.add_argument_group("Label Studio"), True)
    init.add_argument(
        "--show_unsure_words",
        action="store_true",
        help="show reviewers the caption with the words marked that the model was unsure of",
    )
    init.set_defaults(parser=init)
