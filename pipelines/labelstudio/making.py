"""Making tasks and predictions at the server, and remembering them in the ledger."""

import time
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from captioner.annotations import ClassNames
from pipelines.labelstudio.attention import AttentionPictures
from pipelines.labelstudio.client import Client, LabelStudioError
from pipelines.labelstudio.images import Images, Picture, is_preview
from pipelines.labelstudio.items import ReviewItem, Wanted, prediction_body, task_body
from pipelines.labelstudio.ledger import Ledger
from pipelines.labelstudio.project import Project
from pipelines.labelstudio.reconcile import catch_up
from pipelines.labelstudio.sending import send
from pipelines.labelstudio.tasks import Task, Tasks

TASKS_AT_ONCE = 250
PREDICTIONS_AT_ONCE = 5_000
"""For each request, whatever its size, Label Studio 1.23 counts all of a project's predictions."""
SETTLE_SECONDS = 60.0
"""Hosted editions import in the background."""

Key = tuple[str, str]
"""Image id and model version."""


class Maker:
    """Makes what is missing in a project.

    Attributes:
        refused: how many things Label Studio did not take.
    """

    def __init__(
        self,
        client: Client,
        project: Project,
        ledger: Ledger,
        classes: ClassNames,
        images: Images,
        attention: AttentionPictures | None,
    ) -> None:
        """Send nothing yet.

        Args:
            client: a connection to Label Studio.
            project: the project.
            ledger: of the project; what is made is put into it.
            classes: of the project's controls.
            images: of the project.
            attention: makes pictures of where the model looked; None where none are shown.
        """
        self.refused = 0
        self._client = client
        self._project = project
        self._path = f"/api/projects/{project.id}/import"
        self._ledger, self._classes = ledger, classes
        self._tasks = Tasks(client, project.id)
        self._images = images
        self._attention = attention

    def make_tasks(self, missing: Wanted) -> dict[str, str]:
        """Make a task, with its predictions, for each image that can be shown.

        Args:
            missing: what has no task.

        Returns:
            The image ids that are left out, and why.

        Raises:
            LabelStudioError: if it is not known whether they were made.
        """
        pictures = [Picture(i, next(iter(of_i.values())).uri) for i, of_i in missing.items()]
        addresses, unseen = self._images.addresses(pictures)
        previews = {i: is_preview(address) for i, address in addresses.items()}
        marks, looked = self._project.unsure_words, self._looked(missing, addresses)
        bodies = {
            i: task_body(missing[i], address, previews[i], self._classes, marks, looked.get(i))
            for i, address in addresses.items()
        }

        def taken(image_ids: list[str], answer: Any) -> None:
            numbers = [int(number) for number in answer.get("task_ids") or ()]
            if len(numbers) != len(image_ids):
                self._await(image_ids)
                return
            for number, i in zip(numbers, image_ids, strict=True):
                versions = frozenset(missing[i])
                self._ledger.put(Task(number, i, versions, len(versions), previews[i]))
            # On SQLite, 1.23 makes tasks without predictions if it finds the database locked and
            # tries again (tasks/serializers.py, `create`).
            if answer.get("prediction_count") != sum(len(missing[i]) for i in image_ids):
                self._look_again(set(numbers))

        path = f"{self._path}?return_task_ids=true"
        refused = send(self._client, path, bodies, TASKS_AT_ONCE, taken, self._without_task)
        self.refused += len(refused)
        left_out = {picture.image_id: why for picture, why in unseen}
        return left_out | {i: _why(error) for i, error in refused.items()}

    def _looked(self, missing: Wanted, image_ids: Iterable[str]) -> dict[str, str]:
        """Return where the pictures are of where the model looked, if they are shown."""
        if self._attention is None:
            return {}
        items = [next(iter(missing[image_id].values())) for image_id in image_ids]
        return self._attention.addresses(items, self._images.uploads)

    def _without_task(self, image_ids: list[str]) -> list[str]:
        catch_up(self._ledger, self._tasks)
        return [image_id for image_id in image_ids if not self._ledger.of(image_id)]

    def _await(self, image_ids: list[str]) -> None:
        """Wait for tasks that are imported in the background."""
        deadline = time.monotonic() + SETTLE_SECONDS
        while rest := self._without_task(image_ids):
            if time.monotonic() > deadline:
                raise LabelStudioError(
                    f"Label Studio took {len(image_ids)} tasks, but {len(rest)} of them did not "
                    f"appear in {SETTLE_SECONDS:.0f} s; push again later"
                )
            time.sleep(1.0)

    def add_predictions(self, lacking: dict[Key, ReviewItem]) -> dict[str, str]:
        """Add predictions to tasks that lack them.

        Args:
            lacking: by image id and model version; those whose task has gone are left alone.

        Returns:
            The image ids that are left out, and why.

        Raises:
            LabelStudioError: if it is not known whether they were added.
        """
        task_of = {key: tasks[0] for key in lacking if (tasks := self._ledger.of(key[0]))}
        bodies = {
            key: {
                "task": task.id,
                **prediction_body(lacking[key], task.preview, self._classes),
            }
            for key, task in task_of.items()
        }

        def still_lacking(keys: Iterable[Key]) -> list[Key]:
            self._look_again({task_of[key].id for key in keys})
            return [key for key in keys if self._lacks(key)]

        def taken(keys: list[Key], answer: Any) -> None:
            if answer.get("created") != len(keys):
                still_lacking(keys)
                return
            for image_id, version in keys:
                task = self._ledger.of(image_id)[0]
                versions = task.versions | {version}
                self._ledger.put(replace(task, versions=versions, predictions=len(versions)))

        path = f"{self._path}/predictions"
        refused = send(self._client, path, bodies, PREDICTIONS_AT_ONCE, taken, still_lacking)
        still_lacking(refused)  # What is refused may have been deleted meanwhile.
        rest = [key for key in bodies if self._lacks(key)]
        self.refused += len(rest)
        return {image_id: _why(refused.get((image_id, version))) for image_id, version in rest}

    def _lacks(self, key: Key) -> bool:
        """Say whether a prediction is not there though its task is."""
        tasks = self._ledger.of(key[0])
        return bool(tasks) and not any(key[1] in task.versions for task in tasks)

    def _look_again(self, numbers: set[int]) -> None:
        """Read tasks anew; forget those that are gone."""
        gone = set(numbers)
        for task in self._tasks.read_these(sorted(numbers)):
            gone.discard(task.id)
            self._ledger.put(task)
        for number in gone:
            self._ledger.drop(number)


def _why(error: LabelStudioError | None) -> str:
    if error is None:
        return "Label Studio did not take its prediction; the server's log may say why"
    return str(error)
