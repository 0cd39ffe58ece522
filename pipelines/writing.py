"""WriteParts: rows to whole Parquet files in ``staging/``, often enough to lose little."""

import time
from collections.abc import Iterator
from typing import Any

import apache_beam as beam
import pyarrow as pa
from apache_beam.metrics import Metrics
from apache_beam.utils.windowed_value import WindowedValue

from pipelines import storage
from pipelines.bundles import at_end_of_bundle
from pipelines.config import AnnotateConfig
from pipelines.listing import ImageRef
from pipelines.output import Output
from pipelines.parts import StagedPart, encode
from pipelines.progress import ProgressReporter
from pipelines.records import Captioned, Failure, caption_row, failure_row
from schemas.tables import TABLES


class PartBuffer:
    """Rows of one table on their way to a part.

    Rows become Arrow at once: a list of Python objects takes ten times the memory.
    """

    def __init__(self, table: str, config: AnnotateConfig) -> None:
        self._table = table
        self._config = config
        self._clear()

    def _clear(self) -> None:
        self._batches: list[pa.RecordBatch] = []
        self._rows: list[dict[str, Any]] = []
        self._num_rows = 0
        self._num_bytes = 0
        self._replaced: frozenset[str] = frozenset()
        self._since = time.monotonic()

    def add(self, row: dict[str, Any], ref: ImageRef) -> None:
        """Add the row of an image."""
        if not self._num_rows:
            self._since = time.monotonic()
        self._rows.append(row)
        self._num_rows += 1
        if ref.replaces:
            self._replaced |= {"captions"}
        if ref.attempt > 1:
            self._replaced |= {"failures"}
        if len(self._rows) >= 256:
            self._to_arrow()

    def _to_arrow(self) -> None:
        if self._rows:
            batch = pa.RecordBatch.from_pylist(self._rows, schema=TABLES[self._table])
            self._batches.append(batch)
            self._num_bytes += batch.nbytes
            self._rows = []

    @property
    def full(self) -> bool:
        """Whether it is time to write a part."""
        return self._num_rows > 0 and (
            self._num_rows >= self._config.part_rows
            or self._num_bytes >= self._config.part_bytes
            or time.monotonic() - self._since >= self._config.part_seconds
        )

    def write(self) -> StagedPart | None:
        """Write the rows as a part in staging; None if there are none."""
        self._to_arrow()
        if not self._num_rows:
            return None
        data = encode(pa.Table.from_batches(self._batches, TABLES[self._table]))
        part = StagedPart.named(
            self._config.run_id,
            self._table,
            self._num_rows,
            self._replaced,
            data,
            refills=bool(self._config.refill),
        )
        storage.write_bytes_atomically(Output(self._config.output).path("staging", part.name), data)
        self._clear()
        return part


class WriteParts(beam.DoFn):
    """Writes captions and failures to parts and emits what it wrote."""

    def __init__(self, config: AnnotateConfig) -> None:
        self._config = config
        self._rows_out = Metrics.counter("write", "rows")
        self._parts_out = Metrics.counter("write", "parts")
        self._busy = Metrics.counter("write", "milliseconds_writing")

    def setup(self) -> None:
        """Begin to count."""
        self._progress = ProgressReporter(self._config.progress_folder)

    def start_bundle(self) -> None:
        """Begin with empty buffers; rows of a bundle that failed come again."""
        self._buffers = {
            table: PartBuffer(table, self._config) for table in ("captions", "failures")
        }

    def process(self, item: Captioned | Failure) -> Iterator[Any]:
        """Add a row, and write what is due."""
        if isinstance(item, Failure):
            self._buffers["failures"].add(failure_row(item, self._config), item.ref)
            self._progress.add(failed=1)
        else:
            self._buffers["captions"].add(caption_row(item, self._config), item.ref)
            self._progress.add(captioned=1)
        for buffer in self._buffers.values():
            if buffer.full:
                yield from self._write(buffer)

    def finish_bundle(self) -> Iterator[WindowedValue]:
        """Write what is left."""
        for buffer in self._buffers.values():
            for part in self._write(buffer):
                yield at_end_of_bundle(part)
        self._progress.write()

    def _write(self, buffer: PartBuffer) -> list[StagedPart]:
        started = time.monotonic()
        part = buffer.write()
        if part is None:
            return []
        self._busy.inc(int(1000 * (time.monotonic() - started)))
        self._rows_out.inc(part.rows)
        self._parts_out.inc()
        return [part]
