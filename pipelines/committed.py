"""What an output's live tables say: of whom it has captions, and what reviewers said of them."""

from collections import Counter
from datetime import UTC, datetime

import pyarrow.compute as pc

from pipelines.output import Output
from schemas.kinds import Verdict

_NEVER = datetime.min.replace(tzinfo=UTC)


def captions_by_model(output: Output) -> Counter[tuple[str, str]]:
    """Return how many captions there are of each model id and decoding."""
    counts: Counter[tuple[str, str]] = Counter()
    for _, table in output.tables("captions", ["model_id", "decoding"]):
        for row in (
            table.group_by(["model_id", "decoding"]).aggregate([([], "count_all")]).to_pylist()
        ):
            counts[row["model_id"], row["decoding"]] += row["count_all"]
    return counts


def newest_verdicts(output: Output, ours: pc.Expression) -> dict[str, bool | None]:
    """Return of each reviewed image whether the newest verdict accepts its caption.

    One that was skipped says nothing; of an image that was only skipped it is None.

    Args:
        output: the output.
        ours: of which model and decoding.
    """
    columns = ["image_id", "verdict", "reviewed_at", "task_id"]
    reviews = [
        row for _, part in output.tables("reviews", columns, ours) for row in part.to_pylist()
    ]
    reviews.sort(key=lambda row: (row["reviewed_at"] or _NEVER, row["task_id"] or 0))
    verdicts: dict[str, bool | None] = dict.fromkeys(row["image_id"] for row in reviews)
    for row in reviews:
        if row["verdict"] != Verdict.SKIPPED:
            verdicts[row["image_id"]] = row["verdict"] == Verdict.ACCEPTED
    return verdicts
