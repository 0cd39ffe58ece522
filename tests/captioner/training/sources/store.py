"""Files in memory, written by tests."""

import io
import json

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq

from captioner.training.sources import Example

DATA = "memory://data"


def write(name: str, content: str | bytes, folder: str = DATA) -> str:
    uri = f"{folder}/{name}"
    data = content.encode() if isinstance(content, str) else content
    filesystem, path = fsspec.core.url_to_fs(uri)
    filesystem.makedirs(path.rpartition("/")[0], exist_ok=True)
    filesystem.pipe_file(path, data)
    return uri


def write_lines(name: str, *rows: dict) -> str:
    return write(name, "".join(json.dumps(row) + "\n" for row in rows))


def write_table(name: str, table: pa.Table) -> str:
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    return write(name, buffer.getvalue())


def by_name(examples: list[Example]) -> dict[str, tuple[str, ...]]:
    return {example.uri.rpartition("/")[2]: example.captions for example in examples}
