"""List files: text, CSV and Parquet files that name images, read a page at a time."""

import csv
import io
import posixpath
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from typing import IO

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines import storage
from pipelines.inputs import ListingError
from pipelines.storage import StorageError
from schemas.uris import redact

COLUMN = "uri"


def line_uri(line: str, folder: str) -> str:
    """Return the uri that a line names: absolute, or relative to the list file's folder."""
    if "://" in line:
        protocol = line.partition("://")[0].lower()
        return line if protocol in ("http", "https", "zip", "tar") else _normal(line)
    if line.startswith("/"):
        return _normal("file://" + line)
    return _normal(f"{folder}/{line}")


def _normal(uri: str) -> str:
    """Resolve ``.`` and ``..``, which no store but a disk knows, and other names of protocols."""
    protocol, _, rest = uri.partition("://")
    protocol = {"gcs": "gs", "s3a": "s3", "local": "file"}.get(protocol.lower(), protocol.lower())
    if protocol not in ("file", "memory") and not re.search(r"(^|/)\.\.?(/|$)", rest):
        return f"{protocol}://{rest}"
    path = posixpath.normpath(rest)
    return f"{protocol}:///{path.lstrip('/')}" if rest.startswith("/") else f"{protocol}://{path}"


def lines(uri: str) -> Iterator[str]:
    """Iterate over what a list file holds, a page at a time.

    Raises:
        ListingError: if it cannot be read, or has no column ``uri``.
    """
    readers: dict[str, Callable[[IO[bytes], str], Iterator[str]]] = {
        ".csv": _csv_lines,
        ".parquet": _parquet_lines,
    }
    read = readers.get(posixpath.splitext(uri.lower())[1], _text_lines)
    try:
        filesystem, path = storage.resolve(uri)
        with closing(filesystem.open(path, "rb")) as file:
            yield from read(file, uri)
    except (pa.ArrowException, csv.Error) as error:
        raise ListingError(f"list file {redact(uri)!r} cannot be read: {error}") from error
    except (StorageError, OSError) as error:
        failure = storage.failure(uri, error) if isinstance(error, OSError) else error
        raise ListingError(f"list file: {failure}") from error


def _text(file: IO[bytes]) -> io.TextIOWrapper:
    return io.TextIOWrapper(file, "utf-8-sig", "surrogateescape", newline="")


def _text_lines(file: IO[bytes], uri: str) -> Iterator[str]:
    for line in file:
        yield line.decode("utf-8-sig", "surrogateescape").rstrip("\r\n")


def _csv_lines(file: IO[bytes], uri: str) -> Iterator[str]:
    rows = csv.DictReader(_text(file))
    _check_column(rows.fieldnames or (), uri)
    for row in rows:
        yield row[COLUMN] or ""


def _parquet_lines(file: IO[bytes], uri: str) -> Iterator[str]:
    table = pq.ParquetFile(file)
    _check_column(table.schema_arrow.names, uri)
    for batch in table.iter_batches(columns=[COLUMN]):
        for value in batch.column(0).to_pylist():
            yield "" if value is None else str(value)


def _check_column(names: Iterable[str], uri: str) -> None:
    names = [*names]
    if COLUMN not in names:
        raise ListingError(
            f"list file {redact(uri)!r} has no column {COLUMN!r}, only "
            f"{', '.join(map(repr, names)) or 'none'}; rename the one that holds the images' uris"
        )
