"""`captioner calibrate` and `captioner rescore`, as a person runs them."""

import json
import math
import shutil
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from captioner import checkpoint
from captioner.checkpoint import embedded_path
from captioner.confidence.calibration import Sigmoid
from captioner.confidence.guarantee import kept_for_guarantees
from captioner.confidence.head import (
    HEADS_FILE,
    VERIFIER_FILES,
    ConfidenceHead,
    load_heads,
    save_heads,
)
from captioner.contract import DecodingConfig
from captioner.loading import load
from captioner.scenes import render, sample
from pipelines import storage
from pipelines.captioning import score_confidence
from pipelines.cli import main
from pipelines.listing import ImageRef
from pipelines.options import EXIT_DONE, EXIT_FAILED, EXIT_USAGE
from pipelines.output import Output
from pipelines.parts import encode, publish
from pipelines.records import Captioned, Failure, ImageFacts
from schemas.kinds import FailureKind
from schemas.tables import CAPTIONS, FEATURES, REVIEWS
from tests.pipelines.helpers import rows

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
GREEDY = DecodingConfig().id
BEAM = DecodingConfig(strategy="beam").id


@pytest.fixture(scope="module")
def model_id() -> str:
    return load("embedded", "cpu").model_id


def caption(index: int, model_id: str, decoding: str = GREEDY) -> dict:
    rng = np.random.default_rng(index)
    features = dict.fromkeys(name for name, _ in FEATURES)
    features |= {"logprob_mean": -rng.gamma(2, 0.2), "num_tokens": float(rng.integers(5, 12))}
    return {
        **dict.fromkeys(CAPTIONS.names),
        "image_id": f"image-{index}",
        "uri": f"memory://photos/{index}.jpg",
        "uri_version": "created:1",
        "width": 8,
        "height": 8,
        "format": "PNG",
        "num_bytes": 99,
        "caption": f"caption {index}",
        "confidence": math.exp(features["logprob_mean"]),
        "confidence_kind": "uncalibrated",
        "features": features,
        "model_id": model_id,
        "decoding": decoding,
        "run_id": "run",
        "created_at": NOON,
    }


def review(row: dict, verdict: str | None = None, minutes: int = 0) -> dict:
    """Return a review; people accept what is probable."""
    if verdict is None:
        rng = np.random.default_rng((1, int(row["image_id"].partition("-")[2])))
        probability = 1 / (1 + math.exp(-(3 + 6 * row["features"]["logprob_mean"])))
        verdict = "accepted" if rng.random() < probability else rng.choice(["edited", "rejected"])
    return {
        **dict.fromkeys(REVIEWS.names),
        **{name: row[name] for name in ("image_id", "model_id", "decoding")},
        "shown_caption": row["caption"],
        "verdict": verdict,
        "reviewed_at": NOON + timedelta(minutes=minutes),
    }


def write(output: Output, captions: list[dict], reviews: list[dict] = (), files: int = 2) -> Output:
    current = output.current()
    for table, schema, made in (("captions", CAPTIONS, captions), ("reviews", REVIEWS, reviews)):
        for part in (list(made)[i::files] for i in range(files)):
            if part:
                data = encode(pa.Table.from_pylist(part, schema=schema))
                new = publish(output, table, data, len(part))
                current = current.replacing(table, [], [new])
    output.replace_current(current)
    return output


@pytest.fixture(autouse=True)
def without_verifier(tmp_path_factory: pytest.TempPathFactory, monkeypatch) -> None:
    """Take for the embedded model one without heads: its verifiers are for test_verifying.py."""
    ignore = shutil.ignore_patterns(HEADS_FILE, VERIFIER_FILES)
    folder = tmp_path_factory.mktemp("embedded") / "embedded"
    shutil.copytree(embedded_path(), folder, ignore=ignore)
    for module in ("captioner.checkpoint", "pipelines.confidence"):
        monkeypatch.setattr(f"{module}.embedded_path", lambda: str(folder))


