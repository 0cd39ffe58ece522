"""The tasks of a project at the server: counted, read in bounded pages, and removed.

Label Studio fills in the model versions of a task's predictions where a filter or the ordering
names that column, and leaves out what ``include`` does not name; with both, a page of tasks takes
it a fifth of the time. What it does not offer is a way to count predictions that can be relied on:
a task's ``total_predictions`` grows with each that comes, but need not shrink when one goes
(data_manager/actions/basic.py and tasks/models.py of 1.23). So what is gone is found by counting
the tasks that have a prediction of a version, and what is there twice has to be looked at.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache, partial
from typing import Any

from pipelines.labelstudio.client import Client, OutcomeUnknownError
from pipelines.labelstudio.images import is_preview
from pipelines.labelstudio.query import Filter, ask, when, where

PAGE = 500
ASKED_AT_ONCE = 200
"""Numbers of tasks in one query: it travels in the address, which servers limit."""
TRIES = 8

_FIELDS = "id,created_at,data,total_predictions,predictions_model_versions"
_MOST_CHARACTERS = 500
"""Of a task's model versions: what is longer the server cuts off."""


@dataclass(frozen=True, slots=True)
class Task:
    """A task that is there.

    Attributes:
        id: its number.
        image_id: its key; empty if it was not made by a push.
        versions: the model versions of its predictions.
        predictions: how many predictions the server counts: not fewer than there are.
        preview: whether it shows an uploaded preview, and not the original.
    """

    id: int
    image_id: str
    versions: frozenset[str]
    predictions: int
    preview: bool


@dataclass(frozen=True)
class Page:
    """Some tasks, by number, and when the newest of them was made, as the server writes it."""

    tasks: tuple[Task, ...]
    newest: str


