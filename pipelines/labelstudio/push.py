"""Sending captions to review: each image is one task, each model's caption one prediction.

Label Studio has no create-if-absent, so a push looks up what is there, creates what is missing,
and afterwards looks again: an answer that was lost, a push that was killed or a server that was
slow may have left something twice, and what nobody has touched of that is removed.
"""

import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from captioner.annotations import NO_CLASSES, Annotations, ClassNames
from pipelines.labelstudio import config
from pipelines.labelstudio.client import (
    Client,
    LabelStudioError,
    LabelStudioSettings,
    Token,
    read_token,
)
from pipelines.labelstudio.images import Images, Picture, size_at
from pipelines.labelstudio.project import Project, open_project, show_predictions
from pipelines.labelstudio.regions import regions
from pipelines.labelstudio.tasks import Task, Tasks

__all__ = [
    "LabelStudioError",
    "LabelStudioSettings",
    "PushReport",
    "ReviewItem",
    "Token",
    "push",
    "read_token",
]

BATCH = 250
SETTLE_SECONDS = 60.0  # hosted editions import in the background


@dataclass(frozen=True)
class ReviewItem:
    """A caption to review.

    Attributes:
        image_id: SHA-256 of the image's bytes: the task's key.
        uri: where the original image is.
        caption: the caption to show.
        confidence: how likely it is to be accepted, 0 to 1.
        confidence_kind: ``calibrated`` or ``uncalibrated``.
        model_id: the model that made it.
        decoding: the decoding config that it was made with.
        width: of the original, in pixels.
        height: likewise.
        annotations: labels, boxes and masks that were found.
    """

    image_id: str
    uri: str
    caption: str
    confidence: float
    confidence_kind: str
    model_id: str
    decoding: str
    width: int
    height: int
    annotations: Annotations = Annotations()

    @property
    def model_version(self) -> str:
        """The name of the model and decoding config among a task's predictions."""
        return f"{self.model_id}/{self.decoding}".replace(",", "_")  # a server joins by commas


@dataclass(frozen=True)
class PushReport:
    """What a push did.

    Attributes:
        items: how many items were given.
        tasks_created: images that had no task.
        tasks_found: images that had one already.
        predictions_created: captions that were not there.
        predictions_found: captions that were.
        failed: images that cannot be shown and so are not in the queue: uri, and why.
    """

    items: int = 0
    tasks_created: int = 0
    tasks_found: int = 0
    predictions_created: int = 0
    predictions_found: int = 0
    failed: tuple[tuple[str, str], ...] = ()


_Wanted = dict[str, dict[str, ReviewItem]]  # image id -> model version -> item


def push(
    items: Iterable[ReviewItem],
    settings: LabelStudioSettings,
    on_progress: Callable[[int], None] | None = None,
    *,
    classes: ClassNames = NO_CLASSES,
) -> PushReport:
    """Bring captions into the review queue; what is there already is left as it is.

    Args:
        items: the captions, in the order in which they are wanted there.
        settings: where the queue is.
        on_progress: called now and then with the number of items dealt with so far.
        classes: of labels, boxes and masks that are to be reviewed, too.

    Returns:
        What was created and what was found.

    Raises:
        LabelStudioError: if it did not finish. Pushing again adds only what is missing.
    """
    rest = iter(items)
    batch = list(islice(rest, BATCH))
    if not batch:
        return PushReport()
    with Client(settings) as client:
        client.check()
        project = open_project(client, settings.project, classes)
        pusher = _Pusher(client, project, settings.previews, classes)
        while batch:
            pusher.push(batch)
            if on_progress is not None:
                on_progress(pusher.items)
            batch = list(islice(rest, BATCH))
        return pusher.finish()