@pytest.fixture
def output(tmp_path: Path, model_id: str) -> Output:
    """An output of two models, one of whose captions are reviewed."""
    captions = [caption(index, model_id) for index in range(140)]
    others = [caption(index, "other@1") for index in range(5)]
    reviews = [review(row) for row in captions[:120]]
    return write(Output((tmp_path / "out").as_uri()), captions + others, reviews)


def calibrate(labels: object, target: object, *flags: str) -> int:
    command = ["calibrate", "--device", "cpu", "--labels", str(labels), "--output", str(target)]
    every = [] if str(labels).startswith("scenes:") else ["--no_guarantee"]
    return main([*command, *every, *flags])


def greedy_head(folder: Path) -> ConfidenceHead:
    """Return the head for greedy captions; the model may have had others before."""
    (found,) = [one for one in load_heads(str(folder)) if one.decoding == GREEDY]
    return found


def head(model_id: str, **changes: object) -> ConfidenceHead:
    made = ConfidenceHead(
        model_id=model_id,
        decoding=GREEDY,
        features=("logprob_mean",),
        means=(-0.4,),
        scales=(0.3,),
        weights=(1.0,),
        bias=0.5,
        calibration=Sigmoid(1.0, 0.0),
        labels=100,
    )
    return replace(made, **changes)


class TestCalibrate:
    def test_reviews_make_a_model_with_a_head(self, output, tmp_path, model_id, capsys):
        assert calibrate(output.uri, tmp_path / "m2") == EXIT_DONE
        told = capsys.readouterr().out
        assert "120 of 120 reviews are used" in told
        assert "120 captions of 120 images" in told
        assert "AUROC" in told
        made = greedy_head(tmp_path / "m2")
        assert (made.model_id, made.decoding, made.labels) == (model_id, GREEDY, 120)
        assert made.features == ("logprob_mean", "num_tokens")
        assert f"head {made.id} is in" in told
        assert f"captioner rescore OUTPUT --model {tmp_path / 'm2'}" in told
        names = {path.name for path in Path(checkpoint.embedded_path()).iterdir()}
        assert {path.name for path in (tmp_path / "m2").iterdir()} == names | {HEADS_FILE}
        assert load(str(tmp_path / "m2"), "cpu").model_id == model_id

    def test_a_file_of_reviews_makes_the_same_head(self, output, tmp_path):
        assert calibrate(output.uri, tmp_path / "m2") == EXIT_DONE
        table = pa.Table.from_pylist(rows(output, "reviews"), schema=REVIEWS)
        folder = f"memory:///labels-{tmp_path.name}"
        for name, part in (("a", table.slice(0, 50)), ("b", table.slice(50))):
            storage.write_bytes_atomically(f"{folder}/{name}.parquet", encode(part))
        assert calibrate(folder, tmp_path / "m3", "--captions", output.uri) == EXIT_DONE
        assert load_heads(str(tmp_path / "m3")) == load_heads(str(tmp_path / "m2"))

    def test_half_of_the_images_is_kept_for_guarantees(self, output, tmp_path, model_id, capsys):
        command = ["calibrate", "--device", "cpu", "--labels", output.uri]
        assert main([*command, "--output", str(tmp_path / "m2")]) == EXIT_DONE
        kept = sum(kept_for_guarantees(f"image-{index}") for index in range(120))
        assert 40 < kept < 80
        told = f"{120 - kept} of 120 reviews are used; {kept} are kept for guarantees"
        assert capsys.readouterr().out.startswith(told)
        made = greedy_head(tmp_path / "m2")
        assert made.labels == 120 - kept

    def test_what_says_nothing_of_these_captions_is_left_out(
        self, output, tmp_path, model_id, capsys
    ):
        mine = caption(0, model_id)
        unseen = {"image_id": "image-999"}
        write(
            output,
            [],
            [
                review(mine, "rejected", minutes=5),  # newer than the one that is there
                review(caption(1, model_id), "skipped", minutes=5),
                review({**mine, "model_id": "other@1"}, "accepted"),
                review({**mine, "decoding": BEAM}, "accepted"),
                {**review(mine, "accepted"), **unseen},
                {**review(mine, "accepted"), "shown_caption": "something else"},
            ],
            files=1,
        )
        assert calibrate(output.uri, tmp_path / "m2") == EXIT_DONE
        assert capsys.readouterr().out.splitlines()[0] == (
            "120 of 126 reviews are used; 1 were skipped by the reviewer; 1 are older than another "
            "of the same caption; 1 are for other models (other@1); 1 are for other decodings "
            f"({BEAM}); 1 are for images without a caption; 1 are for another caption than the "
            "image has"
        )

    def test_heads_for_other_decodings_stay(self, output, tmp_path, model_id, capsys):
        target = str(tmp_path / "m2")
        beam = head(model_id, decoding=BEAM)
        save_heads(target, [beam, head("older@1", decoding="0" * 12)])
        assert calibrate(output.uri, target, "--calibration", "temperature") == EXIT_DONE
        assert {item.decoding for item in load_heads(target)} >= {GREEDY, BEAM}
        assert "left out: a head for older@1" in capsys.readouterr().err
        # The model's own folder may be the output; what has a head gets another.
        first = greedy_head(target)
        assert calibrate(output.uri, target, "--model", target, "--fold_seed", "1") == EXIT_DONE
        assert greedy_head(target).id != first.id
        assert beam in load_heads(target)

    def test_scenes_need_no_people(self, tmp_path, model_id, capsys):
        assert calibrate("scenes:56", tmp_path / "m2") == EXIT_DONE
        assert capsys.readouterr().out.startswith("56 scenes\n56 captions of 56 images")
        made = greedy_head(tmp_path / "m2")
        plain = load(str(tmp_path / "m2"), "cpu")
        (said,) = plain.caption([plain.prepare(render(sample(1_900_000)))])
        assert 0 < made.probability(said.features) < 1


