"""What a push remembers, and that it notices whatever was changed in Label Studio meanwhile."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipelines.labelstudio.ledger import LedgerFile
from pipelines.labelstudio.push import LabelStudioError, PushReport, ReviewItem, push
from pipelines.labelstudio.tasks import Task
from pipelines.output import Output
from tests.pipelines.labelstudio.conftest import Queue, make_item, make_items, second_user
from tests.pipelines.labelstudio.proxy import Proxy


@pytest.fixture
def output(tmp_path: Path) -> Output:
    return Output((tmp_path / "output").as_uri())


def numbers(queue: Queue) -> dict[str, int]:
    """Return the number of each image's task."""
    return {task["data"]["image_id"]: task["id"] for task in queue.tasks()}


def ledger_file(queue: Queue, output: Output) -> LedgerFile:
    project = queue.project()
    return LedgerFile(output, queue.server.url, project["id"], project["created_at"])


def copy_tasks(queue: Queue, tasks: Sequence[dict[str, Any]]) -> None:
    """Import tasks again, as another push would that did not see them."""
    keys = ("model_version", "score", "result")
    copies = [
        {
            "data": task["data"],
            "predictions": [{key: one[key] for key in keys} for one in task["predictions"]],
        }
        for task in tasks
    ]
    queue.post(f"/api/projects/{queue.project()['id']}/import", copies)


def repeat_prediction(queue: Queue, task: dict[str, Any]) -> None:
    (prediction,) = task["predictions"]
    body = {key: prediction[key] for key in ("model_version", "score", "result")}
    path = f"/api/projects/{queue.project()['id']}/import/predictions"
    queue.post(path, [{"task": task["id"], **body}])


VERDICT = {
    "from_name": "verdict",
    "to_name": "image",
    "type": "choices",
    "value": {"choices": ["accept"]},
}


class TestRemembering:
    def test_pushing_again_reads_no_task(self, queue: Queue, proxy: Proxy, output: Output) -> None:
        items = make_items(300)
        settings = replace(queue.settings, url=proxy.url)
        push(items, settings, output=output)
        proxy.requests.clear()
        report = push(items, settings, output=output)
        assert report == PushReport(items=300, tasks_found=300, predictions_found=300)
        assert {method for method, _ in proxy.requests} == {"GET"}
        assert len(proxy.requests) < 12
        queue.assert_each_once(items)

    def test_what_others_pushed_is_found(self, queue: Queue, output: Output) -> None:
        push(make_items(5), queue.settings, output=output)
        push(make_items(8), queue.settings)
        report = push(make_items(9), queue.settings, output=output)
        assert (report.tasks_found, report.tasks_created) == (8, 1)
        queue.assert_each_once(make_items(9))

    def test_a_ledger_that_is_damaged_is_made_anew(self, queue: Queue, output: Output) -> None:
        items = make_items(5)
        push(items, queue.settings, output=output)
        (path,) = Path(output.path("labelstudio").removeprefix("file://")).iterdir()
        path.write_bytes(path.read_bytes()[:-9])
        report = push(items, queue.settings, output=output)
        (note,) = report.notes
        assert "what earlier pushes remembered of this project is not used" in note
        assert report == PushReport(items=5, tasks_found=5, predictions_found=5, notes=report.notes)
        assert push(items, queue.settings, output=output).notes == ()

    def test_a_ledger_that_cannot_be_written_is_told(self, queue: Queue, output: Output) -> None:
        folder = Path(output.uri.removeprefix("file://"))
        folder.mkdir()
        (folder / "labelstudio").write_text("in the way")
        report = push(make_items(2), queue.settings, output=output)
        assert report.tasks_created == 2
        assert "the next push looks at all tasks" in report.notes[-1]


