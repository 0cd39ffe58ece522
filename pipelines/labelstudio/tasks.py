"""The tasks of a project, by the image id in their data."""

import json
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from pipelines.labelstudio.client import Client, LabelStudioError, OutcomeUnknownError

LOOK_UP = 100  # image ids in one query: it travels in the address, which servers limit
SMALLEST_LOOK_UP = 10
TOO_LONG = (400, 414, 431)  # what servers say of a long address
PAGE = 1000
TRIES = 5


@dataclass(frozen=True)
class Task:
    """A task that is there.

    Attributes:
        id: its number.
        image_id: its key.
        versions: the model versions of its predictions.
        predictions: how many predictions it has; more than versions if one is there twice.
        image: address of the picture that it shows.
    """

    id: int
    image_id: str
    versions: frozenset[str]
    predictions: int
    image: str


class Tasks:
    """Finds, creates and removes the tasks of a project."""

    def __init__(self, client: Client, project_id: int) -> None:
        """Look at nothing yet.

        Args:
            client: a connection to Label Studio.
            project_id: the number of the project.
        """
        self._client = client
        self._project = project_id
        self._look_up = LOOK_UP

    def find(self, image_ids: Iterable[str]) -> dict[str, list[Task]]:
        """Return the tasks of these images, lowest number first; an image without one is left out.

        Args:
            image_ids: the images, each once.
        """
        ids, found, start = list(image_ids), dict[str, list[Task]](), 0
        while start < len(ids):
            try:
                tasks = self._query(ids[start : start + self._look_up])
            except LabelStudioError as error:
                if error.status not in TOO_LONG or self._look_up <= SMALLEST_LOOK_UP:
                    raise
                self._look_up //= 2  # something on the way takes shorter addresses only
                continue
            start += self._look_up
            for task in sorted(tasks, key=lambda task: task.id):
                found.setdefault(task.image_id, []).append(task)
        return found

    def _query(self, image_ids: Sequence[str]) -> list[Task]:
        query = {
            "filters": {
                "conjunction": "and",
                "items": [
                    {
                        "filter": "filter:tasks:data.image_id",
                        "operator": "in_list",
                        "type": "String",
                        "value": list(image_ids),
                    }
                ],
            },
            # The server fills in the columns that it orders by, and the others only when asked
            # for all of them, which takes it three times as long.
            "ordering": ["tasks:predictions_model_versions"],
        }
        found: list[Task] = []
        page = 1
        while True:
            options = {
                "project": self._project,
                "page": page,
                "page_size": PAGE,
                "resolve_uri": "false",
                "query": json.dumps(query, separators=(",", ":")),
            }
            answer = self._client.get("/api/tasks", params=options)
            found += [_task(task) for task in answer["tasks"]]
            if len(found) >= answer["total"] or not answer["tasks"]:
                return found
            page += 1

    def create(self, tasks: dict[str, dict[str, Any]]) -> None:
        """Create tasks; a request whose outcome is not known is followed by a look-up.

        Args:
            tasks: what to import for each image id; none of them is there yet.

        Raises:
            LabelStudioError: if some were not created.
        """
        path, rest = f"/api/projects/{self._project}/import", tasks
        for attempt in range(TRIES):
            if not rest:
                return
            try:
                self._client.post(path, json=list(rest.values()))
                return
            except OutcomeUnknownError:
                if attempt + 1 == TRIES:
                    raise
                time.sleep(2.0**attempt)
                there = self.find(rest)
                rest = {i: task for i, task in rest.items() if i not in there}

    def add_predictions(self, predictions: dict[tuple[str, str], dict[str, Any]]) -> None:
        """Add predictions to tasks that are there.

        Args:
            predictions: what to import for each image id and model version, with its task's
                number under ``task``; none of them is there yet.

        Raises:
            LabelStudioError: if some were not created.
        """
        path, rest = f"/api/projects/{self._project}/import/predictions", predictions
        for attempt in range(TRIES):
            if not rest:
                return
            try:
                self._client.post(path, json=list(rest.values()))
                return
            except OutcomeUnknownError:
                if attempt + 1 == TRIES:
                    raise
                time.sleep(2.0**attempt)
                there = self.find({image_id for image_id, _ in rest})
                have = {(i, v) for i, tasks in there.items() for t in tasks for v in t.versions}
                rest = {key: body for key, body in rest.items() if key not in have}

    def remove_repeats(self, tasks: Sequence[Task]) -> Task:
        """Leave one task of several with the same image; what somebody has worked on stays.

        Args:
            tasks: the tasks of one image, lowest number first.

        Returns:
            The task that is to be used: one with work on it, else the fullest, else the oldest.
        """
        if len(tasks) == 1:
            return tasks[0]
        worked_on = [task for task in tasks if self._is_worked_on(task)]
        kept = max(worked_on or tasks, key=lambda task: len(task.versions))  # the first such
        for task in tasks:
            if task is not kept and task not in worked_on:
                self._client.delete(f"/api/tasks/{task.id}/")
        return kept

    def _is_worked_on(self, task: Task) -> bool:
        found = self._client.get(f"/api/tasks/{task.id}/", params={"resolve_uri": "false"})
        return bool(found.get("annotations") or found.get("drafts"))

    def remove_repeated_predictions(self, task: Task) -> None:
        """Leave one prediction of several of the same model version on a task."""
        seen = set()
        found = self._client.get("/api/predictions/", params={"task": task.id})
        for prediction in sorted(found, key=lambda prediction: prediction["id"]):
            if prediction["model_version"] in seen:
                self._client.delete(f"/api/predictions/{prediction['id']}/")
            seen.add(prediction["model_version"])


def _task(found: dict[str, Any]) -> Task:
    versions = found.get("predictions_model_versions") or []
    if isinstance(versions, str):
        versions = versions.split(",")
    names = frozenset(version.strip() for version in versions if version)
    count = int(found.get("total_predictions") or 0)
    data = found["data"]
    return Task(int(found["id"]), str(data["image_id"]), names, count, str(data.get("image")))
