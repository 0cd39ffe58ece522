"""The options of `review pull` and `review status`."""

import argparse
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any


def add_pull_and_status(
    actions: Any, add_label_studio: Callable[[argparse._ArgumentGroup, bool, str, str], None]
) -> None:
    """Add them to the actions of `review`.

    Args:
        actions: of the command.
        add_label_studio: adds the options that say where the project is.
    """
    pull = actions.add_parser(
        "pull",
        help="bring what reviewers said in Label Studio into the output",
        description="Bring what reviewers said in Label Studio into OUTPUT/reviews, one row a "
        "review. The first pull\nreads all, later ones what changed since.",
    )
    status = actions.add_parser(
        "status",
        help="say what is queued, pushed, in progress and done",
        description="Say what is queued, pushed, in progress and done, what was not pulled yet, "
        "and how far\nreviewers accept and agree. Changes nothing.",
    )
    for parser in (pull, status):
        parser.add_argument("output", metavar="OUTPUT", help="folder written by annotate")
        project = parser.add_argument_group("Label Studio")
        add_label_studio(project, True, "read from", "its title")
        parser.set_defaults(parser=parser)
    pull.add_argument(
        "--since",
        type=_time,
        metavar="TIME",
        help="read what changed since then, such as 2026-11-21T18:00+01:00; without a zone it is "
        "UTC (default: since the last pull)",
    )


def _time(text: str) -> datetime:
    try:
        time = datetime.fromisoformat(text)
        return (time if time.tzinfo else time.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a time such as 2026-11-21T18:00 or 2026-11-21"
        ) from None
