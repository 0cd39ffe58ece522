import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from pipelines.labelstudio.client import Client, LabelStudioError, LabelStudioSettings, Token
from pipelines.labelstudio.comparing import (
    ComparingProject,
    Comparison,
    title_of,
)
from pipelines.labelstudio.project import OtherConfigError, open_project
from tests.pipelines.labelstudio.conftest import Queue
from tests.pipelines.labelstudio.proxy import Proxy
from tests.pipelines.labelstudio.reviewing import miscount

PAIR, OTHER = "0123456789ab", "ba9876543210"


def comparison(number: int, **changes: str) -> Comparison:
    image_id = hashlib.sha256(b"%d" % number).hexdigest()
    given = {
        "image_id": image_id,
        "uri": f"https://images.invalid/{number}.jpg",
        "first": f"first {number}",
        "second": f"second {number}",
    }
    return Comparison(**(given | changes))


def ids(comparisons: list[Comparison]) -> list[str]:
    return [one.image_id for one in comparisons]


def answer(queue: Queue, task: int, choice: str | None, **more: Any) -> int:
    """Say something on a task as a browser does; None skips it."""
    result = [
        {
            "from_name": "better",
            "to_name": "image",
            "type": "choices",
            "value": {"choices": [choice]},
        }
    ]
    body = {"result": [] if choice is None else result, "was_cancelled": choice is None, **more}
    return int(queue.post(f"/api/tasks/{task}/annotations/", body)["id"])


@pytest.fixture
def client(queue: Queue):
    with Client(queue.settings) as client:
        yield client


class TestTitle:
    def test_stands_beside_that_of_reviews(self):
        assert title_of("Captions to review") == "Captions to review: which is better"
        assert title_of("x" * 50) == "x" * 33 + ": which is better"


class TestProject:
    def test_is_made_once(self, client: Client, queue: Queue):
        projects = [ComparingProject(client, queue.title) for _ in range(2)]
        project = queue.project()
        assert {one.address for one in projects} == {
            f"{queue.server.url}/projects/{project['id']}/data"
        }
        assert project["sampling"] == "Sequential sampling"
        assert project["maximum_annotations"] == 1
        assert project["show_collab_predictions"] is False

    def test_one_that_label_studio_makes_twice_is_there_once(
        self, client: Client, queue: Queue, monkeypatch: pytest.MonkeyPatch
    ):
        post = Client.post

        def carried_out_again(client: Client, path: str, **options: Any) -> Any:
            if path == "/api/projects":  # as on SQLite whose database was locked
                post(client, path, **options)
            return post(client, path, **options)

        monkeypatch.setattr(Client, "post", carried_out_again)
        address = ComparingProject(client, queue.title).address
        assert address == f"{queue.server.url}/projects/{queue.project()['id']}/data"

    @pytest.mark.parametrize("fault", ["lose_answers", "carry_out_late"])
    def test_one_whose_making_was_not_answered(
        self, queue: Queue, proxy: Proxy, no_waiting: None, fault: str
    ):
        settings = LabelStudioSettings(proxy.url, queue.title, Token(queue.server.token))
        getattr(proxy, fault)("POST", "/api/projects", 1)
        with Client(settings) as client:
            address = ComparingProject(client, queue.title).address
        assert address == f"{proxy.url}/projects/{queue.project()['id']}/data"

    def test_one_for_reviews_is_refused(self, client: Client, queue: Queue):
        open_project(client, queue.title)
        with pytest.raises(OtherConfigError) as raised:
            ComparingProject(client, queue.title)
        assert raised.value.differences == [
            "nothing shows $first",
            "nothing shows $second",
            "there is no Choices named 'better'",
        ]

    def test_a_choice_that_is_missing(self, client: Client, queue: Queue):
        ComparingProject(client, queue.title)
        project = queue.project()
        less = project["label_config"].replace('value="both wrong"', 'value="neither"')
        client.patch(f"/api/projects/{project['id']}", {"label_config": less})
        with pytest.raises(OtherConfigError, match="the Choices 'better' lack both wrong"):
            ComparingProject(client, queue.title)


