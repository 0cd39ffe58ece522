"""Pushing through a network that fails, to a server that does, and in processes that are killed."""

import random
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from pipelines.labelstudio import client as client_module
from pipelines.labelstudio.push import push
from pipelines.output import Output
from pipelines.planning import ReviewRules, plan_review
from tests.pipelines.labelstudio.conftest import Queue, make_items
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


def wait_until_idle(queue: Queue) -> None:
    """Wait until the server has ended what a process that is dead asked it for."""
    before, now = -1, 0
    while queue.projects() and before != now:
        before, now = now, queue.project()["task_number"]
        time.sleep(2)


class TestKilled:
    """Promise 7, where the process dies at any moment."""

    @pytest.mark.parametrize(
        ("kills", "count", "seconds"), [(2, 300, 2.0), pytest.param(20, 1500, 6.0, marks=SOAK)]
    )
    def test_one_push_finishes_what_killed_ones_began(
        self, queue: Queue, output: Output, kills: int, count: int, seconds: float
    ) -> None:
        moments = random.Random(1)
        command = [sys.executable, "-c", PUSH, queue.server.url, queue.title]
        command += [str(queue.server.token_file), output.uri, str(count)]
        for kill in range(kills):
            with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
                assert child.stdout is not None
                assert child.stdout.readline() == "begun\n"
                time.sleep(moments.uniform(0.1, seconds))
                child.send_signal(signal.SIGKILL)
            assert child.returncode in (-signal.SIGKILL, 0), kill
        wait_until_idle(queue)
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
