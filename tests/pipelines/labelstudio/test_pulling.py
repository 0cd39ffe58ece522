"""Pulling from a real Label Studio: what reviewers said comes once, as it is now."""

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as coco

from captioner.annotations import Annotations as Found
from captioner.annotations import Box, ClassNames
from pipelines import pulling
from pipelines.labelstudio import annotations as annotations_module
from pipelines.labelstudio.annotations import Annotations, review_project
from pipelines.labelstudio.client import (
    Client,
    FailingError,
    LabelStudioError,
    LabelStudioSettings,
    Token,
)
from pipelines.labelstudio.regions import regions
from pipelines.local import opened
from pipelines.output import Output, new_run_id
from pipelines.pulling import Pulled, pull
from pipelines.reviews import PullState
from tests.pipelines.helpers import rows
from tests.pipelines.labelstudio.conftest import Queue
from tests.pipelines.labelstudio.proxy import Proxy
from tests.pipelines.labelstudio.reviewing import (
    VERSION,
    change,
    cut,
    data_of,
    delete,
    fill,
    miscount,
    new_user,
    prediction,
    result,
    submit,
)
from tests.pipelines.labelstudio.test_regions import mask_of
from tests.pipelines.planned import DECODING, MODEL, add, captions


@pytest.fixture
def output(tmp_path: Path) -> Output:
    """Twelve captions, of the images that `fill` makes tasks of."""
    output = Output((tmp_path / "out").as_uri())
    add(output, "captions", captions([0.5] * 12, width=[200] * 12, height=[100] * 12))
    return output


def run(
    queue: Queue, output: Output, since: datetime | None = None, url: str | None = None, **more: Any
) -> Pulled:
    """Pull as the command does."""
    token = Token(queue.server.token)
    settings = LabelStudioSettings(url or queue.server.url, queue.title, token)
    writer = Output(output.uri, new_run_id())
    with opened(writer, str(writer.run_id)), Client(settings) as client:
        return pull(client, review_project(client, queue.title), writer, since, **more)


def said(output: Output) -> list[tuple[int, str]]:
    """Return task and verdict of each row, read past what is tested."""
    found = rows(output, "reviews", "task_id", "verdict")
    return sorted((row["task_id"], row["verdict"]) for row in found)


def files(output: Output) -> dict[str, tuple[bytes, int]]:
    folder = Path(output.uri.removeprefix("file://"))
    paths = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path): (path.read_bytes(), path.stat().st_mtime_ns) for path in paths}


def reviewed(count: int) -> list[list[dict[str, Any]]]:
    """Return annotations to import: each task accepted."""
    return [[{"result": result(f"caption {n}", "accept")}] for n in range(count)]


