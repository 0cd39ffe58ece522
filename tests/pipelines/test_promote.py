"""Comparing two models with people's help, from the first run to the default model."""

import json
import shutil
import uuid
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from captioner.contract import Caption, Prepared
from captioner.evaluation.paired import compare
from pipelines.cli import main
from pipelines.output import Output
from pipelines.planning import ReviewRules, plan_review
from pipelines.report.promotion import what_next
from tests.fakes import FakeCaptioner
from tests.pipelines.helpers import annotate, rows, write_images
from tests.pipelines.labelstudio.proxy import Proxy
from tests.pipelines.labelstudio.reviewing import cut
from tests.servers import LabelStudio, free_port

COUNT = 24
DECODING = FakeCaptioner().decoding.id
Answerer = Callable[[str, str], str]


class Candidate(FakeCaptioner):
    """Says something else of every image whose mean of red is even."""

    def _caption(self, item: Prepared) -> Caption:
        caption = super()._caption(item)
        if int(item.pixels[..., 0].mean()) % 2:
            return caption
        return Caption(f"{caption.text} better", features=caption.features)


class Interrupted(FakeCaptioner):
    """Is asked to stop at the second batch."""

    def caption(self, batch: Sequence[Prepared]) -> list[Caption]:
        if self.batches:
            raise KeyboardInterrupt
        return super().caption(batch)


@dataclass
class World:
    """An output, a candidate, and a Label Studio in which people answer."""

    folder: Path
    server: LabelStudio | None = None
    candidate: FakeCaptioner = field(default_factory=lambda: Candidate("new@2"))
    title: str = field(default_factory=lambda: f"promote {uuid.uuid4().hex[:12]}")

    @property
    def output(self) -> Output:
        return Output((self.folder / "out").as_uri())

    def promote(self, *more: str, url: str = "") -> int:
        command = ["promote", self.output.uri, "--candidate", str(self.folder / "model")]
        command += ["--label_studio_project", self.title, *more]
        url = url or (self.server.url if self.server else "")
        if self.server:
            command += ["--label_studio_token_file", str(self.server.token_file)]
        return main([*command, "--label_studio_url", url])

    @property
    def compared(self) -> list[dict[str, Any]]:
        return rows(self.output, "comparisons")

    def _http(self) -> httpx.Client:
        assert self.server is not None
        headers = {"Authorization": f"Token {self.server.token}"}
        return httpx.Client(base_url=self.server.url, headers=headers, timeout=60)

    def tasks(self, **more: str) -> list[dict[str, Any]]:
        title = f"{self.title}: which is better"
        with self._http() as http:
            (project,) = http.get("/api/projects", params={"title": title}).json()["results"]
            options = {"project": project["id"], "page_size": 5000, "fields": "all", **more}
            options["query"] = json.dumps({"ordering": ["tasks:id"]})
            found: list[dict[str, Any]] = http.get("/api/tasks", params=options).json()["tasks"]
        return found

    def answer(self, choose: Answerer, most: int = COUNT) -> None:
        """Have somebody say something of tasks that have no answer, by the two captions."""
        with self._http() as http:
            waiting = [task for task in self.tasks() if not task["annotations"]]
            for task in waiting[:most]:
                choice = choose(task["data"]["first"], task["data"]["second"])
                value = {"choices": [choice]}
                region = {"from_name": "better", "to_name": "image", "type": "choices"}
                body = {"result": [{**region, "value": value}]}
                http.post(f"/api/tasks/{task['id']}/annotations/", json=body).raise_for_status()


def for_candidate(first: str, second: str) -> str:
    return "first" if first.endswith("better") else "second"


def for_present(first: str, second: str) -> str:
    return "second" if first.endswith("better") else "first"