class TestBadLabels:
    def refused(self, capsys, labels, target, *flags) -> str:
        assert calibrate(labels, target, *flags) == EXIT_USAGE
        assert not storage.exists(Path(target, HEADS_FILE).as_uri())
        return capsys.readouterr().err

    def test_other_models_and_decodings(self, tmp_path, capsys, model_id):
        captions = [caption(index, "other@1") for index in range(60)]
        captions += [caption(index, model_id, BEAM) for index in range(60, 120)]
        output = write(Output((tmp_path / "out").as_uri()), captions, [*map(review, captions)])
        said = self.refused(capsys, output.uri, tmp_path / "m2")
        assert f"has no label for captions by {model_id} with decoding {GREEDY}" in said
        assert "0 of 120 reviews are used; 60 are for other models (other@1); " in said
        assert f"60 are for other decodings ({BEAM})" in said
        assert f"there are by other@1 with decoding {GREEDY}, by {model_id} with" in said

    def test_other_images(self, output, tmp_path, capsys, model_id):
        elsewhere = [review(caption(index, model_id)) for index in range(500, 560)]
        file = tmp_path / "reviews.parquet"
        file.write_bytes(encode(pa.Table.from_pylist(elsewhere, schema=REVIEWS)))
        said = self.refused(capsys, file, tmp_path / "m2", "--captions", output.uri)
        assert "0 of 60 reviews are used; 60 are for images without a caption" in said

    @pytest.mark.parametrize(
        ("count", "verdict", "message"),
        [
            (49, None, "there are 49 labels; give at least 50 (49 of 49 reviews are used)"),
            (60, "accepted", "none of the 60 captions is wrong; label some that are"),
            (60, "edited", "none of the 60 captions is right; label some that are"),
            (0, None, "holds no reviews; bring back what people said"),
        ],
    )
    def test_too_few(self, tmp_path, capsys, model_id, count, verdict, message):
        captions = [caption(index, model_id) for index in range(70)]
        reviews = [review(row, verdict) for row in captions[:count]]
        output = write(Output((tmp_path / "out").as_uri()), captions, reviews)
        assert message in self.refused(capsys, output.uri, tmp_path / "m2")

    def test_features_that_are_no_numbers(self, tmp_path, capsys, model_id):
        captions = [caption(index, model_id) for index in range(60)]
        captions[0]["features"]["num_tokens"] = math.nan
        output = write(Output((tmp_path / "out").as_uri()), captions, [*map(review, captions)])
        assert "num_tokens is nan in row" in self.refused(capsys, output.uri, tmp_path / "m2")

    def test_a_verdict_that_is_none(self, tmp_path, capsys, model_id):
        rows = [caption(0, model_id)]
        output = write(Output((tmp_path / "out").as_uri()), rows, [review(rows[0], "ok")])
        said = self.refused(capsys, output.uri, tmp_path / "m2")
        assert "a review of image-0 has the verdict 'ok'; use one of accepted, edited" in said

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (b"no parquet", "labels.parquet cannot be read as Parquet"),
            ({"image_id": ["a"], "verdict": ["accepted"]}, "has no column model_id; reviews have"),
        ],
    )
    def test_files_of_another_kind(self, output, tmp_path, capsys, content, message):
        file = tmp_path / "labels.parquet"
        if isinstance(content, dict):
            pq.write_table(pa.table(content), file)
        else:
            file.write_bytes(content)
        assert message in self.refused(capsys, file, tmp_path / "m2", "--captions", output.uri)
        said = self.refused(capsys, file, tmp_path / "m2")
        assert "is no output of annotate; name the one that the reviews are of" in said
        said = self.refused(capsys, tmp_path / "no", tmp_path / "m2", "--captions", output.uri)
        assert "has no Parquet files; name an output of annotate" in said

    @pytest.mark.parametrize(
        ("labels", "flags", "message"),
        [
            ("scenes:0", [], "'scenes:0' names no scenes; use scenes:1 to"),
            ("scenes:9", ["--captions", "out"], "--captions is for reviews; leave it out"),
            ("scenes:9", [], "there are 9 labels; give at least 50 (9 scenes)"),
            ("out", ["--features", "image_information"], "--features is for scenes:N"),
            ("out", ["--model", "people/some-model"], "people/some-model is no folder with config"),
            ("out", ["--model", "people/some-model"], "hf download people/some-model --local-dir"),
            ("out", ["--seed", "3"], "--seed is for --strategy sample"),
            ("s3://key:hunter2@bucket/labels", [], "carries"),
        ],
    )
    def test_options_that_cannot_be_used(self, tmp_path, capsys, labels, flags, message):
        said = self.refused(capsys, labels, tmp_path / "m2", *flags)
        assert message in said
        assert "hunter2" not in said

    def test_a_folder_with_another_model_is_left_alone(self, output, tmp_path, capsys):
        (tmp_path / "m2").mkdir()
        (tmp_path / "m2" / "config.json").write_text("{}")
        said = self.refused(capsys, output.uri, tmp_path / "m2")
        assert "holds another model (config.json differs); name a folder that is new" in said
        assert [path.name for path in (tmp_path / "m2").iterdir()] == ["config.json"]


