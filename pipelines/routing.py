"""PlanReview: which committed captions a person should look at.

The queue is a pure function of what was committed and of the options, never of rows in flight:
a resumed run plans the same queue as an unbroken one.
"""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from captioner.annotations import ClassNames
from pipelines.commit import Committed, clear
from pipelines.labelstudio.push import ReviewItem
from pipelines.output import Output
from pipelines.parts import encode, publish
from pipelines.records import annotations_of
from schemas.kinds import ReviewReason
from schemas.tables import REVIEW

_PLANNED = ["image_id", "uri", "uri_version", "model_id", "decoding", "confidence", "run_id"]


@dataclass(frozen=True)
class ReviewPlan:
    """What is in the queue, and what waits for the review of the same bytes elsewhere."""

    queued: int
    deferred: int


def plan_review(output: Output, model_id: str, decoding: str, review_below: float) -> ReviewPlan:
    """Plan the review of one model's captions and make it the live queue.

    Captions with a confidence below ``review_below`` are queued, least confident first. Images
    with the same bytes are one item: the first by uri is queued, the others are deferred.

    Raises:
        ValueError: if ``review_below`` is not a probability.
    """
    if not 0.0 <= review_below <= 1.0:
        raise ValueError(f"review_below is {review_below}; use a number from 0 to 1")
    ours = (pc.field("model_id") == model_id) & (pc.field("decoding") == decoding)
    below = ours & (pc.field("confidence") < review_below)
    rows = [
        row for _, table in output.tables("captions", _PLANNED, below) for row in table.to_pylist()
    ]
    queue = _one_of_each(rows)
    _replace_queue(output, model_id, decoding, queue)
    deferred = sum(row["reasons"] == [ReviewReason.DEFERRED.value] for row in queue)
    return ReviewPlan(len(queue) - deferred, deferred)


def _one_of_each(rows: list[dict[str, object]]) -> list[dict[str, object]]:
    groups: dict[object, list[dict[str, object]]] = defaultdict(list)
    for row in sorted(rows, key=lambda row: str(row["uri"])):
        groups[row["image_id"]].append(row)
    queue = [
        {
            **row,
            "group_id": row["image_id"],
            "reasons": [(ReviewReason.DEFERRED if position else ReviewReason.THRESHOLD).value],
        }
        for group in groups.values()
        for position, row in enumerate(group)
    ]
    return sorted(queue, key=lambda row: (row["confidence"], row["uri"]))


def _replace_queue(
    output: Output, model_id: str, decoding: str, queue: list[dict[str, object]]
) -> None:
    current = output.current()
    old = [
        file.path
        for file, table in output.tables("review", ["model_id", "decoding"])
        if table.slice(0, 1).to_pylist() == [{"model_id": model_id, "decoding": decoding}]
    ]
    new = []
    if queue:
        data = encode(pa.Table.from_pylist(queue, schema=REVIEW))
        new.append(publish(output, "review", data, len(queue)))
    after = current.replacing("review", old, new)
    if after != current:
        output.replace_current(after)
    gone = set(old) - {file.path for file in new}
    clear(output, Committed(leftovers=tuple(sorted(gone))))


def review_items(
    output: Output, model_id: str | None = None, decoding: str | None = None
) -> list[ReviewItem]:
    """Return the live queue as items to push, least confident first.

    Args:
        output: the output.
        model_id: only this model's; all models' if None.
        decoding: only this decoding config's; all if None.
    """
    queued = {
        (row["uri"], row["model_id"], row["decoding"])
        for _, table in output.tables("review", ["uri", "model_id", "decoding", "reasons"])
        for row in table.to_pylist()
        if ReviewReason.DEFERRED.value not in row["reasons"]
        and model_id in (None, row["model_id"])
        and decoding in (None, row["decoding"])
    }
    if not queued:
        return []
    wanted = pc.field("uri").isin(pa.array(sorted({uri for uri, _, _ in queued}), pa.string()))
    columns = [*_ITEM_COLUMNS, *_ANNOTATION_COLUMNS]
    items = [
        ReviewItem(**{name: row[name] for name in _ITEM_COLUMNS}, annotations=annotations_of(row))
        for _, table in output.tables("captions", columns, wanted)
        for row in table.to_pylist()
        if (row["uri"], row["model_id"], row["decoding"]) in queued
    ]
    return sorted(items, key=lambda item: (item.confidence, item.uri))


def queue_classes(
    output: Output,
    items: Iterable[ReviewItem],
    model_id: str | None = None,
    decoding: str | None = None,
) -> ClassNames:
    """Return what labels, boxes and masks of the live queue may be.

    Its runs' manifests say all that the model knows. Where one is missing, those that the items
    have are better than none: what has no class in the project is not shown there.

    Args:
        output: the output.
        items: of the queue.
        model_id: only this model's; all models' if None.
        decoding: only this decoding config's; all if None.
    """
    runs = {
        row["run_id"]
        for _, table in output.tables("review", ["model_id", "decoding", "run_id"])
        for row in table.to_pylist()
        if model_id in (None, row["model_id"]) and decoding in (None, row["decoding"])
    }
    known = [output.read_manifest(run).get("classes", {}) for run in sorted(runs)]
    names: dict[str, dict[str, None]] = {
        kind: dict.fromkeys(name for classes in known for name in classes.get(kind, ()))
        for kind in _ANNOTATION_COLUMNS
    }
    for item in items:
        for kind, found in names.items():
            found.update((one.name, None) for one in getattr(item.annotations, kind) or ())
    return ClassNames(**{kind: tuple(found) for kind, found in names.items()})


_ANNOTATION_COLUMNS = ("labels", "boxes", "masks")
_ITEM_COLUMNS = (
    "image_id",
    "uri",
    "caption",
    "confidence",
    "confidence_kind",
    "model_id",
    "decoding",
    "width",
    "height",
)
