"""Captions in Parquet: any files with uris in them."""

from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from captioner.training.sources import files
from captioner.training.sources.examples import DataError
from captioner.training.sources.metadata import CAPTION_FIELDS
from schemas.uris import credentials_in, redact


def read(uris: list[str]) -> Iterator[tuple[str, list[str]]]:
    """Read Parquet files with captions, in ``captions``, ``caption`` or ``text``.

    The image is named by ``uri``, absolute, or by ``file_name``, a path from the file's folder.

    Raises:
        DataError: if a file is damaged, has other columns, or a uri is not absolute.
    """
    for uri in uris:
        columns = _columns(uri)
        name = next((name for name in ("uri", "file_name") if name in columns), None)
        caption = next((name for name in CAPTION_FIELDS if name in columns), None)
        if name is None or caption is None:
            raise DataError(
                f"{redact(uri)} has the columns {', '.join(columns[:12])}; needed are uri (or "
                f"file_name) and one of {', '.join(CAPTION_FIELDS)}"
            )
        for row in table(uri, [name, caption]).to_pylist():
            yield place(row[name], name, uri), _texts(row[caption], uri)


def place(value: object, column: str, uri: str) -> str:
    """Return the uri that a column names.

    Args:
        value: what the column holds.
        column: ``uri``, or ``file_name`` for a path from the file's folder.
        uri: of the file.

    Raises:
        DataError: if it is not absolute, carries a password, or leads out of the folder.
    """
    if not isinstance(value, str):
        raise DataError(f"{redact(uri)}: its {column} {value!r} is not text")
    if column == "file_name":
        return files.inside(files.parent(uri), value, redact(uri))
    secret = credentials_in(value)
    if secret or "://" not in value:
        wrong = f"carries {secret}" if secret else "is not absolute; name relative ones file_name"
        raise DataError(f"{redact(uri)} has the uri {redact(value)!r}, which {wrong}")
    return value


def _texts(value: object, uri: str) -> list[str]:
    texts: list[Any] = value if isinstance(value, list) else [] if value is None else [value]
    if not all(isinstance(text, str) for text in texts):
        raise DataError(f"{redact(uri)}: the caption {str(value)[:80]!r} is not text")
    return texts


def _columns(uri: str) -> list[str]:
    filesystem, path = files.resolve(uri)
    try:
        with filesystem.open(path, "rb") as file:
            return list(pq.read_schema(file).names)
    except Exception as error:  # the clients of stores raise nearly anything
        raise DataError(f"{redact(uri)} cannot be read as Parquet: {redact(str(error))}") from error


def table(uri: str, columns: list[str]) -> pa.Table:
    """Read columns of a file.

    Raises:
        DataError: if it is damaged, or lacks one of them.
    """
    filesystem, path = files.resolve(uri)
    try:
        with filesystem.open(path, "rb") as file:
            found: pa.Table = pq.ParquetFile(file).read(columns=columns)
    except Exception as error:
        raise DataError(f"{redact(uri)} cannot be read as Parquet: {redact(str(error))}") from error
    missing = [name for name in columns if name not in found.column_names]
    if missing:
        raise DataError(f"{redact(uri)} lacks the columns {', '.join(missing)}")
    return found
