"""Reading annotations from a real Label Studio: all of them, once, and what changed since."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest

from pipelines.labelstudio import annotations as annotations_module
from pipelines.labelstudio import config
from pipelines.labelstudio.annotations import Annotations, review_project
from pipelines.labelstudio.client import Client, LabelStudioError
from pipelines.labelstudio.tasks import Tasks
from tests.pipelines.labelstudio.conftest import Queue
from tests.pipelines.labelstudio.proxy import Proxy
from tests.pipelines.labelstudio.reviewing import (
    change,
    delete,
    fill,
    miscount,
    new_user,
    result,
    submit,
)

A_MOMENT = timedelta(microseconds=1)


@pytest.fixture
def client(queue: Queue) -> Iterator[Client]:
    with Client(queue.settings) as client:
        yield client


def opened(client: Client, queue: Queue) -> Annotations:
    return Annotations(client, review_project(client, queue.title).id)


def of_no_project(client: Client) -> Annotations:
    return Annotations(client, 0)


def ids(tasks: Any) -> list[int]:
    return [task["id"] for task in tasks]


class TestProject:
    def test_its_controls_and_what_it_shows(self, client: Client, queue: Queue) -> None:
        fill(queue, 1)
        project = review_project(client, queue.title)
        assert project.id == queue.project()["id"]
        assert project.controls == {"caption", "verdict"}
        assert project.shown_version == queue.project()["model_version"] != ""

    def test_one_that_is_not_there_is_not_made(self, client: Client, queue: Queue) -> None:
        with pytest.raises(LabelStudioError, match="there is no project .*; push the queue first"):
            review_project(client, queue.title)
        assert queue.projects() == []

    def test_two_of_one_title(self, client: Client, queue: Queue) -> None:
        numbers = [queue.post("/api/projects", {"title": queue.title})["id"] for _ in range(2)]
        with pytest.raises(LabelStudioError) as raised:
            review_project(client, queue.title)
        assert all(str(number) in str(raised.value) for number in numbers)

    @pytest.mark.parametrize(
        ("old", "new", "message"),
        [
            (
                'name="caption"',
                'name="text"',
                r"are TextArea 'text', Choices 'verdict'; expected was TextArea 'caption'\. Give",
            ),
            (
                'name="verdict"',
                'name="judgement"',
                "are TextArea 'caption', Choices 'judgement'; expected was Choices 'verdict'",
            ),
        ],
    )
    def test_a_renamed_control(
        self, client: Client, queue: Queue, old: str, new: str, message: str
    ) -> None:
        fill(queue, 0, config.LABEL_CONFIG.replace(old, new))
        with pytest.raises(LabelStudioError, match=message):
            review_project(client, queue.title)

    def test_a_control_of_another_kind(self, client: Client, queue: Queue) -> None:
        rating = '<View><Image name="image" value="$image"/><TextArea name="caption" '
        rating += 'toName="image"/><Rating name="verdict" toName="image"/></View>'
        fill(queue, 0, rating)
        with pytest.raises(LabelStudioError, match="expected was Choices 'verdict'"):
            review_project(client, queue.title)

    def test_one_without_a_verdict_will_do(self, client: Client, queue: Queue) -> None:
        text = '<View><Image name="image" value="$image"/>'
        fill(queue, 0, text + '<TextArea name="caption" toName="image"/></View>')
        assert review_project(client, queue.title).controls == {"caption"}


class TestReading:
    def test_annotated_tasks_with_all_that_belongs_to_them(
        self, client: Client, queue: Queue
    ) -> None:
        tasks = fill(queue, 4)
        submit(queue, tasks[1], "accept")
        submit(queue, tasks[2], None, was_cancelled=True)
        read = list(opened(client, queue).annotated(None))
        assert ids(read) == ids(tasks[1:3])
        (annotation,) = read[0]["annotations"]
        assert annotation["result"] == queue.tasks()[1]["annotations"][0]["result"]
        assert annotation["parent_prediction"] == tasks[1]["predictions"][0]["id"]
        assert annotation["lead_time"] == 7.25
        assert [found["model_version"] for found in read[0]["predictions"]] == [
            "fake@1/0123456789ab"
        ]
        assert read[1]["annotations"][0]["was_cancelled"] is True
        assert ids(opened(client, queue).uncounted(None)) == [tasks[0]["id"], tasks[3]["id"]]

    def test_what_is_not_counted_comes_once_and_in_full(self, client: Client, queue: Queue) -> None:
        said = [[{"result": result(f"caption {n}", "accept")}] for n in range(3)]
        tasks = fill(queue, 4, annotations=[*said, []])
        miscount(queue, tasks[1]["id"])
        reading = opened(client, queue)
        assert ids(reading.annotated(None)) == [tasks[0]["id"], tasks[2]["id"]]
        miscount(queue, tasks[2]["id"])  # It has been read.
        bare, uncounted = reading.uncounted(None)
        assert (bare["id"], bare["annotations"]) == (tasks[3]["id"], [])
        assert uncounted["id"] == tasks[1]["id"]
        assert uncounted["annotations"][0]["result"] == said[1][0]["result"]

    def test_a_task_with_both_a_skip_and_a_review_comes_once(
        self, client: Client, queue: Queue
    ) -> None:
        (task,) = fill(queue, 1)
        submit(queue, task, "accept")
        submit(queue, task, None, was_cancelled=True)
        (read,) = opened(client, queue).annotated(None)
        assert [found["was_cancelled"] for found in read["annotations"]] == [False, True]

    def test_no_task_is_passed_over_when_others_go_meanwhile(
        self, client: Client, queue: Queue, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """By its number the second page would begin behind the task that comes next."""
        monkeypatch.setattr(annotations_module, "PAGE", 2)
        said = [[{"result": result(f"caption {n}", "accept")}] for n in range(7)]
        tasks = fill(queue, 7, annotations=said)
        reading = opened(client, queue).annotated(None)
        first = [next(reading), next(reading)]
        delete(queue, f"/api/tasks/{tasks[0]['id']}/")
        assert ids([*first, *reading]) == ids(tasks)

    def test_an_empty_project(self, client: Client, queue: Queue) -> None:
        fill(queue, 0)
        reading = opened(client, queue)
        assert reading.newest_change() is None
        assert list(reading.annotated(None)) == list(reading.uncounted(None)) == []
        assert (reading.tasks(), reading.drafts(), reading.missing([])) == (0, 0, 0)

    def test_tasks_that_are_gone_are_counted(
        self, client: Client, queue: Queue, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(annotations_module, "ASKED_AT_ONCE", 2)
        tasks = fill(queue, 5)
        numbers = ids(tasks)
        reading = opened(client, queue)
        assert reading.missing(numbers) == 0
        delete(queue, f"/api/tasks/{numbers[2]}/")
        assert reading.missing([*numbers, 10**12]) == 2
        assert reading.tasks() == 4

    @pytest.mark.parametrize("answer", [b"[]", b'{"results": []}'])
    def test_a_server_that_answers_with_something_else(
        self, queue: Queue, proxy: Proxy, answer: bytes
    ) -> None:
        fill(queue, 0)
        number = queue.project()["id"]
        proxy.answers["/api/tasks"] = answer
        with Client(replace(queue.settings, url=proxy.url)) as client:
            for reading in (
                Annotations(client, number).tasks,
                Tasks(client, number).read().__next__,
            ):
                with pytest.raises(LabelStudioError, match="did not answer with tasks; is it "):
                    reading()

    def test_reviewers_by_number(self, client: Client, queue: Queue) -> None:
        user = new_user(queue)
        known = of_no_project(client).reviewers()
        assert known[user["id"]] == user["email"]
        assert queue.server.username in known.values()

    @pytest.mark.parametrize("status", [403, 404])
    def test_reviewers_that_may_not_be_seen(
        self, client: Client, monkeypatch: pytest.MonkeyPatch, status: int
    ) -> None:
        def refuse(path: str) -> None:
            raise LabelStudioError("no", status)

        monkeypatch.setattr(client, "get", refuse)
        assert of_no_project(client).reviewers() == {}


def _delete_annotations(queue: Queue, task: dict[str, Any]) -> None:
    chosen = {"all": False, "included": [task["id"]]}
    path = f"/api/dm/actions?id=delete_tasks_annotations&project={task['project']}"
    queue.post(path, {"selectedItems": chosen})


def _annotate_by_prediction(queue: Queue, task: dict[str, Any]) -> None:
    chosen = {"all": False, "included": [task["id"]]}
    path = f"/api/dm/actions?id=predictions_to_annotations&project={task['project']}"
    queue.post(path, {"selectedItems": chosen})


Act = Callable[[Queue, dict[str, Any], dict[str, Any]], Any]

CHANGES: dict[str, Act] = {
    "create": lambda queue, task, _: submit(queue, task, "reject"),
    "skip": lambda queue, task, _: submit(queue, task, None, was_cancelled=True),
    "update": lambda queue, _, said: change(queue, said, "fix", "another caption"),
    "delete": lambda queue, _, said: delete(queue, f"/api/annotations/{said['id']}/"),
    "delete by the data manager": lambda queue, task, _: _delete_annotations(queue, task),
    "create by the data manager": lambda queue, task, _: _annotate_by_prediction(queue, task),
    "turn into a draft": lambda queue, _, said: queue.post(
        f"/api/annotations/{said['id']}/convert-to-draft", {}
    ),
}


class TestWhatChangedSince:
    """The server's own time of a task tells of every change to its annotations."""

    def test_each_change_of_an_annotation(self, client: Client, queue: Queue) -> None:
        said = [[{"result": result("a dog", "accept")}] for _ in CHANGES]
        tasks = fill(queue, len(CHANGES), annotations=said)
        reading = opened(client, queue)
        for (name, act), task in zip(CHANGES.items(), tasks, strict=True):
            since = _newest(reading) + A_MOMENT
            assert [*reading.annotated(since), *reading.uncounted(since)] == []
            act(queue, task, task["annotations"][0])
            changed = ids([*reading.annotated(since), *reading.uncounted(since)])
            assert changed == [task["id"]], name

    def test_a_draft_is_no_change(self, client: Client, queue: Queue) -> None:
        """It is no review: only its task is counted."""
        (task,) = fill(queue, 1)
        reading = opened(client, queue)
        since = _newest(reading) + A_MOMENT
        assert reading.drafts() == 0
        queue.post(f"/api/tasks/{task['id']}/drafts", {"result": result("half a cap", None)})
        assert [*reading.annotated(since), *reading.uncounted(since)] == []
        assert reading.drafts() == 1

    def test_the_time_is_the_servers_whatever_its_zone(self, client: Client, queue: Queue) -> None:
        (task,) = fill(queue, 1)
        submit(queue, task, "accept")
        reading = opened(client, queue)
        changed = datetime.fromisoformat(queue.tasks()[0]["updated_at"])
        assert _newest(reading) == changed
        there = changed.astimezone(timezone(timedelta(hours=5, minutes=30)))
        assert ids(reading.annotated(there)) == [task["id"]]
        assert ids(reading.annotated(there + A_MOMENT)) == []


def _newest(reading: Annotations) -> datetime:
    newest = reading.newest_change()
    assert newest is not None
    return newest
