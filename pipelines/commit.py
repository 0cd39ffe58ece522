"""Publish staged parts, so that every (uri, model, decoding) has one row and nothing is torn.

The order makes it safe to die anywhere: published files are copies, ``current.json`` names them
in one write, and only then do staged and replaced files go. Until the switch nothing has changed;
after it, what was not yet removed is a leftover that `recover` clears away.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipelines import storage
from pipelines.output import Current, LiveFile, Output
from schemas.identity import row_key
from schemas.tables import TABLES
from schemas.tally import Tally

_KEY_COLUMNS = ["uri", "model_id", "decoding", "uri_version", "created_at"]
_ROW_TABLES = ("captions", "failures")
ROW_GROUP_ROWS = 20_000


@dataclass(frozen=True)
class StagedPart:
    """A whole Parquet file that waits in ``staging/`` to be published.

    Its name says what it holds, so that a crash leaves nothing unknown:
    ``RUN.TABLE.ROWS.r.HASH.parquet``, with ``r`` where a row replaces one that is live.
    """

    name: str

    @classmethod
    def named(cls, run_id: str, table: str, rows: int, replaces: bool, data: bytes) -> "StagedPart":
        """Return the part that holds ``data``."""
        flag = "r" if replaces else "n"
        return cls(f"{run_id}.{table}.{rows}.{flag}.{content_hash(data)}.parquet")

    @property
    def run_id(self) -> str:
        """The run that made the part."""
        return self.name.split(".")[0]

    @property
    def table(self) -> str:
        """The table that the rows belong to."""
        return self.name.split(".")[1]

    @property
    def rows(self) -> int:
        """The number of rows."""
        return int(self.name.split(".")[2])

    @property
    def replaces(self) -> bool:
        """Whether a live row may have to go when this part is published."""
        return self.name.split(".")[3] == "r"

    @classmethod
    def parse(cls, name: str) -> "StagedPart | None":
        """Return the part of that file name, or None if it is not one."""
        fields = name.split(".")
        if len(fields) != 6 or fields[1] not in TABLES or not fields[2].isdigit():
            return None
        return cls(name)


@dataclass(frozen=True)
class Committed:
    """What a commit added to the live data set, by key (promise 1)."""

    captioned: Tally = Tally()
    failed: Tally = Tally()
    leftovers: tuple[str, ...] = ()


def content_hash(data: bytes) -> str:
    """Return the part of a file's name that comes from its content."""
    return hashlib.sha256(data).hexdigest()[:24]


def encode(table: pa.Table) -> bytes:
    """Return a table as the bytes of a Parquet file: zstd, the same bytes for the same rows."""
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd", row_group_size=ROW_GROUP_ROWS)
    return sink.getvalue().to_pybytes()


def decode(data: bytes) -> pa.Table:
    """Return the table in the bytes of a Parquet file."""
    return pq.read_table(pa.BufferReader(data))


def publish(output: Output, table: str, data: bytes, rows: int) -> LiveFile:
    """Write a published file, named by its content; doing it twice changes nothing."""
    path = f"{table}/part-{content_hash(data)}.parquet"
    storage.write_bytes_atomically(output.path(path), data)
    return LiveFile(path, rows, len(data))


@dataclass
class _File:
    """A file of rows in a commit: what it holds and which rows of it stay."""

    table: str
    data: bytes
    rows: pa.Table
    live_path: str | None = None

    def __post_init__(self) -> None:
        self.keep = [True] * self.rows.num_rows


def commit(
    output: Output, parts: Iterable[StagedPart], look_at_live: bool | None = None
) -> Committed:
    """Publish staged parts and return the keys that this adds to the live data set.

    What it no longer needs is in ``leftovers``, for `clear`.

    Of rows with one (uri, model_id, decoding) the newest stays; a failure goes when its image
    has been captioned since. Live files are read only where a part says that it replaces rows,
    or where ``look_at_live`` says so.
    """
    parts = sorted(parts, key=lambda part: part.name)
    current = output.current()
    staged = [file for part in parts if (file := _staged_file(output, part)) is not None]
    if look_at_live is None:
        look_at_live = any(part.replaces for part in parts)
    live = list(_live_files(output, current, staged)) if look_at_live and staged else []
    _settle(live + staged)
    after = current
    for file in [*live, *staged]:
        after = _apply(output, after, file)
    if after != current:
        output.replace_current(after)
    still_named = _paths(after)
    replaced = [f.live_path for f in live if f.live_path and f.live_path not in still_named]
    leftovers = (*(f"staging/{part.name}" for part in parts), *replaced)
    return Committed(_tally(staged, "captions"), _tally(staged, "failures"), leftovers)


def clear(output: Output, committed: Committed) -> None:
    """Remove what a commit left over, once what it did has been recorded."""
    for path in committed.leftovers:
        storage.remove(output.path(*path.split("/")))


