"""Pushing through a network that fails, to a server that does, and in processes that are killed."""

import json
import random
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipelines.labelstudio import client as client_module
from pipelines.labelstudio.push import LabelStudioError, Token, push
from pipelines.output import Output
from pipelines.planning import ReviewRules, plan_review
from tests.pipelines.labelstudio.conftest import Queue, make_item, make_items
from tests.pipelines.labelstudio.proxy import FAULTS, Proxy
from tests.pipelines.planned import DECODING, MODEL, add, captions

SOAK = pytest.mark.soak


@pytest.fixture
def output(tmp_path: Path) -> Output:
    return Output((tmp_path / "output").as_uri())


class TestNetwork:
    """Promise 7, where a request in three goes wrong."""

    @pytest.mark.usefixtures("no_waiting")
    @pytest.mark.parametrize(
        ("count", "seed"),
        [(300, 1), *(pytest.param(2000, seed, marks=SOAK) for seed in range(2, 7))],
    )
    def test_exactly_one_task_and_one_prediction_for_each(
        self, queue: Queue, proxy: Proxy, output: Output, count: int, seed: int
    ) -> None:
        items, newer = make_items(count), make_items(count, model_id="model-2")
        settings = replace(queue.settings, url=proxy.url)
        proxy.misbehave(seed)
        report = push(items, settings, output=output)
        assert (report.items, report.failed) == (count, ())
        queue.assert_each_once(items)
        push(newer, settings, output=output)
        queue.assert_each_once(items + newer)
        asked = len(proxy.requests)
        assert 0.15 * asked < proxy.faults.total() < 0.45 * asked
        proxy.behave()
        again = push(items, settings, output=output)
        assert (again.tasks_found, again.predictions_found) == (count, count)
        assert (again.tasks_created, again.predictions_created, again.notes) == (0, 0, ())

    def test_every_fault_is_tried(self) -> None:
        with Proxy("http://127.0.0.1:9") as proxy:
            proxy.misbehave(1)
            for _ in range(200):
                proxy.fault("GET", "/")
        assert set(proxy.faults) == set(FAULTS)

    @pytest.mark.usefixtures("no_waiting")
    @pytest.mark.parametrize("path", ["/import", "/import/predictions"])
    def test_what_the_server_does_long_after_the_answer_is_removed_by_the_next_push(
        self, queue: Queue, proxy: Proxy, output: Output, path: str
    ) -> None:
        items = make_items(5)
        settings = replace(queue.settings, url=proxy.url)
        if path == "/import/predictions":
            push(items, settings, output=output)
            items = make_items(5, model_id="model-2")
        proxy.carry_out_late("POST", path, 1)
        push(items, settings, output=output)
        deadline = time.monotonic() + 60
        while not proxy.lost and time.monotonic() < deadline:
            time.sleep(0.1)
        report = push(items, settings, output=output)
        assert report.tasks_found == 5
        known = make_items(5) + items if path == "/import/predictions" else items
        queue.assert_each_once(known)

    def test_a_server_that_asks_for_patience_is_given_it(
        self, queue: Queue, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        waits: list[float] = []
        monkeypatch.setattr(client_module.time, "sleep", waits.append)
        proxy.answer_first("POST", "/import", 429, 2)
        proxy.headers = {"Retry-After": "37"}
        push(make_items(2), replace(queue.settings, url=proxy.url))
        assert waits == [37, 37]


class TestServer:
    """What Label Studio itself does."""

    def test_tasks_that_it_made_without_predictions_get_them(
        self, queue: Queue, proxy: Proxy
    ) -> None:
        """As 1.23 does on SQLite where another request holds the database's lock."""

        def strip(path: str, body: bytes) -> bytes:
            if not path.endswith("/import"):
                return body
            return json.dumps([{"data": task["data"]} for task in json.loads(body)]).encode()

        proxy.change = strip
        items = make_items(5)
        push(items, replace(queue.settings, url=proxy.url))
        queue.assert_each_once(items)

    def test_an_edition_that_imports_in_the_background(self, queue: Queue, proxy: Proxy) -> None:
        proxy.answers["/import"] = b'{"import": 5}'
        items = make_items(5)
        report = push(items, replace(queue.settings, url=proxy.url))
        assert (report.tasks_created, report.predictions_created) == (5, 5)
        queue.assert_each_once(items)

    def test_requests_that_are_too_large_are_divided(self, queue: Queue, proxy: Proxy) -> None:
        items = make_items(30)
        proxy.largest_body = 5_000
        push(items, replace(queue.settings, url=proxy.url))
        queue.assert_each_once(items)
        assert proxy.requests.count(("POST", f"/api/projects/{queue.project()['id']}/import")) > 5

    def test_previews_that_are_too_large_together_are_divided(
        self, queue: Queue, proxy: Proxy, tmp_path: Path
    ) -> None:
        draw, items = np.random.default_rng(0), []
        for number in range(5):
            path = tmp_path / f"{number}.png"
            Image.fromarray(draw.integers(0, 256, (64, 64, 3), np.uint8)).save(path)
            items.append(make_item(number, uri=path.as_uri()))
        proxy.largest_body = 12_000
        assert push(items, replace(queue.settings, url=proxy.url)).failed == ()
        path = f"/api/projects/{queue.project()['id']}/file-uploads"
        assert len(queue.get(path, params={"all": "true"})) == 5
        queue.assert_each_once(items)

    def test_what_is_too_large_by_itself_is_named_and_left_out(
        self, queue: Queue, proxy: Proxy
    ) -> None:
        items = [make_item(n, caption="x" * 10_000 if n == 3 else "short") for n in range(6)]
        proxy.largest_body = 5_000
        report = push(items, replace(queue.settings, url=proxy.url))
        ((uri, why),) = report.failed
        assert uri == items[3].uri
        assert "too large" in why
        assert "client_max_body_size" in why
        assert (report.tasks_created, report.predictions_created) == (5, 5)
        queue.assert_each_once(items[:3] + items[4:])
        assert push(items, queue.settings).tasks_created == 1
        queue.assert_each_once(items)

    def test_a_prediction_that_is_too_large_is_named_too(self, queue: Queue, proxy: Proxy) -> None:
        items = make_items(3)
        push(items, queue.settings)
        newer = [make_item(n, model_id="m-2", caption="x" * 10_000 * (n == 1)) for n in range(3)]
        proxy.largest_body = 5_000
        report = push(newer, replace(queue.settings, url=proxy.url))
        assert [uri for uri, _ in report.failed] == [newer[1].uri]
        assert report.predictions_created == 2
        queue.assert_each_once([*items, newer[0], newer[2]])

    @pytest.mark.usefixtures("no_waiting")
    def test_a_project_that_is_deleted_on_the_way(self, queue: Queue, proxy: Proxy) -> None:
        items = make_items(260)

        def delete(method: str, path: str) -> None:
            if method == "POST" and path.endswith("/import") and len(imports(proxy)) == 2:
                queue.http.delete(path.removesuffix("/import")).raise_for_status()

        proxy.before = delete
        with pytest.raises(LabelStudioError, match=r"was deleted while .*; push again") as raised:
            push(items, replace(queue.settings, url=proxy.url))
        assert queue.title in str(raised.value)
        assert push(items, queue.settings).tasks_created == 260
        queue.assert_each_once(items)

    def test_a_control_that_is_renamed_on_the_way(
        self, queue: Queue, proxy: Proxy, output: Output
    ) -> None:
        items = make_items(260)
        original = ""

        def rename(method: str, path: str) -> None:
            nonlocal original
            if method == "POST" and path.endswith("/import") and len(imports(proxy)) == 1:
                original = queue.project()["label_config"]
                changed = original.replace('name="caption"', 'name="text"')
                address = path.removesuffix("/import")
                queue.http.patch(address, json={"label_config": changed}).raise_for_status()

        proxy.before = rename
        with pytest.raises(LabelStudioError) as raised:
            push(items, replace(queue.settings, url=proxy.url), output=output)
        assert "there is no TextArea named 'caption'" in str(raised.value)
        assert "changed while captions were pushed" in str(raised.value)
        with pytest.raises(LabelStudioError, match="no TextArea named 'caption'"):
            push(items, queue.settings, output=output)
        path = f"/api/projects/{queue.project()['id']}"
        queue.http.patch(path, json={"label_config": original}).raise_for_status()
        push(items, queue.settings, output=output)
        queue.assert_each_once(items)

    @pytest.mark.usefixtures("no_waiting")
    def test_a_personal_token_that_expires_on_the_way(
        self, queue: Queue, proxy: Proxy, personal_token: str, output: Output
    ) -> None:
        items = make_items(260)

        def expire(method: str, path: str) -> None:
            if method == "POST" and path.endswith("/import") and len(imports(proxy)) == 1:
                proxy.answer_first("POST", "/import", 401, 1_000)
                proxy.answer_first("POST", "/api/token/refresh/", 401, 1_000)

        proxy.before = expire
        settings = replace(queue.settings, url=proxy.url, token=Token(personal_token))
        with pytest.raises(LabelStudioError, match="refuses the token") as raised:
            push(items, settings, output=output)
        assert "Account & Settings" in str(raised.value)
        assert personal_token not in str(raised.value)
        proxy.behave()
        proxy.before = lambda method, path: None
        report = push(items, settings, output=output)
        assert (report.tasks_found, report.tasks_created) == (250, 10)
        queue.assert_each_once(items)


def imports(proxy: Proxy) -> list[Any]:
    return [request for request in proxy.requests if request[1].endswith("/import")]


PUSH = """
import sys
from pipelines.labelstudio.push import LabelStudioSettings, push, read_token
from pipelines.output import Output
from pipelines.planning import ReviewRules, plan_review
from tests.pipelines.labelstudio.conftest import make_items
url, title, token_file, output, count = sys.argv[1:]
settings = LabelStudioSettings(url, title, read_token(token_file))
items = make_items(int(count))
print("begun", flush=True)
push(items, settings, output=Output(output))
"""


class TestKilled:
    """Promise 7, where the process dies at any moment."""

    @pytest.mark.parametrize(("kills", "seed"), [(2, 1), pytest.param(20, 2, marks=SOAK)])
    def test_one_push_finishes_what_killed_ones_began(
        self,
        queue: Queue,
        output: Output,
        kills: int,
        seed: int,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        count, moments = 600, random.Random(seed)
        command = [sys.executable, "-c", PUSH, queue.server.url, queue.title]
        command += [str(queue.server.token_file), output.uri, str(count)]
        for kill in range(kills):
            with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
                assert child.stdout is not None
                assert child.stdout.readline() == "begun\n"
                time.sleep(moments.uniform(0.1, 4))
                child.send_signal(signal.SIGKILL)
            assert child.returncode in (-signal.SIGKILL, 0), kill
        push(make_items(count), queue.settings, output=output)
        queue.assert_each_once(make_items(count))


class TestTwoAtOnce:
    def test_the_second_says_who_pushes_and_stops(
        self, queue: Queue, proxy: Proxy, output: Output
    ) -> None:
        uris = [f"https://images.invalid/{number}.jpg" for number in range(4)]
        add(output, "captions", captions([0.1] * 4, uri=uris))
        plan_review(output, MODEL, DECODING, ReviewRules(review_below=1.0, audit=0))
        pushing, go_on = threading.Event(), threading.Event()

        def hold(method: str, path: str) -> None:
            if method == "POST":
                pushing.set()
                go_on.wait(250)

        proxy.before = hold
        command = [sys.executable, "-m", "pipelines.cli", "review", "push", output.uri]
        command += ["--label_studio_url", proxy.url, "--label_studio_project", queue.title]
        command += ["--label_studio_token_file", str(queue.server.token_file)]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as first:
            assert pushing.wait(120)
            second = subprocess.run(command, capture_output=True, text=True, check=False)
            go_on.set()
            _, said = first.communicate(timeout=120)
        assert second.returncode == 1
        assert f"(process {first.pid} on " in second.stderr
        assert "Wait for it to end" in second.stderr
        assert first.returncode == 0, said
        assert "4 tasks made, 0 there before" in said
        assert len(queue.tasks()) == len(queue.predictions()) == 4

    def test_two_outputs_into_one_project(self, queue: Queue, tmp_path: Path) -> None:
        """Each holds its own lease, so both push; in the end each image is there once."""
        items = make_items(60)
        push(items[:1], queue.settings)  # Label Studio would make two projects of one title.
        outputs = [Output((tmp_path / name).as_uri()) for name in ("one", "two")]
        with ThreadPoolExecutor() as pool:
            list(pool.map(lambda output: push(items, queue.settings, output=output), outputs))
        for output in outputs:
            push(items, queue.settings, output=output)
        queue.assert_each_once(items)
