"""The options that say what is to be reviewed, and the rules that they make."""

import argparse
from collections.abc import Callable
from typing import Any

from pipelines.arguments import share
from pipelines.review_rules import (
    AUDIT,
    ReviewRules,
    RulesError,
    parse_budget,
    parse_guarantee,
    parse_share,
)

REVIEW_BELOW = 0.5
"""What `annotate` queues unless a rule is given."""

_RULES = {
    "review_below": "review_below",
    "review_budget": "budget",
    "guarantee": "guarantee",
    "audit": "audit",
    "review_seed": "seed",
}


def add_review_rules(group: argparse._ArgumentGroup, default: str) -> None:
    """Add what `ReviewRules` holds; what is not given is None.

    Args:
        group: of options.
        default: what happens if none is given, for the help.
    """
    group.add_argument(
        "--review_below",
        type=share,
        metavar="P",
        help=f"queue captions with a confidence below P; 0 queues none ({default})",
    )
    group.add_argument(
        "--review_budget",
        type=_taken_by(parse_budget),
        metavar="N|5%",
        help="queue the N least confident captions, or so many percent of all, rounded down; what "
        "was reviewed before does not count",
    )
    group.add_argument(
        "--guarantee",
        type=_taken_by(parse_guarantee),
        metavar="TEXT",
        help="queue what cannot be promised to be right: with 'accuracy>=0.95 @ 0.9' at least 95%% "
        "of the captions left out are right, with 90%% confidence; rests on reviewed captions of "
        "the audit",
    )
    group.add_argument(
        "--audit",
        type=_taken_by(parse_share),
        metavar="SHARE",
        help="queue a random sample of all captions, whatever their confidence; guarantees and "
        f"estimates of quality rest on it; 0 for none (default: {AUDIT:.0%})".replace("%", "%%"),
    )
    group.add_argument(
        "--review_seed", type=int, metavar="N", help="of the audit's random draw (default: 0)"
    )
    group.add_argument(
        "--review_rules",
        metavar="FILE",
        help="a YAML file with these rules instead of flags: review_below, budget, guarantee, "
        "audit, seed",
    )


def review_rules(args: argparse.Namespace) -> ReviewRules:
    """Return the rules that the options give; without any, those that hold by default.

    Raises:
        RulesError: if they cannot be followed, or are given both by flags and by a file.
    """
    flags = [flag for flag in _RULES if getattr(args, flag) is not None]
    if args.review_rules is not None:
        if flags:
            raise RulesError(
                f"--review_rules and --{flags[0]} are both given; write all rules into the file, "
                "or use flags alone"
            )
        return ReviewRules.from_yaml(args.review_rules)
    given: dict[str, Any] = {_RULES[flag]: getattr(args, flag) for flag in flags}
    if not given.keys() & {"review_below", "budget", "guarantee"} and args.command == "annotate":
        given["review_below"] = REVIEW_BELOW
    if not given.keys() - {"seed"}:
        raise RulesError(
            "no rule says what to review; give --review_below, --review_budget, --guarantee, "
            "--audit or --review_rules"
        )
    return ReviewRules(**given)


def _taken_by(parse: Callable[[str], Any]) -> Callable[[str], Any]:
    """Return a parser of rules whose errors are argparse's."""

    def take(text: str) -> Any:
        try:
            return parse(text)
        except RulesError as error:
            raise argparse.ArgumentTypeError(str(error)) from error

    return take
