"""Pushing to a real Label Studio: each image is seen once, whatever happens on the way."""

import logging
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest

from captioner.annotations import Annotations, Box, ClassNames, Label
from pipelines.labelstudio.push import (
    LabelStudioError,
    LabelStudioSettings,
    PushReport,
    Token,
    push,
)
from tests.pipelines.labelstudio.conftest import Queue, make_item, make_items
from tests.pipelines.labelstudio.proxy import Proxy
from tests.pipelines.labelstudio.test_regions import mask_of
from tests.servers import LabelStudio, ObjectStore, free_port


class TestWhatIsMade:
    def test_a_task_and_a_prediction_for_each_image(self, queue: Queue) -> None:
        items = make_items(3)
        report = push(items, queue.settings)

        assert report == PushReport(items=3, tasks_created=3, predictions_created=3)
        queue.assert_each_once(items)
        task = queue.tasks()[1]
        assert task["data"] == {
            "image": items[1].uri,
            "image_id": items[1].image_id,
            "uri": items[1].uri,
            "caption": "caption 1",
        }
        (prediction,) = task["predictions"]
        assert prediction["score"] == pytest.approx(items[1].confidence)
        assert prediction["model_version"] == "model-1/greedy-1"
        assert prediction["result"][0]["value"] == {"text": ["caption 1"]}

    def test_reviewers_are_shown_the_newest_model_least_certain_first(self, queue: Queue) -> None:
        push(make_items(5, confidence=0.5), queue.settings)
        push([make_item(3, model_id="model-2", confidence=0.1)], queue.settings)

        assert queue.project()["model_version"] == "model-2/greedy-1"
        push([make_item(4, model_id="model-2", confidence=0.05)], queue.settings)
        offered = queue.get(f"/api/projects/{queue.project()['id']}/next/")
        assert offered["data"]["image_id"] == make_item(4).image_id
        assert [p["model_version"] for p in offered["predictions"]] == ["model-2/greedy-1"]

    @pytest.mark.parametrize(
        "caption",
        [
            "<b>bold</b> & <script>alert(1)</script>",
            "a 🐕\u200d🦺 and 漢字",
            "two\nlines",
            "x" * 10_000,
        ],
        ids=["markup", "emoji", "newline", "long"],
    )
    def test_a_caption_is_taken_as_it_is(self, queue: Queue, caption: str) -> None:
        push([make_item(1, caption=caption)], queue.settings)
        (prediction,) = queue.predictions()
        assert prediction["result"][0]["value"]["text"] == [caption]

    def test_names_that_are_not_text_and_confidence_that_is_none(self, queue: Queue) -> None:
        odd = make_item(1, uri="https://images.invalid/\udcff\0.jpg", confidence=float("nan"))
        push([odd], queue.settings)
        (task,) = queue.tasks()
        assert task["data"]["uri"] == "https://images.invalid/\\udcff\\0.jpg"
        assert task["predictions"][0]["score"] is None

    def test_labels_boxes_and_masks_come_with_the_caption(self, queue: Queue) -> None:
        found = Annotations(
            labels=(Label("red", 0.9),),
            boxes=(Box("circle", 64, 48, 320, 240, 0.8),),
            masks=(mask_of(np.eye(480, 640), "circle"),),
        )
        classes = ClassNames(("red", "blue"), ("circle",), ("circle",))
        push([make_item(1, annotations=found)], queue.settings, classes=classes)
        (prediction,) = queue.predictions()
        by_control = {result["from_name"]: result["value"] for result in prediction["result"]}
        assert by_control["caption"] == {"text": ["caption 1"]}
        assert by_control["labels"] == {"choices": ["red"]}
        assert by_control["boxes"]["rectanglelabels"] == ["circle"]
        assert (by_control["boxes"]["x"], by_control["boxes"]["width"]) == (10, 50)
        assert by_control["masks"]["brushlabels"] == ["circle"]
        push([make_item(1, model_id="model-2")], queue.settings)  # Of captions alone.
        assert len(queue.predictions()) == 2

    def test_a_project_that_lacks_classes_is_told(self, queue: Queue) -> None:
        push([make_item(1)], queue.settings)
        with pytest.raises(LabelStudioError, match="no RectangleLabels named 'boxes'; name anoth"):
            push([make_item(2)], queue.settings, classes=ClassNames(boxes=("circle",)))

    def test_same_bytes_under_two_uris_are_one_task(self, queue: Queue) -> None:
        items = [make_item(1), make_item(1, uri="https://images.invalid/copy.jpg")]
        report = push(items, queue.settings)
        assert (report.items, report.tasks_created, report.predictions_created) == (2, 1, 1)
        assert [task["data"]["uri"] for task in queue.tasks()] == [items[0].uri]

    def test_nothing_to_push_asks_nobody(self) -> None:
        settings = LabelStudioSettings("http://127.0.0.1:9", "review", Token("t"))
        assert push([], settings) == PushReport()

    def test_progress_counts_items(self, queue: Queue) -> None:
        progress: list[int] = []
        push(make_items(300), queue.settings, progress.append)
        assert progress == [250, 300]