def limit(world: World, pixels: int) -> None:
    """Let the run that the output was made with say how many pixels an image might have."""
    (run,) = {row["run_id"] for row in rows(world.output)}
    config = {"limits": {"max_bytes": 10_000, "max_pixels": pixels}}
    world.output.write_manifest(run, world.output.read_manifest(run) | {"config": config})


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    """24 images, all of them audited; the candidate says another thing of half of them."""
    write_images(tmp_path / "in", COUNT)
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    world = World(tmp_path)
    annotate(tmp_path / "in", world.output)
    plan_review(world.output, "fake@1", DECODING, ReviewRules(audit=1.0))
    monkeypatch.setattr("pipelines.promote.load", lambda *_: world.candidate)
    monkeypatch.setenv("LABEL_STUDIO_API_KEY", "0" * 40)
    return world


@pytest.fixture
def online(world: World, label_studio: LabelStudio) -> World:
    world.server = label_studio
    return world


class TestBetter:
    def test_from_the_first_run_to_the_default(self, online: World, capsys):
        before = rows(online.output)
        assert online.promote() == 0
        told = capsys.readouterr()
        assert "24 audited images: of 12 both say the same, of 12 not" in told.out
        assert "verdict: cannot tell yet" in told.out
        assert "12 tasks made, 0 there before" in told.err
        assert "at least 8 answers for the same model are needed; 12 tasks wait" in told.err
        tasks = online.tasks()
        assert len(tasks) == 12
        assert {tuple(sorted(task["data"])) for task in tasks} == {
            ("first", "image", "image_id", "second")
        }
        assert 0 < sum(task["data"]["first"].endswith("better") for task in tasks) < 12

        assert online.promote() == 0
        assert [task["id"] for task in online.tasks()] == [task["id"] for task in tasks]
        assert online.candidate.batches == [24]
        assert "0 tasks made, 12 there before" in capsys.readouterr().err

        online.answer(for_candidate, most=5)
        assert online.promote() == 0
        told = capsys.readouterr()
        assert "5 of 12 compared: 5 better by the candidate, 0 by the present model" in told.out
        assert "about 3 more answers would tell" in told.err
        assert not (online.folder / "out" / "model").exists()

        online.answer(for_candidate, most=5)
        assert online.promote() == 0
        told = capsys.readouterr()
        assert "10 of 12 compared: 10 better by the candidate" in told.out
        assert "verdict: the candidate is better" in told.out
        assert "The 2 tasks that wait need no answer." in told.err
        default = json.loads((online.folder / "out" / "model").read_text())
        assert default["model"] == (online.folder / "model").as_uri()
        assert default["model_id"] == "new@2"
        assert default["instead_of"] == {"model_id": "fake@1", "decoding": DECODING}
        assert rows(online.output) == before, "what was annotated stays as it is"

        assert online.promote() == 0
        assert "new@2 is the output's model since" in capsys.readouterr().err

    def test_what_is_kept_of_it(self, online: World):
        online.promote()
        online.answer(for_candidate, most=4)
        online.promote()
        shown = {task["data"]["image_id"][:64]: task for task in online.tasks()}
        captions = {row["image_id"]: row["caption"] for row in rows(online.output)}
        assert len(online.compared) == COUNT
        choices = Counter(row["choice"] for row in online.compared)
        assert choices == {"same": 12, "candidate": 4, None: 8}
        for row in online.compared:
            assert row["caption"] == captions[row["image_id"]]
            assert (row["model_id"], row["candidate_id"]) == ("fake@1", "new@2")
            assert row["inclusion_probability"] == 1.0
            if row["choice"] == "same":
                assert row["candidate_caption"] == row["caption"]
                assert (row["shown_first"], row["reviewer"], row["task_id"]) == (None, None, None)
                continue
            task = shown[row["image_id"]]
            assert row["candidate_caption"] == f"{row['caption']} better"
            first = "candidate" if task["data"]["first"].endswith("better") else "present"
            assert row["shown_first"] == first
            assert row["task_id"] == task["id"]
            assert online.server is not None
            said = row["choice"] is not None
            assert row["reviewer"] == (online.server.username if said else None)

    def test_no_secret_is_written_down(self, online: World, capsys):
        """Promise 10."""
        online.promote()
        told = capsys.readouterr()
        assert online.server is not None
        secret = online.server.token
        assert secret not in told.out + told.err
        files = [path for path in (online.folder / "out").rglob("*") if path.is_file()]
        assert files
        assert not any(secret.encode() in path.read_bytes() for path in files)


