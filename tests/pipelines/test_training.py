"""`captioner train` and `captioner evaluate`, as a person runs them."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import fields
from functools import partial
from pathlib import Path

import pytest
from PIL import Image

from captioner.loading import load
from captioner.scenes import render, sample, write_folder
from captioner.training.from_scenes import SceneMaterial
from captioner.training.state import STATE
from pipelines.cli import main
from pipelines.options import EXIT_DONE, EXIT_USAGE
from pipelines.training_options import DECODER_FIELDS
from tests.annotated import write_coco, write_image_folder
from tests.captioner.encoders import tiny
from tests.pipelines.helpers import bare_model

MACHINE = ["--batch_size", "8", "--device", "cpu", "--precision", "float32"]
LSTM = ["--embedding_size", "16", "--hidden_size", "24"]
SMALL = [*LSTM, "--attention_size", "16", "--image_size", "32", *MACHINE]


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> str:
    folder = str(tmp_path_factory.mktemp("data") / "scenes")
    write_folder(folder, count=40, image_size=64)
    return folder


def train(data, output, *flags) -> int:
    return main(["train", "--data", data, "--output", str(output), *SMALL, *flags])


def epochs(output: Path) -> list[dict]:
    return [json.loads(line) for line in (output / "epochs.jsonl").read_text().splitlines()]


class TestTrain:
    def test_what_a_training_leaves(self, data, tmp_path, capsys):
        assert train(data, tmp_path / "model", "--epochs", "2") == EXIT_DONE
        told = capsys.readouterr().out
        assert "cider" in told
        assert f"captioner annotate --model {tmp_path / 'model' / 'best'}" in told
        rows = epochs(tmp_path / "model")
        assert [row["epoch"] for row in rows] == [1, 2]
        assert {"bleu_4", "cider"} <= set(rows[0]["scores"])
        assert rows[1]["losses"]["captions"] < rows[0]["losses"]["captions"]
        for name in ("best", "last"):
            captioner = load(str(tmp_path / "model" / name), device="cpu")
            assert captioner.model_id.startswith("captioner@")
            assert captioner.fills == ("feature_distance",)
            card = (tmp_path / "model" / name / "README.md").read_text()
            assert "38 images with" in card
            assert "hidden_size: 24" in card
        pictures = tmp_path / "model" / "attention"
        assert sorted(path.name for path in pictures.iterdir()) == [
            "epoch-001.png",
            "epoch-002.png",
        ]

    def test_images_that_will_not_load_are_listed(self, data, tmp_path):
        folder = tmp_path / "data"
        folder.mkdir()
        for path in Path(data).iterdir():
            (folder / path.name).write_bytes(path.read_bytes())
        (folder / "scene-000003.jpg").write_bytes(b"no image")
        (folder / "scene-000007.jpg").unlink()
        assert train(str(folder), tmp_path / "model", "--epochs", "1") == EXIT_DONE
        listed = (tmp_path / "model" / "bad_images.txt").read_text().splitlines()
        assert sorted(line.partition("\t")[0].rpartition("/")[2] for line in listed) == [
            "scene-000003.jpg",
            "scene-000007.jpg",
        ]

    def test_scenes_need_no_files(self, tmp_path):
        flags = ["--epochs", "1", "--languages", "zh", "en", "--threads", "1"]
        assert train("scenes:32", tmp_path / "model", *flags) == EXIT_DONE
        assert set(epochs(tmp_path / "model")[0]["scores"]) == {
            "true_captions",
            "true_captions_en",
            "true_captions_zh",
            "stated_facts",
        }
        captioner = load(str(tmp_path / "model" / "last"), device="cpu")
        assert captioner.tokenizer.languages == ("zh", "en")
        assert captioner.fills == ("feature_distance",)

    @pytest.mark.parametrize(
        ("flags", "part"),
        [
            (["--decoder", "transformer", "--width", "16", "--layers", "1"], "Transformer"),
            ([*LSTM, "--attention", "multi_head", "--heads", "2"], "LSTM"),
            ([*LSTM, "--fusion", "early"], "Early"),
            (["--decoder", "transformer", "--width", "16", "--fusion", "late"], "Late"),
            ([*LSTM, "--encoder", "vit", "--image_size", "48"], "LSTM"),
            ([*LSTM, "--words", "byte_pair", "--vocabulary_size", "300"], "LSTM"),
            ([*LSTM, "--schedule", "alternating"], "LSTM"),
            ([*LSTM, "--crop_scale", "0.8", "--colour", "0.2", "--flip", "--tied"], "LSTM"),
        ],
    )
    def test_other_models_and_ways(self, data, tmp_path, flags, part):
        if "--image_size" not in flags:
            flags = [*flags, "--image_size", "32"]
        command = ["train", "--data", data, "--output", str(tmp_path), "--epochs", "1", *MACHINE]
        assert main([*command, *flags]) == EXIT_DONE
        captioner = load(str(tmp_path / "best"), device="cpu")
        assert part in type(captioner.model.decoder).__name__
        (caption,) = captioner.caption([captioner.prepare(render(sample(5)))])
        assert caption.tokens

    @pytest.mark.parametrize(
        ("flags", "message"),
        [
            (["--data", "nowhere"], "nowhere"),
            (["--data", "scenes:0"], "'scenes:0' names no scenes; use scenes:1 to"),
            (["--encoder", "grid", "--image_size", "33"], "image_size is 33"),
            (["--decoder", "mamba"], "decoder is 'mamba'; use lstm, transformer or lm:NAME"),
            (["--width", "64"], "width is not for a decoder of the kind lstm"),
            (["--thaw", "last:99"], "'last:99' names no layers"),
            (["--schedule", "decoder_first"], "decoder_epochs is 0"),
            (["--output", "gs://bucket/model"], "no local folder"),
            (["--name", "my model"], "name is 'my model'; use 1 to 64 letters"),
            (["--doubly_stochastic", "1", "--fusion", "late"], "fusion there is no attention"),
            (["--views", "3"], "the encoder learns from the start"),
            (["--max_tokens", "2"], "max_tokens is 2; use 3"),
            (["--data", "scenes:9", "--words", "byte_pair"], "drawn scenes know no words"),
            (["--decoder", "lm:https://u:secret@host/x"], "carries"),
            (["--languages", "zh"], "languages are given, but they are for scenes"),
            (["--data", "scenes:9", "--languages", "fr"], "'fr'"),
            (["--data", "https://user:secret@host/x"], "carries"),
            (["--fusion", "sideways"], "fusion is 'sideways'"),
            (["--epochs", "0"], "'0' is not a whole number above 0"),
            (["--learning-rat", "1"], "did you mean --learning_rate?"),
        ],
    )
    def test_wrong_usage_is_told(self, data, tmp_path, capsys, flags, message):
        given = {"--data": data, "--output": str(tmp_path / "model")}
        given |= dict(zip(flags[::2], flags[1::2], strict=True))
        try:
            status = main(["train", *(part for pair in given.items() for part in pair)])
        except SystemExit as exit:
            status = exit.code
        assert status == EXIT_USAGE
        told = capsys.readouterr().err
        assert message in told
        assert "Traceback" not in told
        assert "secret" not in told
        assert not list(tmp_path.iterdir())

    def test_no_image_can_be_used(self, tmp_path, capsys):
        folder = tmp_path / "data"
        write_folder(str(folder), count=4, image_size=64)
        for path in folder.glob("*.jpg"):
            path.write_bytes(b"no image")
        assert train(str(folder), tmp_path / "new" / "model") == EXIT_USAGE
        told = capsys.readouterr().err
        assert "none of the 3 images to train on can be used; the first: " in told
        assert "cannot be decoded" in told
        assert [path.name for path in tmp_path.iterdir()] == ["data"]

    def test_a_folder_that_was_there_stays(self, tmp_path):
        (tmp_path / "model").mkdir()
        assert train("nowhere", tmp_path / "model") == EXIT_USAGE
        assert [path.name for path in tmp_path.iterdir()] == ["model"]

    def test_a_folder_that_cannot_be_made(self, data, tmp_path, capsys):
        (tmp_path / "file").touch()
        assert train(data, tmp_path / "file") == EXIT_USAGE
        assert f"{tmp_path / 'file'} cannot be made: File exists" in capsys.readouterr().err
        assert train(data, tmp_path / "file" / "model") == EXIT_USAGE
        assert "cannot be made: Not a directory" in capsys.readouterr().err

    def test_flags_of_decoders_are_fields_of_decoders(self):
        from captioner.decoders import LSTMDecoderConfig, TransformerDecoderConfig

        known = {
            field.name
            for config in (LSTMDecoderConfig, TransformerDecoderConfig)
            for field in fields(config)
        }
        assert {*DECODER_FIELDS, "tied", "vocabulary_size"} == known

    def test_fewer_scenes_than_a_batch_still_teach(self, tmp_path):
        assert train("scenes:4", tmp_path, "--epochs", "2", "--threads", "1") == EXIT_DONE
        first, second = (row["losses"]["captions"] for row in epochs(tmp_path))
        assert second < first


class TestTasks:
    """Labels, boxes and masks besides captions."""

    @pytest.fixture(scope="class")
    def annotated(self, tmp_path_factory) -> str:
        return write_image_folder(tmp_path_factory.mktemp("annotated") / "data", 8)

    def found(self, model):
        captioner = load(str(model / "best"), device="cpu")
        (caption,) = captioner.caption([captioner.prepare(render(sample(5)).resize((60, 40)))])
        return caption.annotations

    def test_of_a_folder(self, annotated, tmp_path, capsys):
        flags = ["--tasks", "labels", "boxes", "masks", "--epochs", "1", "--flip"]
        flags += ["--weighting", "uncertainty", "--turns", "alternating", "--box_weight", "0.5"]
        assert train(annotated, tmp_path, *flags) == EXIT_DONE
        told = capsys.readouterr().out
        assert all(name in told for name in ("label_f1", "map_50", "mean_iou", "rouge_l"))
        assert {"labels", "boxes", "masks", "uncertainty"} <= epochs(tmp_path)[0]["losses"].keys()
        assert None not in vars(self.found(tmp_path)).values()

    def test_of_scenes(self, tmp_path, monkeypatch):
        few = partial(SceneMaterial, validation=8)
        monkeypatch.setattr("captioner.training.assemble.SceneMaterial", few)
        flags = ["--tasks", "boxes", "--no_gate", "--epochs", "1", "--threads", "1"]
        assert train("scenes:8", tmp_path, *flags) == EXIT_DONE
        (row,) = epochs(tmp_path)
        assert {"true_captions", "map_50"} <= row["scores"].keys()
        found = self.found(tmp_path)
        assert found.labels is found.masks is None
        assert found.boxes is not None

    def test_of_coco(self, tmp_path):
        captions, instances = write_coco(tmp_path / "coco", 6)
        flags = ["--annotations", instances, "--images", str(tmp_path / "coco")]
        flags += ["--tasks", "boxes", "--epochs", "1"]
        assert train(captions, tmp_path / "model", *flags) == EXIT_DONE
        assert "map_50" in epochs(tmp_path / "model")[0]["scores"]

    @pytest.mark.parametrize(
        ("flags", "message"),
        [
            (["--tasks", "masks"], "the data has no masks in any of its images"),
            (["--tasks", "depth"], "invalid choice: 'depth'"),
            (["--annotations", "x.json"], "there are no tasks; name some"),
            (["--annotations", "https://u:secret@host/x", "--tasks", "boxes"], "carries"),
            (["--tasks", "boxes", "--annotations", "nowhere.json"], "nowhere.json"),
            (["--no_gate"], "there are no tasks; name some"),
            (["--label_weight", "2"], "there are no tasks; name some"),
            (
                ["--tasks", "labels", "--mask_width", "8"],
                "mask_width is 8, but masks are none of the tasks",
            ),
            (["--tasks", "labels", "--label_weight", "-1"], "label_weight is -1.0; use 0 to 1000"),
            (["--tasks", "labels", "--weighting", "fair"], "invalid choice: 'fair'"),
            (["--tasks", "labels", "--views", "2"], "views is 2"),
            (
                ["--tasks", "labels", "--turns", "alternating", "--schedule", "alternating"],
                "turns and schedule are both alternating",
            ),
        ],
    )
    def test_wrong_usage_is_told(self, data, tmp_path, capsys, flags, message):
        try:
            status = train(data, tmp_path / "model", *flags)
        except SystemExit as exit:
            status = exit.code
        assert status == EXIT_USAGE
        told = capsys.readouterr().err
        assert message in told
        assert "Traceback" not in told
        assert "secret" not in told
        assert not list(tmp_path.iterdir())

    def test_views_of_a_frozen_encoder_are_told_to_be_of_no_use(self, annotated, tmp_path, capsys):
        flags = ["--tasks", "labels", "--views", "2", "--thaw", "none"]
        assert train(annotated, tmp_path, *flags) == EXIT_USAGE
        assert "views is 2, but tasks need the picture itself" in capsys.readouterr().err

    def test_captions_are_needed_all_the_same(self, tmp_path, capsys):
        silent = write_image_folder(tmp_path / "data", 4, captioned=0)
        assert train(silent, tmp_path / "model", "--tasks", "labels") == EXIT_USAGE
        assert "no image to score on has a caption" in capsys.readouterr().err


class TestResume:
    def test_killed_and_started_again_it_ends_with_the_same_weights(self, data, tmp_path):
        flags = ["--epochs", "3", "--seed", "5"]
        assert train(data, tmp_path / "unbroken", *flags) == EXIT_DONE
        command = [sys.executable, "-m", "pipelines.cli", "train", "--data", data, *SMALL, *flags]
        command += ["--output", str(tmp_path / "killed")]
        process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=os.environ
        )
        deadline = time.monotonic() + 120
        while not (tmp_path / "killed" / STATE).exists() and time.monotonic() < deadline:
            assert process.poll() is None, "it ended by itself"
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
        before = len(epochs(tmp_path / "killed"))
        assert 1 <= before < 3
        assert train(data, tmp_path / "killed", *flags) == EXIT_DONE
        for name in ("best", "last"):
            one, other = (
                load(str(tmp_path / run / name), device="cpu").model_id
                for run in ("unbroken", "killed")
            )
            assert one == other
        scores = [
            [row["scores"] for row in epochs(tmp_path / run)] for run in ("unbroken", "killed")
        ]
        assert scores[0] == scores[1]

    def test_a_finished_training_says_its_scores_again(self, data, tmp_path, capsys):
        assert train(data, tmp_path / "model", "--epochs", "1") == EXIT_DONE
        before = capsys.readouterr().out
        assert train(data, tmp_path / "model", "--epochs", "1") == EXIT_DONE
        assert capsys.readouterr().out == before

    def test_another_training_is_not_gone_on_with(self, data, tmp_path, capsys):
        assert train(data, tmp_path / "model", "--epochs", "1") == EXIT_DONE
        listed = tmp_path / "model" / "bad_images.txt"
        listed.write_text("what was left out before\n")
        assert train(data, tmp_path / "model", "--epochs", "2") == EXIT_USAGE
        assert "epochs was 1 and is 2" in capsys.readouterr().err
        assert listed.read_text() == "what was left out before\n"


class TestSeveralProcesses:
    def test_two_learn_together(self, data, tmp_path, capsys):
        """With a frozen encoder, so that both need what only one of them encodes."""
        _, settings = tiny.BACKBONES["mobilenet_v1"]
        network = tiny.make("mobilenet_v1", settings)
        encoder = tiny.save(network, tmp_path / "network", {"height": 32, "width": 32})
        output = tmp_path / "model"
        flags = ["train", "--data", data, "--encoder", encoder, "--output", str(output)]
        flags += ["--epochs", "2", "--image_size", "32", *LSTM, *MACHINE]
        launch = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
        launch += ["--nproc_per_node", "2", "-m", "pipelines.cli"]
        done = subprocess.run(
            [*launch, *flags], capture_output=True, text=True, timeout=240, check=False
        )
        assert done.returncode == EXIT_DONE, done.stderr
        assert done.stdout.count("the best epoch is in") == 1
        assert [row["epoch"] for row in epochs(output)] == [1, 2]
        assert load(str(output / "best"), device="cpu").model_id
        assert main(flags) == EXIT_USAGE
        assert "processes was 2 and is 1" in capsys.readouterr().err


class TestEvaluate:
    def test_scores_against_people(self, data, tmp_path, capsys):
        output = tmp_path / "scores"
        assert main(["evaluate", "--data", data, "--output", str(output)]) == EXIT_DONE
        told = capsys.readouterr().out
        assert "BLEU-4" in told
        assert "95% interval" in told
        metrics = json.loads((output / "metrics.json").read_text())
        assert metrics["images"] == 40
        assert metrics["bleu_4"]["low"] <= metrics["bleu_4"]["value"] <= metrics["bleu_4"]["high"]
        assert metrics["model_id"].startswith("scenes@")
        rows = [json.loads(line) for line in (output / "captions.jsonl").read_text().splitlines()]
        assert len(rows) == 40
        assert {"uri", "caption", "references"} == set(rows[0])

    def test_scenes_against_the_truth(self, capsys):
        assert main(["evaluate", "--data", "scenes:40"]) == EXIT_DONE
        assert "true captions" in capsys.readouterr().out

    def test_decoding_is_part_of_what_is_scored(self, data, tmp_path):
        flags = ["--strategy", "beam", "--beam_size", "2", "--max_length", "4"]
        command = ["evaluate", "--data", data, "--output", str(tmp_path), *flags]
        assert main(command) == EXIT_DONE
        metrics = json.loads((tmp_path / "metrics.json").read_text())
        assert metrics["decoding"]["beam_size"] == 2
        rows = [json.loads(line) for line in (tmp_path / "captions.jsonl").read_text().splitlines()]
        assert max(len(row["caption"].split()) for row in rows) <= 4

    def test_nothing_to_score(self, tmp_path, capsys):
        assert main(["evaluate", "--data", str(tmp_path)]) == EXIT_USAGE
        assert "holds no captions" in capsys.readouterr().err


class TestStatistics:
    @pytest.fixture
    def model(self, tmp_path) -> Path:
        return bare_model(tmp_path / "model")

    def add(self, model, data) -> int:
        return main(["statistics", "--model", str(model), "--data", data, "--device", "cpu"])

    def test_of_a_folder(self, model, data, tmp_path, capsys):
        folder = Path(shutil.copytree(data, tmp_path / "data"))
        (folder / "scene-000003.jpg").write_bytes(b"no image")
        assert self.add(model, str(folder)) == EXIT_DONE
        told = capsys.readouterr()
        captioner = load(str(model), device="cpu")
        assert told.out == f"{captioner.model_id}\n"
        assert "1 of 40 images cannot be read and are left out" in told.err
        assert "another id now" in told.err
        images = [captioner.prepare(Image.open(path)) for path in sorted(Path(data).glob("*.jpg"))]
        images.append(captioner.prepare(Image.effect_noise((64, 64), 90).convert("RGB")))
        *scenes, noise = (
            caption.features["feature_distance"] for caption in captioner.caption(images)
        )
        assert noise > 2 * max(scenes)

    def test_of_scenes(self, model, capsys):
        assert self.add(model, "scenes:9") == EXIT_DONE
        assert "feature_distance" in load(str(model), device="cpu").fills

    @pytest.mark.parametrize(
        ("data", "message"),
        [
            ("nowhere", "nowhere"),
            ("scenes:0", "'scenes:0' names no scenes"),
            ("scenes:1", "1 images tell nothing of how images differ; give 2 or more"),
            ("https://u:secret@host/x", "carries"),
        ],
    )
    def test_wrong_usage_is_told(self, model, capsys, data, message):
        assert self.add(model, data) == EXIT_USAGE
        told = capsys.readouterr().err
        assert message in told
        assert "secret" not in told
        assert len(list(model.iterdir())) == 4

    def test_no_model(self, data, tmp_path, capsys):
        assert self.add(tmp_path, data) == EXIT_USAGE
        assert "there is no config.json" in capsys.readouterr().err
