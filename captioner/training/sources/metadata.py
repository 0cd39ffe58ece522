"""``metadata.jsonl`` and ``metadata.csv``: the layout that Hugging Face calls ImageFolder.

https://huggingface.co/docs/datasets/image_dataset
"""

import csv
import io
import json
from collections.abc import Iterator
from typing import Any

from captioner.training.sources import files
from captioner.training.sources.examples import DataError
from schemas.uris import redact

CAPTION_FIELDS = ("captions", "caption", "text")
_CSV_FIELDS = ("caption", "text")


def read_jsonl(uri: str) -> Iterator[tuple[str, list[str]]]:
    """Read a JSON object a line: ``file_name``, and ``captions``, ``caption`` or ``text``.

    The first of these that a line has counts; it is a text or a list of texts.

    Raises:
        DataError: if a line is something else, or none has captions.
    """
    folder, named = files.parent(uri), False
    for where, row in read_lines(uri):
        named = named or caption_field(row) is not None
        yield files.inside(folder, row["file_name"], where), captions_of(row, where)
    if not named:
        raise DataError(
            f"no line of {redact(uri)} has one of the fields {', '.join(CAPTION_FIELDS)}"
        )


def read_lines(uri: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Read a JSON object a line: where it stands, as it may be shown, and what it says.

    Raises:
        DataError: if a line is something else, or has no ``file_name``.
    """
    for number, line in enumerate(files.read_text(uri).split("\n"), 1):
        if not line.strip():
            continue
        where = f"{redact(uri)}, line {number},"
        row = _parse(line, where)
        if not isinstance(row.get("file_name"), str):
            raise DataError(f"{where} has no file_name but {_shown(row)}")
        yield where, row


def caption_field(row: dict[str, Any]) -> str | None:
    """Return the field of a line that has its captions."""
    return next((field for field in CAPTION_FIELDS if field in row), None)


def captions_of(row: dict[str, Any], where: str) -> list[str]:
    """Return the captions of a line.

    Raises:
        DataError: if they are not texts.
    """
    field = caption_field(row)
    return _texts(row[field], f"{where} field {field!r}") if field else []


def read_csv(uri: str) -> Iterator[tuple[str, list[str]]]:
    """Read a table with the columns ``file_name``, and ``caption`` or ``text``.

    Raises:
        DataError: if it has other columns, or is no such table.
    """
    folder = files.parent(uri)
    for where, name, caption in read_table(uri, "file_name", _CSV_FIELDS):
        yield files.inside(folder, name, where), [caption]


def read_table(
    uri: str, name_column: str, caption_columns: tuple[str, ...]
) -> Iterator[tuple[str, str, str]]:
    """Read a table of comma-separated values, with a caption a row.

    Args:
        uri: of the table.
        name_column: the column of the images' names.
        caption_columns: the first of them that the table has is that of the captions.

    Yields:
        Where it stands, as it may be shown; the image's name; the caption.

    Raises:
        DataError: if a column is missing, or a row is not as long as the first one.
    """
    rows = csv.DictReader(io.StringIO(files.read_text(uri), newline=""), strict=True)
    try:
        columns = rows.fieldnames or []
        column = next((name for name in caption_columns if name in columns), None)
        if name_column not in columns or column is None:
            raise DataError(
                f"{redact(uri)} has the columns {', '.join(columns)}; needed are {name_column} "
                f"and {' or '.join(caption_columns)} (several captions of an image: a row each, "
                "or metadata.jsonl)"
            )
        for row in rows:
            where = f"{redact(uri)}, line {rows.line_num},"
            if None in row or None in row.values():
                raise DataError(
                    f"{where} has not {len(columns)} values; put captions with commas in quotes"
                )
            yield where, row[name_column], row[column]
    except csv.Error as error:
        raise DataError(f"{redact(uri)}, after line {rows.line_num}: {error}") from error


def _parse(line: str, where: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where} is not JSON: {error}") from error
    if not isinstance(row, dict):
        raise DataError(f"{where} is not an object with file_name and captions")
    return row


def _texts(value: object, where: str) -> list[str]:
    """Return captions that may be one text, a list of them, or null for none."""
    texts: list[Any] = value if isinstance(value, list) else [] if value is None else [value]
    if not all(isinstance(text, str) for text in texts):
        raise DataError(f"{where} is {str(value)[:80]!r}; use a text or a list of texts")
    return texts


def _shown(row: dict[str, Any]) -> str:
    return ", ".join(list(row)[:8]) or "nothing"