def folder_with(tmp_path: Path, *heads: ConfidenceHead) -> str:
    """Return a model's folder; the model itself is not needed to rescore."""
    folder = tmp_path / "model"
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text("{}")
    if heads:
        save_heads(str(folder), heads)
    return str(folder)


class TestRescore:
    def test_rows_get_the_heads_confidence(self, output, tmp_path, model_id, capsys):
        made = head(model_id)
        before = {(row["uri"], row["model_id"]): row for row in rows(output)}
        old_files = {file.path for file in output.current().of("captions")}
        folder = folder_with(tmp_path, made, head(model_id, decoding=BEAM))
        assert main(["rescore", output.uri, "--model", folder]) == EXIT_DONE
        assert capsys.readouterr().out == (
            f"{model_id} {GREEDY}: 140 captions, 140 changed, confidence of head {made.id}\n"
        )
        for row in rows(output):
            old = before[row["uri"], row["model_id"]]
            changed = {name for name in row if row[name] != old[name]}
            if row["model_id"] == "other@1":
                assert not changed
                continue
            assert changed == {"confidence", "confidence_kind", "confidence_id"}
            assert row["confidence"] == np.float32(made.probability(row["features"]))
            assert (row["confidence_kind"], row["confidence_id"]) == ("calibrated", made.id)
        assert len(rows(output)) == len(before)
        assert not any(storage.exists(output.path(path)) for path in old_files)
        assert not storage.exists(output.path("lease.json"))

    def test_a_second_time_changes_nothing(self, output, tmp_path, model_id, capsys):
        command = ["rescore", output.uri, "--model", folder_with(tmp_path, head(model_id))]
        assert main(command) == EXIT_DONE
        once = storage.read_fresh(output.path("current.json"))
        capsys.readouterr()
        assert main(command) == EXIT_DONE
        assert "140 captions, 0 changed" in capsys.readouterr().out
        assert storage.read_fresh(output.path("current.json")) == once

    def test_the_plan_that_comes_next_is_of_the_captions_that_changed(
        self, output, tmp_path, model_id, capsys
    ):
        plan = ["review", "plan", output.uri, "--audit", "50%", "--model_id", model_id]
        assert main(plan) == EXIT_DONE
        folder = folder_with(tmp_path, head(model_id))
        assert main(["rescore", output.uri, "--model", folder]) == EXIT_DONE
        *_, advice = capsys.readouterr().err.splitlines()
        assert advice.split()[:3] == ["captioner", "review", "plan"]
        assert main(advice.split()[1:]) == EXIT_DONE
        assert capsys.readouterr().out.startswith(f"{model_id} {GREEDY}\n")

    def test_a_newer_head_replaces_an_older_one(self, output, tmp_path, model_id):
        for made in (head(model_id), head(model_id, bias=0.4)):
            folder = folder_with(tmp_path, made)
            assert main(["rescore", output.uri, "--model", folder]) == EXIT_DONE
            mine = [row for row in rows(output) if row["model_id"] == model_id]
            assert {row["confidence_id"] for row in mine} == {made.id}

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"model_id": "third@1"}, "model third@1, of which {} has no captions; there are: "),
            ({"decoding": BEAM}, f"the heads are for decoding {BEAM}, of which {{}} has no"),
            (None, "has no confidence.json; fit a head with captioner calibrate"),
        ],
    )
    def test_heads_for_no_caption_are_refused(
        self, output, tmp_path, model_id, capsys, changes, message
    ):
        heads = [] if changes is None else [replace(head(model_id), **changes)]
        before = storage.read_fresh(output.path("current.json"))
        folder = folder_with(tmp_path, *heads)
        assert main(["rescore", output.uri, "--model", folder]) == EXIT_USAGE
        assert message.format(output.uri) in capsys.readouterr().err
        assert storage.read_fresh(output.path("current.json")) == before

    def test_captions_without_a_feature_are_named(self, output, tmp_path, model_id, capsys):
        lacking = caption(900, model_id)
        lacking["features"]["logprob_mean"] = None
        write(output, [lacking], files=1)
        before = storage.read_fresh(output.path("current.json"))
        folder = folder_with(tmp_path, head(model_id))
        assert main(["rescore", output.uri, "--model", folder]) == EXIT_FAILED
        said = capsys.readouterr().err
        assert "1 captions have no logprob_mean, which head" in said
        assert "memory://photos/900.jpg. Nothing was changed: caption these images into" in said
        assert storage.read_fresh(output.path("current.json")) == before

    @pytest.mark.parametrize(
        ("feature", "remedy"),
        [
            ("beam_gap", "annotate --refill, and the options"),
            ("image_information", "annotate --refill --features image_information, and"),
        ],
    )
    def test_a_feature_that_can_be_filled(
        self, output, tmp_path, model_id, capsys, feature, remedy
    ):
        folder = folder_with(tmp_path, head(model_id, features=(feature,)))
        assert main(["rescore", output.uri, "--model", folder]) == EXIT_FAILED
        said = capsys.readouterr().err
        assert f"captions have no {feature}, which head" in said
        assert f"fill it with captioner {remedy}" in said

    def test_an_output_that_is_none(self, tmp_path, model_id, capsys):
        folder = folder_with(tmp_path, head(model_id))
        assert main(["rescore", str(tmp_path / "nowhere"), "--model", folder]) == EXIT_USAGE
        assert "holds no captions; run captioner annotate first" in capsys.readouterr().err
        assert main(["rescore", str(tmp_path), "--model", "people/some-model"]) == EXIT_USAGE


