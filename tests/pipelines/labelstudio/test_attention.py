"""Pictures of where the model looked: what a reviewer gets, and when there are none."""

import io
import os
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from captioner.annotations import NO_CLASSES
from captioner.contract import Caption, DecodingConfig
from captioner.images import Limits
from captioner.scenes import write_folder
from pipelines.cli import main
from pipelines.default_model import write_default
from pipelines.labelstudio import config
from pipelines.labelstudio.attention import AttentionPictures
from pipelines.labelstudio.client import Client
from pipelines.labelstudio.project import open_project
from pipelines.labelstudio.push import LabelStudioError, ReviewItem, push
from pipelines.labelstudio.uploads import Uploads
from pipelines.output import Output
from pipelines.planning import ReviewRules, plan_review
from tests.fakes import FakeCaptioner
from tests.pipelines.helpers import bare_model, rows
from tests.pipelines.labelstudio.conftest import Queue, make_item
from tests.pipelines.labelstudio.test_browser import ActionChains, Reviewer, reviewer
from tests.pipelines.labelstudio.test_init import init, write_output
from tests.pipelines.planned import DECODING, MODEL, add, captions

__all__ = ["reviewer"]

COLOURS = ((220, 20, 20), (20, 200, 20), (20, 20, 220), (200, 20, 200))
"""Of the quarters of an image, row by row."""


@dataclass
class Looking(FakeCaptioner):
    """Looks at another quarter of the image at each word."""

    def caption(self, batch: Any) -> list[Caption]:
        looked = np.eye(4, dtype=np.float32).reshape(4, 2, 2)
        return [replace(one, attention=looked) for one in super().caption(batch)]


def write_quarters(path: Path, size: int = 96) -> bytes:
    image, half = Image.new("RGB", (size, size)), size // 2
    for number, colour in enumerate(COLOURS):
        left, top = number % 2 * half, number // 2 * half
        image.paste(colour, (left, top, left + half, top + half))
    image.save(path)
    return path.read_bytes()


def item_of(path: Path, number: int = 1, **changes: Any) -> ReviewItem:
    """An image of four colours, and the caption that the model gives it."""
    data = write_quarters(path, 96 + 2 * number)
    model = Looking()
    (caption,) = model.caption([model.prepare(Image.open(path))])
    values = {
        "uri": f"file://{path}",
        "image_id": sha256(data).hexdigest(),
        "caption": caption.text,
        "model_id": model.model_id,
        "decoding": model.decoding.id,
    }
    return make_item(number, **values | changes)


@pytest.fixture
def project(queue: Queue) -> Queue:
    """A project that shows where the model looked."""
    with Client(queue.settings) as client:
        open_project(client, queue.title, show_attention=True)
    return queue


def uploads(queue: Queue) -> list[str]:
    path = f"/api/projects/{queue.project()['id']}/file-uploads"
    return [one["file"] for one in queue.get(path, params={"all": "true"})]


def picture(queue: Queue, task: dict[str, Any]) -> Image.Image:
    answer = queue.http.get(task["data"]["attention"]).raise_for_status()
    assert len(answer.content) < 150_000
    return Image.open(io.BytesIO(answer.content))


