"""A pull: what reviewers said since the last one, read and merged into an output."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from itertools import islice
from typing import Any

import numpy as np

from pipelines.committed import captions_by_model
from pipelines.labelstudio.annotations import MARGIN, PAGE, Annotations, ReviewProject
from pipelines.labelstudio.client import Client
from pipelines.labelstudio.items import model_version
from pipelines.labelstudio.review_rows import ReviewedTask, ReviewReader
from pipelines.output import Output
from pipelines.review_queue import caption_limits
from pipelines.reviews import Changes, ImageSizes, PullState, ReviewUpdate


@dataclass
class Pulled:
    """What was read, and what it did.

    Attributes:
        since: from when on changes were asked for; all if None.
        tasks: annotated tasks that were read.
        changes: what changed in the table.
        damaged: what is wrong with annotations that cannot be read.
        unknown: numbers of tasks with annotations that are of no caption of the output.
        failing: numbers of tasks that the server fails at; what the table has of them stays.
        missing: how many tasks that the table has rows of are not in the project.
        elsewhere: how many rows were read of images that the output has no caption of.
    """

    since: datetime | None
    tasks: int = 0
    changes: Changes = field(default_factory=Changes)
    damaged: list[str] = field(default_factory=list)
    unknown: list[int] = field(default_factory=list)
    failing: list[int] = field(default_factory=list)
    missing: int = 0
    elsewhere: int = 0

    def add(self, tasks: Iterable[ReviewedTask], sizes: ImageSizes) -> None:
        """Count tasks, as far as they are annotated."""
        for task in tasks:
            self.tasks += bool(task.rows or task.damaged or task.unknown)
            self.damaged += task.damaged
            self.unknown += [task.id] if task.unknown else []
            self.elsewhere += sum(sizes.of(row["image_id"]) is None for row in task.rows)


def pull(
    client: Client,
    project: ReviewProject,
    output: Output,
    since: datetime | None = None,
    *,
    write: bool = True,
    on_progress: Callable[[int], None] = lambda tasks: None,
) -> Pulled:
    """Bring what reviewers said since the last pull into ``reviews``.

    Where the server failed at tasks the others come, and the next pull reads from where this one
    did, since it is not known when those are mended.

    Args:
        client: a connection to Label Studio.
        project: the project.
        output: the output; to be written to by the holder of the lease only.
        since: read what changed since then instead, by the server's clock.
        write: whether to change the output; if not, the result says what would change.
        on_progress: called after each page with the number of tasks that were read.

    Raises:
        LabelStudioError: if it was not read in full; the output is as before.
    """
    annotations, state = Annotations(client, project.id), PullState(output, client.url, project.id)
    newest = annotations.newest_change()  # Before anything is read: later changes come next time.
    until = state.pulled_until()
    pulled = Pulled(since or (until and until - MARGIN))
    sizes, update = ImageSizes(output), ReviewUpdate(output, write)
    reader = ReviewReader(
        project.controls,
        project.shown_version,
        {model_version(*model): model for model in captions_by_model(output)},
        sizes.of,
        annotations.reviewers(),
        caption_limits(output),
    )
    for page in _paged(annotations.annotated(pulled.since)):
        tasks = [reader.read(task) for task in page]
        update.replace(tasks)
        pulled.add(tasks, sizes)
        on_progress(pulled.tasks)
    for page in _paged(annotations.uncounted(pulled.since)):  # Of most reviews were withdrawn.
        tasks = [reader.read(task) for task in page]
        update.replace(tasks)
        pulled.add(tasks, sizes)
    pulled.failing = annotations.failing
    pulled.missing = annotations.missing(_task_ids(output))
    pulled.changes = update.finish()
    gapless = since is None or (until is not None and since <= until)
    if write and newest and gapless and not pulled.failing:
        state.write(max(newest, until or newest))
    return pulled


def _paged(tasks: Iterator[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    while page := list(islice(tasks, PAGE)):
        yield page


def _task_ids(output: Output) -> list[int]:
    """Return the numbers of the tasks that have reviews, each once."""
    parts = [table for _, table in output.tables("reviews", ["task_id"])]
    numbers = [part.column("task_id").drop_null().to_numpy() for part in parts]
    found: list[int] = np.unique(np.concatenate([np.empty(0, np.int64), *numbers])).tolist()
    return found