class TestRows:
    def test_a_row_for_each_annotation(self, queue: Queue, output: Output) -> None:
        tasks = fill(queue, 7)
        other = new_user(queue)
        submit(queue, tasks[0], "accept")
        submit(queue, tasks[0], "reject", completed_by=other["id"])
        submit(queue, tasks[1], "fix", "a dog")
        submit(queue, tasks[2], "accept", "a cat")
        submit(queue, tasks[3], "reject")
        submit(queue, tasks[4], None, was_cancelled=True)
        draft = {"lead_time": 2.0, "result": result("half a cap", None)}
        queue.post(f"/api/tasks/{tasks[5]['id']}/drafts", draft)
        pulled = run(queue, output)

        assert (pulled.tasks, pulled.changes.added.total(), pulled.since) == (5, 6, None)
        assert (pulled.damaged, pulled.unknown, pulled.missing, pulled.elsewhere) == ([], [], 0, 0)
        numbers = [task["id"] for task in tasks]
        found = {(row["task_id"], row["reviewer"]): row for row in rows(output, "reviews")}
        me = queue.server.username
        assert {key: (row["verdict"], row["caption"]) for key, row in found.items()} == {
            (numbers[0], me): ("accepted", "caption 0"),
            (numbers[0], other["email"]): ("rejected", None),
            (numbers[1], me): ("edited", "a dog"),
            (numbers[2], me): ("edited", "a cat"),
            (numbers[3], me): ("rejected", None),
            (numbers[4], me): ("skipped", None),
        }
        truth = queue.tasks()[1]["annotations"][0]
        row = found[numbers[1], me]
        assert row["reviewed_at"] == datetime.fromisoformat(truth["updated_at"])
        assert (row["seconds"], row["shown_caption"]) == (7.25, "caption 1")
        assert (row["image_id"], row["model_id"], row["decoding"]) == (f"{1:064x}", MODEL, DECODING)
        assert all(row[kind] is None for row in found.values() for kind in ("boxes", "labels"))

    def test_boxes_and_masks_in_pixels_of_the_original(self, queue: Queue, output: Output) -> None:
        """Reviewers saw a preview of half its size."""
        pixels = np.zeros((100, 200), np.uint8)
        pixels[20:60, 40:120] = 1
        found = Found(boxes=(Box("dog", 20, 10, 100, 50),), masks=(mask_of(pixels, "dog"),))
        classes = ClassNames(("red",), ("dog",), ("dog",))
        others = regions(found, classes, (200, 100), (100, 50))
        said = [[{"result": result("caption 0", "accept", *others)}]]
        fill(queue, 1, classes=classes, annotations=said)
        run(queue, output)
        (row,) = rows(output, "reviews")
        sides = {"x": 20, "y": 10, "width": 100, "height": 50}
        assert row["boxes"] == [{"name": "dog", "probability": 1, **sides}]
        assert row["labels"] == []
        (mask,) = row["masks"]
        assert np.array_equal(coco.decode(mask | {"counts": mask["counts"].encode()}), pixels)

    def test_a_mask_on_more_pixels_than_the_output_was_made_with(
        self, queue: Queue, output: Output
    ) -> None:
        pixels = np.ones((100, 200), np.uint8)
        classes = ClassNames((), (), ("dog",))
        mask = regions(Found(masks=(mask_of(pixels, "dog"),)), classes, (200, 100), (100, 50))
        fill(queue, 1, None, classes, annotations=[[{"result": result("x", "fix", *mask)}]])
        for pixels_allowed, damaged in ((4_999, 1), (5_000, 0)):
            limits = {"max_bytes": 9, "max_pixels": pixels_allowed}
            output.write_manifest("run", {"config": {"limits": limits}})
            assert len(run(queue, output).damaged) == damaged
        assert len(said(output)) == 1

    def test_an_image_that_the_output_has_no_caption_of(self, queue: Queue, output: Output) -> None:
        box = regions(
            Found(boxes=(Box("dog", 20, 10, 9, 9),)), ClassNames((), ("dog",)), (99, 99), (9, 9)
        )
        said = [[{"result": result("caption 0", "accept", *box)}]]
        (task,) = fill(queue, 1, classes=ClassNames((), ("dog",)), annotations=said)
        elsewhere = data_of(0) | {"image_id": "ff" * 32}
        queue.http.patch(f"/api/tasks/{task['id']}/", json={"data": elsewhere}).raise_for_status()
        assert run(queue, output).elsewhere == 1
        (row,) = rows(output, "reviews")
        assert (row["image_id"], row["verdict"], row["boxes"]) == ("ff" * 32, "accepted", None)

    def test_what_is_not_of_this_queue_is_named_and_no_row(
        self, queue: Queue, output: Output
    ) -> None:
        theirs = [prediction("caption 1", "somebody@1/else")]
        predictions = [[prediction("caption 0")], theirs, []]
        tasks = fill(queue, 3, predictions=predictions, annotations=reviewed(3))
        by_hand = {"image": "https://images.invalid/mine.jpg", "caption": "mine"}
        queue.post(f"/api/projects/{queue.project()['id']}/import", [{"data": by_hand}])
        mine = queue.tasks()[3]
        queue.post(f"/api/tasks/{mine['id']}/annotations/", {"result": result("x", "accept")})
        assert run(queue, output).unknown == [tasks[1]["id"], tasks[2]["id"], mine["id"]]
        assert said(output) == [(tasks[0]["id"], "accepted")]

    def test_a_damaged_annotation_is_named_and_the_others_come(
        self, queue: Queue, output: Output
    ) -> None:
        comment = {"from_name": "comment", "to_name": "image", "type": "textarea", "value": {}}
        mine = reviewed(3)
        mine[1][0]["result"].append(comment)
        tasks = fill(queue, 3, annotations=mine)
        pulled = run(queue, output)
        (why,) = pulled.damaged
        assert why.startswith(f"task {tasks[1]['id']}, annotation ")
        assert "with the control 'comment', which the project does not have" in why
        assert said(output) == [(tasks[0]["id"], "accepted"), (tasks[2]["id"], "accepted")]