class TestEachImageOnce:
    """Promise 7: Label Studio sees each image once."""

    def test_pushing_again_adds_nothing(self, queue: Queue) -> None:
        items = make_items(260)
        push(items, queue.settings)
        report = push(items, queue.settings)
        assert report == PushReport(items=260, tasks_found=260, predictions_found=260)
        queue.assert_each_once(items)

    def test_another_model_adds_only_predictions(self, queue: Queue) -> None:
        items, newer = make_items(4), make_items(3, model_id="model-2")
        push(items, queue.settings)
        report = push(newer, queue.settings)
        assert report == PushReport(items=3, tasks_found=3, predictions_created=3)
        queue.assert_each_once(items + newer)

    def test_a_push_that_was_killed_is_finished_by_the_next(self, queue: Queue) -> None:
        items = make_items(1000)
        script = (
            "import sys\n"
            "from pipelines.labelstudio.push import LabelStudioSettings, push, read_token\n"
            "from tests.pipelines.labelstudio.conftest import make_items\n"
            "settings = LabelStudioSettings(sys.argv[1], sys.argv[2], read_token(sys.argv[3]))\n"
            "push(make_items(1000), settings, lambda done: print(done, flush=True))\n"
        )
        token_file = str(queue.server.token_file)
        command = [sys.executable, "-c", script, queue.server.url, queue.title, token_file]
        child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert child.stdout is not None
        assert child.stdout.readline() == "250\n"
        time.sleep(0.25)  # somewhere in the second batch
        child.send_signal(signal.SIGKILL)
        child.wait()
        child.stdout.close()

        report = push(items, queue.settings)
        assert report.tasks_found >= 250
        assert report.tasks_created >= 250
        queue.assert_each_once(items)

    @pytest.mark.usefixtures("no_waiting")
    @pytest.mark.parametrize("path", ["/import", "/import/predictions"])
    def test_an_answer_that_is_lost_after_the_server_did_it(
        self, queue: Queue, proxy: Proxy, path: str
    ) -> None:
        items = make_items(20)
        if path == "/import/predictions":
            push(items, queue.settings)
            items += make_items(20, model_id="model-2")
        proxy.lose_answers("POST", path, 1)
        push(items, replace(queue.settings, url=proxy.url))
        assert proxy.lost == 1
        queue.assert_each_once(items)

    @pytest.mark.usefixtures("no_waiting")
    @pytest.mark.parametrize("status", [429, 500, 502])
    def test_a_server_that_stumbles(self, queue: Queue, proxy: Proxy, status: int) -> None:
        items = make_items(20)
        proxy.answer_first("GET", "/api/tasks", status, 2)
        proxy.answer_first("POST", "/import", status, 1)
        push(items, replace(queue.settings, url=proxy.url))
        queue.assert_each_once(items)

    @pytest.mark.usefixtures("no_waiting")
    def test_long_addresses_are_shortened_when_something_on_the_way_refuses_them(
        self, queue: Queue, proxy: Proxy
    ) -> None:
        items = make_items(150)
        proxy.longest_address = 4000
        push(items, replace(queue.settings, url=proxy.url))
        queue.assert_each_once(items)

    def test_repeats_are_removed_unless_somebody_worked_on_them(self, queue: Queue) -> None:
        items = make_items(3)
        push(items, queue.settings)
        tasks = queue.tasks()
        copies = [{"data": t["data"], "predictions": t["predictions"]} for t in tasks]
        for copy in copies:
            copy["predictions"] = [
                {key: p[key] for key in ("model_version", "score", "result")}
                for p in copy["predictions"]
            ]
        queue.post(f"/api/projects/{queue.project()['id']}/import", copies)
        worked_on = queue.tasks()[3]
        verdict = {
            "from_name": "verdict",
            "to_name": "image",
            "type": "choices",
            "value": {"choices": ["accept"]},
        }
        queue.post(f"/api/tasks/{worked_on['id']}/annotations/", {"result": [verdict]})

        report = push(items, queue.settings)

        assert (report.tasks_created, report.tasks_found) == (0, 3)
        queue.assert_each_once(items)
        assert worked_on["id"] in [task["id"] for task in queue.tasks()]


