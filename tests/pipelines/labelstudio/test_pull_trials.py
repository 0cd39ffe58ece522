"""Pulls through a network that fails, and pulls that are killed while reviewers go on.

What is there comes once, as it is.
"""

import random
import sys
import threading
from collections import Counter
from datetime import datetime
from pathlib import Path
from typing import Any, Self

import pytest

from pipelines.cli import main
from pipelines.output import Output
from tests.pipelines.helpers import rows
from tests.pipelines.labelstudio.conftest import Queue
from tests.pipelines.labelstudio.killing import kill
from tests.pipelines.labelstudio.proxy import Proxy
from tests.pipelines.labelstudio.reviewing import fill, result
from tests.pipelines.labelstudio.test_pulling import files, reviewed
from tests.pipelines.planned import add, captions

PULL = """
import sys
from datetime import timedelta
from pipelines import job, merge, promote, pulling, review_loop, reviews, training
from pipelines.cli import run
from pipelines.labelstudio import annotations
size = int(sys.argv.pop(1))
pulling.PAGE = annotations.PAGE = reviews.FILE_ROWS = size
annotations.BARE_PAGE = 10 * size
pulling.MARGIN = timedelta(seconds=30)
finish = reviews.ReviewUpdate.finish
def told(update):
    print("finishing", flush=True)
    return finish(update)
reviews.ReviewUpdate.finish = told
print("begun", flush=True)
run()
"""


class Reviewers:
    """People who review, change and take back, one after another, until the block ends.

    Attributes:
        done: what they did, by kind.
    """

    def __init__(self, queue: Queue, tasks: list[dict[str, Any]], seed: int) -> None:
        self.done: Counter[str] = Counter()
        self._queue, self._random = queue, random.Random(seed)
        self._tasks = tasks
        self._mine = [(task, one["id"]) for task in tasks for one in task["annotations"]]
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _work(self) -> None:
        while not self._stop.is_set():
            kind = self._random.choice(("review", "review", "change", "change", "take back"))
            # What a locked database refuses is not done; the truth is read from the server.
            self.done[kind] += getattr(self, f"_{kind.replace(' ', '_')}")()

    def _said(self, task: dict[str, Any]) -> dict[str, Any]:
        """Return one of four things that a reviewer may say."""
        caption = task["data"]["caption"]
        said = {
            "accept": result(caption, "accept"),
            "fix": result(f"{caption} {self._random.random()}", "fix"),
            "reject": result(caption, "reject"),
            "skip": [],
        }
        choice = self._random.choice(sorted(said))
        return {"result": said[choice], "was_cancelled": choice == "skip"}

    def _review(self) -> bool:
        task = self._random.choice(self._tasks)
        path = f"/api/tasks/{task['id']}/annotations/"
        answer = self._queue.http.post(path, json=self._said(task))
        if answer.is_success:
            self._mine.append((task, answer.json()["id"]))
        return answer.is_success

    def _change(self) -> bool:
        task, number = self._random.choice(self._mine)
        path = f"/api/annotations/{number}/"
        return self._queue.http.patch(path, json=self._said(task)).is_success

    def _take_back(self) -> bool:
        place = self._random.randrange(len(self._mine))
        task, number = self._mine[place]
        gone = self._queue.http.delete(f"/api/annotations/{number}/").is_success
        if gone:
            del self._mine[place]
        return gone


Said = tuple[int, str, str, str | None, datetime]


def there(queue: Queue) -> Counter[Said]:
    """Return what the project holds: task, image, verdict, text and time of each review."""
    found: Counter[Said] = Counter()
    for task in queue.tasks():
        for one in task["annotations"]:
            values = {part["from_name"]: part["value"] for part in one["result"]}
            choice = values["verdict"]["choices"][0] if values else "skip"
            text = values["caption"]["text"][0] if values else None
            verdict, text = {
                "accept": ("accepted", text),
                "fix": ("edited", text),
                "reject": ("rejected", None),
                "skip": ("skipped", None),
            }[choice]
            at = datetime.fromisoformat(one["updated_at"])
            found[task["id"], task["data"]["image_id"], verdict, text, at] += 1
    return found


def pulled(output: Output) -> Counter[Said]:
    """Return what the table holds."""
    names = ("task_id", "image_id", "verdict", "caption", "reviewed_at")
    return Counter(tuple(row[name] for name in names) for row in rows(output, "reviews", *names))


@pytest.mark.usefixtures("no_waiting")
@pytest.mark.parametrize(
    ("count", "size", "seed"),
    [(60, 5, 1), pytest.param(2000, 20, 2, marks=pytest.mark.soak)],
)
def test_every_review_comes_back_though_a_request_in_three_goes_wrong(
    queue: Queue,
    proxy: Proxy,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    count: int,
    size: int,
    seed: int,
) -> None:
    monkeypatch.setattr("pipelines.pulling.PAGE", size)
    monkeypatch.setattr("pipelines.labelstudio.annotations.PAGE", size)
    output = Output((tmp_path / "out").as_uri())
    add(output, "captions", captions([0.5] * count))
    fill(queue, count, annotations=reviewed(count))
    options = ["review", "pull", output.uri, "--label_studio_url", proxy.url]
    options += ["--label_studio_project", queue.title]
    options += ["--label_studio_token_file", str(queue.server.token_file)]
    proxy.misbehave(seed)
    assert main(options) == 0
    asked = len(proxy.requests)
    assert 0.15 * asked < proxy.faults.total() < 0.45 * asked
    assert pulled(output) == there(queue)
    assert pulled(output).total() == count
    before = files(output)
    assert main(options) == 0
    assert files(output) == before


@pytest.mark.parametrize(
    ("kills", "count", "size", "seconds"),
    [(2, 60, 10, 2.0), pytest.param(20, 1000, 50, 12.0, marks=pytest.mark.soak)],
)
def test_one_pull_ends_what_killed_ones_began(
    queue: Queue, tmp_path: Path, kills: int, count: int, size: int, seconds: float
) -> None:
    output, moments = Output((tmp_path / "out").as_uri()), random.Random(1)
    add(output, "captions", captions([0.5] * count))
    tasks = fill(queue, count, annotations=[*reviewed(count // 2), *[[]] * (count - count // 2)])
    options = ["review", "pull", output.uri, "--label_studio_url", queue.server.url]
    options += ["--label_studio_project", queue.title]
    options += ["--label_studio_token_file", str(queue.server.token_file)]
    command = [sys.executable, "-c", PULL, str(size), *options]
    with Reviewers(queue, tasks, seed=2) as people:
        for number in range(kills):
            if number % 2:
                kill(command, "finishing", moments.uniform(0, 0.1))
            else:
                kill(command, "begun", moments.uniform(0, seconds))
            assert max(pulled(output).values(), default=1) == 1
    assert min(people.done[kind] for kind in ("review", "change", "take back")) >= kills
    assert main(options) == 0
    assert pulled(output) == there(queue)
    before = files(output)
    reviews = {Path(name).name for name in before if "/reviews/" in name}
    assert reviews == {Path(file.path).name for file in output.current().of("reviews")}
    assert main(options) == 0
    assert files(output) == before
