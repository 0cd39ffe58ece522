"""The options of `review merge` and `review agreement`."""

from typing import Any

from pipelines.arguments import add_kind


def add_merge(actions: Any) -> None:
    """Add both to the actions of `review`."""
    merge = actions.add_parser(
        "merge",
        help="make the final table: a person's caption where there is one, else the model's",
        description="Make OUTPUT/merged, a row for each uri of one model's captions: the caption "
        "that a person left,\nelse the model's, and whose it is. It replaces the table of the "
        "merge before.",
    )
    merge.add_argument("output", metavar="OUTPUT", help="folder written by annotate")
    add_kind(merge)
    agreement = actions.add_parser(
        "agreement",
        help="how often reviewers accept captions, how much they change, and agree",
        description="Say how often reviewers accept captions, how much of the others they change, "
        "and how far they\nagree with each other: over all, by confidence, by folder and by model.",
    )
    agreement.add_argument("output", metavar="OUTPUT", help="folder written by annotate")
    agreement.add_argument("--model_id", help="only reviews of this model's captions")
    agreement.add_argument("--decoding", help="only of captions decoded so")
    agreement.add_argument("--report", metavar="DIR", help="write agreement.json there")
    for parser in (merge, agreement):
        parser.set_defaults(parser=parser)