class TestNotBetter:
    def test_worse(self, online: World, capsys):
        online.promote()
        online.answer(for_present, most=8)
        assert online.promote() == 0
        told = capsys.readouterr()
        assert "8 of 12 compared: 0 better by the candidate, 8 by the present model" in told.out
        assert "verdict: the candidate is worse" in told.out
        assert "The present model stays." in told.err
        assert not (online.folder / "out" / "model").exists()

    def test_answers_for_neither(self, online: World, capsys):
        online.promote()
        online.answer(lambda first, second: "both right", most=3)
        assert online.promote() == 0
        told = capsys.readouterr()
        assert "0 by the present model, 3 by neither" in told.out
        assert "of those with a winner" not in told.out
        assert "verdict: cannot tell yet" in told.out
        assert not (online.folder / "out" / "model").exists()

    def test_both_say_the_same_of_every_image(self, world: World, capsys):
        """Nobody is asked, and no server needed."""
        world.candidate = FakeCaptioner("new@2")
        assert world.promote(url="http://127.0.0.1:9") == 0
        told = capsys.readouterr()
        assert "24 audited images: of 24 both say the same, of 0 not" in told.out
        assert "verdict: cannot tell yet" in told.out
        assert "both models say the same of every audited image" in told.err


class TestWithoutAudit:
    """A plan without one came after the comparison was begun."""

    def test_what_was_compared_decides(self, online: World, capsys):
        online.promote()
        online.answer(for_candidate, most=8)
        plan_review(online.output, "fake@1", DECODING, ReviewRules(review_below=1.0, audit=0))
        capsys.readouterr()
        assert online.promote() == 0
        told = capsys.readouterr()
        assert "no audit is planned now; what counts are the 24 images of an earlier" in told.err
        assert "8 of 12 compared: 8 better by the candidate" in told.out
        assert "verdict: the candidate is better" in told.out
        assert json.loads((online.folder / "out" / "model").read_text())["model_id"] == "new@2"
        assert online.candidate.batches == [24]
        assert len(online.tasks()) == 12

    def test_what_differs_is_asked(self, online: World, capsys):
        assert online.promote(url=f"http://127.0.0.1:{free_port()}") == 4
        plan_review(online.output, "fake@1", DECODING, ReviewRules(review_below=1.0, audit=0))
        assert online.promote() == 0
        assert len(online.tasks()) == 12
        assert "verdict: cannot tell yet" in capsys.readouterr().out


