"""Merge an output's small files into few."""

from collections.abc import Iterable

import pyarrow as pa

from pipelines.commit import Committed, clear
from pipelines.output import LiveFile, Output
from pipelines.parts import encode, publish


def compact(output: Output, max_bytes: int) -> tuple[int, int]:
    """Merge small files up to about ``max_bytes`` each; return the files before and after."""
    before = current = output.current()
    for table in ("captions", "failures", "reviews"):
        for group in _groups(current.of(table), max_bytes):
            merged = pa.concat_tables([output.read_part(file.path) for file in group])
            new = publish(output, table, encode(merged), merged.num_rows)
            current = current.replacing(table, [file.path for file in group], [new])
    if current != before:
        output.replace_current(current)
    old, new_paths = _paths(before.files.values()), _paths(current.files.values())
    clear(output, Committed(leftovers=tuple(sorted(old - new_paths))))
    return len(old), len(new_paths)


def _paths(tables: Iterable[Iterable[LiveFile]]) -> set[str]:
    return {file.path for files in tables for file in files}


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
