"""An output folder: where its files are, which of them are live, and who may write to it.

``current.json`` names the live files and is replaced in one write, so a reader sees the old data
set or the new one. Files that it does not name are a crash's leftovers or about to be published.
"""

import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipelines import storage
from schemas.tables import SCHEMA_VERSION, TABLES

LEASE_SECONDS = 90.0
"""A lease that was not renewed for so long is stale."""


class OutputError(Exception):
    """An output that cannot be used: says which, why, and what to do."""


@dataclass(frozen=True)
class LiveFile:
    """A published file: its path within the output, rows and bytes."""

    path: str
    rows: int
    bytes: int


@dataclass(frozen=True)
class Current:
    """The live files of each table."""

    files: dict[str, tuple[LiveFile, ...]] = field(default_factory=dict)

    def of(self, table: str) -> tuple[LiveFile, ...]:
        """Return the live files of a table."""
        return self.files.get(table, ())

    def replacing(self, table: str, gone: Iterable[str], new: Iterable[LiveFile]) -> "Current":
        """Return this without the paths ``gone`` and with ``new``, sorted by path."""
        dropped = set(gone)
        kept = {file.path: file for file in self.of(table) if file.path not in dropped}
        kept.update((file.path, file) for file in new)
        files = {**self.files, table: tuple(kept[path] for path in sorted(kept))}
        return Current(files)


@dataclass(frozen=True)
class Output:
    """A folder on any store that an output lives in.

    Attributes:
        uri: the folder.
        run_id: the run that writes to it; it must hold the lease to change what is live.
    """

    uri: str
    run_id: str | None = None

    def path(self, *names: str) -> str:
        """Return the uri of a file or folder in the output."""
        return storage.join(self.uri, *names)

    def current(self) -> Current:
        """Read which files are live; none for a new output.

        Raises:
            OutputError: if ``current.json`` is damaged or of a newer version.
        """
        try:
            data = storage.read_fresh(self.path("current.json"))
        except storage.StorageError as error:
            if error.kind == "not_found":
                return Current()
            raise
        return _parse_current(data, self.path("current.json"))

    def replace_current(self, current: Current) -> None:
        """Make ``current`` what readers see from now on.

        Raises:
            OutputError: if another run has taken the lease over, say while this one was asleep.
        """
        if self.run_id is not None:
            holder = read_lease(self).get("run_id")
            if holder != self.run_id:
                raise OutputError(
                    f"{self.uri} was taken over by run {holder} while run {self.run_id} was not "
                    "heard of. Run the same command again when it has ended."
                )
        content = {
            "schema_version": SCHEMA_VERSION,
            "updated_at": datetime.now(UTC).isoformat(),
            "files": {
                table: [asdict(file) for file in files] for table, files in current.files.items()
            },
        }
        storage.write_bytes_atomically(self.path("current.json"), _json(content))

    def read_manifest(self, run_id: str) -> dict[str, Any]:
        """Read a run's manifest; empty if the run has written none."""
        try:
            data = storage.read_fresh(self.path("runs", f"{run_id}.json"))
        except storage.StorageError as error:
            if error.kind == "not_found":
                return {}
            raise
        manifest: dict[str, Any] = json.loads(data)
        return manifest

    def write_manifest(self, run_id: str, manifest: dict[str, Any]) -> None:
        """Write a run's manifest."""
        storage.write_bytes_atomically(self.path("runs", f"{run_id}.json"), _json(manifest))

    def tables(
        self,
        table: str,
        columns: list[str] | None = None,
        filters: pc.Expression | None = None,
    ) -> Iterator[tuple[LiveFile, pa.Table]]:
        """Read the live files of a table one after another."""
        for file in self.current().of(table):
            yield file, self.read_part(file.path, columns, filters)

    def read_part(
        self,
        path: str,
        columns: list[str] | None = None,
        filters: pc.Expression | None = None,
    ) -> pa.Table:
        """Read a Parquet file of the output.

        Columns and fields of structs that came after it was written are null.

        Raises:
            OutputError: if it is damaged.
            StorageError: if it cannot be read.
        """
        data = storage.read_fresh(self.path(*path.split("/")))
        try:
            return pq.read_table(
                pa.BufferReader(data), columns=columns, filters=filters, schema=_schema(data)
            )
        except (pa.ArrowException, OSError) as error:
            raise OutputError(
                f"{self.path(path)} is damaged ({error}). Put back a copy of it, or choose "
                "another output."
            ) from error


def _schema(data: bytes) -> pa.Schema | None:
    """Return the schema of a file's table if it was written before that had all that it has now."""
    found = pq.read_schema(pa.BufferReader(data))
    wanted = TABLES.get((found.metadata or {}).get(b"table", b"").decode())
    return None if wanted is None or _names(wanted) <= _names(found) else wanted