class TestImages:
    def test_of_more_pixels_than_the_output_was_made_with(self, world: World, capsys):
        """They have 120."""
        limit(world, 119)
        assert world.promote(url="http://127.0.0.1:9") == 1
        assert "12 x 10 pixels; the limit is 119 in all" in capsys.readouterr().err
        limit(world, 120)
        assert world.promote(url="http://127.0.0.1:9") == 4
        assert len(world.compared) == COUNT

    def test_previews_have_the_same_limit(self, online: World, capsys):
        assert online.promote(url=f"http://127.0.0.1:{free_port()}") == 4
        limit(online, 119)
        assert online.promote() == 4
        told = capsys.readouterr().err
        assert "cannot be shown, so nobody can compare it" in told
        assert "no preview: 12 x 10 pixels; the limit is 119 in all" in told
        assert online.tasks() == []

    def test_that_cannot_be_read_are_left_out_and_tried_again(self, online: World, capsys):
        gone, changed = (online.folder / "in" / f"0000{n}.png" for n in (1, 2))
        content = gone.read_bytes()
        gone.unlink()
        shutil.copy(online.folder / "in" / "00003.png", changed)
        assert online.promote() == 0
        told = capsys.readouterr()
        assert "22 audited images" in told.out
        assert "00002.png has changed since it was captioned" in told.err
        assert "2 of 24 audited images could not be captioned and are left out" in told.err
        gone.write_bytes(content)
        assert online.promote() == 0
        told = capsys.readouterr()
        assert "23 audited images" in told.out
        assert "1 of 24 audited images could not be captioned" in told.err

    def test_that_break_the_model_cost_only_themselves(self, online: World, capsys):
        online.candidate.poison = 7 * 5 % 251
        assert online.promote() == 0
        told = capsys.readouterr()
        assert "23 audited images" in told.out
        assert "00005.png: ValueError: poison" in told.err

    def test_are_read_from_a_copy_where_the_first_is_gone(self, tmp_path: Path, world: World):
        shutil.copytree(tmp_path / "in", tmp_path / "z")
        annotate(tmp_path / "z", world.output)
        plan_review(world.output, "fake@1", DECODING, ReviewRules(audit=1.0))
        shutil.rmtree(tmp_path / "in")
        world.candidate = FakeCaptioner("new@2")
        assert world.promote(url="http://127.0.0.1:9") == 0
        assert len(world.compared) == COUNT

    def test_that_the_candidate_has_learned_from_do_not_count(self, world: World, capsys):
        world.candidate = FakeCaptioner("new@2")
        ids = [row["image_id"] for row in rows(world.output)]
        learned = {"version": "0123456789ab", "captions": 15, "images": ids[:15]}
        (world.folder / "model" / "reviews.json").write_text(json.dumps(learned))
        assert world.promote(url="http://127.0.0.1:9") == 0
        told = capsys.readouterr()
        assert "15 of 24 audited images are left out: a model has learned from" in told.err
        assert {row["image_id"] for row in world.compared} == set(ids[15:])

    def test_none_is_left(self, world: World, capsys):
        ids = [row["image_id"] for row in rows(world.output)]
        learned = {"version": "0123456789ab", "captions": len(ids), "images": ids}
        (world.folder / "model" / "reviews.json").write_text(json.dumps(learned))
        assert world.promote(url="http://127.0.0.1:9") == 1
        assert "no audited image that neither model has learned from" in capsys.readouterr().err


class TestInterrupted:
    def test_what_was_captioned_is_kept(self, world: World, monkeypatch, capsys):
        monkeypatch.setattr("pipelines.promote.CHUNK", 10)
        world.candidate = Interrupted("new@2")
        assert world.promote(url="http://127.0.0.1:9") == 130
        assert len(world.compared) == 10
        world.candidate = FakeCaptioner("new@2")
        assert world.promote(url="http://127.0.0.1:9") == 0
        assert world.candidate.batches == [10, 4]
        assert len({row["image_id"] for row in world.compared}) == len(world.compared) == COUNT