class TestWhatIsThereNow:
    def test_pulling_again_changes_nothing(self, queue: Queue, output: Output) -> None:
        fill(queue, 3, annotations=reviewed(3))
        run(queue, output)
        before = files(output)
        assert len(before) == 4  # captions, reviews, current.json and how far it was read
        pulled = run(queue, output)
        assert (pulled.changes.changed, pulled.changes.same) == (False, 3)
        assert files(output) == before

    def test_changed_withdrawn_and_deleted(self, queue: Queue, output: Output) -> None:
        tasks = fill(queue, 5, annotations=[*reviewed(4), []])
        run(queue, output)
        numbers = [task["id"] for task in tasks]
        first, second = (task["annotations"][0] for task in tasks[:2])
        change(queue, first, "fix", "a dog")
        delete(queue, f"/api/annotations/{second['id']}/")
        delete(queue, f"/api/tasks/{numbers[2]}/")
        submit(queue, tasks[4], "reject")
        looked = run(queue, output, write=False)
        assert len(said(output)) == 4
        pulled = run(queue, output)
        assert looked.changes == pulled.changes
        assert pulled.changes.added == {"edited": 1, "rejected": 1}
        assert pulled.changes.removed == {"accepted": 2}
        assert pulled.missing == 1
        assert said(output) == [
            (numbers[0], "edited"),
            (numbers[2], "accepted"),  # A person's work outlives its task.
            (numbers[3], "accepted"),
            (numbers[4], "rejected"),
        ]

    def test_a_task_that_is_pushed_again_under_its_old_number(
        self, queue: Queue, output: Output
    ) -> None:
        """SQLite gives the numbers of the last tasks again."""
        (task,) = fill(queue, 1, annotations=reviewed(1))
        run(queue, output)
        delete(queue, f"/api/tasks/{task['id']}/")
        again = [{"data": data_of(0), "predictions": [prediction("caption 0")]}]
        queue.post(f"/api/projects/{queue.project()['id']}/import", again)
        run(queue, output)
        assert said(output) == [(task["id"], "accepted")]

    def test_a_review_that_the_server_does_not_count(self, queue: Queue, output: Output) -> None:
        tasks = fill(queue, 3, annotations=[*reviewed(2), []])
        miscount(queue, tasks[0]["id"])
        assert run(queue, output).tasks == 2
        change(queue, tasks[0]["annotations"][0], "reject", "caption 0")
        miscount(queue, tasks[0]["id"])
        run(queue, output)
        assert said(output) == [(tasks[0]["id"], "rejected"), (tasks[1]["id"], "accepted")]

    def test_predictions_that_were_deleted_take_no_review_away(
        self, queue: Queue, output: Output
    ) -> None:
        tasks = fill(queue, 2, annotations=reviewed(2))
        run(queue, output)
        (shown,) = tasks[0]["predictions"]
        delete(queue, f"/api/predictions/{shown['id']}/")
        assert run(queue, output).unknown == [tasks[0]["id"]]
        assert len(said(output)) == 2

    def test_two_projects_of_one_output(self, queue: Queue, output: Output) -> None:
        fill(queue, 2, annotations=reviewed(2))
        other = Queue(queue.server, f"{queue.title} 2")
        fill(other, 3, annotations=reviewed(3))
        for project in (queue, other, queue, other):
            run(project, output)
        assert len(said(output)) == 5
        other.http.close()


