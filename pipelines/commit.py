"""Publish staged parts, so that every (uri, model, decoding) has one row and nothing is torn.

The order makes it safe to die anywhere: published files are copies, ``current.json`` names them
in one write, and only then do staged and replaced files go. Until the switch nothing has changed;
after it, what was not yet removed is a leftover that `recover` clears away.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines import storage
from pipelines.output import Current, Output
from pipelines.parts import StagedPart, encode, publish
from schemas.identity import KEY_BYTES, row_key
from schemas.tables import TABLES
from schemas.tally import Tally

_ROW_TABLES = ("captions", "failures")
_KEY_COLUMNS = ["uri", "model_id", "decoding", "uri_version", "created_at"]
_OURS = re.compile(r"part-[0-9a-f]{24}\.parquet")
_TORN = re.compile(r"\.[0-9a-f]+\.tmp")


@dataclass(frozen=True)
class Committed:
    """What a commit added to the live data set, by key (promise 1)."""

    captioned: Tally = Tally()
    failed: Tally = Tally()
    leftovers: tuple[str, ...] = ()


@dataclass(eq=False)
class _File:
    """A file of rows in a commit: its keys, and which rows do not stay.

    Attributes:
        table: captions or failures.
        path: where in the output it is.
        keys: 16 bytes for each row's (uri, model_id, decoding).
        live: whether it is published already.
        refills: whether its rows were made to fill columns of rows that are done.
        dropped: indices of rows that give way to others.
        published_before: of these, rows that a commit cut short had published already.
    """

    table: str
    path: str
    keys: np.ndarray
    tally: Tally
    live: bool = False
    refills: bool = False
    dropped: set[int] = field(default_factory=set)
    published_before: set[int] = field(default_factory=set)


def commit(
    output: Output, parts: Iterable[StagedPart], look_at: frozenset[str] | None = None
) -> Committed:
    """Publish staged parts and return the keys that this adds to the live data set.

    Of rows with one (uri, model_id, decoding) the newest stays; a failure goes when its image
    has been captioned, unless that caption's columns were to be filled when it failed. What is no
    longer needed is in ``leftovers``, for `clear`.

    Args:
        output: the output.
        parts: the staged parts; one that is gone was published by this commit before.
        look_at: tables whose live rows may be replaced; what the parts say if None. Without any
            and without rows staged twice, the cost does not depend on the size of the output.
    """
    parts = sorted(parts, key=lambda part: part.name)
    current = output.current()
    staged = [file for part in parts if (file := _staged_file(output, part)) is not None]
    if look_at is None:
        look_at = frozenset[str]().union(*(part.replaced for part in parts))
    live = list(_live_files(output, current, staged, look_at)) if staged else []
    if live or _has_repeats(staged):
        _settle(output, [*live, *staged])
    after = current
    for file in [*live, *staged]:
        after = _apply(output, after, file)
    if after != current:
        output.replace_current(after)
    kept = _paths(after)
    replaced = [file.path for file in live if file.path not in kept]
    leftovers = (*(part.path for part in parts), *replaced)
    captioned, failed = (
        sum((_added(output, file) for file in staged if file.table == table), Tally())
        for table in _ROW_TABLES
    )
    return Committed(captioned, failed, leftovers)


def clear(output: Output, committed: Committed) -> None:
    """Remove what a commit left over, once what it did has been recorded."""
    for path in committed.leftovers:
        storage.remove(output.path(*path.split("/")))


def recover(output: Output) -> Committed:
    """Publish what a crash left in ``staging/`` and remove files of ours that nobody names.

    To be called by the holder of the lease only.
    """
    names = [_name(file.uri) for file in storage.list_files(output.path("staging"))]
    parts = [part for name in names if (part := StagedPart.parse(name)) is not None]
    committed = Committed()
    if parts:
        committed = commit(output, parts, look_at=frozenset(_ROW_TABLES))
        clear(output, committed)
    named = _paths(output.current())
    for table in TABLES:
        for file in storage.list_files(output.path(table)):
            name = _name(file.uri)
            # A user's own files may live in such a folder: only names of our making go.
            if _OURS.fullmatch(name) and f"{table}/{name}" not in named:
                storage.remove(file.uri)
    _remove_torn(output)
    return committed


def _remove_torn(output: Output) -> None:
    """Remove what a kill in the middle of a write leaves on a local disk."""
    protocol, _, root = output.uri.partition("://")
    if protocol != "file":
        return
    for folder in (*TABLES, "staging", "runs", "labelstudio", "."):
        for path in Path(root, folder).glob(".*.tmp"):
            if _TORN.fullmatch(path.name):
                path.unlink(missing_ok=True)


def _name(uri: str) -> str:
    return uri.rpartition("/")[2]


def _paths(current: Current) -> set[str]:
    return {file.path for files in current.files.values() for file in files}


def _staged_file(output: Output, part: StagedPart) -> _File | None:
    try:
        columns = output.read_part(part.path, _KEY_COLUMNS)
        return _file(part.table, part.path, columns, refills=part.refills)
    except storage.StorageError as error:
        if error.kind == "not_found":  # this commit ran before, and was retried by the runner
            return None
        raise


def _live_files(
    output: Output, current: Current, staged: list[_File], tables: frozenset[str]
) -> Iterator[_File]:
    """Yield the live files that hold a row of one of the staged images."""
    wanted = np.concatenate([file.keys for file in staged])
    uris = (
        pa.concat_arrays(
            [
                chunk
                for file in staged
                for chunk in output.read_part(file.path, ["uri"]).column("uri").chunks
            ]
        )
        if tables
        else None
    )
    for table in sorted(tables):
        for live in current.of(table):
            columns = output.read_part(live.path, _KEY_COLUMNS)
            if not pc.any(pc.is_in(columns.column("uri"), value_set=uris)).as_py():
                continue
            file = _file(table, live.path, columns, live=True)
            if np.isin(file.keys, wanted).any():
                yield file


def _file(
    table: str, path: str, columns: pa.Table, *, live: bool = False, refills: bool = False
) -> _File:
    lists = [columns.column(name).to_pylist() for name in _KEY_COLUMNS]
    uris, models, decodings, versions, _ = lists
    keys = b"".join(map(row_key, uris, models, decodings))
    tally = Tally.of(map(row_key, uris, versions))
    return _File(table, path, np.frombuffer(keys, f"S{KEY_BYTES}"), tally, live, refills)


def _has_repeats(files: list[_File]) -> bool:
    keys = np.concatenate([file.keys for file in files]) if files else np.empty(0, "S1")
    return len(np.unique(keys)) < len(keys)


@dataclass(frozen=True)
class _Row:
    """A row that stays so far."""

    file: _File
    index: int
    version: str
    created_at: datetime

    def yield_to(self, other: "_Row") -> None:
        """Drop this row for another of the same image."""
        self.file.dropped.add(self.index)
        same = (self.version, self.created_at) == (other.version, other.created_at)
        if same and other.file.live and other.file.table == self.file.table:
            self.file.published_before.add(self.index)

    def came_after(self, caption: "_Row") -> bool:
        """Say whether a failure that is newer is known to be of a run that knew the caption."""
        return self.file.refills or (self.file.live and caption.file.live)

    def describes_the_same(self, other: "_Row") -> bool:
        """Say whether both are of one known version of the image."""
        return bool(self.version) and self.version == other.version


def _settle(output: Output, files: list[_File]) -> None:
    """Mark the rows that give way to another; live files come before staged ones."""
    kept: dict[str, dict[bytes, _Row]] = {table: {} for table in _ROW_TABLES}
    for file in files:
        rows = kept[file.table]
        for key, row in _rows(output, file):
            other = rows.get(key)
            if other is None:
                rows[key] = row
            elif row.created_at <= other.created_at or (
                file.table == "captions" and row.describes_the_same(other) and not file.refills
            ):
                row.yield_to(other)  # captioned twice, say by a worker that outlived its run
            else:
                other.yield_to(row)
                rows[key] = row
    for key, failure in kept["failures"].items():
        caption = kept["captions"].get(key)
        if caption and (
            caption.created_at >= failure.created_at
            or (failure.describes_the_same(caption) and not failure.came_after(caption))
        ):
            failure.yield_to(caption)


def _rows(output: Output, file: _File) -> Iterator[tuple[bytes, _Row]]:
    columns = output.read_part(file.path, ["uri_version", "created_at"])
    versions, times = (columns.column(name).to_pylist() for name in columns.column_names)
    # As S16 numpy strips zero bytes at the end of a key, the same for each copy of it.
    for index, key in enumerate(file.keys.tolist()):
        yield key, _Row(file, index, versions[index], times[index])


def _apply(output: Output, current: Current, file: _File) -> Current:
    """Bring one file's outcome into ``current``, writing a new file where rows go."""
    gone = [file.path] if file.live else []
    if not file.dropped:
        if file.live:
            return current
        data = storage.read_fresh(output.path(*file.path.split("/")))
        return current.replacing(
            file.table, gone, [publish(output, file.table, data, len(file.keys))]
        )
    rows = _without(output.read_part(file.path), file.dropped)
    new = [publish(output, file.table, encode(rows), rows.num_rows)] if rows.num_rows else []
    return current.replacing(file.table, gone, new)


def _without(rows: pa.Table, dropped: set[int]) -> pa.Table:
    return rows.filter(pa.array([i not in dropped for i in range(rows.num_rows)], pa.bool_()))


def _added(output: Output, file: _File) -> Tally:
    """Return the tally of a staged file's rows that are live now through this commit.

    A row counts too if an earlier try of this same commit had published it.
    """
    missing = file.dropped - file.published_before
    if not missing:
        return file.tally
    rows = _without(output.read_part(file.path, ["uri", "uri_version"]), missing)
    return Tally.of(map(row_key, *(rows.column(n).to_pylist() for n in rows.column_names)))