class TestErrors:
    def test_no_audit(self, world: World, capsys):
        plan_review(world.output, "fake@1", DECODING, ReviewRules(review_below=1.0, audit=0))
        assert world.promote(url="http://127.0.0.1:9") == 1
        told = capsys.readouterr().err
        assert f"no caption by fake@1 with decoding {DECODING} was drawn by an audit" in told
        assert f"captioner review plan {world.output.uri} --audit 2%" in told

    def test_the_present_model_itself(self, world: World, capsys):
        world.candidate = FakeCaptioner()
        assert world.promote(url="http://127.0.0.1:9") == 2
        assert f"is the present model, fake@1 with decoding {DECODING}" in capsys.readouterr().err

    def test_a_candidate_that_cannot_be_loaded(self, tmp_path: Path, world: World, monkeypatch):
        monkeypatch.undo()
        monkeypatch.setenv("LABEL_STUDIO_API_KEY", "0" * 40)
        assert world.promote(url="http://127.0.0.1:9") == 2
        assert world.compared == []

    def test_several_models(self, world: World, capsys):
        annotate(world.folder / "in", world.output, FakeCaptioner("third@3"))
        assert world.promote(url="http://127.0.0.1:9") == 2
        assert "holds captions of several kinds; choose by --model_id" in capsys.readouterr().err
        world.candidate = FakeCaptioner("new@2")
        assert world.promote("--model_id", "fake@1", url="http://127.0.0.1:9") == 0

    def test_no_captions_at_all(self, tmp_path: Path, world: World, capsys):
        shutil.rmtree(tmp_path / "out")
        assert world.promote(url="http://127.0.0.1:9") == 2
        assert "holds no captions; run captioner annotate first" in capsys.readouterr().err

    def test_no_token(self, world: World, monkeypatch, capsys):
        monkeypatch.delenv("LABEL_STUDIO_API_KEY")
        assert world.promote(url="http://127.0.0.1:9") == 2
        assert "no token for Label Studio" in capsys.readouterr().err

    def test_a_wrong_token(self, world: World, label_studio: LabelStudio, capsys):
        assert world.promote(url=label_studio.url) == 4
        told = capsys.readouterr()
        assert "refuses the token" in told.err
        assert "What was captioned and answered is kept" in told.err
        assert "0" * 40 not in told.out + told.err
        assert len(world.compared) == COUNT

    def test_a_server_that_is_down_costs_nothing(self, online: World, capsys):
        assert online.promote(url=f"http://127.0.0.1:{free_port()}") == 4
        assert "does not answer" in capsys.readouterr().err
        assert online.promote() == 0
        assert online.candidate.batches == [24], "what was captioned is not captioned again"
        assert len(online.tasks()) == 12

    def test_a_project_that_is_deleted_meanwhile_is_made_anew(self, online: World, capsys):
        online.promote()
        online.answer(for_candidate, most=2)
        online.promote()
        before, number = online.compared, online.tasks()[0]["project"]

        def delete_it(method: str, path: str) -> None:
            if path == "/api/tasks":
                with online._http() as http:
                    http.delete(f"/api/projects/{number}/")

        capsys.readouterr()
        with Proxy(online.server.url) as proxy:
            proxy.before = delete_it
            assert online.promote(url=proxy.url) == 4
        told = capsys.readouterr()
        assert f"(number {number}) was deleted while captions were compared" in told.err
        assert "2 of 12 compared" in told.out
        assert online.compared == before
        assert online.promote() == 0
        assert "2 of 12 compared" in capsys.readouterr().out
        assert len(online.tasks()) == 10, "what was answered is not asked again"

    def test_a_task_that_the_server_fails_at_keeps_its_answer(
        self, online: World, monkeypatch, capsys
    ):
        monkeypatch.setattr("pipelines.labelstudio.client._delay", lambda *_: 0.01)
        online.promote()
        online.answer(for_candidate, most=2)
        online.promote()
        before = online.compared
        one, _, other = [task["id"] for task in online.tasks()][:3]
        with online._http() as http:
            for task in (one, other):
                cut(http, task, "better")
        capsys.readouterr()
        assert online.promote() == 4
        told = capsys.readouterr()
        assert f"fails at (status 500), which were not read: {one}, {other}. It does" in told.err
        assert "2 of 12 compared" in told.out
        assert online.compared == before
        assert len(online.tasks(include="id")) == 12


def plan(audit: str) -> str:
    return f"captioner review plan OUT --audit {audit}"


class TestWhatNext:
    @pytest.mark.parametrize(
        ("outcomes", "same", "waiting", "share", "said"),
        [
            ([1, 1, 1, -1], 20, 40, 0.1, "about 33 more answers would tell, if they go on"),
            ([1] * 5, 20, 0, 0.1, "3 more answers would tell, if they go on like this; no task wa"),
            ([], 20, 4, 0.02, "at least 8 answers for the same model are needed; 4 tasks wait"),
            ([1, -1], 0, 3, 0.02, "so far neither is better"),
            ([1, 1, -1] * 8, 0, 0, 0.6, "more than there are images; no task waits for one"),
        ],
    )
    def test_says_how_many_more(self, outcomes, same, waiting, share, said):
        found = compare(np.array(outcomes, np.int8), same=same, waiting=waiting)
        assert said in what_next(found, share, plan)

    def test_a_larger_audit(self):
        """Five of ten differ, and 3 answers lack: 6 images more, so 16 in place of 10."""
        found = compare(np.ones(5, np.int8), same=5)
        assert found.missing == 3
        assert "captioner review plan OUT --audit 3.2%" in what_next(found, 0.02, plan)
