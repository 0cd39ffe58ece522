"""Planning the queue, and the push as the last step of the main job."""

import shlex
import shutil
import signal
import socket
import subprocess
import sys
import uuid
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from captioner.annotations import Annotations, Box, ClassNames, Label
from captioner.images import Limits
from captioner.scenes import write_folder
from pipelines.cli import main
from pipelines.output import Output
from pipelines.planning import ReviewPlan, ReviewRules
from pipelines.planning import plan_review as plan_by
from pipelines.review import ReviewConfig, review_committed
from pipelines.review_queue import caption_limits, queue_classes, queue_limits, review_items
from tests.fakes import FakeCaptioner
from tests.pipelines.helpers import annotate, rows, write_images
from tests.pipelines.test_main_job import captioner
from tests.servers import LabelStudio, free_port

DECODING = FakeCaptioner().decoding.id


@pytest.fixture
def output(tmp_path: Path) -> Output:
    """Twenty captions of different confidence, and one more image with the bytes of the first."""
    for number, path in enumerate(write_images(tmp_path / "in", 20)):
        noise = np.random.default_rng(number).integers(0, 256, (10, 12, 3), np.uint8)
        plain = np.asarray(Image.open(path))
        Image.fromarray(plain // 2 + noise // 2).save(path)  # near-duplicates of no other
    shutil.copy(tmp_path / "in" / "00000.png", tmp_path / "in" / "copy.png")
    output = Output((tmp_path / "out").as_uri())
    annotate(tmp_path / "in", output)
    return output


def plan_review(output: Output, model_id: str, decoding: str, below: float) -> ReviewPlan:
    return plan_by(output, model_id, decoding, ReviewRules(review_below=below, audit=0))


class TestPlan:
    def test_what_is_below_is_queued_least_confident_first(self, output: Output):
        below = sorted(row["confidence"] for row in rows(output))[8]
        plan = plan_review(output, "fake@1", DECODING, below)
        queue = [row for _, table in output.tables("review") for row in table.to_pylist()]
        assert plan.queued + plan.deferred == len(queue) == 8
        confidences = [row["confidence"] for row in queue]
        assert confidences == sorted(confidences)
        assert max(confidences) < below

    def test_equal_bytes_are_one_item_of_review(self, output: Output):
        reasons = {"threshold": 20, "deferred": 1}
        assert plan_review(output, "fake@1", DECODING, 1.0) == ReviewPlan(20, 1, 0, reasons)
        assert len({item.image_id for item in review_items(output)}) == 20
        (deferred,) = [row for row in rows(output, "review") if row["reasons"] == ["deferred"]]
        assert deferred["uri"].endswith("/copy.png")

    def test_classes_are_those_of_the_runs_and_of_what_was_found(self, output: Output):
        plan_review(output, "fake@1", DECODING, 1.0)
        items = list(review_items(output, "fake@1", DECODING))
        (run_id,) = {row["run_id"] for row in rows(output, "review")}
        manifest = output.read_manifest(run_id)
        known = {"labels": ["red", "blue"], "boxes": [], "masks": []}
        output.write_manifest(run_id, {**manifest, "classes": known})
        assert queue_classes(output, items) == ClassNames(("red", "blue"))
        found = Annotations(labels=(Label("red"),), boxes=(Box("dog", 0, 0, 1, 1),))
        items[0] = replace(items[0], annotations=found)
        assert queue_classes(output, items) == ClassNames(("red", "blue"), ("dog",))
        output.write_manifest(run_id, manifest | {"classes": {}})
        assert queue_classes(output, items) == ClassNames(("red",), ("dog",))
        assert queue_classes(output, [], "another@1") == ClassNames()

    def test_limits_are_the_widest_that_a_run_was_given(self, output: Output, tmp_path: Path):
        assert queue_limits(output) == Limits()  # no manifest tells
        annotate(tmp_path / "in", output, FakeCaptioner(model_id="fake@2"))
        for model_id, limits in (("fake@1", Limits(7, 900)), ("fake@2", Limits(8, 300))):
            plan_review(output, model_id, DECODING, 1.0)
            (run_id,) = {row["run_id"] for row in rows(output) if row["model_id"] == model_id}
            manifest = output.read_manifest(run_id)
            output.write_manifest(run_id, {**manifest, "config": {"limits": asdict(limits)}})
        assert queue_limits(output, "fake@1") == Limits(7, 900)
        assert queue_limits(output) == Limits(8, 900)
        plan_review(output, "fake@1", DECODING, 0.0)
        plan_review(output, "fake@2", DECODING, 0.0)
        assert queue_limits(output) == Limits()  # nothing is queued
        assert caption_limits(output, "fake@1", DECODING) == Limits(7, 900)
        assert caption_limits(output, "fake@2") == Limits(8, 300)
        assert caption_limits(output) == Limits(8, 900)
        assert caption_limits(output, "fake@3") == Limits()

    def test_the_same_captions_give_the_same_queue(self, output: Output, tmp_path: Path):
        plan_review(output, "fake@1", DECODING, 0.5)
        first = output.current().of("review")
        plan_review(output, "fake@1", DECODING, 0.5)
        assert output.current().of("review") == first
        in_pieces = Output((tmp_path / "pieces").as_uri())
        annotate(tmp_path / "in", in_pieces, change=lambda refs: refs[:7])
        annotate(tmp_path / "in", in_pieces, part_rows=3)
        plan_review(in_pieces, "fake@1", DECODING, 0.5)
        for row, same in zip(rows(output, "review"), rows(in_pieces, "review"), strict=True):
            assert {**row, "run_id": ""} == {**same, "run_id": ""}

    def test_a_new_plan_replaces_that_models_queue_only(self, output: Output, tmp_path: Path):
        annotate(tmp_path / "in", output, FakeCaptioner(model_id="fake@2"))
        plan_review(output, "fake@1", DECODING, 1.0)
        plan_review(output, "fake@2", DECODING, 1.0)
        plan_review(output, "fake@1", DECODING, 0.0)
        assert {row["model_id"] for row in rows(output, "review")} == {"fake@2"}

    def test_the_manifest_tells_of_the_plan(self, output: Output):
        (run_id,) = {row["run_id"] for row in rows(output)}
        review = ReviewConfig(rules=ReviewRules(budget=2, audit=1.0))
        manifest = review_committed(output, run_id, "fake@1", DECODING, review)
        assert manifest == output.read_manifest(run_id)
        found = manifest["review"]
        assert found["rules"]["budget"] == 2
        assert (found["queued"], found["audited"]) == (21, 21)
        assert found["reasons"] == {"budget": 2, "audit": 21}

    def test_rules_out_of_reach_leave_the_queue_and_are_in_the_manifest(self, output: Output):
        plan_review(output, "fake@1", DECODING, 0.5)
        before = output.current()
        (run_id,) = {row["run_id"] for row in rows(output)}
        review = ReviewConfig(rules=ReviewRules(budget=22))
        manifest = review_committed(output, run_id, "fake@1", DECODING, review)
        assert "only 21 captions" in manifest["review"]["error"]
        assert output.current() == before


def unique(title: str) -> str:
    """A title that no project of a shared server has."""
    return f"{title} {uuid.uuid4().hex[:12]}"


class TestPush:
    @pytest.fixture
    def images(self, tmp_path: Path) -> Path:
        write_folder(str(tmp_path / "scenes"), count=6, seed=11)
        return tmp_path / "scenes"

    def flags(self, images: Path, output: Path, url: str, project: str) -> list[object]:
        flags = [
            "annotate",
            "--input",
            images,
            "--output",
            output,
            "--review_below",
            "1",
            "--audit",
            "0",
        ]
        return [*flags, "--label_studio_url", url, "--label_studio_project", project]

    def test_promise_7_label_studio_sees_each_image_once(
        self, images: Path, tmp_path: Path, label_studio: LabelStudio
    ):
        flags = self.flags(images, tmp_path / "out", label_studio.url, unique("Main job"))
        flags += ["--label_studio_token_file", label_studio.token_file]
        first = captioner(*flags)
        assert first.returncode == 0, first.stderr
        assert "6 tasks made, 0 there before" in first.stderr
        Image.new("RGB", (50, 50)).save(images / "new.png")
        second = captioner(*flags)
        assert second.returncode == 0, second.stderr
        assert "1 tasks made, 6 there before" in second.stderr

    def test_a_server_that_is_down_costs_nothing(
        self, images: Path, tmp_path: Path, label_studio: LabelStudio
    ):
        url = f"http://127.0.0.1:{free_port()}"
        flags = self.flags(images, tmp_path / "out", url, unique("Pushed later"))
        flags += ["--device", "cpu"]
        flags += ["--label_studio_token_file", label_studio.token_file]
        down = captioner(*flags)
        assert down.returncode == 4
        assert len(rows(Output((tmp_path / "out").as_uri()))) == 6
        advice = shlex.split(down.stderr.strip().splitlines()[-1])
        assert advice[:3] == ["captioner", "review", "push"]
        row = rows(Output((tmp_path / "out").as_uri()))[0]
        kind = ["--model_id", row["model_id"], "--decoding", row["decoding"]]
        assert advice[-6:] == ["--device", "cpu", *kind]
        later = captioner(*(label_studio.url if part == url else part for part in advice[1:]))
        assert later.returncode == 0, later.stderr
        assert "6 tasks made" in later.stderr

    def test_a_push_that_is_not_waited_for_leaves_captions_and_queue(
        self, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ):
        """A server that takes a connection and never answers, and then Ctrl-C."""
        monkeypatch.setenv("LABEL_STUDIO_API_KEY", "0123456789" * 4)
        with socket.create_server(("127.0.0.1", 0)) as server:
            url = f"http://127.0.0.1:{server.getsockname()[1]}"
            flags = map(str, self.flags(images, tmp_path / "out", url, "Never answers"))
            command = [sys.executable, "-m", "pipelines.cli", *flags]
            # Where the tests run in the background of a shell, Ctrl-C is ignored, and by what they
            # start as well.
            heed = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
            with subprocess.Popen(
                command,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                preexec_fn=heed,
            ) as process:
                server.settimeout(120)
                connection, _ = server.accept()
                with connection:
                    process.send_signal(signal.SIGINT)
                    stdout, stderr = process.communicate(timeout=60)
        assert process.returncode == 130
        assert "captions are committed; the push to Label Studio was interrupted" in stderr
        row = rows(Output((tmp_path / "out").as_uri()))[0]
        kind = f"--model_id {row['model_id']} --decoding {row['decoding']}"
        (advice,) = [line for line in stderr.splitlines() if "captioner review push" in line]
        assert advice.endswith(kind)
        assert "captioned" in stdout
        assert "6 rows" in stdout
        output = Output((tmp_path / "out").as_uri())
        assert len(rows(output)) == len(rows(output, "review")) == 6

    def test_a_plan_that_is_not_waited_for_is_made_by_the_same_command(
        self,
        images: Path,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ):
        def stopped(*_: object) -> None:
            raise KeyboardInterrupt

        flags = ["annotate", "--input", str(images), "--output", str(tmp_path / "out")]
        with monkeypatch.context() as patch:
            patch.setattr("pipelines.review.plan_review", stopped)
            assert main([*flags, "--audit", "100%"]) == 130
        told = capsys.readouterr().err
        assert "captions are committed; the planning of the review was interrupted" in told
        assert "Run the same command again" in told
        assert "push" not in told
        output = Output((tmp_path / "out").as_uri())
        assert (len(rows(output)), len(rows(output, "review"))) == (6, 0)
        assert main([*flags, "--audit", "100%"]) == 0
        assert (len(rows(output)), len(rows(output, "review"))) == (6, 6)

    def test_promise_10_no_secret_is_written_down(
        self, images: Path, tmp_path: Path, label_studio: LabelStudio
    ):
        flags = self.flags(images, tmp_path / "out", label_studio.url, unique("No secret"))
        environment = {"LABEL_STUDIO_API_KEY": label_studio.token}
        with pytest.MonkeyPatch.context() as patch:
            for name, value in environment.items():
                patch.setenv(name, value)
            done = captioner(*flags)
            assert done.returncode == 0, done.stderr
            patch.setenv("LABEL_STUDIO_API_KEY", wrong := "deadbeef" * 5)
            refused = captioner(*flags)
        assert refused.returncode == 4
        files = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
        assert len(files) >= 4
        said = done.stderr + done.stdout + refused.stderr + refused.stdout
        for secret in (label_studio.token, wrong):
            assert secret not in said
            assert not [path for path in files if secret.encode() in path.read_bytes()]
