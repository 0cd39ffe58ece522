"""`review init`: the project is made or adopted, and a second time nothing changes."""

import json
from pathlib import Path
from typing import Any

import fsspec
import pytest

from captioner.annotations import ClassNames
from pipelines.cli import main
from pipelines.labelstudio import config
from pipelines.labelstudio.client import Client
from pipelines.labelstudio.push import push
from pipelines.output import Output
from pipelines.planning import ReviewRules, plan_review
from tests.pipelines.labelstudio.conftest import Queue, make_item, make_items
from tests.pipelines.labelstudio.proxy import Proxy
from tests.pipelines.labelstudio.test_images import make_picture, storage_key
from tests.pipelines.planned import DECODING, MODEL, add, captions
from tests.servers import ObjectStore

__all__ = ["storage_key"]

CLASSES = {"labels": ["indoors"], "boxes": ["cat", "dog"], "masks": []}


def write_output(
    folder: Path, uris: list[str], classes: dict[str, list[str]] | None = None, below: float = 1.0
) -> Output:
    """Write an output with a caption of each uri; those below a confidence are queued."""
    output = Output(f"file://{folder}/out")
    add(output, "captions", captions([0.5] * len(uris), uri=uris))
    if classes is not None:
        output.write_manifest("run", {"classes": classes})
    plan_review(output, MODEL, DECODING, ReviewRules(review_below=below, audit=0))
    return output


def init(output: Output, queue: Queue, *flags: str, **changes: str) -> int:
    token_file = changes.get("token_file", str(queue.server.token_file))
    arguments = ["review", "init", output.uri.removeprefix("file://")]
    arguments += ["--label_studio_url", changes.get("url", queue.server.url)]
    arguments += ["--label_studio_project", changes.get("title", queue.title)]
    return main([*arguments, "--label_studio_token_file", token_file, *flags])


def everything(queue: Queue) -> Any:
    """Return what Label Studio has of the project, storages included."""
    number = queue.project()["id"]
    stores = [
        queue.get(f"/api/storages/{kind}", params={"project": number}) for kind in "s3 gcs".split()
    ]
    project = queue.get(f"/api/projects/{number}/")
    return json.dumps([project, stores], sort_keys=True)


