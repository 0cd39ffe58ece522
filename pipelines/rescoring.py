"""Committed captions get the confidence of other heads, from their features, without the model."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from captioner.confidence.head import VERIFIED, ConfidenceHead
from captioner.contract import EXTRAS, OF_BEAMS
from pipelines.commands import CommandError, UsageError
from pipelines.commit import Committed, clear
from pipelines.done import of_another
from pipelines.output import Output
from pipelines.parts import encode, publish
from schemas.kinds import ConfidenceKind

_Rows = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Rescored:
    """What a head did: how many captions it is for, and how many of them changed."""

    head: ConfidenceHead
    rows: int
    changed: int


def rescore(output: Output, heads: Sequence[ConfidenceHead]) -> list[Rescored]:
    """Give captions the confidence that heads compute, all in one switch.

    To be called by the holder of the lease. A second time changes nothing.

    Raises:
        UsageError: if the output has no captions that a head is for.
        CommandError: if a caption lacks a feature that its head needs, or has that of another
            verifier than the head's.
    """
    heads = _for_captions(output, heads)
    for head in heads:
        _check_verifier(output, head)
    before = after = output.current()
    counts = {head.decoding: np.zeros(2, np.int64) for head in heads}
    replaced = []
    for file in before.of("captions"):
        old = table = output.read_part(file.path)
        for head in heads:
            rows = _rows_of(table, head)
            if rows.any():
                table, changed = _rescored(table, head, rows)
                counts[head.decoding] += (rows.sum(), changed)
        if not table.equals(old):
            new = publish(output, "captions", encode(table), table.num_rows)
            after = after.replacing("captions", [file.path], [new])
            replaced.append(file.path)
    if after != before:
        output.replace_current(after)
    kept = {file.path for file in after.of("captions")}
    clear(output, Committed(leftovers=tuple(path for path in replaced if path not in kept)))
    return [Rescored(head, *map(int, counts[head.decoding])) for head in heads]


def _for_captions(output: Output, heads: Sequence[ConfidenceHead]) -> list[ConfidenceHead]:
    """Return the heads that the output has captions for."""
    there = {
        (row["model_id"], row["decoding"])
        for _, table in output.tables("captions", ["model_id", "decoding"])
        for row in table.group_by(["model_id", "decoding"]).aggregate([]).to_pylist()
    }
    known = ", ".join(f"{model_id} (decoding {decoding})" for model_id, decoding in sorted(there))
    models = {model_id for model_id, _ in there}
    for head in heads:
        if head.model_id not in models:
            raise UsageError(
                f"the head is for model {head.model_id}, of which {output.uri} has no captions; "
                f"there are: {known or 'none'}"
            )
    found = [head for head in heads if (head.model_id, head.decoding) in there]
    if not found:
        decodings = ", ".join(head.decoding for head in heads)
        raise UsageError(
            f"the heads are for decoding {decodings}, of which {output.uri} has no captions; "
            f"there are: {known}. Calibrate with the options that the captions were made with"
        )
    return found


def _rows_of(table: pa.Table, head: ConfidenceHead) -> _Rows:
    rows: _Rows = pc.and_(
        pc.equal(table.column("model_id"), head.model_id),
        pc.equal(table.column("decoding"), head.decoding),
    ).to_numpy()
    return rows


def _rescored(table: pa.Table, head: ConfidenceHead, rows: _Rows) -> tuple[pa.Table, int]:
    """Return the table with the head's confidence in some rows, and how many changed."""
    features = _features(table.filter(pa.array(rows)), head)
    confidence = table.column("confidence").to_numpy().copy()
    confidence[rows] = head.probabilities(features)
    new = {
        "confidence": pa.array(confidence, pa.float32()),
        "confidence_kind": _with(table, "confidence_kind", rows, ConfidenceKind.CALIBRATED.value),
        "confidence_id": _with(table, "confidence_id", rows, head.id),
    }
    changed = np.zeros(len(rows), np.bool_)
    for name, column in new.items():
        index = table.schema.get_field_index(name)
        same = pc.equal(table.column(index), column).fill_null(False)
        changed |= rows & ~same.to_numpy()
        table = table.set_column(index, table.schema.field(index), column)
    return table, int(changed.sum())


def _features(table: pa.Table, head: ConfidenceHead) -> npt.NDArray[np.float64]:
    """Return the features that a head looks at, [n x features].

    Raises:
        CommandError: if one is null or not a number.
    """
    columns = []
    for name in head.features:
        column = pc.struct_field(table.column("features"), name)
        values = column.to_numpy().astype(np.float64)  # null becomes NaN
        if bad := int((~np.isfinite(values)).sum()):
            uri = table.column("uri")[int(np.argmin(np.isfinite(values)))].as_py()
            raise CommandError(
                f"{bad:,} captions have no {name}, which head {head.id} needs, the first that of "
                f"{uri}. Nothing was changed: {_remedy(name)}"
            )
        columns.append(values)
    return np.stack(columns, axis=1)


def _check_verifier(output: Output, head: ConfidenceHead) -> None:
    """Check that what a verifier said of captions was said by the head's.

    Raises:
        CommandError: if it was another one, or none.
    """
    if head.verifier is None:
        return
    ours = (pc.field("model_id") == head.model_id) & (pc.field("decoding") == head.decoding)
    count, first = 0, None
    for _, table in output.tables("captions", ["uri", "verifier_id"], ours):
        others = pc.filter(table.column("uri"), of_another(table, head.verifier))
        if len(others):
            count, first = count + len(others), first or others[0].as_py()
    if count:
        raise CommandError(
            f"{count:,} captions have no {VERIFIED} of verifier {head.verifier}, which head "
            f"{head.id} needs, but another's or none, the first that of {first}. Nothing was "
            "changed: fill it with captioner annotate --refill, with this model and the options of "
            "these captions"
        )


def _remedy(name: str) -> str:
    if name in (*EXTRAS, *OF_BEAMS, VERIFIED):
        asked = f" --features {name}" if name in EXTRAS else ""
        return f"fill it with captioner annotate --refill{asked}, and the options of these captions"
    return "caption these images into another output, or calibrate on captions like these"


def _with(table: pa.Table, name: str, rows: _Rows, value: str) -> pa.ChunkedArray:
    return pc.if_else(pa.array(rows), pa.scalar(value, pa.string()), table.column(name))