class TestRun:
    """A run takes the head that is in the model's folder."""

    @pytest.fixture
    def annotate(self, tmp_path):
        photos = tmp_path / "photos"
        photos.mkdir()
        render(sample(3)).save(photos / "a.png")

        def run(model: Path, *flags: str) -> int:
            command = ["annotate", "--input", str(photos), "--output", str(tmp_path / "run")]
            return main([*command, "--model", str(model), "--device", "cpu", *flags])

        return run

    @pytest.fixture
    def model(self, tmp_path) -> Path:
        folder = tmp_path / "m2"
        folder.mkdir()
        for path in Path(embedded_path()).iterdir():
            (folder / path.name).write_bytes(path.read_bytes())
        return folder

    def test_confidence_is_calibrated_and_rescoring_changes_nothing(
        self, annotate, model, tmp_path, model_id, capsys
    ):
        made = head(model_id)
        save_heads(str(model), [made])
        assert annotate(model) == EXIT_DONE
        output = Output((tmp_path / "run").as_uri())
        (row,) = rows(output)
        assert (row["confidence_kind"], row["confidence_id"]) == ("calibrated", made.id)
        assert row["confidence"] == np.float32(made.probability(row["features"]))
        manifest = output.read_manifest(row["run_id"])
        assert json.loads(json.dumps(manifest))["config"]["confidence_id"] == made.id
        capsys.readouterr()
        assert main(["rescore", output.uri, "--model", str(model)]) == EXIT_DONE
        assert "1 captions, 0 changed" in capsys.readouterr().out

    def test_a_decoding_without_a_head_is_uncalibrated_and_told(
        self, annotate, model, tmp_path, model_id, capsys
    ):
        save_heads(str(model), [head(model_id)])
        assert annotate(model, "--strategy", "beam") == EXIT_DONE
        told = capsys.readouterr().err
        assert told.count("confidence is uncalibrated: the model's heads are for other") == 1
        assert "captioner calibrate" in told
        (row,) = rows(Output((tmp_path / "run").as_uri()))
        assert (row["confidence_kind"], row["confidence_id"]) == ("uncalibrated", None)

    def test_a_head_that_cannot_be_used_ends_the_run(self, annotate, model, model_id, capsys):
        save_heads(str(model), [head("other@1")])
        assert annotate(model) == EXIT_USAGE
        assert f"a head for model other@1, and this is {model_id}" in capsys.readouterr().err
        save_heads(str(model), [head(model_id, features=("image_information",))])
        assert annotate(model) == EXIT_USAGE
        assert "needs image_information: add --features image_inf" in capsys.readouterr().err

    def test_a_caption_without_the_heads_feature_fails(self, model_id):
        from captioner.contract import Caption

        facts = ImageFacts(ImageRef("memory://a", "x"), "a", 1, 8, 8, "PNG", "0")
        item = Captioned(facts, Caption("a cat", features={"num_tokens": 3.0}))
        failure = score_confidence(item, head(model_id))
        assert isinstance(failure, Failure)
        assert failure.kind is FailureKind.MODEL_ERROR
        assert "logprob_mean is None: the model gave no token probabilities" in failure.message

    def test_captions_that_lack_a_feature_are_kept_counted_and_told(
        self, annotate, model, tmp_path, model_id, capsys
    ):
        made = head(
            model_id,
            features=("logprob_mean", "beam_gap"),
            means=(-0.4, 0.0),
            scales=(0.3, 1.0),
            weights=(1.0, 1.0),
        )
        save_heads(str(model), [made])
        assert annotate(model) == EXIT_DONE
        told = f"1 captions are uncalibrated: confidence head {made.id} needs what they lack"
        assert capsys.readouterr().err.count(f"{told} (beam_gap in 1)") == 1
        output = Output((tmp_path / "run").as_uri())
        (row,) = rows(output)
        assert (row["confidence_kind"], row["confidence_id"]) == ("uncalibrated", None)
        manifest = output.read_manifest(row["run_id"])
        assert manifest["uncalibrated"] == {"captions": 1, "lacking": {"beam_gap": 1}}


