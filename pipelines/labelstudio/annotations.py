"""Reading what reviewers said: the annotations of a project, page by page.

A page is asked for by the number that the last one ended with, not by its own: while people work,
pages move, and a task that moves to an earlier one would never be read.

Of what changed since a time the server is asked by its tasks' ``updated_at``. Whatever creates,
changes or deletes an annotation sets that (in 1.23.0 tasks/models.py, ``Annotation.save`` and
``delete``, and data_manager/actions), drafts do not. *Remove Duplicated Tasks* alone moves
annotations without it. It is set before a request is carried out in full, so each reading begins a
while before the last one did.

Its counts of a task's annotations are not to be relied on: on SQLite, while several people work,
one was 0 beside an annotation. So tasks that have none by these counts are looked at, too.

At a page with a text that is not Unicode (half of a pair of surrogates, which scripts make where
they cut a text) the server fails, since it cannot write it as UTF-8. Such a page is read in halves,
down to the tasks that it fails at alone.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any
from xml.etree import ElementTree

from pipelines.labelstudio import config
from pipelines.labelstudio.client import Client, FailingError, LabelStudioError
from pipelines.labelstudio.project import find_project
from pipelines.labelstudio.query import Filter, ask, when, where
from pipelines.labelstudio.regions import TAGS
from pipelines.labelstudio.review_rows import OURS
from pipelines.labelstudio.sending import halves

MARGIN = timedelta(minutes=10)
"""How much longer than its own time stamp a request may take until others see what it did."""

PAGE = 100
BARE_PAGE = 1000
ASKED_AT_ONCE = 300
"""Numbers of tasks in a query: it travels in the address, which servers limit."""

FAILURES = 2
"""After how many in a row the server is taken to fail at what it is asked for."""

MOST_FAILING = 100
"""Tasks that the server may fail at; with more it is taken to fail by itself."""

_NAMED = 10
_TASK_FIELDS = ("id", "data", "annotations", "predictions")
_ANNOTATION_FIELDS = (
    "result",
    "was_cancelled",
    "completed_by",
    "lead_time",
    "created_at",
    "updated_at",
    "draft_created_at",
    "parent_prediction",
)
_FIELDS = ",".join((*_TASK_FIELDS, *_ANNOTATION_FIELDS))
"""The server takes one list for tasks and annotations; to leave others out is twice as fast."""


@dataclass(frozen=True)
class ReviewProject:
    """A project that reviews can be read from.

    Attributes:
        id: its number.
        title: its title.
        shown_version: the model version whose predictions are filled in for reviewers.
        controls: names of all controls in its labelling config.
    """

    id: int
    title: str
    shown_version: str
    controls: frozenset[str]


def review_project(client: Client, title: str) -> ReviewProject:
    """Find the project with exactly this title; it is never made.

    Raises:
        LabelStudioError: if there is none, or several, or its controls are others.
    """
    project = find_project(client, title)
    if project is None:
        raise LabelStudioError(
            f"there is no project {title!r} at {client.url} (any more), or the token's owner does "
            "not see it; push the queue first, or name another --label_studio_project"
        )
    controls = _controls(str(project.get("label_config") or ""), title, project["id"])
    version = str(project.get("model_version") or "")
    return ReviewProject(int(project["id"]), title, version, controls)


def _controls(label_config: str, title: str, number: int) -> frozenset[str]:
    """Return the names of a config's controls, if reviews can be told from them.

    A project may do without a verdict: then the text alone says what the reviewer meant. If it has
    a control that is none of ours, that may be the verdict under another name.
    """
    try:
        elements = list(ElementTree.fromstring(label_config).iter())
    except ElementTree.ParseError as error:
        raise LabelStudioError(
            f"the labelling config of project {title!r} (number {number}) is not XML ({error})"
        ) from error
    found = {one.get("name", ""): one for one in elements if one.get("name") and one.get("toName")}
    wanted = {config.CAPTION: "TextArea", config.VERDICT: "Choices", **TAGS}
    needed = [config.CAPTION]
    if config.VERDICT in found or not found.keys() <= set(OURS):
        needed.append(config.VERDICT)
    wrong = [name for name in needed if name not in found]
    wrong += [name for name, tag in wanted.items() if name in found and found[name].tag != tag]
    if wrong:
        there = ", ".join(f"{one.tag} {name!r}" for name, one in found.items()) or "none"
        expected = ", ".join(f"{wanted[name]} {name!r}" for name in wrong)
        raise LabelStudioError(
            f"the controls of project {title!r} (number {number}) are {there}; expected was "
            f"{expected}. Give it that name again in the project's labelling config, or name "
            "another --label_studio_project"
        )
    return frozenset(found)


def failing_tasks(numbers: Sequence[int]) -> str:
    """Say that the server failed at tasks, which, and what to do about it.

    Args:
        numbers: of the tasks, one at least.
    """
    more = f" and {len(numbers) - _NAMED:,} more" if len(numbers) > _NAMED else ""
    return (
        f"tasks that Label Studio fails at (status 500), which were not read: "
        f"{', '.join(map(str, numbers[:_NAMED]))}{more}. It does where a text is not Unicode (half "
        "a character); choose these tasks in the project's list and Delete Annotations (or the "
        "tasks, if it is in their data), then have them done again"
    )


class Annotations:
    """Reads the annotated tasks of a project.

    Attributes:
        failing: numbers of tasks that the server failed at, and that were passed over.
    """

    def __init__(self, client: Client, project_id: int) -> None:
        """Look at nothing yet.

        Args:
            client: a connection to Label Studio.
            project_id: the number of the project.
        """
        self._client = client
        self._ask = partial(ask, client, project_id)
        self.failing: list[int] = []
        self._seen: set[int] = set()

    def newest_change(self) -> datetime | None:
        """Return when the project's tasks last changed, by the server's clock; None without any."""
        answer = self._ask(page_size=1, include="id,updated_at", ordering="-tasks:updated_at")
        times = [datetime.fromisoformat(task["updated_at"]) for task in answer["tasks"]]
        return times[0] if times else None

    def annotated(self, since: datetime | None) -> Iterator[dict[str, Any]]:
        """Yield the tasks that changed since a time, all if None, and count as annotated.

        They come each once, with annotations and predictions, as Label Studio writes them. Those
        that it fails at are passed over.
        """
        changed = _changed(since)
        self._seen.clear()
        some = [where("total_annotations", "greater", 0)]
        skipped = [
            where("total_annotations", "less", 1),
            where("cancelled_annotations", "greater", 0),
        ]
        for which in (some, skipped):  # Filters are joined by one word, so it takes two queries.
            for task in self._pages([*which, *changed], _FIELDS, PAGE, fields="all"):
                if task["id"] not in self._seen:
                    self._seen.add(task["id"])
                    yield task

    def uncounted(self, since: datetime | None) -> Iterator[dict[str, Any]]:
        """Yield the other tasks that changed since a time, all if None: to be read after those.

        They have no annotations by Label Studio's counts; those that have some all the same come
        in full. Those that it fails at are passed over.
        """
        none = [where(f"{kind}_annotations", "less", 1) for kind in ("total", "cancelled")]
        fields = "id,data,created_at,annotations"  # Of annotations that is their numbers.
        pages = self._pages([*none, *_changed(since)], fields, BARE_PAGE, fields="all")
        miscounted = []
        for task in pages:
            if not task["annotations"]:
                yield task | {"predictions": []}
            elif task["id"] not in self._seen:  # Not counted any more since it was read.
                miscounted.append(task["id"])
        for start in range(0, len(miscounted), ASKED_AT_ONCE):
            these = [where("id", "in_list", miscounted[start : start + ASKED_AT_ONCE])]
            yield from self._pages(these, _FIELDS, PAGE, fields="all")

    def tasks(self) -> int:
        """Return how many tasks the project has."""
        return self._count([])

    def drafts(self) -> int:
        """Return how many tasks have a draft, whoever made it."""
        return self._count([where("draft_exists", "equal", "true", "Boolean")])

    def missing(self, task_ids: Sequence[int]) -> int:
        """Return how many of these tasks the project does not have."""
        there = 0
        for start in range(0, len(task_ids), ASKED_AT_ONCE):
            some = list(task_ids[start : start + ASKED_AT_ONCE])
            there += self._count([where("id", "in_list", some)])
        return len(task_ids) - there

    def reviewers(self) -> dict[int, str]:
        """Return the e-mail addresses of users by their numbers, as far as they may be seen."""
        try:
            users = self._client.get("/api/users/")
        except LabelStudioError as error:
            if error.status not in (403, 404):
                raise
            return {}
        users = users.get("results", []) if isinstance(users, dict) else users
        return {int(user["id"]): user["email"] for user in users if user.get("email")}

    def _pages(
        self, filters: list[Filter], include: str, size: int, **options: Any
    ) -> Iterator[dict[str, Any]]:
        last = 0
        options |= {"include": include, "ordering": "tasks:id"}
        while True:
            after = [*filters, where("id", "greater", last)]
            try:
                answer = self._ask(after, page_size=size, failing=FAILURES, **options)
                found = iter(answer["tasks"])
            except FailingError:
                answer = self._ask(after, page_size=size, **(options | {"include": "id"}))
                numbers = [int(task["id"]) for task in answer["tasks"]]
                found = self._divided(numbers, filters, page_size=size, **options)
            yield from found
            if len(answer["tasks"]) >= answer["total"] or not answer["tasks"]:
                return
            last = answer["tasks"][-1]["id"]

    def _divided(
        self, numbers: list[int], filters: list[Filter], **options: Any
    ) -> Iterator[dict[str, Any]]:
        """Yield the tasks of a page at which the server fails, but those that are to blame."""
        waiting = halves(numbers)
        while waiting:
            some = waiting.pop()
            among = where("id", "in", {"min": some[0], "max": some[-1]})
            try:
                yield from self._ask([*filters, among], failing=FAILURES, **options)["tasks"]
            except FailingError:
                if len(some) > 1:
                    waiting += halves(some)
                elif some[0] in self.failing:
                    continue
                elif len(self.failing) == MOST_FAILING:
                    raise
                else:
                    self.failing += some

    def _count(self, filters: list[Filter]) -> int:
        return int(self._ask(filters, page_size=1, include="id")["total"])


def _changed(since: datetime | None) -> list[Filter]:
    if since is None:
        return []
    return [when("updated_at", "greater_or_equal", since.astimezone(UTC))]
