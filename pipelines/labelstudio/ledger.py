"""What a push remembers of a project's tasks, so that the next one need not read them all.

The ledger is a memory and never the truth: `pipelines.labelstudio.reconcile` holds it against the
server. So it may be lost at any time, and one that cannot be trusted is thrown away.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines import storage
from pipelines.labelstudio.project import project_key
from pipelines.labelstudio.tasks import Page, Task, newer
from pipelines.output import Output, OutputError, read_lease
from schemas.uris import redact

VERSION = "1"
BLOCK = 2_500
"""Tasks that are read again where their number is not what was remembered."""
BLOCKS = 16
"""Counted at first, whatever their size; one that differs is halved."""

_SCHEMA = pa.schema(
    [
        ("task", pa.int64()),
        ("image_id", pa.string()),
        ("model_versions", pa.list_(pa.string())),
        ("predictions", pa.int32()),
        ("preview", pa.bool_()),
        ("settled", pa.bool_()),
    ]
)


class Ledger:
    """The tasks of a project, by number and by image: about 0.4 kB of memory each.

    Attributes:
        newest: when the newest task that was read was made, as the server writes it; empty if
            none was. What was made before it has been read.
        lost: how often a task or prediction turned out to be gone.
    """

    def __init__(self, tasks: Iterable[Task] = (), newest: str = "") -> None:
        self.newest = newest
        self.lost = 0
        self._tasks: dict[int, Task] = {}
        self._of_image: dict[str, tuple[int, ...]] = {}
        self._settled: set[int] = set()
        for task in tasks:
            self.put(task)

    def __len__(self) -> int:
        """Return how many tasks are known."""
        return len(self._tasks)

    def __iter__(self) -> Iterator[Task]:
        """Iterate over the tasks, lowest number first."""
        return (self._tasks[number] for number in sorted(self._tasks))

    @property
    def highest(self) -> int:
        """The highest number of a task; 0 without any."""
        return max(self._tasks, default=0)

    def of(self, image_id: str) -> list[Task]:
        """Return an image's tasks, lowest number first."""
        return [self._tasks[number] for number in self._of_image.get(image_id, ())]

    def put(self, task: Task) -> None:
        """Remember a task as it is now."""
        before = self._tasks.get(task.id)
        if before != task:
            self._settled.discard(task.id)
        if before is not None and before.image_id != task.image_id:
            self.drop(task.id)  # The server gives numbers of deleted tasks anew.
        elif before is not None and before.versions - task.versions:
            self.lost += 1
        self._tasks[task.id] = task
        if task.image_id:
            numbers = self._of_image.get(task.image_id, ())
            if task.id not in numbers:
                self._of_image[task.image_id] = tuple(sorted((*numbers, task.id)))

    def drop(self, number: int) -> None:
        """Forget a task that is gone; one that is not known is no matter."""
        task = self._tasks.pop(number, None)
        if task is None:
            return
        self.lost += 1
        self._settled.discard(number)
        rest = tuple(other for other in self._of_image.get(task.image_id, ()) if other != number)
        if rest:
            self._of_image[task.image_id] = rest
        else:
            self._of_image.pop(task.image_id, None)

    def add(self, pages: Iterable[Page]) -> None:
        """Remember the tasks of pages, and that all was read up to the newest of them."""
        newest = self.newest
        for page in pages:
            newest = newer(newest, page.newest)
            for task in page.tasks:
                self.put(task)
        self.newest = newest

    def replace(self, numbers: Sequence[int], pages: Iterable[Page]) -> None:
        """Remember tasks anew.

        Args:
            numbers: of those that are known there.
            pages: what is there; what is not any more is forgotten.
        """
        gone = set(numbers)
        for page in pages:
            for task in page.tasks:
                gone.discard(task.id)
                self.put(task)
        for number in gone:
            self.drop(number)

    def blocks(self) -> list[list[int]]:
        """Return the numbers of all tasks, in order, in few blocks."""
        numbers = sorted(self._tasks)
        size = max(BLOCK, -(-len(numbers) // BLOCKS))
        return [numbers[start : start + size] for start in range(0, len(numbers), size)]

    def count(self, numbers: Sequence[int], version: str | None = None) -> tuple[int, int]:
        """Return how many of these tasks there are, and their predictions, as a server counts.

        Args:
            numbers: of known tasks.
            version: only those with a prediction whose model version has this in it, in capitals
                or not.
        """
        tasks = [self._tasks[number] for number in numbers]
        if version is not None:
            wanted = version.casefold()
            fits = {v: any(wanted in one.casefold() for one in v) for v in self._versions(tasks)}
            tasks = [task for task in tasks if fits[task.versions]]
        return len(tasks), sum(task.predictions for task in tasks)

    def several(self) -> list[list[Task]]:
        """Return the tasks of each image that has more than one."""
        return [self.of(image) for image, tasks in self._of_image.items() if len(tasks) > 1]

    def unsettled(self) -> list[Task]:
        """Return the tasks that may have several predictions of one model version."""
        tasks = (self._tasks[number] for number in self._tasks.keys() - self._settled)
        return [t for t in tasks if t.image_id and t.versions and t.predictions > len(t.versions)]

    def settle(self, task: Task) -> None:
        """Remember that a task has one prediction of each version, whatever the server counts."""
        self._settled.add(task.id)

    def is_settled(self, task: Task) -> bool:
        """Say whether a task is known to have one prediction of each version."""
        return task.id in self._settled

    @staticmethod
    def _versions(tasks: Iterable[Task]) -> set[frozenset[str]]:
        return {task.versions for task in tasks}


@dataclass(frozen=True)
class LedgerFile:
    """Where an output keeps the ledger of a project.

    Attributes:
        output: the output; if it has a run id, that run must hold the lease to write.
        url: the address of Label Studio.
        project: the project's number.
        created_at: when the project was made: a server that was set up anew gives the same
            numbers again.
    """

    output: Output
    url: str
    project: int
    created_at: str

    @property
    def path(self) -> str:
        """The uri of the file."""
        key = project_key(self.url, self.project)
        return self.output.path("labelstudio", f"{key}.tasks.parquet")

    def load(self) -> tuple[Ledger, str | None]:
        """Read the ledger.

        Returns:
            The ledger, empty if there is none to be trusted, and in that case why.
        """
        try:
            data = storage.read_fresh(self.path)
            return self._parse(data), None
        except storage.StorageError as error:
            if error.kind == "not_found":
                return Ledger(), None
            why = redact(str(error))
        except (pa.ArrowException, OSError, ValueError, TypeError) as error:
            why = str(error)
        return Ledger(), (
            f"what earlier pushes remembered of this project is not used ({why}); all tasks were "
            "looked at"
        )

    def _parse(self, data: bytes) -> Ledger:
        """Take the file apart; ``ValueError`` and Arrow's own if it is not to be trusted."""
        buffer = pa.BufferReader(data)
        file = pq.ParquetFile(buffer, page_checksum_verification=True)
        found = file.schema_arrow.metadata or {}
        newest = found.get(b"newest", b"").decode()
        expected = self._metadata(newest)
        different = [key.decode() for key in expected if found.get(key) != expected[key]]
        if different:
            raise ValueError(f"{self.path} is of another {' and '.join(different)}")
        newer(newest, "")
        ledger = Ledger(newest=newest)
        for batch in file.iter_batches(columns=_SCHEMA.names):
            for row in zip(*(column.to_pylist() for column in batch.columns), strict=True):
                *of_task, settled = row
                task = _task(*of_task)
                ledger.put(task)
                if settled:
                    ledger.settle(task)
        return ledger

    def save(self, ledger: Ledger) -> None:
        """Replace the file by this ledger, in one write.

        Raises:
            OutputError: if another run has taken the lease over.
            StorageError: if it cannot be written.
        """
        if self.output.run_id is not None:
            holder = read_lease(self.output).get("run_id")
            if holder != self.output.run_id:
                raise OutputError(
                    f"{self.output.uri} was taken over by run {holder} while this push was not "
                    "heard of. Push again when that has ended."
                )
        storage.write_bytes_atomically(self.path, self._written(ledger))

    def _written(self, ledger: Ledger) -> bytes:
        tasks = list(ledger)
        columns = [
            [task.id for task in tasks],
            [task.image_id for task in tasks],
            [sorted(task.versions) for task in tasks],
            [task.predictions for task in tasks],
            [task.preview for task in tasks],
            [ledger.is_settled(task) for task in tasks],
        ]
        schema = _SCHEMA.with_metadata(self._metadata(ledger.newest))
        arrays = [pa.array(c, field.type) for c, field in zip(columns, schema, strict=True)]
        sink = pa.BufferOutputStream()
        table = pa.Table.from_arrays(arrays, schema=schema)
        pq.write_table(table, sink, compression="zstd", write_page_checksum=True)
        return bytes(sink.getvalue().to_pybytes())

    def _metadata(self, newest: str) -> dict[bytes, bytes]:
        return {
            b"ledger version": VERSION.encode(),
            b"server": self.url.encode(),
            b"project": f"{self.project} {self.created_at}".encode(),
            b"newest": newest.encode(),
        }


def _task(number: int, image_id: str, versions: list[str], predictions: int, preview: bool) -> Task:
    return Task(number, image_id, _shared(tuple(versions)), predictions, preview)


@lru_cache(maxsize=1000)
def _shared(versions: tuple[str, ...]) -> frozenset[str]:
    """Return the same set for the same versions, to save memory."""
    return frozenset(versions)