class TestAsking:
    def test_a_task_tells_nothing_of_the_models(self, client: Client, queue: Queue):
        project, asked = ComparingProject(client, queue.title), [comparison(n) for n in range(5)]
        numbers, failed = project.ask(PAIR, asked)
        assert failed == []
        assert {task["id"]: task["data"] for task in queue.tasks()} == {
            numbers[one.image_id]: {
                "image": one.uri,
                "image_id": f"{one.image_id}-{PAIR}",
                "first": one.first,
                "second": one.second,
            }
            for one in asked
        }

    def test_the_order_is_another_for_other_models(self, client: Client, queue: Queue):
        project, asked = ComparingProject(client, queue.title), [comparison(n) for n in range(9)]
        for pair in (PAIR, OTHER):
            project.ask(pair, asked)
        order = [task["data"]["first"] for task in queue.tasks()]
        given = [one.first for one in asked]
        assert len({tuple(given), tuple(order[:9]), tuple(order[9:])}) == 3
        assert sorted(order[:9]) == sorted(order[9:]) == given

    def test_captions_come_as_they_are(self, client: Client, queue: Queue):
        text = "a <b>dog</b> & 'ein Männchen' \U0001f415 \0 " + "x" * 10_000
        ComparingProject(client, queue.title).ask(PAIR, [comparison(1, first=text)])
        (task,) = queue.tasks()
        assert task["data"]["first"] == text.replace("\0", "\\0")

    def test_an_image_that_cannot_be_shown(self, client: Client, queue: Queue, tmp_path: Path):
        Image.new("RGB", (20, 20)).save(tmp_path / "1.png")
        key = hashlib.sha256((tmp_path / "1.png").read_bytes()).hexdigest()
        asked = [comparison(n, uri=f"file://{tmp_path}/{n}.png") for n in (1, 2)]
        asked[0] = replace(asked[0], image_id=key)
        numbers, failed = ComparingProject(client, queue.title).ask(PAIR, asked)
        assert list(numbers) == [asked[0].image_id]
        ((uri, why),) = failed
        assert uri == asked[1].uri
        assert "no preview" in why
        (task,) = queue.tasks()
        assert task["data"]["image"].startswith("/data/upload/")

    def test_one_that_is_too_large_is_named_and_the_other_is_asked(
        self, queue: Queue, proxy: Proxy
    ):
        settings = LabelStudioSettings(proxy.url, queue.title, Token(queue.server.token))
        asked = [comparison(1), comparison(2, first="x" * 10_000)]
        with Client(settings) as client:
            project = ComparingProject(client, queue.title)
            proxy.largest_body = 5_000
            numbers, failed = project.ask(PAIR, asked)
        assert list(numbers) == [asked[0].image_id]
        ((uri, why),) = failed
        assert uri == asked[1].uri
        assert f"/import is too large for Label Studio at {proxy.url}, or for a proxy" in why
        assert "client_max_body_size" in why
        assert len(queue.tasks()) == 1

    def test_lost_answers_make_no_task_twice(self, queue: Queue, proxy: Proxy, no_waiting: None):
        settings = LabelStudioSettings(proxy.url, queue.title, Token(queue.server.token))
        asked = [comparison(n) for n in range(6)]
        with Client(settings) as client:
            project = ComparingProject(client, queue.title)
            proxy.lose_answers("POST", "/import", 1)
            numbers, _ = project.ask(PAIR, asked)
        assert sorted(numbers) == sorted(ids(asked))
        assert proxy.lost == 1
        assert len(queue.tasks()) == 6


class TestAnswers:
    def test_are_read_by_image(self, client: Client, queue: Queue):
        project, asked = ComparingProject(client, queue.title), [comparison(n) for n in range(4)]
        numbers, _ = project.ask(PAIR, asked)
        one, two, skipped, waiting = ids(asked)
        answer(queue, numbers[one], "first")
        answer(queue, numbers[one], "both wrong")
        answer(queue, numbers[two], "second")
        answer(queue, numbers[skipped], None)
        found = project.answers(PAIR, [*ids(asked), "of no task"])
        assert found.tasks == numbers
        assert {image: [each.choice for each in said] for image, said in found.said.items()} == {
            one: ["first", "both wrong"],
            two: ["second"],
        }
        (said,) = found.said[two]
        assert said.reviewer == queue.server.username
        assert said.task_id == numbers[two]
        assert found.unread == 0
        assert waiting not in found.said

    def test_that_the_server_does_not_count(self, client: Client, queue: Queue):
        project, asked = ComparingProject(client, queue.title), [comparison(1)]
        numbers, _ = project.ask(PAIR, asked)
        answer(queue, numbers[asked[0].image_id], "first")
        miscount(queue, numbers[asked[0].image_id])
        (said,) = project.answers(PAIR, ids(asked)).said[asked[0].image_id]
        assert said.choice == "first"

    def test_of_other_models_are_none(self, client: Client, queue: Queue):
        project, asked = ComparingProject(client, queue.title), [comparison(1)]
        numbers, _ = project.ask(PAIR, asked)
        answer(queue, numbers[asked[0].image_id], "first")
        found = project.answers(OTHER, ids(asked))
        assert (found.tasks, found.said) == ({}, {})

    def test_an_annotation_without_a_choice_is_told(self, client: Client, queue: Queue):
        project, asked = ComparingProject(client, queue.title), [comparison(1)]
        numbers, _ = project.ask(PAIR, asked)
        answer(queue, numbers[asked[0].image_id], "first", result=[])
        found = project.answers(PAIR, ids(asked))
        assert (found.said, found.unread) == ({}, 1)

    def test_of_tasks_that_are_there_twice_the_one_with_work_stays(
        self, client: Client, queue: Queue
    ):
        project, asked = ComparingProject(client, queue.title), [comparison(n) for n in range(2)]
        numbers, _ = project.ask(PAIR, asked)
        path = f"/api/projects/{queue.project()['id']}/import"
        queue.post(path, [{"data": task["data"]} for task in queue.tasks()])
        first, second = ids(asked)
        mine = [t["id"] for t in queue.tasks() if t["data"]["image_id"].startswith(first)]
        answer(queue, max(mine), "second")
        found = project.answers(PAIR, ids(asked))
        assert found.tasks == {first: max(mine), second: numbers[second]}
        assert [task["id"] for task in queue.tasks()] == sorted(found.tasks.values())

    def test_a_deleted_task_is_none(self, client: Client, queue: Queue):
        project, asked = ComparingProject(client, queue.title), [comparison(1)]
        numbers, _ = project.ask(PAIR, asked)
        client.delete(f"/api/tasks/{numbers[asked[0].image_id]}/")
        assert project.answers(PAIR, ids(asked)).tasks == {}


def test_a_wrong_token_is_told_without_it(queue: Queue):
    settings = LabelStudioSettings(queue.server.url, queue.title, Token("0" * 40))
    with Client(settings) as client, pytest.raises(LabelStudioError) as raised:
        ComparingProject(client, queue.title)
    assert "refuses the token" in str(raised.value)
    assert "0" * 40 not in str(raised.value)
    assert queue.projects() == []