def _names(schema: pa.Schema) -> set[str]:
    """Name columns and the fields of structs."""
    inner = (
        f"{field.name}.{part.name}"
        for field in schema
        if pa.types.is_struct(field.type)
        for part in field.type
    )
    return {*schema.names, *inner}


def _json(content: dict[str, Any]) -> bytes:
    return (json.dumps(content, indent=2) + "\n").encode()


def _parse_current(data: bytes, uri: str) -> Current:
    try:
        content = json.loads(data)
        version = int(content["schema_version"])
        files = {
            table: tuple(LiveFile(**file) for file in content["files"].get(table, []))
            for table in TABLES
        }
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise OutputError(
            f"{uri} is not what this program writes ({error!r}). "
            "Choose another output, or put back a copy of that file."
        ) from error
    if version > SCHEMA_VERSION:
        raise OutputError(
            f"{uri} has schema version {version}, newer than {SCHEMA_VERSION}, which this "
            "program knows. Install a newer version of this program."
        )
    return Current(files)


def new_run_id() -> str:
    """Return a name for a run that sorts by time and is not taken."""
    return f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{uuid.uuid4().hex[:8]}"


def _boot_id() -> str:
    path = Path("/proc/sys/kernel/random/boot_id")
    return path.read_text().strip() if path.exists() else ""


def _pid_namespace() -> str:
    """Name the space of process ids: containers of one machine have their own."""
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""


def read_lease(output: Output) -> dict[str, Any]:
    """Return who holds an output's lease; empty if nobody does."""
    try:
        holder = json.loads(storage.read_fresh(output.path("lease.json")))
    except storage.StorageError as error:
        if error.kind == "not_found":
            return {}
        raise
    except ValueError:
        return {}  # torn by a crash while it was written: nobody's
    return holder if isinstance(holder, dict) else {}


def is_gone(holder: dict[str, Any]) -> bool:
    """Say whether a lease may be taken over: stale, or of a process of this machine that ended."""
    if time.time() - float(holder.get("renewed_at", 0)) > float(holder.get("seconds", 0)):
        return True
    here = (socket.gethostname(), _boot_id(), _pid_namespace())
    there = (holder.get("host"), holder.get("boot_id"), holder.get("pid_namespace"))
    if there != here or not all(here):
        return False
    started = _process_start(int(holder.get("pid", 0)))
    return started != holder.get("process_start")


class Lease:
    """The right to write to an output, held by one run at a time.

    Made by create-if-absent and renewed by a thread while it is held. A lease is taken over when
    it is stale, or at once when its holder was a process of this machine that is gone.

    Raises:
        OutputError: on entering, if another run holds the lease; the message says who.
    """

    def __init__(self, output: Output, run_id: str, seconds: float = LEASE_SECONDS) -> None:
        self._output = output
        self._uri = output.path("lease.json")
        self._holder = {
            "run_id": run_id,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "process_start": _process_start(os.getpid()),
            "boot_id": _boot_id(),
            "pid_namespace": _pid_namespace(),
            "seconds": seconds,
        }
        self._seconds = seconds
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> "Lease":
        """Take the lease."""
        if not storage.create_exclusively(self._uri, self._content()):
            self._take_over()
        self._thread = threading.Thread(target=self._renew, name="lease", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Give the lease back."""
        self._stop.set()
        if self._thread:
            self._thread.join()
        if read_lease(self._output).get("run_id") == self._holder["run_id"]:
            storage.remove(self._uri)

    def _content(self) -> bytes:
        return _json({**self._holder, "renewed_at": time.time()})

    def _take_over(self) -> None:
        holder = read_lease(self._output)
        if holder and not is_gone(holder):
            age = time.time() - float(holder.get("renewed_at", 0))
            raise OutputError(
                f"{self._output.uri} is being written by run {holder.get('run_id')} "
                f"(process {holder.get('pid')} on {holder.get('host')}, last seen {age:.0f} s "
                f"ago). Wait for it to end; if it is dead, its lease "
                f"ends {float(holder.get('seconds', self._seconds)):.0f} s after it was last seen."
            )
        storage.remove(self._uri)
        created = storage.create_exclusively(self._uri, self._content())
        # Two runs may both have found the lease stale: whoever stands in the file after both
        # have written has it.
        time.sleep(0.5)
        if not created or read_lease(self._output).get("run_id") != self._holder["run_id"]:
            raise OutputError(f"{self._output.uri} was just taken by another run. Try again later.")

    def _renew(self) -> None:
        while not self._stop.wait(self._seconds / 6):
            try:
                if read_lease(self._output).get("run_id") != self._holder["run_id"]:
                    return  # taken over; the next commit says so
                storage.write_bytes_atomically(self._uri, self._content())
            except storage.StorageError:
                continue  # tried again in a moment; it goes stale if the store stays away


def _process_start(pid: int) -> str | None:
    """Return when a process of this machine started, in clock ticks; None if it is gone."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    fields = stat.rpartition(")")[2].split()
    return None if fields[0] in "ZX" else fields[19]  # state, then starttime: field 22
