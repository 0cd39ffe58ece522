"""What was pulled, merged into the table ``reviews``; and how far a project has been read.

A task's rows are replaced by what the task holds now, and rows that are the same stay where they
are: pulling again writes nothing. Servers give numbers of deleted tasks again, so rows from before
a task was made are of another one, and stay. Files are published as they fill up and named all in
one switch: a pull that is killed before it has changed nothing.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipelines import storage
from pipelines.commit import Committed, clear
from pipelines.labelstudio.project import project_key
from pipelines.labelstudio.review_rows import ReviewedTask, Who
from pipelines.output import LiveFile, Output
from pipelines.parts import encode, publish
from schemas.tables import REVIEWS

FILE_ROWS = 20_000
_BATCH_ROWS = 2_000


@dataclass
class Changes:
    """What an update did to the table.

    Attributes:
        added: how many rows came, by verdict: new reviews and changed ones.
        removed: how many went, by verdict: changed reviews and withdrawn ones.
        same: how many of the rows that were read were there already.
    """

    added: Counter[str] = field(default_factory=Counter)
    removed: Counter[str] = field(default_factory=Counter)
    same: int = 0

    @property
    def changed(self) -> bool:
        """Whether anything came or went."""
        return bool(self.added or self.removed)


class ReviewUpdate:
    """Brings tasks that were read into ``reviews``.

    It holds a hash of each row that is there and which of its tasks were read, and new rows until
    they fill a file.
    """

    def __init__(self, output: Output, write: bool = True) -> None:
        """Read what is there.

        Args:
            output: the output; to be written to by the holder of the lease only.
            write: whether to change the table; if not, `finish` only says what would change.
        """
        self._output, self._write = output, write
        self._there: Counter[bytes] = Counter()
        self._tasks: set[int | None] = set()
        for _, rows in self._rows():
            for row in rows:
                self._there[_digest(row)] += 1
                self._tasks.add(row["task_id"])
        self._read: dict[tuple[int, str], tuple[datetime, frozenset[Who]]] = {}
        self._moved: set[bytes] = set()
        self._waiting: list[pa.Table] = []
        self._new: list[LiveFile] = []
        self._changes = Changes()

    def replace(self, tasks: Sequence[ReviewedTask]) -> None:
        """Let what tasks hold now stand for what the table holds of them.

        A row whose annotation cannot be read any more, though it is as it was, stays.
        """
        fresh: list[dict[str, Any]] = []
        for task in tasks:
            if task.image_id is not None and (task.id, task.image_id) not in self._read:
                fresh += task.rows
                if task.id in self._tasks:
                    self._read[task.id, task.image_id] = task.created_at, task.unread
        rows = pa.Table.from_pylist(fresh, REVIEWS)
        new = []
        for index, row in enumerate(rows.to_pylist()):
            digest = _digest(row)
            if self._there[digest]:
                self._there[digest] -= 1
                self._changes.same += 1
            else:
                new.append(index)
                self._changes.added[row["verdict"]] += 1
                self._moved.add(_digest(row | {"task_id": None}))
        if new and self._write:
            self._waiting.append(rows.take(new))
            if sum(table.num_rows for table in self._waiting) >= FILE_ROWS:
                self._publish()

    def finish(self) -> Changes:
        """Make the new table live, and say what changed."""
        current = self._output.current()
        replaced = []
        for file, rows in self._rows():
            stays = np.array([not self._goes(row) for row in rows], np.bool_)
            if stays.all():
                continue
            replaced.append(file.path)
            if self._write and stays.any():
                self._waiting.append(self._output.read_part(file.path).filter(pa.array(stays)))
        if not self._write:
            return self._changes
        self._publish()
        after = current.replacing("reviews", replaced, self._new)
        if after != current:
            self._output.replace_current(after)
        kept = {file.path for file in after.of("reviews")}
        clear(self._output, Committed(leftovers=tuple(p for p in replaced if p not in kept)))
        return self._changes

    def _goes(self, row: dict[str, Any]) -> bool:
        """Say whether a row that is there gives way; to be asked once for each."""
        task = self._read.get((row["task_id"], row["image_id"]))
        if task is None:  # Label Studio can move annotations to another task of the same data.
            goes = _digest(row | {"task_id": None}) in self._moved
        else:
            digest, (made, unread) = _digest(row), task
            who, when = row["reviewer"], row["reviewed_at"]
            goes = self._there[digest] > 0 and when >= made and (who, when) not in unread
            self._there[digest] -= goes
        if goes:
            self._changes.removed[row["verdict"]] += 1
        return goes

    def _publish(self) -> None:
        if self._waiting:
            table = pa.concat_tables(self._waiting)
            self._new.append(publish(self._output, "reviews", encode(table), table.num_rows))
            self._waiting = []

    def _rows(self) -> Iterator[tuple[LiveFile, Iterator[dict[str, Any]]]]:
        for file, table in self._output.tables("reviews"):
            batches = table.to_batches(max_chunksize=_BATCH_ROWS)
            yield file, (row for batch in batches for row in batch.to_pylist())


def _digest(row: dict[str, Any]) -> bytes:
    return hashlib.blake2b(repr(list(row.items())).encode(), digest_size=16).digest()


class ImageSizes:
    """Width and height of the images of an output, by image id: 40 bytes an image in memory."""

    def __init__(self, output: Output) -> None:
        """Read them."""
        parts = [part for _, part in output.tables("captions", ["image_id", "width", "height"])]
        keys = [_keys(part.column("image_id").to_pylist()) for part in parts]
        sizes = [
            np.stack([part.column(side).to_numpy() for side in ("width", "height")], axis=1)
            for part in parts
        ]
        self._keys = np.concatenate([_keys([]), *keys])
        self._sizes = np.concatenate([np.empty((0, 2), np.int32), *sizes])
        order = np.argsort(self._keys)
        self._keys, self._sizes = self._keys[order], self._sizes[order]

    def of(self, image_id: str) -> tuple[int, int] | None:
        """Return width and height of an image in pixels; None if the output has none such."""
        (key,) = _keys([image_id])
        place = int(np.searchsorted(self._keys, key))
        if place == len(self._keys) or self._keys[place] != key:
            return None
        width, height = self._sizes[place].tolist()
        return width, height


def _keys(image_ids: Sequence[str]) -> npt.NDArray[np.bytes_]:
    return np.frombuffer(b"".join(map(bytes.fromhex, image_ids)), "S32")


@dataclass(frozen=True)
class PullState:
    """How far a project has been read, as a file in the output.

    Attributes:
        output: the output.
        url: the address of Label Studio.
        project: the number of the project.
    """

    output: Output
    url: str
    project: int

    @property
    def path(self) -> str:
        """The uri of the file."""
        return self.output.path("labelstudio", f"{project_key(self.url, self.project)}.json")

    def pulled_until(self) -> datetime | None:
        """Return the server's time up to which all was read; None if not all was, ever."""
        until = self._content().get("pulled_until")
        try:
            return datetime.fromisoformat(until) if until else None
        except (TypeError, ValueError):  # Not by this program: all is read again.
            return None

    def write(self, until: datetime) -> None:
        """Keep the server's time up to which all was read."""
        before = self._content()
        what: dict[str, Any] = {"url": self.url.rstrip("/"), "project": self.project}
        content = before | what | {"pulled_until": until.isoformat()}
        if content != before:
            text = json.dumps(content, indent=2) + "\n"
            storage.write_bytes_atomically(self.path, text.encode())

    def _content(self) -> dict[str, Any]:
        try:
            content = json.loads(storage.read_fresh(self.path))
        except storage.StorageError as error:
            if error.kind == "not_found":
                return {}
            raise
        except ValueError:
            return {}
        return content if isinstance(content, dict) else {}