class TestNoGuarantee:
    """A head that was fitted on all labels says so in every row, and no guarantee rests on it."""

    def plan(self, output: Output) -> int:
        rules = ["--guarantee", "accuracy>=0.8 @ 0.9", "--audit", "0.5"]
        return main(["review", "plan", output.uri, *rules])

    def test_it_is_refused_until_it_is_calibrated_and_rescored(
        self, output, tmp_path, model_id, capsys
    ):
        lone = write(Output((tmp_path / "lone").as_uri()), rows_of(output, model_id), [])
        assert calibrate(output.uri, tmp_path / "m2") == EXIT_DONE
        spent = greedy_head(tmp_path / "m2")
        assert spent.all_labels
        assert main(["rescore", lone.uri, "--model", str(tmp_path / "m2")]) == EXIT_DONE
        assert {row["confidence_id"] for row in rows(lone)} == {spent.id}
        before = lone.current()
        capsys.readouterr()
        new = tmp_path / "new"
        rules = ["--guarantee", "accuracy>=0.8 @ 0.9", "--audit", "0.5"]
        asked = ["annotate", "--input", str(tmp_path), "--output", str(new), "--device", "cpu"]
        assert main([*asked, "--model", str(tmp_path / "m2"), *rules]) == EXIT_USAGE
        assert f"head {spent.id}, which was fitted on all labels" in capsys.readouterr().err
        assert not new.exists()
        assert self.plan(lone) == EXIT_USAGE
        said = capsys.readouterr().err
        assert f"head {spent.id}, which was fitted on all labels" in said
        assert "calibrate without --no_guarantee, then captioner rescore" in said
        assert lone.current() == before
        command = ["calibrate", "--device", "cpu", "--labels", output.uri]
        assert main([*command, "--output", str(tmp_path / "m2")]) == EXIT_DONE
        made = greedy_head(tmp_path / "m2")
        assert not made.all_labels
        assert main(["rescore", lone.uri, "--model", str(tmp_path / "m2")]) == EXIT_DONE
        assert self.plan(lone) == EXIT_DONE


