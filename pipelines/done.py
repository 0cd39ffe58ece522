"""Which images have been done already, so that a rerun costs nothing (promise 3)."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from captioner.confidence.head import VERIFIED
from captioner.contract import EXTRAS, OF_BEAMS
from pipelines.listing import ImageRef
from pipelines.output import Output
from schemas.identity import KEY_BYTES, row_key
from schemas.tables import FEATURES

_FEATURES = frozenset(name for name, _ in FEATURES)

_Keys = npt.NDArray[np.bytes_]


def column_of(name: str) -> str:
    """Return where in ``captions`` a column or a feature is."""
    return f"features.{name}" if name in _FEATURES else name


def columns_of(names: tuple[str, ...]) -> list[str]:
    """Return what of ``captions`` has to be read to say what lacks those columns."""
    beams = ["n_best"] if set(OF_BEAMS).intersection(names) else []
    verifier = ["verifier_id"] if VERIFIED in names else []
    return [*map(column_of, names), *beams, *verifier]


def lacks(table: pa.Table, names: tuple[str, ...], verifier: str | None = None) -> pa.ChunkedArray:
    """Say of each row whether one of those columns is null, and need not be.

    Args:
        table: with the columns that ``columns_of`` names.
        names: of columns and features.
        verifier: id of the verifier that tells ``verifier_logit``; a row that has that of another
            one lacks it.
    """
    lacking = pa.chunked_array([pa.repeat(pa.scalar(False), table.num_rows)])
    for name in names:
        null = pc.is_null(table.column(name))
        if name in OF_BEAMS:
            several = pc.greater(pc.list_value_length(table.column("n_best")), 1)
            null = pc.and_(null, several.fill_null(False))
        if name == VERIFIED:
            null = pc.or_(null, of_another(table, verifier))
        lacking = pc.or_(lacking, null)
    return lacking


def of_another(table: pa.Table, verifier: str | None) -> pa.ChunkedArray:
    """Say of each row whether its ``verifier_id`` is another one's, or null.

    Args:
        table: with that column.
        verifier: the id that is wanted.
    """
    same = pc.equal(table.column("verifier_id"), pa.scalar(verifier, pa.string()))
    return pc.invert(same.fill_null(False))


def lost_by(
    output: Output,
    model_id: str,
    decoding: str,
    refill: tuple[str, ...],
    verifier: str | None = None,
) -> dict[str, int]:
    """Return which features a refill would take from rows that it runs again, and from how many.

    Args:
        output: the output.
        model_id: whose rows are filled.
        decoding: and of which decoding config.
        refill: columns and features that are filled.
        verifier: as of `lacks`.
    """
    ours = (pc.field("model_id") == model_id) & (pc.field("decoding") == decoding)
    at_risk = tuple(name for name in (*EXTRAS, VERIFIED) if name not in refill)
    lost = dict.fromkeys(at_risk, 0)
    wanted = [*map(column_of, at_risk), *columns_of(refill)]
    for _, table in output.tables("captions", wanted, ours):
        again = table.filter(lacks(table, refill, verifier))
        for name in at_risk:
            lost[name] += again.num_rows - again.column(name).null_count
    return {name: rows for name, rows in lost.items() if rows}


def _sorted_keys(keys: Iterable[bytes]) -> _Keys:
    return np.sort(np.frombuffer(b"".join(keys), dtype=f"S{KEY_BYTES}"))


def _contains(keys: _Keys, key: bytes) -> bool:
    wanted = np.frombuffer(key, dtype=keys.dtype)
    index = int(np.searchsorted(keys, wanted[0]))
    return index < len(keys) and bool(keys[index] == wanted[0])


@dataclass(frozen=True, eq=False)
class DoneIndex:
    """The keys of what an output holds for one model and decoding: 32 bytes a captioned image.

    Attributes:
        done: keys of (uri, uri_version) that have a caption, with all that is to be filled, sorted.
        captioned: keys of uris that have a caption of any version, sorted.
        attempts: attempts so far at uris that failed.
    """

    done: _Keys
    captioned: _Keys
    attempts: dict[bytes, int]

    @classmethod
    def load(
        cls,
        output: Output,
        model_id: str,
        decoding: str,
        refill: tuple[str, ...] = (),
        verifier: str | None = None,
    ) -> "DoneIndex":
        """Read the index from an output's live files.

        Args:
            output: the output.
            model_id: whose rows count.
            decoding: and of which decoding config.
            refill: columns and features; a row in which one of them is null is not done.
            verifier: as of `lacks`.
        """
        ours = (pc.field("model_id") == model_id) & (pc.field("decoding") == decoding)
        done: list[bytes] = []
        captioned: list[bytes] = []
        wanted = ["uri", "uri_version", *columns_of(refill)]
        for _, table in output.tables("captions", wanted, ours):
            captioned.append(b"".join(map(row_key, table.column("uri").to_pylist())))
            whole = table.filter(pc.invert(lacks(table, refill, verifier)))
            columns = (whole.column(name).to_pylist() for name in ("uri", "uri_version"))
            done.append(b"".join(map(row_key, *columns)))
        attempts: dict[bytes, int] = {}
        for _, table in output.tables("failures", ["uri", "attempt"], ours):
            columns = (table.column(name).to_pylist() for name in ("uri", "attempt"))
            attempts.update((row_key(uri), n) for uri, n in zip(*columns, strict=True))
        return cls(_sorted_keys(done), _sorted_keys(captioned), attempts)

    def to_do(self, ref: ImageRef) -> ImageRef | None:
        """Return the reference with its history, or None if its image is done."""
        if ref.kind is None and _contains(self.done, row_key(ref.uri, ref.uri_version)):
            return None
        uri = row_key(ref.uri)
        attempts = self.attempts.get(uri, 0)
        captioned_before = _contains(self.captioned, uri)
        return replace(ref, attempt=attempts + 1, replaces=captioned_before)

    def skip_done(self, refs: Iterable[ImageRef]) -> Iterator[ImageRef]:
        """Yield the references that are still to do."""
        for ref in refs:
            todo = self.to_do(ref)
            if todo is not None:
                yield todo