class TestSince:
    def test_only_what_changed_is_read(
        self, queue: Queue, output: Output, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(pulling, "MARGIN", timedelta())
        tasks = fill(queue, 4, annotations=[*reviewed(3), []])
        run(queue, output)
        submit(queue, tasks[3], "accept")
        pulled = run(queue, output)
        assert pulled.tasks == 1
        assert len(said(output)) == 4

    def test_a_request_that_was_under_way(
        self, queue: Queue, output: Output, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Its time is from before the pull, which did not see what it did yet."""
        tasks = fill(queue, 2)
        ahead: Callable[[Annotations], datetime] = Annotations.newest_change
        with monkeypatch.context() as patch:
            later = timedelta(minutes=5)
            patch.setattr(Annotations, "newest_change", lambda self: ahead(self) + later)
            run(queue, output)
        submit(queue, tasks[0], "accept")
        run(queue, output)
        assert said(output) == [(tasks[0]["id"], "accepted")]

    def test_a_review_that_is_made_while_its_page_is_read(
        self, queue: Queue, output: Output, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(pulling, "MARGIN", timedelta())
        monkeypatch.setattr(pulling, "PAGE", 1)
        monkeypatch.setattr(annotations_module, "PAGE", 1)
        tasks = fill(queue, 3, annotations=[[], *reviewed(3)[1:]])
        at_page = iter([lambda: submit(queue, tasks[0], "accept"), lambda: None])
        run(queue, output, on_progress=lambda _: next(at_page)())
        assert len(said(output)) == 2
        run(queue, output)
        assert len(said(output)) == 3

    def test_another_time_is_read_from_and_leaves_no_gap(
        self, queue: Queue, output: Output, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(pulling, "MARGIN", timedelta())
        tasks = fill(queue, 3, annotations=[*reviewed(2), []])
        state = PullState(output, queue.server.url, queue.project()["id"])
        submit(queue, tasks[2], "accept")
        newest = datetime.fromisoformat(queue.tasks()[2]["updated_at"])

        assert run(queue, output, since=newest).tasks == 1
        assert state.pulled_until() is None  # What came before was not read.
        assert run(queue, output).tasks == 3
        assert state.pulled_until() == newest
        assert run(queue, output, since=newest + timedelta(days=1)).tasks == 0
        assert run(queue, output, since=newest - timedelta(days=1)).tasks == 3
        assert state.pulled_until() == newest

    def test_the_state_holds_no_token(self, queue: Queue, output: Output) -> None:
        fill(queue, 1, annotations=reviewed(1))
        run(queue, output)
        state = PullState(output, queue.server.url, queue.project()["id"])
        text = Path(state.path.removeprefix("file://")).read_text()
        assert sorted(json.loads(text)) == ["project", "pulled_until", "url"]
        assert not any(queue.server.token in str(content) for content, _ in files(output).values())


class TestFailures:
    @pytest.mark.usefixtures("no_waiting")
    def test_answers_that_are_lost_are_asked_for_again(
        self, queue: Queue, output: Output, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(annotations_module, "PAGE", 2)
        fill(queue, 5, annotations=reviewed(5))
        proxy.lose_answers("GET", "/api/tasks", 2)
        proxy.answer_first("GET", "/api/tasks", 502, 2)
        proxy.answer_first("GET", "/api/users/", 429, 1)
        run(queue, output, url=proxy.url)
        assert len(said(output)) == 5
        assert proxy.lost == 2

    @pytest.mark.usefixtures("no_waiting")
    def test_a_server_that_goes_down_meanwhile_leaves_the_output_as_it_was(
        self, queue: Queue, output: Output, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(annotations_module, "PAGE", 2)
        monkeypatch.setattr(pulling, "PAGE", 2)
        fill(queue, 5, annotations=reviewed(5))
        before = files(output)

        def go_down(_: int) -> None:
            proxy.answer_first("GET", "/api/tasks", 503, 1_000)

        with pytest.raises(LabelStudioError, match="does not answer"):
            run(queue, output, url=proxy.url, on_progress=go_down)
        assert files(output) == before

    @pytest.mark.usefixtures("no_waiting")
    def test_tasks_that_the_server_fails_at_cost_themselves_alone(
        self, queue: Queue, output: Output, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(annotations_module, "PAGE", 8)
        tasks = fill(queue, 12, annotations=[*reviewed(11), []])
        numbers = [task["id"] for task in tasks]
        run(queue, output)
        state = PullState(output, queue.server.url, queue.project()["id"])
        until = state.pulled_until()
        cut(queue.http, numbers[2])
        cut(queue.http, numbers[11])
        change(queue, tasks[3]["annotations"][0], "reject", "caption 3")

        assert run(queue, output, write=False).failing == [numbers[2], numbers[11]]
        pulled = run(queue, output)
        assert (pulled.failing, pulled.tasks) == ([numbers[2], numbers[11]], 10)
        expected = {number: "accepted" for number in numbers[:11]} | {numbers[3]: "rejected"}
        assert dict(said(output)) == expected  # What task 2 had before stays, too.
        assert len(said(output)) == 11
        assert state.pulled_until() == until

        chosen = {"selectedItems": {"all": False, "included": [numbers[2], numbers[11]]}}
        project = queue.project()["id"]
        queue.post(f"/api/dm/actions?id=delete_tasks_annotations&project={project}", chosen)
        submit(queue, tasks[2], "fix", "a dog")
        assert run(queue, output).failing == []
        assert dict(said(output)) == expected | {numbers[2]: "edited"}
        newest = max(task["updated_at"] for task in queue.tasks())
        assert state.pulled_until() == datetime.fromisoformat(newest)

    @pytest.mark.usefixtures("no_waiting")
    def test_a_task_without_reviews_that_the_server_fails_at(
        self, queue: Queue, output: Output
    ) -> None:
        tasks = fill(queue, 2, annotations=reviewed(2))
        run(queue, output)
        delete(queue, f"/api/annotations/{tasks[0]['annotations'][0]['id']}/")
        half = json.dumps({"data": data_of(1) | {"caption": "\ud83d"}})
        path, headers = f"/api/tasks/{tasks[1]['id']}/", {"Content-Type": "application/json"}
        queue.http.patch(path, content=half, headers=headers)
        delete(queue, f"/api/annotations/{tasks[1]['annotations'][0]['id']}/")
        assert run(queue, output).failing == [tasks[1]["id"]]
        assert said(output) == [(tasks[1]["id"], "accepted")]

    @pytest.mark.usefixtures("no_waiting")
    def test_a_server_that_fails_at_everything(
        self, queue: Queue, output: Output, proxy: Proxy
    ) -> None:
        fill(queue, 3, annotations=reviewed(3))
        before = files(output)

        def fail(method: str, path: str) -> None:
            if path.endswith("/users/"):
                proxy.answer_first("GET", "/api/tasks", 500, 1_000)

        proxy.before = fail
        with pytest.raises(FailingError, match=r"fails at GET /api/tasks \(status 500, 9 times\)"):
            run(queue, output, url=proxy.url)
        assert files(output) == before

    @pytest.mark.usefixtures("no_waiting")
    def test_a_server_that_fails_at_too_many_tasks(
        self, queue: Queue, output: Output, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(annotations_module, "MOST_FAILING", 2)
        tasks = fill(queue, 4)
        submit(queue, tasks[0], "accept")
        before = files(output)
        for task in tasks[1:]:
            cut(queue.http, task["id"])
        with pytest.raises(FailingError, match="status 500, 2 times"):
            run(queue, output)
        assert files(output) == before

    def test_a_pull_that_was_killed_is_done_by_the_next(self, queue: Queue, output: Output) -> None:
        """After three of four pages, so that files are published that nothing names yet."""
        fill(queue, 12, annotations=reviewed(12))
        script = (
            "import sys\n"
            "from pipelines import pulling, reviews\n"
            "from pipelines.labelstudio import annotations\n"
            "from pipelines.cli import main\n"
            "pulling.PAGE = annotations.PAGE = reviews.FILE_ROWS = 3\n"
            "add = pulling.Pulled.add\n"
            "pulling.Pulled.add = lambda *args: (add(*args), print('page', flush=True))\n"
            "main(sys.argv[1:])\n"
        )
        command = [sys.executable, "-c", script, "review", "pull", output.uri]
        command += ["--label_studio_url", queue.server.url]
        command += ["--label_studio_project", queue.title]
        command += ["--label_studio_token_file", str(queue.server.token_file)]
        child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert child.stdout is not None
        assert [child.stdout.readline() for _ in range(3)] == ["page\n"] * 3
        child.send_signal(signal.SIGKILL)
        child.wait()
        child.stdout.close()
        assert said(output) == []
        assert any("/reviews/part-" in name for name in files(output))
        run(queue, output)
        assert said(output) == [(task["id"], "accepted") for task in queue.tasks()]
        assert len([name for name in files(output) if "/reviews/" in name]) == 1


def test_the_version_of_these_tests_is_that_of_their_captions() -> None:
    assert f"{MODEL}/{DECODING}" == VERSION
