"""Comparisons of two models that are killed at any moment while people answer."""

import json
import random
import sys
from collections import Counter
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from pipelines.cli import main
from pipelines.default_model import write_default
from pipelines.output import Output
from pipelines.planning import ReviewRules, plan_review
from tests.fakes import FakeCaptioner
from tests.pipelines.helpers import annotate, rows, write_images
from tests.pipelines.labelstudio.conftest import Queue
from tests.pipelines.labelstudio.killing import kill
from tests.pipelines.test_promote import DECODING, Candidate

PROMOTE = """
import sys
from pipelines import job, merge, promote, review_loop, training
from pipelines.cli import run
from pipelines.labelstudio import comparing
from tests.pipelines.test_promote import Candidate
promote.CHUNK = comparing.BATCH = int(sys.argv.pop(1))
promote.load = lambda *_: Candidate("new@2")
def told(name):
    does = getattr(promote, name)
    def tell(*args):
        print(name, flush=True)
        return does(*args)
    setattr(promote, name, tell)
for name in ("_caption", "_exchange", "_conclude"):
    told(name)
run()
"""
MEANT = {"both right": "both_right", "both wrong": "both_wrong"}


class World:
    """An output with a model of its own, half of whose captions a candidate puts in other words."""

    def __init__(self, folder: Path, queue: Queue, count: int) -> None:
        self.queue, self.folder = queue, folder
        self.compared = Queue(queue.server, f"{queue.title}: which is better")
        self.output = Output((folder / "out").as_uri())
        write_images(folder / "in", count)
        annotate(folder / "in", self.output)
        plan_review(self.output, "fake@1", DECODING, ReviewRules(audit=1.0))
        (folder / "model").mkdir()
        (folder / "model" / "config.json").write_text("{}")
        write_default(self.output, str(folder / "model"), FakeCaptioner(), ("first@0", DECODING))
        self._old = self.model.read_bytes()
        self.options = ["promote", self.output.uri, "--candidate", str(folder / "model")]
        self.options += ["--label_studio_url", queue.server.url]
        self.options += ["--label_studio_project", queue.title]
        self.options += ["--label_studio_token_file", str(queue.server.token_file)]

    @property
    def model(self) -> Path:
        """The file that says which model the output's is."""
        return self.folder / "out" / "model"

    def promoted(self) -> bool:
        """Say whether the output's model is the new one, whole; put the old one back."""
        said = self.model.read_bytes()
        if said == self._old:
            return False
        content = json.loads(said)
        assert content.pop("promoted_at") > json.loads(self._old)["promoted_at"][:10]
        assert content == {
            "schema_version": 1,
            "model": (self.folder / "model").as_uri(),
            "model_id": "new@2",
            "decoding": {},
            "instead_of": {"model_id": "fake@1", "decoding": DECODING},
        }
        self.model.write_bytes(self._old)
        return True

    def answer(self, choices: random.Random, share: float) -> None:
        """Have people answer a share of the tasks, and change or take back some answers."""
        for task in self.compared.tasks() if self.compared.projects() else ():
            if choices.random() > share:
                continue
            for one in task["annotations"]:
                path = f"/api/annotations/{one['id']}/"
                if choices.random() < 0.3:
                    self.queue.http.delete(path).raise_for_status()
                else:
                    body = {"result": self._choice(task, choices)}
                    self.queue.http.patch(path, json=body).raise_for_status()
            if not task["annotations"] or choices.random() < 0.1:
                body = {"result": self._choice(task, choices)}
                self.queue.post(f"/api/tasks/{task['id']}/annotations/", body)

    def _choice(self, task: dict[str, Any], choices: random.Random) -> list[dict[str, Any]]:
        """Say that the candidate's caption is better, of one task in ten something else."""
        better = "first" if task["data"]["first"].endswith("better") else "second"
        others = ("first", "second", "both right", "both wrong")
        choice = choices.choice(others) if choices.random() < 0.1 else better
        return [
            {
                "from_name": "better",
                "to_name": "image",
                "type": "choices",
                "value": {"choices": [choice]},
            }
        ]

    def assert_each_once(self) -> None:
        """One project, in it one task of each image that differs, and one row of each answer."""
        assert len(self.compared.projects()) == 1
        captions = {row["image_id"]: row["caption"] for row in rows(self.output)}
        differ = {image for image, said in captions.items() if int(said.split()[0][1:]) % 2 == 0}
        tasks = {task["data"]["image_id"].partition("-")[0]: task for task in self.compared.tasks()}
        assert len(self.compared.tasks()) == len(tasks)
        assert tasks.keys() == differ
        expected: Counter[tuple[Any, ...]] = Counter()
        expected.update((image, "same", None, None) for image in captions.keys() - differ)
        for image, task in tasks.items():
            first = task["data"]["first"].endswith("better")
            candidate = {"first": first, "second": not first}
            for one in task["annotations"]:
                (choice,) = one["result"][0]["value"]["choices"]
                who = "candidate" if candidate.get(choice) else "present"
                at = datetime.fromisoformat(one["updated_at"])
                expected[image, MEANT.get(choice, who), task["id"], at] += 1
            if not task["annotations"]:
                expected[image, None, task["id"], None] += 1
        found = Counter(
            (row["image_id"], row["choice"], row["task_id"], row["reviewer"] and row["compared_at"])
            for row in rows(self.output, "comparisons")
        )
        assert found == expected


@pytest.mark.parametrize(
    ("kills", "count", "size"), [(2, 30, 8), pytest.param(20, 400, 50, marks=pytest.mark.soak)]
)
def test_one_run_ends_what_killed_ones_began(
    queue: Queue, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kills: int, count: int, size: int
) -> None:
    world, chance = World(tmp_path, queue, count), random.Random(1)
    command = [sys.executable, "-c", PROMOTE, str(size), *world.options]
    longest = {"_exchange": 3.0, "_conclude": 0.05, "_caption": 0.5}
    for number in range(kills):
        at = list(longest)[number % 3]
        kill(command, at, chance.uniform(0, longest[at]))
        world.promoted()
        world.answer(chance, share=0.5)
    world.answer(chance, share=1.0)
    monkeypatch.setattr("pipelines.promote.load", lambda *_: Candidate("new@2"))
    assert main(world.options) == 0
    assert world.promoted()
    world.assert_each_once()
    before = rows(world.output, "comparisons")
    assert main(world.options) == 0
    assert rows(world.output, "comparisons") == before
    world.assert_each_once()
    world.compared.http.close()
