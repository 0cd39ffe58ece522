"""The live review queue: replacing one model's part of it, and reading what is to be pushed."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from captioner.annotations import ClassNames
from captioner.images import Limits
from pipelines.commit import Committed, clear
from pipelines.committed import newest_verdicts
from pipelines.labelstudio.items import ReviewItem
from pipelines.output import Output
from pipelines.parts import encode, publish
from pipelines.records import annotations_of
from schemas.kinds import ReviewReason
from schemas.tables import CAPTIONS, REVIEW

ROWS_AT_ONCE = 1_000


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


@dataclass(frozen=True, eq=False)
class QueuedItems:
    """Captions to review, in order. Rows stay Arrow's until somebody goes through them.

    Attributes:
        rows: of ``captions``.
    """

    rows: pa.Table

    def __len__(self) -> int:
        """Return how many there are."""
        return int(self.rows.num_rows)

    def __iter__(self) -> Iterator[ReviewItem]:
        """Iterate over the items, as often as wanted."""
        for batch in self.rows.to_batches(max_chunksize=ROWS_AT_ONCE):
            for row in batch.to_pylist():
                columns = {name: row[name] for name in _ITEM_COLUMNS}
                columns |= {name: tuple(row[name] or ()) for name in _TOKEN_COLUMNS}
                yield ReviewItem(**columns, annotations=annotations_of(row))


def review_items(
    output: Output, model_id: str | None = None, decoding: str | None = None
) -> QueuedItems:
    """Return the live queue as items to push, least confident first.

    What has a verdict is none of them, unless that was only skipped: such rows are the record of
    what the audit drew.

    Args:
        output: the output.
        model_id: only this model's; all models' if None.
        decoding: only this decoding config's; all if None.
    """
    queue = _to_review(output, model_id, decoding)
    uris, keys = pc.unique(queue["uri"]), _keys(queue)
    columns = [*_ITEM_COLUMNS, *_TOKEN_COLUMNS, *_ANNOTATION_COLUMNS]
    schema = pa.schema([(name, _large(CAPTIONS.field(name).type)) for name in columns])
    found = [schema.empty_table()]
    for _, table in output.tables("captions", columns, pc.field("uri").isin(uris)):
        queued = table.filter(pc.is_in(_keys(table), value_set=keys))
        found.append(queued.select(columns).cast(schema))
    rows = pa.concat_tables(found)
    order = pc.sort_indices(rows, [("confidence", "ascending"), ("uri", "ascending")])
    return QueuedItems(rows.take(order))


def queue_kinds(items: QueuedItems) -> list[tuple[str, str]]:
    """Return the models and decoding configs whose captions are to be pushed."""
    kinds = items.rows.group_by(["model_id", "decoding"]).aggregate([]).to_pylist()
    return sorted((kind["model_id"], kind["decoding"]) for kind in kinds)


def _to_review(output: Output, model_id: str | None, decoding: str | None) -> pa.Table:
    """Return the keys of the queue's rows that are to be seen and have no verdict yet."""
    found = [pa.schema([REVIEW.field(name) for name in _QUEUE_COLUMNS]).empty_table()]
    for _, table in output.tables("review", _QUEUE_COLUMNS):
        for name, value in (("model_id", model_id), ("decoding", decoding)):
            table = table if value is None else table.filter(_is(name, value))
        found.append(table.select(_QUEUE_COLUMNS).filter(_not_deferred(table["reasons"])))
    queue = pa.concat_tables(found)
    kinds = queue.group_by(["model_id", "decoding"]).aggregate([])
    for kind in kinds.to_pylist():
        ours = _is("model_id", kind["model_id"]) & _is("decoding", kind["decoding"])
        verdicts = newest_verdicts(output, ours)
        said = [image_id for image_id, verdict in verdicts.items() if verdict is not None]
        queue = queue.filter(~(ours & pc.field("image_id").isin(pa.array(said, pa.string()))))
    return queue


def _is(column: str, value: str) -> pc.Expression:
    return pc.field(column) == value