class TestTokens:
    def test_a_personal_access_token(self, queue: Queue, personal_token: str) -> None:
        settings = replace(queue.settings, token=Token(personal_token))
        assert push(make_items(2), settings).tasks_created == 2

    @pytest.mark.parametrize(
        "wrong",
        [
            "0" * 40,
            "eyJhbGciOiJIUzI1NiJ9.eyJ0b2tlbl90eXBlIjoicmVmcmVzaCIsImV4cCI6OTk5OTk5OTk5OX0.AAAA",
        ],
        ids=["legacy", "personal"],
    )
    def test_a_wrong_token_is_said_without_naming_it(self, queue: Queue, wrong: str) -> None:
        with pytest.raises(LabelStudioError, match="refuses the token") as raised:
            push([make_item(1)], replace(queue.settings, token=Token(wrong)))
        assert wrong not in str(raised.value)
        assert "Account & Settings" in str(raised.value)

    def test_no_token_in_any_log_or_error(
        self, queue: Queue, personal_token: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        token = Token(personal_token)
        with caplog.at_level(logging.DEBUG):
            push([make_item(1)], queue.settings)
            push([make_item(1)], replace(queue.settings, token=token))
            with pytest.raises(LabelStudioError) as raised:
                push([make_item(1)], replace(queue.settings, url=f"{queue.server.url}/elsewhere"))
        assert caplog.records
        logged = "\n".join(f"{r.getMessage()} {r.__dict__}" for r in caplog.records)
        for secret in (queue.server.token, personal_token):
            assert secret not in logged
            assert secret not in str(raised.value) + repr(queue.settings)


class TestWhatIsSaid:
    def test_an_address_that_is_not_label_studio(
        self, label_studio: LabelStudio, s3_server: ObjectStore
    ) -> None:
        for url in (s3_server.endpoint, f"{label_studio.url}/elsewhere"):
            settings = LabelStudioSettings(url, "review", Token("t"))
            with pytest.raises(LabelStudioError, match="is not Label Studio; check"):
                push([make_item(1)], settings)

    def test_a_server_that_is_down(self) -> None:
        settings = LabelStudioSettings(f"http://127.0.0.1:{free_port()}", "review", Token("t"))
        started = time.monotonic()
        with pytest.raises(LabelStudioError, match="check that it runs"):
            push([make_item(1)], settings)
        assert time.monotonic() - started < 5

    def test_two_projects_of_the_same_title(self, queue: Queue) -> None:
        numbers = [queue.post("/api/projects", {"title": queue.title})["id"] for _ in range(2)]
        with pytest.raises(LabelStudioError) as raised:
            push([make_item(1)], queue.settings)
        assert all(str(number) in str(raised.value) for number in numbers)

    def test_a_project_for_something_else(self, queue: Queue) -> None:
        config = '<View><Text name="text" value="$text"/></View>'
        queue.post("/api/projects", {"title": queue.title, "label_config": config})
        with pytest.raises(LabelStudioError, match="there is no TextArea named 'caption'"):
            push([make_item(1)], queue.settings)

    def test_a_project_of_similar_title_is_another(self, queue: Queue) -> None:
        queue.post("/api/projects", {"title": f"{queue.title} (old)"})
        push([make_item(1)], queue.settings)
        assert sorted(p["title"] for p in queue.projects()) == [queue.title, f"{queue.title} (old)"]

    def test_an_empty_project_is_set_up(self, queue: Queue) -> None:
        queue.post("/api/projects", {"title": queue.title})
        push([make_item(1)], queue.settings)
        assert "verdict" in queue.project()["label_config"]
