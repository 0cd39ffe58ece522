"""Parquet files of an output: staged, published, and how their names tell what they hold."""

import hashlib
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines import storage
from pipelines.output import LiveFile, Output
from schemas.tables import TABLES

ROW_GROUP_ROWS = 20_000


@dataclass(frozen=True)
class StagedPart:
    """A whole Parquet file that waits in ``staging/`` to be published.

    Its name says what it holds, so that a crash leaves nothing unknown:
    ``RUN.TABLE.ROWS.FLAGS.HASH.parquet``. Flags: ``c`` if a row replaces a live caption, ``f`` if
    one replaces a live failure, ``r`` if the run fills columns of rows that are done, else ``n``.
    """

    name: str

    @classmethod
    def named(
        cls,
        run_id: str,
        table: str,
        rows: int,
        replaced: frozenset[str],
        data: bytes,
        refills: bool = False,
    ) -> "StagedPart":
        """Return the part that holds ``data``; ``replaced`` names tables with rows to replace."""
        flags = "".join(sorted(name[0] for name in replaced)) + "r" * refills or "n"
        return cls(f"{run_id}.{table}.{rows}.{flags}.{content_hash(data)}.parquet")

    @classmethod
    def parse(cls, name: str) -> "StagedPart | None":
        """Return the part of that file name, or None if it is not one."""
        fields = name.split(".")
        if len(fields) != 6 or fields[1] not in TABLES or not fields[2].isdigit():
            return None
        return cls(name)

    @property
    def table(self) -> str:
        """The table that the rows belong to."""
        return self.name.split(".")[1]

    @property
    def rows(self) -> int:
        """The number of rows."""
        return int(self.name.split(".")[2])

    @property
    def replaced(self) -> frozenset[str]:
        """The tables in which a live row may have to go when this part is published."""
        flags = self.name.split(".")[3]
        return frozenset(name for name in ("captions", "failures") if name[0] in flags)

    @property
    def refills(self) -> bool:
        """Whether its rows were made to fill columns of rows that are done."""
        return "r" in self.name.split(".")[3]

    @property
    def path(self) -> str:
        """Where in the output it waits."""
        return f"staging/{self.name}"


def content_hash(data: bytes) -> str:
    """Return the part of a file's name that comes from its content."""
    return hashlib.sha256(data).hexdigest()[:24]


def encode(table: pa.Table) -> bytes:
    """Return a table as the bytes of a Parquet file: zstd, the same bytes for the same rows."""
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd", row_group_size=ROW_GROUP_ROWS)
    data: bytes = sink.getvalue().to_pybytes()
    return data


def publish(output: Output, table: str, data: bytes, rows: int) -> LiveFile:
    """Write a published file, named by its content; doing it twice changes nothing."""
    path = f"{table}/part-{content_hash(data)}.parquet"
    storage.write_bytes_atomically(output.path(*path.split("/")), data)
    return LiveFile(path, rows, len(data))