class TestWhatWasDeleted:
    @pytest.mark.parametrize("gone", [[0, 7], [18, 19]], ids=["some", "the highest numbers"])
    def test_tasks_are_made_again(self, queue: Queue, output: Output, gone: list[int]) -> None:
        items = make_items(20)
        push(items, queue.settings, output=output)
        there = numbers(queue)
        for index in gone:
            queue.http.delete(f"/api/tasks/{there[items[index].image_id]}/").raise_for_status()
        report = push(items, queue.settings, output=output)
        assert (report.tasks_created, report.tasks_found) == (2, 18)
        queue.assert_each_once(items)

    def test_numbers_that_the_server_gave_anew_are_of_other_images(
        self, queue: Queue, output: Output
    ) -> None:
        """SQLite gives the numbers of the newest tasks again once these are deleted."""
        items = make_items(8)
        push(items[:4], queue.settings, output=output)
        file = ledger_file(queue, output)
        ledger, _ = file.load()
        push([*items[:4], *items[6:]], queue.settings)
        for item, other in zip(items[4:6], items[6:], strict=True):  # As if these had been there.
            number = numbers(queue)[other.image_id]
            versions = frozenset({item.model_version})
            ledger.put(Task(number, item.image_id, versions, 1, False))
        file.save(ledger)
        report = push(items[:6], queue.settings, output=output)
        assert (report.tasks_created, report.tasks_found) == (2, 4)
        queue.assert_each_once(items)

    def test_predictions_are_made_again(self, queue: Queue, output: Output) -> None:
        items = make_items(6)
        push(items, queue.settings, output=output)
        one, *others = queue.tasks()
        queue.http.delete(f"/api/predictions/{one['predictions'][0]['id']}/").raise_for_status()
        path = f"/api/dm/actions?id=delete_tasks_predictions&project={queue.project()['id']}"
        selected = {"all": False, "included": [others[0]["id"]]}
        queue.post(path, {"selectedItems": selected})
        report = push(items, queue.settings, output=output)
        assert report == PushReport(
            items=6, tasks_found=6, predictions_created=2, predictions_found=4
        )
        queue.assert_each_once(items)

    def test_predictions_of_another_model_instead_do_not_deceive(
        self, queue: Queue, output: Output
    ) -> None:
        items = make_items(3)
        push(items, queue.settings, output=output)
        task = queue.tasks()[0]
        queue.http.delete(f"/api/predictions/{task['predictions'][0]['id']}/").raise_for_status()
        push([make_item(0, model_id="model-2")], queue.settings)
        assert push(items, queue.settings, output=output).predictions_created == 1
        queue.assert_each_once([*items, make_item(0, model_id="model-2")])

    def test_the_whole_project_is_made_again(self, queue: Queue, output: Output) -> None:
        items = make_items(3)
        push(items, queue.settings, output=output)
        queue.http.delete(f"/api/projects/{queue.project()['id']}").raise_for_status()
        report = push(items, queue.settings, output=output)
        assert (report.tasks_created, report.notes) == (3, ())
        queue.assert_each_once(items)

    def test_what_goes_during_the_push_is_made_again(
        self, queue: Queue, proxy: Proxy, output: Output
    ) -> None:
        items = make_items(260)
        push(items[:10], queue.settings, output=output)

        def delete(method: str, path: str) -> None:
            if method == "POST" and proxy.requests.count((method, path)) == 1:
                first = numbers(queue)[items[3].image_id]
                queue.http.delete(f"/api/tasks/{first}/").raise_for_status()

        proxy.before = delete
        report = push(items, replace(queue.settings, url=proxy.url), output=output)
        assert (report.items, report.tasks_created, report.tasks_found) == (260, 251, 10)
        queue.assert_each_once(items)

    def test_one_who_deletes_all_the_time_is_told(self, queue: Queue, proxy: Proxy) -> None:
        def delete(method: str, path: str) -> None:
            if method == "GET" and path == "/api/tasks":
                for number in numbers(queue).values():
                    queue.http.delete(f"/api/tasks/{number}/")

        proxy.before = delete
        with pytest.raises(LabelStudioError, match="is somebody deleting tasks"):
            push(make_items(1), replace(queue.settings, url=proxy.url))