class TestMade:
    def test_a_project_for_what_the_model_gives(
        self, queue: Queue, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        output = write_output(tmp_path, ["file:///in/a.jpg", "https://host/b.jpg"], CLASSES)
        assert init(output, queue) == 0
        project = queue.project()
        classes = ClassNames(labels=("indoors",), boxes=("cat", "dog"))
        assert config.differences(project["label_config"], classes) == []
        assert not config.wants_unsure_words(project["label_config"])
        assert project["sampling"] == "Uncertainty sampling"
        assert project["show_collab_predictions"] is True
        assert "boxes" in project["expert_instruction"]
        assert project["task_number"] == 0

        said = capsys.readouterr().out.splitlines()
        assert said == [
            f"project {queue.title!r}, number {project['id']}: made",
            "  controls  caption, verdict (keys: 1 accept, 2 fix, 3 reject), labels (1 classes), "
            "boxes (2 classes)",
            "  images    1 by their web address; their server must allow CORS",
            "  images    1 by previews of 512 px at most, which push uploads",
            f"Open it: {queue.server.url}/projects/{project['id']}/data",
            f"Fill it: captioner review push {tmp_path}/out --label_studio_url "
            f"{queue.server.url} --label_studio_project '{queue.title}' "
            f"--label_studio_token_file {queue.server.token_file}",
        ]

    def test_a_second_time_nothing_changes(
        self, queue: Queue, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        output = write_output(tmp_path, ["file:///in/a.jpg"], CLASSES)
        assert init(output, queue) == 0
        before = everything(queue)
        capsys.readouterr()
        assert init(output, queue) == 0
        assert f"number {queue.project()['id']}: found; it is ready" in capsys.readouterr().out
        assert everything(queue) == before

    def test_it_can_be_pushed_to(self, queue: Queue, tmp_path: Path) -> None:
        items = make_items(3)
        assert init(write_output(tmp_path, [item.uri for item in items]), queue) == 0
        push(items, queue.settings)
        queue.assert_each_once(items)

    def test_one_that_label_studio_makes_twice_is_there_once(
        self, queue: Queue, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        post = Client.post

        def carried_out_again(client: Client, path: str, **options: Any) -> Any:
            if path == "/api/projects":  # as on SQLite whose database was locked
                post(client, path, **options)
            return post(client, path, **options)

        monkeypatch.setattr(Client, "post", carried_out_again)
        assert init(write_output(tmp_path, ["file:///in/a.jpg"]), queue) == 0
        assert len(queue.projects()) == 1

    @pytest.mark.usefixtures("no_waiting")
    def test_one_whose_making_was_not_answered(
        self, queue: Queue, proxy: Proxy, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        proxy.lose_answers("POST", "/api/projects", 1)
        assert init(write_output(tmp_path, ["file:///in/a.jpg"]), queue, url=proxy.url) == 0
        assert proxy.lost == 1
        assert f"number {queue.project()['id']}: made" in capsys.readouterr().out

    def test_unsure_words_where_they_are_asked_for(self, queue: Queue, tmp_path: Path) -> None:
        output = write_output(tmp_path, ["file:///in/a.jpg"])
        assert init(output, queue, "--show_unsure_words") == 0
        assert config.wants_unsure_words(queue.project()["label_config"])
        assert init(output, queue) == 0
        assert config.wants_unsure_words(queue.project()["label_config"])
        told = {"tokens": ("caption", "0", "<end>"), "token_logprobs": (-1.0, 0.0, 0.0)}
        push([make_item(0, **told), make_item(1)], queue.settings)
        tasks = {task["data"]["caption"]: task["data"]["unsure_words"] for task in queue.tasks()}
        assert tasks == {
            "caption 0": '<mark title="probability 0.37">caption</mark> 0',
            "caption 1": "caption 1",
        }

    def test_an_empty_queue_leaves_all_captions_to_go_by(
        self, queue: Queue, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        output = write_output(tmp_path, ["file:///in/a.jpg", "file:///in/b.jpg"], CLASSES, 0.1)
        output.write_manifest("a-run-before", {"classes": {"labels": ["of old"]}})
        assert init(output, queue) == 0
        assert "2 by previews" in capsys.readouterr().out
        classes = ClassNames(labels=("indoors",), boxes=("cat", "dog"))
        assert config.differences(queue.project()["label_config"], classes) == []
        assert "of old" not in queue.project()["label_config"]


class TestStores:
    @pytest.mark.usefixtures("storage_key")
    def test_a_storage_for_each_bucket(
        self,
        queue: Queue,
        s3_server: ObjectStore,
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        filesystem = fsspec.filesystem("s3")
        filesystem.mkdir("captioner-other")
        uris = []
        for name in (s3_server.bucket, "captioner-other"):
            for number in range(2):
                filesystem.pipe(f"{name}/init/{number}.png", make_picture())
                uris.append(f"s3://{name}/init/{number}.png")
        output = write_output(tmp_path, [*uris, f"{s3_server.root}/scan.tiff"])
        assert init(output, queue) == 0
        options = {"project": queue.project()["id"]}
        stores = queue.get("/api/storages/s3", params=options)
        assert sorted(store["bucket"] for store in stores) == ["captioner-other", s3_server.bucket]
        said = capsys.readouterr().out
        assert f"  images    {s3_server.root}: a storage of the project, made" in said
        assert "docs/label-studio.md" in said
        assert "  images    1 by previews" in said

        before = everything(queue)
        assert init(output, queue) == 0
        assert f"{s3_server.root}: a storage of the project, found" in capsys.readouterr().out
        assert everything(queue) == before

    def test_a_bucket_that_label_studio_may_not_read(
        self,
        queue: Queue,
        s3_server: ObjectStore,
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        output = write_output(tmp_path, [f"{s3_server.root}/init/0.png"])
        assert init(output, queue) == 1
        error = capsys.readouterr().err
        assert f"Label Studio does not get at {s3_server.root}" in error
        assert "docs/label-studio.md" in error

    def test_previews_of_all_when_asked_for(
        self,
        queue: Queue,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        monkeypatch.setenv("LABEL_STUDIO_PREVIEWS", "1")
        assert init(write_output(tmp_path, ["s3://no-such-bucket/a.png"]), queue) == 0
        assert "1 by previews" in capsys.readouterr().out


class TestAdopted:
    def make(self, queue: Queue, label_config: str, **settings: Any) -> dict[str, Any]:
        body = {"title": queue.title, "label_config": label_config, **settings}
        return dict(queue.post("/api/projects", body))

    def test_one_with_our_controls_keeps_what_was_chosen_for_it(
        self, queue: Queue, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        ours = config.LABEL_CONFIG.replace('size="5"', 'size="3"')
        self.make(queue, ours, maximum_annotations=3, expert_instruction="Be kind.")
        assert init(write_output(tmp_path, ["file:///in/a.jpg"]), queue) == 0
        project = queue.project()
        assert project["label_config"] == ours.rstrip()
        assert project["maximum_annotations"] == 3
        assert project["expert_instruction"] == "Be kind."
        assert project["sampling"] == "Uncertainty sampling"
        said = capsys.readouterr().out
        assert "found, and set: least certain first\n" in said
        before = everything(queue)
        assert init(write_output(tmp_path, ["file:///in/a.jpg"]), queue) == 0
        assert everything(queue) == before

    def test_an_empty_one_is_set_up(
        self, queue: Queue, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        self.make(queue, "<View></View>")
        assert init(write_output(tmp_path, ["file:///in/a.jpg"]), queue) == 0
        assert config.differences(queue.project()["label_config"]) == []
        assert "and set: " in capsys.readouterr().out

    def test_one_for_something_else_is_shown_and_not_touched(
        self, queue: Queue, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        foreign = (
            '<View><Image name="image" value="$image"/><Choices name="verdict" toName="image">'
            '<Choice value="good"/><Choice value="bad"/></Choices></View>'
        )
        self.make(queue, foreign)
        before = everything(queue)
        output = write_output(tmp_path, ["file:///in/a.jpg"], CLASSES)
        assert init(output, queue) == 2
        said = capsys.readouterr()
        lines = said.err.splitlines()
        assert lines[0] == "what is different there:"
        assert "  there is no TextArea named 'caption'" in lines
        assert "  there is no RectangleLabels named 'boxes'" in lines
        wanted = said.err.partition("is wanted:\n")[2].partition("captioner: ")[0]
        assert config.differences(wanted, ClassNames(boxes=("cat", "dog"))) == []
        assert "was not changed" in lines[-1]
        assert said.out == ""
        assert everything(queue) == before

    def test_two_of_one_title(
        self, queue: Queue, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        self.make(queue, config.LABEL_CONFIG)
        self.make(queue, config.LABEL_CONFIG)
        assert init(write_output(tmp_path, ["file:///in/a.jpg"]), queue) == 1
        assert " projects are called" in capsys.readouterr().err


class TestWrong:
    def test_an_output_without_captions(
        self, queue: Queue, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert init(Output(f"file://{tmp_path}/none"), queue) == 2
        assert "holds no captions; run captioner annotate first" in capsys.readouterr().err
        assert not (tmp_path / "none").exists()
        assert queue.projects() == []

    def test_a_wrong_token_is_not_shown(
        self, queue: Queue, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (tmp_path / "token").write_text("not-the-token-at-all")
        output = write_output(tmp_path, ["file:///in/a.jpg"])
        assert init(output, queue, token_file=str(tmp_path / "token")) == 1
        said = capsys.readouterr()
        assert "refuses the token" in said.err
        assert "not-the-token-at-all" not in said.err + said.out

    def test_nothing_answers(
        self, queue: Queue, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        output = write_output(tmp_path, ["file:///in/a.jpg"])
        assert init(output, queue, url="http://127.0.0.1:9") == 1
        assert "does not answer" in capsys.readouterr().err

    def test_a_title_that_is_too_short(
        self, queue: Queue, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert init(write_output(tmp_path, ["file:///in/a.jpg"]), queue, title="ab") == 1
        assert "Label Studio takes 3 to 50" in capsys.readouterr().err
