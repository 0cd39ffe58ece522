"""What an output's live tables say: of whom it has captions, and what reviewers said of them."""

from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.output import Output, OutputError
from schemas.kinds import Verdict

NEVER = datetime.min.replace(tzinfo=UTC)
"""Before any time."""
_OF_AGE = ("reviewed_at", "task_id", "reviewer", "verdict", "caption", "shown_caption")


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
    columns = ["image_id", *_OF_AGE]
    reviews = [
        row for _, part in output.tables("reviews", columns, ours) for row in part.to_pylist()
    ]
    reviews.sort(key=_age)
    verdicts: dict[str, bool | None] = dict.fromkeys(row["image_id"] for row in reviews)
    for row in reviews:
        if row["verdict"] != Verdict.SKIPPED:
            verdicts[row["image_id"]] = row["verdict"] == Verdict.ACCEPTED
    return verdicts


def oldest_first(output: Output, reviews: pa.Table) -> list[dict[str, Any]]:
    """Return reviews by age, each with its ``row`` in the table, and its verdict as a `Verdict`.

    Those of one moment are in one order, too, in whatever order the files hold them.

    Raises:
        OutputError: if a review has a verdict that there is not.
    """
    rows = [{**row, "row": number} for number, row in enumerate(reviews.to_pylist())]
    for row in rows:
        try:
            row["verdict"] = Verdict(row["verdict"])
        except ValueError as error:
            raise OutputError(
                f"{output.uri} has a review of image {row['image_id']} with the verdict "
                f"{row['verdict']!r}; use one of {', '.join(Verdict)}"
            ) from error
    return sorted(rows, key=_age)


def _age(review: Mapping[str, Any]) -> tuple[Any, ...]:
    at, task, *texts = (review[name] for name in _OF_AGE)
    return at or NEVER, task or 0, *(text or "" for text in texts)


def first_of_image(captions: pa.Table) -> npt.NDArray[np.bool_]:
    """Return which rows are their image's first by uri: one of each image, whatever their order.

    Args:
        captions: of one model and decoding, with ``image_id`` and ``uri``.
    """
    images = captions["image_id"].combine_chunks().dictionary_encode().indices.to_numpy()
    order = pc.sort_indices(captions["uri"]).to_numpy()
    first = np.zeros(captions.num_rows, np.bool_)
    first[order[np.unique(images[order], return_index=True)[1]]] = True
    return first