class _Pusher:
    """One push: what it has done so far, and what it must look at again in the end."""

    def __init__(
        self, client: Client, project: Project, previews: bool, classes: ClassNames
    ) -> None:
        self.items = 0
        self._tasks_created = self._tasks_found = 0
        self._predictions_created = self._predictions_found = 0
        self._failed: list[tuple[str, str]] = []
        self._seen: set[str] = set()
        self._uncertain: dict[str, None] = {}  # in order, each once
        self._client, self._project, self._shown = client, project, ""
        self._classes = classes
        self._images = Images(client, project.id, previews)
        self._tasks = Tasks(client, project.id)

    def push(self, batch: Sequence[ReviewItem]) -> None:
        """Bring a batch into the queue."""
        wanted = _by_image(batch)
        found = self._tasks.find(wanted)
        self._uncertain |= {i: None for i, tasks in found.items() if _has_repeats(tasks)}
        created = self._create_tasks({i: v for i, v in wanted.items() if i not in found})
        added = self._add_predictions({i: wanted[i] for i in found}, found)
        self.items += len(batch)
        self._tasks_created += len(created)
        self._tasks_found += len(found.keys() - self._seen)
        self._predictions_created += added + sum(len(versions) for versions in created.values())
        self._predictions_found += sum(len(wanted[i]) for i in found) - added
        self._seen |= wanted.keys()
        if found or created:
            self._show(batch[-1].model_version)

    def finish(self) -> PushReport:
        """Look again at what was created, remove repeats, and report."""
        self._reconcile()
        return PushReport(
            items=self.items,
            tasks_created=self._tasks_created,
            tasks_found=self._tasks_found,
            predictions_created=self._predictions_created,
            predictions_found=self._predictions_found,
            failed=tuple(self._failed),
        )

    def _create_tasks(self, missing: _Wanted) -> _Wanted:
        """Create a task for each image that can be shown; return what was created."""
        first = {i: next(iter(versions.values())) for i, versions in missing.items()}
        pictures = [Picture(i, item.uri) for i, item in first.items()]
        addresses, failed = self._images.addresses(pictures)
        self._failed += [(picture.uri, why) for picture, why in failed]
        created = {i: versions for i, versions in missing.items() if i in addresses}
        self._uncertain |= dict.fromkeys(created)
        self._tasks.create({i: self._task(addresses[i], v) for i, v in created.items()})
        return created

    def _add_predictions(self, wanted: _Wanted, found: dict[str, list[Task]]) -> int:
        """Add the predictions that tasks lack; return how many."""
        lacking = {}
        for image_id, versions in wanted.items():
            there = frozenset[str]().union(*(task.versions for task in found[image_id]))
            for version, item in versions.items():
                if version not in there:
                    task = found[image_id][0]
                    lacking[image_id, version] = {
                        "task": task.id,
                        **self._prediction(item, task.image),
                    }
        self._uncertain |= {image_id: None for image_id, _ in lacking}
        self._tasks.add_predictions(lacking)
        return len(lacking)

    def _task(self, address: str, versions: dict[str, ReviewItem]) -> dict[str, Any]:
        first = next(iter(versions.values()))
        data = {"image": address, "image_id": first.image_id, "uri": first.uri}
        data["caption"] = first.caption
        return {
            "data": {key: _text(value) for key, value in data.items()},
            "predictions": [self._prediction(item, address) for item in versions.values()],
        }

    def _prediction(self, item: ReviewItem, address: str) -> dict[str, Any]:
        """Write a prediction for what is shown at the task's address."""
        score = item.confidence if math.isfinite(item.confidence) else None
        shown = size_at(address, item.width, item.height)
        found = regions(item.annotations, self._classes, (item.width, item.height), shown)
        return config.prediction(_text(item.caption), score, item.model_version, found)

    def _show(self, version: str) -> None:
        """Fill in the newest model's captions, from the first batch on."""
        if version != self._shown:
            show_predictions(self._client, self._project, version)
            self._shown = version

    def _reconcile(self) -> None:
        """Make sure that what was created is there once.

        Raises:
            LabelStudioError: if something is not there.
        """
        deadline = time.monotonic() + SETTLE_SECONDS
        rest = list(self._uncertain)
        while rest:
            found = self._tasks.find(rest)
            for tasks in found.values():
                if _has_repeats(tasks):
                    self._tasks.remove_repeated_predictions(self._tasks.remove_repeats(tasks))
            rest = [image_id for image_id in rest if image_id not in found]
            if rest and time.monotonic() > deadline:
                raise LabelStudioError(
                    f"Label Studio took {len(self._uncertain)} tasks, but {len(rest)} of them did "
                    f"not appear in {SETTLE_SECONDS:.0f} s; push again later"
                )
            if rest:
                time.sleep(1.0)


def _has_repeats(tasks: Sequence[Task]) -> bool:
    return len(tasks) > 1 or any(task.predictions > len(task.versions) for task in tasks)


def _by_image(batch: Iterable[ReviewItem]) -> _Wanted:
    """Group items by image; of several with the same bytes and model, the first is taken."""
    wanted: _Wanted = {}
    for item in batch:
        wanted.setdefault(item.image_id, {}).setdefault(item.model_version, item)
    return wanted


def _text(value: str) -> str:
    """Write out what JSON or the server's database has no place for: names that are not UTF-8."""
    return value.encode("utf-8", "backslashreplace").decode().replace("\0", "\\0")