def rows_of(output: Output, model_id: str) -> list[dict]:
    return [row for row in rows(output) if row["model_id"] == model_id]


class TestHuggingFace:
    def test_a_head_fits_the_model_that_it_lies_with(self, tmp_path, capsys):
        from tests.captioner.test_huggingface import make_checkpoint

        model = make_checkpoint("git", tmp_path / "model")
        model_id = load(str(model), "cpu").model_id
        captions = [caption(index, model_id) for index in range(120)]
        output = write(Output((tmp_path / "out").as_uri()), captions, [*map(review, captions)])
        again = str(tmp_path / "m2")
        assert calibrate(output.uri, again, "--model", str(model)) == EXIT_DONE
        assert load(again, "cpu").model_id == model_id
        (made,) = load_heads(again)
        photos = tmp_path / "photos"
        photos.mkdir()
        render(sample(3)).save(photos / "a.png")
        run = Output((tmp_path / "run").as_uri())
        command = ["annotate", "--input", str(photos), "--output", run.uri, "--device", "cpu"]
        assert main([*command, "--model", again]) == EXIT_DONE
        (row,) = rows(run)
        assert (row["model_id"], row["confidence_id"]) == (model_id, made.id)
        capsys.readouterr()
        assert main(["rescore", run.uri, "--model", again]) == EXIT_DONE
        assert "1 captions, 0 changed" in capsys.readouterr().out
        assert main(["rescore", output.uri, "--model", again]) == EXIT_DONE
        assert "120 captions, 120 changed" in capsys.readouterr().out
