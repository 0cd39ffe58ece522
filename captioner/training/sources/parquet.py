"""Captions in Parquet: an output of ``captioner annotate``, or any files with uris in them."""

import json
import logging
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from captioner.training.sources import files
from captioner.training.sources.examples import DataError
from captioner.training.sources.metadata import CAPTION_FIELDS
from schemas.tables import SCHEMA_VERSION
from schemas.uris import credentials_in, redact

logger = logging.getLogger(__name__)

CURRENT = "current.json"
"""In an output: names the live files of each table."""

_KEY = ["image_id", "model_id", "decoding"]
_Reviews = dict[tuple[str, ...], dict[str, Any]]


def read_output(folder: str) -> Iterator[tuple[str, list[str]]]:
    """Read the captions of an output, corrected by its reviews where there are any.

    A caption that a reviewer accepted or edited counts as the reviewer left it, and then the
    machine's other captions of that image do not count. One that was rejected does not count.
    What nobody has reviewed, or only skipped, is the machine's own.

    Raises:
        DataError: if the output is of a newer version, or a file of it is missing or damaged.
    """
    live = _live_files(folder)
    reviews = _newest_reviews(live["reviews"])
    reviewed: dict[str, list[str]] = {}
    machine: dict[str, list[str]] = {}
    rejected = 0
    for uri in live["captions"]:
        for row in _table(uri, ["uri", "caption", *_KEY]).to_pylist():
            review = reviews.get(tuple(row[name] for name in _KEY), {})
            verdict = review.get("verdict")
            place = _place(row["uri"], "uri", uri)
            if verdict in ("accepted", "edited"):
                text = review["caption"] or review["shown_caption"] or row["caption"]
                reviewed.setdefault(place, []).append(text)
            elif verdict == "rejected":
                rejected += 1
            else:
                machine.setdefault(place, []).append(row["caption"])
    logger.info(
        "%s: %d images with reviewed captions, %d with the machine's own; %d captions rejected",
        *(redact(folder), len(reviewed), len(machine.keys() - reviewed.keys()), rejected),
    )
    yield from {**machine, **reviewed}.items()


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
        for row in _table(uri, [name, caption]).to_pylist():
            yield _place(row[name], name, uri), _texts(row[caption], uri)


def _place(value: object, column: str, uri: str) -> str:
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


def _live_files(folder: str) -> dict[str, list[str]]:
    """Return the uris of the live files of captions and reviews."""
    uri = files.join(folder, CURRENT)
    try:
        content = json.loads(files.read(uri))
        version = int(content["schema_version"])
        live = {
            table: [
                files.inside(folder, file["path"], redact(uri))
                for file in content["files"].get(table, [])
            ]
            for table in ("captions", "reviews")
        }
    except DataError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DataError(
            f"{redact(uri)} is not what `captioner annotate` writes: {error!r}"
        ) from error
    if version > SCHEMA_VERSION:
        raise DataError(
            f"{redact(uri)} has schema version {version}, newer than {SCHEMA_VERSION}, which this "
            "program knows; install a newer version of this program"
        )
    return live


def _newest_reviews(uris: list[str]) -> _Reviews:
    """Return the newest review of each caption, by image, model and decoding."""
    newest: _Reviews = {}
    columns = [*_KEY, "verdict", "caption", "shown_caption", "reviewed_at"]
    for uri in uris:
        for row in _table(uri, columns).to_pylist():
            key = tuple(row[name] for name in _KEY)
            if key not in newest or _when(row) >= _when(newest[key]):
                newest[key] = row
    return newest


def _when(review: dict[str, Any]) -> float:
    at = review["reviewed_at"]
    return float("-inf") if at is None else float(at.timestamp())


def _columns(uri: str) -> list[str]:
    filesystem, path = files.resolve(uri)
    try:
        with filesystem.open(path, "rb") as file:
            return list(pq.read_schema(file).names)
    except Exception as error:  # the clients of stores raise nearly anything
        raise DataError(f"{redact(uri)} cannot be read as Parquet: {redact(str(error))}") from error


def _table(uri: str, columns: list[str]) -> pa.Table:
    filesystem, path = files.resolve(uri)
    try:
        with filesystem.open(path, "rb") as file:
            table = pq.ParquetFile(file).read(columns=columns)
    except Exception as error:
        raise DataError(f"{redact(uri)} cannot be read as Parquet: {redact(str(error))}") from error
    missing = [name for name in columns if name not in table.column_names]
    if missing:
        raise DataError(f"{redact(uri)} lacks the columns {', '.join(missing)}")
    return table