class Tasks:
    """Looks at the tasks of a project, and removes some."""

    def __init__(self, client: Client, project_id: int) -> None:
        """Look at nothing yet.

        Args:
            client: a connection to Label Studio.
            project_id: the number of the project.
        """
        self._client = client
        self._project = project_id
        self._ask = partial(ask, client, project_id)

    def count(self, after: int, upto: int, version: str | None = None) -> tuple[int, int]:
        """Return how many tasks there are, and how many predictions the server counts.

        Args:
            after: tasks with a higher number than this one.
            upto: and no higher one than that.
            version: only tasks with a prediction whose model version has this in it.
        """
        filters = [_between(after, upto), *([_has(version)] if version else [])]
        answer = self._ask(filters, page_size=1, include="id")
        return int(answer["total"]), int(answer["total_predictions"])

    def read(
        self, after: int = 0, upto: int | None = None, since: str | None = None
    ) -> Iterator[Page]:
        """Yield the tasks that fit all that is given, in pages, by number.

        Args:
            after: tasks with a higher number than this one.
            upto: and no higher one than that.
            since: made after this time, as the server writes it.
        """
        while True:
            above = where("id", "greater", after) if upto is None else _between(after, upto)
            # As the server wrote it, so in its zone.
            made = [when("created_at", "greater", datetime.fromisoformat(since))] if since else []
            # Of a list that has to be in the versions, and is empty, nothing is asked; but then
            # the server fills the column in.
            answer = self._ask([above, *made, _has()], page_size=PAGE, include=_FIELDS)
            found = answer["tasks"]
            if not found:
                return
            after = int(found[-1]["id"])
            yield Page(
                tuple(map(self._task, found)),
                max((str(task["created_at"]) for task in found), key=_moment),
            )
            if len(found) >= answer["total"]:
                return

    def read_these(self, numbers: Sequence[int]) -> Iterator[Task]:
        """Yield those of these tasks that are there."""
        for start in range(0, len(numbers), ASKED_AT_ONCE):
            asked = numbers[start : start + ASKED_AT_ONCE]
            answer = self._ask([_has()], numbers=asked, page_size=ASKED_AT_ONCE, include=_FIELDS)
            yield from map(self._task, answer["tasks"])

    def worked_on(self, numbers: Sequence[int]) -> dict[int, tuple[str, bool]]:
        """Return of these tasks, as far as they are there, image id and whether they are touched.

        A task is touched if somebody has submitted, skipped or begun something there.
        """
        found = {}
        for start in range(0, len(numbers), ASKED_AT_ONCE):
            asked = numbers[start : start + ASKED_AT_ONCE]
            include = "id,data,annotations,draft_exists"
            answer = self._ask(
                numbers=asked, page_size=ASKED_AT_ONCE, fields="all", include=include
            )
            for task in answer["tasks"]:
                touched = bool(task.get("annotations") or task.get("draft_exists", True))
                found[int(task["id"])] = (_image_id(task), touched)
        return found

    def remove(self, repeats: dict[int, str]) -> dict[int, str]:
        """Remove tasks that nobody has worked on.

        Args:
            repeats: number and image id of each.

        Returns:
            Those that stay, since somebody has.
        """
        kept: dict[int, str] = {}
        rest, lost = dict(repeats), 0
        while rest:
            some = dict(list(rest.items())[:ASKED_AT_ONCE])
            # Just before it is done: the numbers of tasks that are gone are given anew.
            now = self.worked_on(list(some))
            there = {task for task, image in some.items() if now.get(task, ("",))[0] == image}
            untouched = [task for task in there if not now[task][1]]
            kept |= {task: some[task] for task in there if now[task][1]}
            rest = {task: image for task, image in rest.items() if task not in some}
            try:
                self._delete(untouched)
                lost = 0
            except OutcomeUnknownError:
                lost += 1
                if lost == TRIES:
                    raise
                self._client.wait(lost)
                rest |= {task: some[task] for task in untouched}
        return kept

    def _delete(self, numbers: list[int]) -> None:
        if not numbers:
            return  # Of an empty list the server would take all.
        path = f"/api/dm/actions?id=delete_tasks&project={self._project}"
        self._client.post(path, json={"selectedItems": {"all": False, "included": numbers}})

    def repeated_predictions(self, task: Task) -> list[int]:
        """Return the numbers of a task's predictions whose model version has an older one there."""
        found = self._client.get("/api/predictions/", params={"task": task.id})
        seen: set[str] = set()
        repeated = []
        for prediction in sorted(found, key=lambda prediction: prediction["id"]):
            if prediction["model_version"] in seen:
                repeated.append(int(prediction["id"]))
            seen.add(prediction["model_version"])
        return repeated

    def remove_prediction(self, number: int) -> None:
        """Remove a prediction."""
        self._client.delete(f"/api/predictions/{number}/")

    def _task(self, found: dict[str, Any]) -> Task:
        written = found.get("predictions_model_versions") or ""
        versions = _versions(written)
        if len(written) >= _MOST_CHARACTERS:
            whole = self._client.get("/api/predictions/", params={"task": found["id"]})
            versions = frozenset(str(prediction["model_version"]) for prediction in whole)
        count = int(found.get("total_predictions") or 0)
        preview = is_preview(str(found["data"].get("image")))
        return Task(int(found["id"]), _image_id(found), versions, count, preview)


def _image_id(found: dict[str, Any]) -> str:
    return str(found["data"].get("image_id") or "")


@lru_cache(maxsize=1000)
def _versions(written: str) -> frozenset[str]:
    """Take apart what a server joined; the same set for the same text, to save memory."""
    return frozenset(version.strip() for version in written.split(",") if version.strip())


def newer(one: str, other: str) -> str:
    """Return the later of two times as the server writes them; empty is earlier than any."""
    return max(one, other, key=_moment)


def _moment(written: str) -> float:
    return datetime.fromisoformat(written).timestamp() if written else float("-inf")


def _between(after: int, upto: int) -> Filter:
    return where("id", "in", {"min": after + 1, "max": upto})


def _has(*versions: str) -> Filter:
    return where("predictions_model_versions", "contains", list(versions), "List")
