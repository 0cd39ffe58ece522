"""The options of `quality`."""

import argparse
from typing import Any

from pipelines.arguments import add_kind


def add_quality(commands: Any) -> None:
    """Add the command to a parser's commands."""
    quality = commands.add_parser(
        "quality",
        help="estimate how many captions are right, from the reviews so far",
        description="Estimate how many captions of an output are right, from the reviews so far, "
        "with 95% intervals.\nAccepted captions are judged by the audit: plan one with "
        "'captioner review plan OUTPUT --audit 2%'.",
    )
    quality.add_argument("output", metavar="OUTPUT", help="folder written by annotate")
    add_kind(quality)
    quality.add_argument(
        "--width",
        type=_width,
        default=0.02,
        metavar="W",
        help="say how many more reviews bring the 95%% interval to this width, as a share "
        "(default: %(default)s, which is 2 in 100)",
    )
    quality.add_argument(
        "--report",
        metavar="DIR",
        help="write reliability.png, risk_coverage.png, review_budget.png and quality.json there",
    )
    quality.set_defaults(parser=quality)


def _width(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0.0 < number < 1.0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number between 0 and 1, such as 0.02")
    return number