def recover(output: Output) -> Committed:
    """Publish what a crash left in ``staging/`` and remove files that nobody names.

    To be called by the holder of the lease only.
    """
    names = [storage_name(file.uri) for file in storage.list_files(output.path("staging"))]
    parts = [part for name in names if (part := StagedPart.parse(name)) is not None]
    committed = commit(output, parts, look_at_live=True) if parts else Committed()
    clear(output, committed)
    named = _paths(output.current())
    for table in TABLES:
        for file in storage.list_files(output.path(table)):
            if f"{table}/{storage_name(file.uri)}" not in named:
                storage.remove(file.uri)
    return committed


def storage_name(uri: str) -> str:
    """Return the last name in a uri."""
    return uri.rpartition("/")[2]


def _staged_file(output: Output, part: StagedPart) -> _File | None:
    try:
        data = storage.read_fresh(output.path("staging", part.name))
    except storage.StorageError as error:
        if error.kind == "not_found":  # this commit ran before, and was retried by the runner
            return None
        raise
    return _File(part.table, data, decode(data))


def _live_files(output: Output, current: Current, staged: list[_File]) -> Iterable[_File]:
    """Yield the live files that hold a row of one of the staged images."""
    uris = pa.concat_arrays(
        [chunk for file in staged for chunk in file.rows.column("uri").chunks]
        or [pa.array([], pa.string())]
    )
    for table in _ROW_TABLES:
        for file in current.of(table):
            data = storage.read_fresh(output.path(file.path))
            only_uri = pq.read_table(pa.BufferReader(data), columns=["uri"]).column("uri")
            if pc.any(pc.is_in(only_uri, value_set=uris)).as_py():
                yield _File(table, data, decode(data), file.path)


@dataclass(frozen=True)
class _Row:
    """A row that stays so far."""

    file: _File
    index: int
    version: str
    created_at: datetime

    def drop(self) -> None:
        self.file.keep[self.index] = False


def _settle(files: list[_File]) -> None:
    """Mark the rows that give way to another; live files come before staged ones."""
    kept: dict[str, dict[bytes, _Row]] = {table: {} for table in _ROW_TABLES}
    for file in files:
        rows = kept[file.table]
        columns = [file.rows.column(name).to_pylist() for name in _KEY_COLUMNS]
        for index, (*names, version, created_at) in enumerate(zip(*columns, strict=True)):
            key = row_key(*names)
            row, other = _Row(file, index, version, created_at), rows.get(key)
            if other is None:
                rows[key] = row
            elif created_at <= other.created_at or (
                file.table == "captions" and version == other.version
            ):
                row.drop()  # captioned twice, say by a worker that outlived its run
            else:
                other.drop()
                rows[key] = row
    for key, failure in kept["failures"].items():
        caption = kept["captions"].get(key)
        if caption and (
            caption.version == failure.version or caption.created_at >= failure.created_at
        ):
            failure.drop()


def _apply(output: Output, current: Current, file: _File) -> Current:
    """Bring one file's outcome into ``current``, writing a new file where rows go."""
    if all(file.keep):
        if file.live_path:
            return current
        return current.replacing(
            file.table, [], [publish(output, file.table, file.data, file.rows.num_rows)]
        )
    rows = file.rows.filter(pa.array(file.keep))
    new = [publish(output, file.table, encode(rows), rows.num_rows)] if rows.num_rows else []
    return current.replacing(file.table, [file.live_path] if file.live_path else [], new)


def _tally(files: list[_File], table: str) -> Tally:
    total = Tally()
    for file in files:
        if file.table != table:
            continue
        columns = (file.rows.column(name).to_pylist() for name in ("uri", "uri_version"))
        total += Tally.of(
            row_key(uri, version)
            for uri, version, keep in zip(*columns, file.keep, strict=True)
            if keep
        )
    return total


def compact(output: Output, max_bytes: int) -> tuple[int, int]:
    """Merge small files up to about ``max_bytes`` each; return the files before and after."""
    before = current = output.current()
    for table in ("captions", "failures", "reviews"):
        for group in _groups(current.of(table), max_bytes):
            tables = [decode(storage.read_fresh(output.path(file.path))) for file in group]
            merged = pa.concat_tables(tables)
            new = publish(output, table, encode(merged), merged.num_rows)
            current = current.replacing(table, [file.path for file in group], [new])
    if current != before:
        output.replace_current(current)
    kept = _paths(current)
    clear(output, Committed(leftovers=tuple(sorted(_paths(before) - kept))))
    return len(_paths(before)), len(kept)


def _paths(current: Current) -> set[str]:
    return {file.path for files in current.files.values() for file in files}


def _groups(files: Iterable[LiveFile], max_bytes: int) -> list[list[LiveFile]]:
    """Group files that are small enough to be merged, two or more in a group."""
    groups: list[list[LiveFile]] = [[]]
    size = 0
    for file in files:
        if file.bytes > max_bytes // 2:
            continue
        if size + file.bytes > max_bytes:
            groups.append([])
            size = 0
        groups[-1].append(file)
        size += file.bytes
    return [group for group in groups if len(group) > 1]