class TestConfig:
    def test_the_picture_comes_where_it_is_asked_for(self) -> None:
        plain, both = config.label_config(NO_CLASSES), config.label_config(NO_CLASSES, True, True)
        made = config.label_config(NO_CLASSES, show_attention=True)
        for one in (made, both):
            config.validate(one)
            assert config.wants_attention(one)
            assert config.differences(one, NO_CLASSES, show_attention=True) == []
            assert config.differences(one) == []
        assert not config.wants_attention(plain)
        assert not config.wants_unsure_words(made)
        assert config.differences(plain, NO_CLASSES, show_attention=True) == [
            "there is no Image named 'attention'"
        ]
        assert "where the model looked" in config.instruction(NO_CLASSES, show_attention=True)

    def test_a_project_remembers_it(
        self, queue: Queue, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        output = write_output(tmp_path, ["file:///in/a.jpg"])
        assert init(output, queue, "--show_attention", "--show_unsure_words") == 0
        said = capsys.readouterr().out
        assert "  controls  where the model looked, unsure words, caption, verdict" in said
        before = queue.project()
        assert config.wants_attention(before["label_config"])
        assert "where the model looked" in before["expert_instruction"]
        assert init(output, queue, "--show_attention") == 0
        assert init(output, queue) == 0
        assert queue.project()["label_config"] == before["label_config"]

    def test_the_push_that_comes_next_names_the_model(
        self, queue: Queue, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        output = write_output(tmp_path, ["file:///in/a.jpg"])

        def advised(*flags: str) -> str:
            assert init(output, queue, *flags) == 0
            return capsys.readouterr().out.splitlines()[-1]

        plain = advised()
        assert plain.endswith(f"--label_studio_token_file {queue.server.token_file}")
        queue.http.delete(f"/api/projects/{queue.project()['id']}/").raise_for_status()
        for said, named in (("embedded", ""), ("my model", " --model 'my model'")):
            output.write_manifest("run", {"config": {"model": said}})
            assert advised("--show_attention") == plain + named
        assert advised() == plain + named  # The project shows it, asked for again or not.
        write_default(output, "my model", Looking(), ("old@1", "abc"))
        assert advised("--show_attention") == plain
        output.write_manifest("run", {"config": {"model": "embedded"}})
        assert advised("--show_attention") == f"{plain} --model embedded"

    def test_of_several_models_there_is_a_push_for_each(
        self, queue: Queue, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        output = write_output(tmp_path, ["file:///in/a.jpg"])
        others = {"decoding": ["d2"], "run_id": ["later"], "uri": ["file:///in/a.jpg"]}
        add(output, "captions", captions([0.5], model_id="new@1", **others))
        plan_review(output, "new@1", "d2", ReviewRules(review_below=1.0, audit=0))
        output.write_manifest("run", {"config": {"model": "embedded"}})
        output.write_manifest("later", {"config": {"model": "my model"}})
        assert init(output, queue, "--show_attention") == 0
        first, second = capsys.readouterr().out.splitlines()[-2:]
        where = f"--label_studio_token_file {queue.server.token_file}"
        assert first.startswith("Fill it: captioner review push")
        assert first.endswith(f"{where} --model_id {MODEL} --decoding {DECODING}")
        assert second.endswith(f"{where} --model 'my model' --model_id new@1 --decoding d2")

    def test_a_project_without_it_is_shown_the_difference(
        self, queue: Queue, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        output = write_output(tmp_path, ["file:///in/a.jpg"])
        assert init(output, queue) == 0
        before = queue.project()["label_config"]
        assert init(output, queue, "--show_attention") == 2
        said = capsys.readouterr().err
        assert "there is no Image named 'attention'" in said
        wanted = said.partition("is wanted:\n")[2].partition("captioner: ")[0]
        assert config.differences(wanted, NO_CLASSES, show_attention=True) == []
        assert queue.project()["label_config"] == before


class TestPictures:
    def test_each_word_over_what_it_looked_at(self, project: Queue, tmp_path: Path) -> None:
        item = item_of(tmp_path / "a.png")
        report = push([item], project.settings, load=Looking)
        assert (report.tasks_created, report.notes) == (1, ())
        (task,) = project.tasks()
        drawn = np.asarray(picture(project, task).convert("RGB"), np.int16)
        assert drawn.shape[1] == 1000
        for word in range(3):  # the fourth token ends the caption
            panel = drawn[8:248, 8 + 248 * word : 248 + 248 * word]
            corners = [panel[236 * (n // 2) + 2, 236 * (n % 2) + 2] for n in range(4)]
            assert abs(corners[word] - COLOURS[word]).max() < 40
            assert np.ptp(corners[3 - word]) < 20  # the quarter across is grey
        assert drawn[8:248, 752:].min() > 240  # white: there are three words

    def test_pushed_again_nothing_is_made_or_uploaded(self, project: Queue, tmp_path: Path) -> None:
        items = [item_of(tmp_path / f"{n}.png", n) for n in range(30)]
        model = Looking()
        push(items, project.settings, load=lambda: model)
        before = uploads(project)
        assert len(before) == len(set(before)) == 2 * 30
        assert sum(model.batches) == 30
        assert max(model.batches) <= 25
        project.assert_each_once(items)
        shown = {task["data"]["image_id"]: task["data"]["attention"] for task in project.tasks()}
        assert len(set(shown.values())) == 30

        report = push(items, project.settings, load=lambda: pytest.fail("it is not needed"))
        assert (report.tasks_created, report.tasks_found) == (0, 30)
        assert uploads(project) == before

    def test_one_that_a_dead_push_left_is_used(self, project: Queue, tmp_path: Path) -> None:
        item = item_of(tmp_path / "a.png")
        push([item], project.settings, load=Looking)
        before = uploads(project)
        (task,) = project.tasks()
        project.http.delete(f"/api/tasks/{task['id']}/").raise_for_status()
        push([item], project.settings, load=lambda: pytest.fail("it is not needed"))
        (again,) = project.tasks()
        assert again["data"]["attention"] == task["data"]["attention"]
        assert uploads(project) == before

    def test_of_another_decoding_there_is_another(self, project: Queue, tmp_path: Path) -> None:
        item = item_of(tmp_path / "a.png")
        push([item], project.settings, load=Looking)
        (task,) = project.tasks()
        project.http.delete(f"/api/tasks/{task['id']}/").raise_for_status()
        other = DecodingConfig(max_length=7)
        push(
            [replace(item, decoding=other.id)],
            project.settings,
            load=lambda: Looking(decoding=other),
        )
        (again,) = project.tasks()
        assert again["data"]["attention"] != task["data"]["attention"]

    def test_a_batch_that_the_model_cannot_take_is_split(
        self, project: Queue, tmp_path: Path
    ) -> None:
        items = [item_of(tmp_path / f"{n}.png", n) for n in range(5)]
        report = push(items, project.settings, load=lambda: Looking(most=2))
        assert report.notes == ()
        assert len({task["data"]["attention"] for task in project.tasks()}) == 5


class Kept(Uploads):
    """What is uploaded, kept here."""

    def __init__(self) -> None:  # without a server
        self.kept: dict[str, str] = {}

    def known(self) -> dict[str, str]:
        return self.kept

    def add(self, pictures: Mapping[str, bytes]) -> None:
        self.kept |= dict.fromkeys(pictures, "https://here.invalid")


class TestMissing:
    def test_the_task_comes_without_and_it_is_told(self, project: Queue, tmp_path: Path) -> None:
        gone = item_of(tmp_path / "1.png", 1, uri="http://127.0.0.1:9/gone.png")
        another = item_of(tmp_path / "3.png", 3, caption="something else")
        poison = item_of(tmp_path / "4.png", 4)
        Image.new("RGB", (9, 9), (77, 0, 0)).save(tmp_path / "4.png")
        poison = replace(poison, image_id=sha256((tmp_path / "4.png").read_bytes()).hexdigest())
        fine = item_of(tmp_path / "5.png", 5)
        items = [gone, another, poison, fine]
        report = push(items, project.settings, load=lambda: Looking(poison=77))
        project.assert_each_once(items)
        assert (report.tasks_created, report.failed) == (4, ())
        noted = dict(zip((gone, another, poison), report.notes, strict=True))
        assert f"no picture of where the model looked: {gone.uri}: " in noted[gone]
        assert "it got another caption: 'r" in noted[another]
        assert noted[poison].endswith("the model failed on it: ValueError('poison')")
        shown = {task["data"]["image_id"]: task for task in project.tasks()}
        (none,) = {shown[item.image_id]["data"]["attention"] for item in items[:3]}
        assert picture(project, shown[gone.image_id]).height < 60
        assert shown[fine.image_id]["data"]["attention"] != none
        assert sum("no-attention" in name for name in uploads(project)) == 1

    def test_one_that_the_model_cannot_prepare(
        self, project: Queue, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        items = [item_of(tmp_path / f"{n}.png", n) for n in range(2)]
        model, prepare = Looking(), FakeCaptioner.prepare

        def refusing(image: Image.Image) -> Any:
            if image.width == 96:
                raise OverflowError("too flat")
            return prepare(model, image)

        monkeypatch.setattr(model, "prepare", refusing)
        report = push(items, project.settings, load=lambda: model)
        project.assert_each_once(items)
        (note,) = report.notes
        assert note.endswith("0.png: the model could not take the image: OverflowError('too flat')")
        assert sum("no-attention" in name for name in uploads(project)) == 1

    def test_one_that_has_changed(self, tmp_path: Path) -> None:
        items = [item_of(tmp_path / "1.png", image_id="0" * 64), item_of(tmp_path / "2.png", 2)]
        kinds = {(item.model_id, item.decoding) for item in items}
        pictures = AttentionPictures(Looking, kinds, Limits())
        assert pictures.addresses(items, Kept()).keys() == {item.image_id for item in items}
        changed = "the image has changed since it was captioned"
        assert pictures.missing == {items[0].uri: changed}

    def test_one_that_costs_more_than_it_may(self, tmp_path: Path) -> None:
        items = [item_of(tmp_path / f"{n}.png", n) for n in range(2)]
        kinds = {(item.model_id, item.decoding) for item in items}
        pictures = AttentionPictures(Looking, kinds, Limits(max_pixels=96 * 96))
        assert pictures.addresses(items, Kept()).keys() == {item.image_id for item in items}
        assert pictures.missing.keys() == {items[1].uri}
        assert "98 x 98 pixels; the limit is 9,216" in pictures.missing[items[1].uri]

    def test_many_are_counted(self, project: Queue, tmp_path: Path) -> None:
        items = [item_of(tmp_path / f"{n}.png", n, caption="else") for n in range(8)]
        notes = push(items, project.settings, load=Looking).notes
        assert len(notes) == 6
        assert notes[-1] == "3 more tasks have no such picture"


class TestRefused:
    def test_a_model_of_another_id(self, project: Queue, tmp_path: Path) -> None:
        item = item_of(tmp_path / "a.png")
        message = r"of fake@1 [0-9a-f]+, and the model is other@2 [0-9a-f]+; .* by --model, "
        with pytest.raises(LabelStudioError, match=message):
            push([item], project.settings, load=lambda: Looking(model_id="other@2"))
        assert project.tasks() == []

    def test_another_decoding(self, project: Queue, tmp_path: Path) -> None:
        items = [item_of(tmp_path / "a.png"), item_of(tmp_path / "b.png", 2, decoding="beams")]
        with pytest.raises(LabelStudioError, match="captions of the queue are of fake@1 beams, "):
            push(items, project.settings, load=Looking)
        assert project.tasks() == []

    def test_a_model_that_does_not_tell(self, project: Queue, tmp_path: Path) -> None:
        with pytest.raises(LabelStudioError, match="fake@1 does not tell where it looks; .*_atten"):
            push([item_of(tmp_path / "a.png")], project.settings, load=FakeCaptioner)
        assert project.tasks() == []

    def test_no_model_is_named(self, project: Queue, tmp_path: Path) -> None:
        with pytest.raises(LabelStudioError, match="which only the model can tell"):
            push([item_of(tmp_path / "a.png")], project.settings)

    def test_where_nobody_looks_no_model_is_needed(self, queue: Queue, tmp_path: Path) -> None:
        push([item_of(tmp_path / "a.png")], queue.settings, load=lambda: pytest.fail("not needed"))
        assert "attention" not in queue.tasks()[0]["data"]


def flags(queue: Queue) -> list[str]:
    given = ["--label_studio_url", queue.server.url, "--label_studio_project", queue.title]
    return [*given, "--label_studio_token_file", str(queue.server.token_file)]


def annotated(tmp_path: Path, *more: str) -> Output:
    """Caption drawn scenes by the embedded model, and queue all of them."""
    if not (tmp_path / "scenes").exists():
        write_folder(tmp_path / "scenes", count=2, seed=20_000)
    output = Output((tmp_path / "out").as_uri())
    given = ["--input", str(tmp_path / "scenes"), "--output", str(tmp_path / "out")]
    assert main(["annotate", *given, "--device", "cpu", "--review_below", "1", *more]) == 0
    return output


def shown(reviewer: Reviewer, width: int) -> Any:
    """Return an image of this width that a reviewer sees; it is shown from a blob's address."""
    images = reviewer.browser.find_elements("css selector", "img")
    wide = [image for image in images if image.get_attribute("naturalWidth") == str(width)]
    return next((image for image in wide if image.is_displayed()), None)


class TestCommand:
    def test_push_makes_the_captions_again_as_they_were_made(
        self, queue: Queue, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        write_folder(tmp_path / "scenes", count=2, seed=20_000)
        scene = min((tmp_path / "scenes").rglob("*.jpg"))
        Image.open(scene).resize((10_100, 10_000)).save(scene)
        allowed = ["--max_image_pixels", "101000000"]
        output = annotated(
            tmp_path, "--strategy", "beam", "--max_length", "40", "--draft", *allowed
        )
        assert init(output, queue, "--show_attention") == 0
        command = ["review", "push", output.uri, *flags(queue)]
        model = bare_model(tmp_path / "model")
        capsys.readouterr()
        assert main([*command, "--model", str(model)]) == 4
        said = capsys.readouterr().err
        assert "not pushed: the project shows where the model looked, but captions of" in said
        assert shlex.split(said.splitlines()[-1])[1:] == [*command, "--model", str(model)]
        assert queue.tasks() == []
        row = rows(output)[0]
        kind = ["--model_id", row["model_id"], "--decoding", row["decoding"]]
        given = ["--model", str(model), "--device", "cpu", *kind]
        assert main([*command, *given]) == 4
        assert shlex.split(capsys.readouterr().err.splitlines()[-1])[1:] == [*command, *given]

        assert main([*command, "--model_id", "nobody"]) == 2
        assert "--model_id nobody has no captions here" in capsys.readouterr().err
        assert main([*command, "--model", str(tmp_path / "none")]) == 4
        assert "not pushed: " in capsys.readouterr().err

        assert main(command) == 0
        assert "no picture" not in capsys.readouterr().err
        tasks = queue.tasks()
        assert len(tasks) == 2
        for task in tasks:
            assert picture(queue, task).height > 250

    def test_a_reviewer_sees_the_picture(
        self, reviewer: Reviewer, queue: Queue, tmp_path: Path
    ) -> None:
        """As annotate pushes it, with the words marked that the model was unsure of."""
        output = annotated(tmp_path)
        assert init(output, queue, "--show_unsure_words", "--show_attention") == 0
        annotated(tmp_path, *flags(queue))
        first = min(rows(output, "captions"), key=lambda row: row["confidence"])
        reviewer.browser.set_window_size(1440, 1000)
        reviewer.open_queue()
        reviewer.wait(lambda: reviewer.caption() == first["caption"])
        looked = reviewer.wait(lambda: shown(reviewer, 1000))
        assert looked.size["width"] > 300
        assert looked.location["y"] > reviewer.wait(lambda: shown(reviewer, 224)).location["y"]
        if folder := os.environ.get("CAPTIONER_SCREENSHOTS"):
            reviewer.browser.save_screenshot(f"{folder}/attention.png")
        ActionChains(reviewer.browser).send_keys("1").perform()
        reviewer.find("[data-testid=bottombar-submit-button]").click()
        reviewer.wait(lambda: any(task["annotations"] for task in queue.tasks()))
        (annotation,) = (one for task in queue.tasks() for one in task["annotations"])
        said = {region["from_name"]: region["value"] for region in annotation["result"]}
        assert said["caption"] == {"text": [first["caption"]]}
        assert said["verdict"] == {"choices": ["accept"]}
        assert said.keys() <= {"caption", "verdict", "labels", "boxes", "masks"}
