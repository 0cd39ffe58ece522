"""The live review queue: replacing one model's part of it, and reading what is to be pushed."""

from collections.abc import Iterable

import pyarrow as pa
import pyarrow.compute as pc

from captioner.annotations import ClassNames
from pipelines.commit import Committed, clear
from pipelines.committed import newest_verdicts
from pipelines.labelstudio.push import ReviewItem
from pipelines.output import Output
from pipelines.parts import encode, publish
from pipelines.records import annotations_of
from schemas.kinds import ReviewReason


def replace_queue(output: Output, model_id: str, decoding: str, queue: pa.Table) -> None:
    """Make these rows of ``review`` the live queue of a model; those of others stay."""
    current = output.current()
    old = [
        file.path
        for file, table in output.tables("review", ["model_id", "decoding"])
        if table.slice(0, 1).to_pylist() == [{"model_id": model_id, "decoding": decoding}]
    ]
    new = []
    if queue.num_rows:
        new.append(publish(output, "review", encode(queue), queue.num_rows))
    after = current.replacing("review", old, new)
    if after != current:
        output.replace_current(after)
    gone = set(old) - {file.path for file in new}
    clear(output, Committed(leftovers=tuple(sorted(gone))))


def review_items(
    output: Output, model_id: str | None = None, decoding: str | None = None
) -> list[ReviewItem]:
    """Return the live queue as items to push, least confident first.

    What has a verdict is none of them, unless that was only skipped: such rows are the record of
    what the audit drew.

    Args:
        output: the output.
        model_id: only this model's; all models' if None.
        decoding: only this decoding config's; all if None.
    """
    queue = [
        row
        for _, table in output.tables("review", _QUEUE_COLUMNS)
        for row in table.to_pylist()
        if ReviewReason.DEFERRED.value not in row["reasons"]
        and model_id in (None, row["model_id"])
        and decoding in (None, row["decoding"])
    ]
    kinds = {(row["model_id"], row["decoding"]) for row in queue}
    verdicts = {
        (one, way): newest_verdicts(
            output, (pc.field("model_id") == one) & (pc.field("decoding") == way)
        )
        for one, way in kinds
    }
    queued = {
        (row["uri"], row["model_id"], row["decoding"])
        for row in queue
        if verdicts[row["model_id"], row["decoding"]].get(row["image_id"]) is None
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


_QUEUE_COLUMNS = ["uri", "image_id", "model_id", "decoding", "reasons"]
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
