"""What an output's live tables say: of whom it has captions, and what reviewers said of them."""

from collections import Counter
from datetime import UTC, datetime

import numpy as np
import numpy.typing as npt
import pyarrow as pa
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