def _not_deferred(reasons: pa.ChunkedArray) -> pa.Array:
    lists = reasons.combine_chunks()
    deferred = pc.equal(pc.list_flatten(lists), ReviewReason.DEFERRED.value)
    wanted = np.ones(len(lists), np.bool_)
    wanted[pc.list_parent_indices(lists).filter(deferred).to_numpy()] = False
    return pa.array(wanted)


def _keys(rows: pa.Table) -> pa.ChunkedArray:
    """Return the uri, model and decoding of each row in one."""
    return pc.binary_join_element_wise(rows["uri"], rows["model_id"], rows["decoding"], "\0")


def _large(kind: pa.DataType) -> pa.DataType:
    """Return a type for texts of more than 2 GiB in all: those of many masks."""
    if pa.types.is_string(kind):
        return pa.large_string()
    if pa.types.is_list(kind):
        return pa.list_(_large(kind.value_type))
    if pa.types.is_struct(kind):
        return pa.struct([(field.name, _large(field.type)) for field in kind])
    return kind


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
    runs = sorted(queue_runs(output, model_id, decoding))
    known = [output.read_manifest(run).get("classes", {}) for run in runs]
    names: dict[str, dict[str, None]] = {
        kind: dict.fromkeys(name for classes in known for name in classes.get(kind, ()))
        for kind in _ANNOTATION_COLUMNS
    }
    for item in items:
        for kind, found in names.items():
            found.update((one.name, None) for one in getattr(item.annotations, kind) or ())
    return ClassNames(**{kind: tuple(found) for kind, found in names.items()})


def queue_runs(output: Output, model_id: str | None, decoding: str | None) -> set[str]:
    """Return the runs that made the captions of the live queue.

    Args:
        output: the output.
        model_id: only this model's; all models' if None.
        decoding: only this decoding config's; all if None.
    """
    return {
        row["run_id"]
        for _, table in output.tables("review", ["model_id", "decoding", "run_id"])
        for row in table.to_pylist()
        if model_id in (None, row["model_id"]) and decoding in (None, row["decoding"])
    }


def queue_configs(
    output: Output, model_id: str | None = None, decoding: str | None = None
) -> Iterator[dict[str, Any]]:
    """Yield what was asked of the runs of the live queue, by their manifests, newest run first.

    Args:
        output: the output.
        model_id: only this model's; all models' if None.
        decoding: only this decoding config's; all if None.
    """
    for run in sorted(queue_runs(output, model_id, decoding), reverse=True):
        yield output.read_manifest(run).get("config", {})


def queue_limits(
    output: Output, model_id: str | None = None, decoding: str | None = None
) -> Limits:
    """Return what images of the live queue may cost: the most that one of its runs allowed.

    Where no manifest tells, it is what `annotate` allows by default.

    Args:
        output: the output.
        model_id: only this model's; all models' if None.
        decoding: only this decoding config's; all if None.
    """
    return _limits(queue_configs(output, model_id, decoding))


def caption_limits(
    output: Output, model_id: str | None = None, decoding: str | None = None
) -> Limits:
    """Return what images of captions may cost: the most that one of their runs allowed.

    Where no manifest tells, it is what `annotate` allows by default.

    Args:
        output: the output.
        model_id: only this model's; all models' if None.
        decoding: only this decoding config's; all if None.
    """
    names = ["model_id", "decoding", "run_id"]
    runs = {
        row["run_id"]
        for _, table in output.tables("captions", names)
        for row in table.group_by(names).aggregate([]).to_pylist()
        if model_id in (None, row["model_id"]) and decoding in (None, row["decoding"])
    }
    return _limits(output.read_manifest(run).get("config", {}) for run in sorted(runs))


def _limits(configs: Iterable[dict[str, Any]]) -> Limits:
    told = [config.get("limits") for config in configs]
    known = [Limits(**limits) for limits in told if limits and set(limits) <= _LIMITS] or [Limits()]
    return Limits(max(one.max_bytes for one in known), max(one.max_pixels for one in known))


_LIMITS = {field.name for field in fields(Limits)}
_QUEUE_COLUMNS = ["uri", "image_id", "model_id", "decoding", "reasons"]
_TOKEN_COLUMNS = ("tokens", "token_logprobs")
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