class TestWhatIsThereTwice:
    def test_two_outputs_in_one_project(self, queue: Queue, tmp_path: Path) -> None:
        """Each remembers another part of it; what came in twice goes."""
        one, two = (Output((tmp_path / name).as_uri()) for name in ("one", "two"))
        push(make_items(6), queue.settings, output=one)
        push(make_items(9), queue.settings, output=two)
        copy_tasks(queue, queue.tasks()[2:5])
        report = push(make_items(6), queue.settings, output=one)
        assert report.notes == ("3 tasks were there twice, and were removed",)
        assert push(make_items(9), queue.settings, output=two).notes == ()
        queue.assert_each_once(make_items(9))

    def test_repeated_predictions_are_removed(self, queue: Queue, output: Output) -> None:
        items = make_items(4)
        push(items, queue.settings, output=output)
        for task in queue.tasks()[1:3]:
            repeat_prediction(queue, task)
        report = push(items, queue.settings, output=output)
        assert report.notes == ("2 predictions were there twice, and were removed",)
        assert (report.tasks_created, report.predictions_created) == (0, 0)
        queue.assert_each_once(items)
        assert push(items, queue.settings, output=output).notes == ()

    def test_what_somebody_has_worked_on_stays(self, queue: Queue, output: Output) -> None:
        items = make_items(3)
        push(items, queue.settings, output=output)
        first, second, third = queue.tasks()
        copy_tasks(queue, [first, first, second])
        repeat_prediction(queue, third)
        _, _, _, fourth, fifth, sixth = queue.tasks()
        queue.post(f"/api/tasks/{first['id']}/annotations/", {"result": [VERDICT]})
        skipped = {"result": [], "was_cancelled": True}
        queue.post(f"/api/tasks/{fourth['id']}/annotations/", skipped)
        draft = {"result": [VERDICT], "lead_time": 1.0}
        with second_user(queue) as colleague:
            for task in (sixth, third):
                colleague.post(f"/api/tasks/{task['id']}/drafts", json=draft).raise_for_status()

        report = push(items, queue.settings, output=output)

        # The fifth is a copy of the first and the second one's copy, the sixth, was begun.
        left = [task["id"] for task in queue.tasks()]
        assert left == [first["id"], third["id"], fourth["id"], sixth["id"]]
        assert len(queue.predictions()) == 5
        assert report.notes == (
            "2 tasks were there twice, and were removed",
            f"tasks {first['id']}, {fourth['id']} are of one image, and stay: somebody has worked "
            "on each of them",
            f"task {third['id']} has a prediction twice, which stays: somebody has worked on it",
        )
        assert fifth["id"] not in left

    def test_tasks_that_somebody_else_made_are_left_alone(
        self, queue: Queue, output: Output
    ) -> None:
        items = make_items(2)
        push(items, queue.settings, output=output)
        own = [{"data": {"image": "https://images.invalid/own.jpg", "caption": ""}}] * 2
        queue.post(f"/api/projects/{queue.project()['id']}/import", own)
        report = push(make_items(3), queue.settings, output=output)
        assert (report.tasks_created, report.tasks_found, report.notes) == (1, 2, ())
        assert len(queue.tasks()) == 5

    def test_more_model_versions_than_the_server_writes_out(self, queue: Queue) -> None:
        items = [make_item(1, model_id=f"model-{'x' * 80}-{number}") for number in range(9)]
        push(items, queue.settings)
        report = push(items, queue.settings)
        assert (report.predictions_found, report.predictions_created) == (9, 0)
        queue.assert_each_once(items)


def test_items_that_can_be_gone_through_only_once_are_refused(queue: Queue) -> None:
    items: list[ReviewItem] = make_items(2)
    with pytest.raises(TypeError, match="only once"):
        push(iter(items), queue.settings)
