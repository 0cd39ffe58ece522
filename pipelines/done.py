"""Which images have been done already, so that a rerun costs nothing (promise 3)."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc

from pipelines.listing import ImageRef
from pipelines.output import Output
from schemas.identity import KEY_BYTES, row_key

_Keys = npt.NDArray[np.bytes_]


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
        done: keys of (uri, uri_version) that have a caption, sorted.
        captioned: keys of uris that have a caption of any version, sorted.
        attempts: attempts so far at uris that failed.
    """

    done: _Keys
    captioned: _Keys
    attempts: dict[bytes, int]

    @classmethod
    def load(cls, output: Output, model_id: str, decoding: str) -> "DoneIndex":
        """Read the index from an output's live files."""
        ours = (pc.field("model_id") == model_id) & (pc.field("decoding") == decoding)
        done: list[bytes] = []
        captioned: list[bytes] = []
        for _, table in output.tables("captions", ["uri", "uri_version"], ours):
            uris = table.column("uri").to_pylist()
            versions = table.column("uri_version").to_pylist()
            done.append(b"".join(map(row_key, uris, versions)))
            captioned.append(b"".join(map(row_key, uris)))
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
