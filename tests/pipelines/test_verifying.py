"""Verifiers: learned, kept, applied and filled, as a person runs the commands."""

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from apache_beam.utils.shared import Shared
from torch import Tensor

from captioner.checkpoint import embedded_path
from captioner.confidence.fitting import fit
from captioner.confidence.guarantee import kept_for_guarantees
from captioner.confidence.head import (
    HEADS_FILE,
    VERIFIER_FILES,
    load_heads,
    load_verifier,
    save_heads,
    verifier_file,
)
from captioner.contract import Caption, DecodingConfig, ModelLoadError, Prepared
from captioner.loading import load
from captioner.scenes import write_folder
from captioner.verifier import Verifier, hash_of
from pipelines.cli import main
from pipelines.config import AnnotateConfig
from pipelines.labels import Joined, LabelledCaption
from pipelines.models import acquire
from pipelines.options import EXIT_DONE, EXIT_FAILED, EXIT_USAGE
from pipelines.output import Output
from pipelines.verifying import with_evidence
from schemas.identity import image_id
from schemas.tables import REVIEWS
from tests.fakes import FakeCaptioner
from tests.pipelines.helpers import colour, rows, write_images
from tests.pipelines.test_calibration import BEAM, GREEDY, NOON, caption, greedy_head, review, write

LOGIT = "verifier_logit"
SCENES = 60


def calibrate(labels: object, target: Path, *flags: str) -> int:
    command = ["calibrate", "--device", "cpu", "--labels", str(labels), "--output", str(target)]
    return main([*command, *flags])


def annotate(images: Path, output: Output, model: Path, *flags: str) -> int:
    command = ["annotate", "--input", str(images), "--output", output.uri, "--device", "cpu"]
    return main([*command, "--model", str(model), *flags])


def verifier_files(folder: Path) -> set[str]:
    return {path.name for path in folder.glob(VERIFIER_FILES)}


@pytest.fixture(scope="module", autouse=True)
def hurried() -> Iterator[None]:
    """Learn for a short time: how well is for others to test."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("captioner.confidence.verification._STEPS", 20)
        yield


@pytest.fixture(scope="module")
def plain(tmp_path_factory) -> Path:
    """The embedded model without confidence heads."""
    ignore = shutil.ignore_patterns(HEADS_FILE, VERIFIER_FILES)
    folder = tmp_path_factory.mktemp("plain") / "model"
    return Path(shutil.copytree(embedded_path(), folder, ignore=ignore))


@pytest.fixture(scope="module")
def model_id(plain) -> str:
    return load(str(plain), "cpu").model_id


@pytest.fixture(scope="module")
def verified(plain, tmp_path_factory) -> Path:
    """The same model with a verifier, learned from scenes."""
    folder = tmp_path_factory.mktemp("verified") / "model"
    flags = ["--verifier", "--model", str(plain)]
    assert calibrate(f"scenes:{SCENES}", folder, *flags) == EXIT_DONE
    return folder


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("images") / "scenes"
    write_folder(str(folder), count=4, seed=3, image_size=64)
    return folder


@pytest.fixture
def output(tmp_path) -> Output:
    return Output((tmp_path / "out").as_uri())


def remembering(verifier: Verifier, images: Sequence[str]) -> Verifier:
    """Return a verifier that says that it learned from these images."""
    seen = np.unique(np.array([hash_of(image) for image in images], np.int32))
    return replace(verifier, images=torch.from_numpy(seen))


def with_verifier(verified: Path, folder: Path, images: Sequence[str], **changes) -> Verifier:
    """Copy the model with a verifier that learned from other images; return that."""
    shutil.copytree(verified, folder)
    (head,) = load_heads(str(folder))
    verifier = remembering(load_verifier(str(folder), head.verifier), images)
    save_heads(str(folder), [replace(head, verifier=verifier.id, **changes)], [verifier])
    return verifier


class TestScenes:
    def test_a_run_has_what_the_verifier_says_and_is_calibrated(
        self, verified, images, output, model_id, capsys
    ):
        (head,) = load_heads(str(verified))
        assert head.verifier is not None
        assert LOGIT in head.features
        assert head.labels == SCENES
        assert verifier_files(verified) == {verifier_file(head.verifier)}
        assert load(str(verified), "cpu").model_id == model_id, "it is no part of the model"
        assert annotate(images, output, verified) == EXIT_DONE
        for row in rows(output):
            assert row["verifier_id"] == head.verifier
            assert np.isfinite(row["features"][LOGIT])
            assert (row["confidence_kind"], row["confidence_id"]) == ("calibrated", head.id)
            assert row["confidence"] == np.float32(head.probability(row["features"]))
        capsys.readouterr()
        assert main(["rescore", output.uri, "--model", str(verified)]) == EXIT_DONE
        assert "4 captions, 0 changed" in capsys.readouterr().out

    def test_it_is_told_where_it_is_and_how_captions_that_are_there_get_it(
        self, plain, tmp_path, capsys
    ):
        target = tmp_path / "m2"
        assert calibrate("scenes:50", target, "--verifier", "--model", str(plain)) == EXIT_DONE
        told = capsys.readouterr().out
        (head,) = load_heads(str(target))
        assert told.startswith("50 scenes\n50 captions of 50 images")
        assert f"verifier {head.verifier} is in {target}/{verifier_file(head.verifier)}" in told
        assert f"captioner annotate --refill --model {target}" in told
        assert "rescore" not in told

    def test_the_head_is_fitted_on_what_verifiers_say_of_scenes_new_to_them(
        self, plain, tmp_path, monkeypatch
    ):
        from pipelines import calibration

        fitted, learned = [], []

        def fit(table, *args, **kwargs):
            fitted.extend(row[LOGIT] for row in table)
            return real_fit(table, *args, **kwargs)

        def learn(*args, **kwargs):
            learned.append(real_learn(*args, **kwargs))
            return learned[-1]

        real_fit, real_learn = calibration.fit, calibration.learn
        monkeypatch.setattr(calibration, "fit", fit)
        monkeypatch.setattr(calibration, "learn", learn)
        flags = ["--verifier", "--model", str(plain)]
        assert calibrate("scenes:50", tmp_path / "m2", *flags) == EXIT_DONE
        (made,) = learned
        assert fitted == made.logits.tolist()

    def test_without_the_option_it_is_kept_and_the_head_sees_other_scenes(
        self, verified, tmp_path, capsys, monkeypatch
    ):
        (before,) = load_heads(str(verified))
        fitted, target = [], tmp_path / "m2"

        def noting(rows, correct, groups, **settings):
            fitted.extend(groups)
            return fit(rows, correct, groups, **settings)

        monkeypatch.setattr("pipelines.calibration.fit", noting)
        assert calibrate(f"scenes:{SCENES}", target, "--model", str(verified)) == EXIT_DONE
        verifier = load_verifier(str(verified), before.verifier)
        assert len(fitted) == SCENES
        assert not any(map(verifier.saw, fitted))
        told = capsys.readouterr().out
        assert told.splitlines()[0] == f"{SCENES} scenes"
        assert f"captioner rescore OUTPUT --model {target}" in told
        (head,) = load_heads(str(target))
        assert (head.verifier, head.labels) == (before.verifier, SCENES)
        assert LOGIT in head.features
        name = verifier_file(head.verifier)
        assert verifier_files(target) == {name}
        assert (target / name).read_bytes() == (verified / name).read_bytes()

    def test_one_that_is_learned_anew_takes_the_place_and_others_stay(
        self, verified, tmp_path, model_id
    ):
        folder = tmp_path / "model"
        old = with_verifier(verified, folder, ["a"])
        other = remembering(old, ["b"])
        (head,) = load_heads(str(folder))
        beam = replace(head, decoding=BEAM, verifier=other.id)
        save_heads(str(folder), [head, beam], [other])
        assert verifier_files(folder) == {verifier_file(old.id), verifier_file(other.id)}
        assert calibrate("scenes:50", folder, "--verifier", "--model", str(folder)) == EXIT_DONE
        made = greedy_head(folder)
        assert made.verifier not in (old.id, other.id, None)
        assert verifier_files(folder) == {verifier_file(made.verifier), verifier_file(other.id)}
        assert beam in load_heads(str(folder))
        # Into another folder only what is named there goes along.
        (folder / verifier_file("0" * 12)).write_bytes(b"nobody names it")
        target = tmp_path / "m2"
        target.mkdir()
        (target / verifier_file(other.id)).write_bytes(b"torn")
        assert calibrate("scenes:50", target, "--verifier", "--model", str(folder)) == EXIT_DONE
        assert len(verifier_files(target)) == 2
        assert load_verifier(str(target), other.id).id == other.id


class TestOtherVerifiers:
    """Captions of one verifier, and a model that has another."""

    @pytest.fixture
    def other(self, verified, tmp_path) -> Path:
        with_verifier(verified, tmp_path / "other", ["an image"])
        return tmp_path / "other"

    def test_rescore_refuses_and_refill_runs_them_again(
        self, verified, other, images, output, capsys
    ):
        assert annotate(images, output, verified) == EXIT_DONE
        captions = [row["caption"] for row in rows(output)]
        before = output.current()
        (head,) = load_heads(str(other))
        capsys.readouterr()
        rescore = ["rescore", output.uri, "--model", str(other)]
        assert main(rescore) == EXIT_FAILED
        said = capsys.readouterr().err
        assert f"4 captions have no {LOGIT} of verifier {head.verifier}, which head" in said
        assert "captioner annotate --refill, with this model and the options of these" in said
        assert output.current() == before
        assert annotate(images, output, other) == EXIT_DONE
        assert output.current() == before, "without --refill nothing runs again"
        assert annotate(images, output, other, "--refill") == EXIT_DONE
        for row in rows(output):
            assert (row["verifier_id"], row["confidence_id"]) == (head.verifier, head.id)
        assert [row["caption"] for row in rows(output)] == captions
        capsys.readouterr()
        assert annotate(images, output, other, "--refill") == EXIT_DONE
        assert "nothing to do" in capsys.readouterr().err
        assert main(rescore) == EXIT_DONE
        assert "4 captions, 0 changed" in capsys.readouterr().out

    def test_a_model_without_one_does_not_take_what_it_said(
        self, verified, plain, images, output, capsys
    ):
        assert annotate(images, output, verified) == EXIT_DONE
        before = rows(output)
        asked = ["--features", "image_information", "--refill"]
        assert annotate(images, output, plain, *asked) == EXIT_USAGE
        said = capsys.readouterr().err
        assert f"would run images again and lose {LOGIT} of 4 rows" in said
        assert "Take with --model the folder that they were captioned with" in said
        assert rows(output) == before
        assert annotate(images, output, verified, *asked) == EXIT_DONE
        assert all(row["features"]["image_information"] is not None for row in rows(output))

    def test_captions_of_none_get_one_by_refill(self, verified, plain, images, output):
        assert annotate(images, output, plain) == EXIT_DONE
        assert {row["verifier_id"] for row in rows(output)} == {None}
        assert annotate(images, output, verified, "--refill") == EXIT_DONE
        (head,) = load_heads(str(verified))
        assert {row["verifier_id"] for row in rows(output)} == {head.verifier}


class TestKept:
    """Reviews of captions by a model whose verifier learned from some of them."""

    @pytest.fixture
    def model(self, verified, tmp_path) -> tuple[Path, Verifier]:
        seen = [f"image-{index}" for index in range(40)]
        return tmp_path / "model", with_verifier(verified, tmp_path / "model", seen)

    def reviewed(
        self, output: Output, model_id: str, verifiers: Sequence[str | None], sign: int = 1
    ) -> Output:
        captions = [caption(index, model_id) for index in range(len(verifiers))]
        for index, (row, verifier) in enumerate(zip(captions, verifiers, strict=True)):
            row["verifier_id"] = verifier
            truth = 1 if review(row)["verdict"] == "accepted" else -1
            said = sign * truth + np.random.default_rng(index).normal()
            row["features"][LOGIT] = said if verifier else None
        return write(output, captions, [review(row) for row in captions])

    def test_their_labels_are_left_out(self, model, output, model_id, tmp_path, capsys):
        folder, verifier = model
        self.reviewed(output, model_id, [verifier.id] * 120)
        flags = ["--model", str(folder), "--no_guarantee"]
        assert calibrate(output.uri, tmp_path / "m2", *flags) == EXIT_DONE
        assert capsys.readouterr().out.splitlines()[0] == (
            "80 of 120 reviews are used; 40 are of images that the verifier learned from (learn it "
            "anew: --verifier)"
        )
        head = greedy_head(tmp_path / "m2")
        assert (head.verifier, head.labels) == (verifier.id, 80)
        assert LOGIT in head.features

    def test_half_is_kept_for_guarantees_before(self, model, output, model_id, tmp_path, capsys):
        folder, verifier = model
        self.reviewed(output, model_id, [verifier.id] * 200)
        assert calibrate(output.uri, tmp_path / "m2", "--model", str(folder)) == EXIT_DONE
        kept = sum(kept_for_guarantees(f"image-{index}") for index in range(200))
        seen = sum(not kept_for_guarantees(f"image-{index}") for index in range(40))
        assert capsys.readouterr().out.splitlines()[0] == (
            f"{200 - kept - seen} of 200 reviews are used; {kept} are kept for guarantees (use "
            f"them: --no_guarantee); {seen} are of images that the verifier learned from (learn it "
            "anew: --verifier)"
        )

    def test_captions_of_which_it_has_said_nothing_are_left_out(
        self, model, output, model_id, tmp_path, capsys
    ):
        folder, verifier = model
        self.reviewed(output, model_id, [*[verifier.id] * 110, *["0" * 12] * 5, *[None] * 5])
        flags = ["--model", str(folder), "--no_guarantee"]
        assert calibrate(output.uri, tmp_path / "m2", *flags) == EXIT_DONE
        assert (
            capsys.readouterr()
            .out.splitlines()[0]
            .endswith(
                "; 10 lack what the model's verifier says (fill it: captioner annotate --refill)"
            )
        )
        head = greedy_head(tmp_path / "m2")
        assert (head.verifier, head.labels) == (verifier.id, 70)

    def test_where_it_has_said_nothing_of_any_it_is_said(
        self, model, output, model_id, tmp_path, capsys
    ):
        self.reviewed(output, model_id, ["0" * 12] * 120)
        flags = ["--model", str(model[0]), "--no_guarantee"]
        assert calibrate(output.uri, tmp_path / "m2", *flags) == EXIT_USAGE
        said = capsys.readouterr().err
        assert (
            "80 lack what the model's verifier says (fill it: captioner annotate --refill" in said
        )
        assert not (tmp_path / "m2").exists()

    def test_one_whose_word_counts_against_captions_is_left_out(
        self, model, output, model_id, tmp_path, capsys
    ):
        """What it knows by heart would come out upside down."""
        folder, verifier = model
        self.reviewed(output, model_id, [verifier.id] * 120, sign=-1)
        flags = ["--model", str(folder), "--no_guarantee"]
        assert calibrate(output.uri, tmp_path / "m2", *flags) == EXIT_DONE
        assert f"verifier {verifier.id} is left out: of captions new" in capsys.readouterr().err
        head = greedy_head(tmp_path / "m2")
        assert (head.verifier, LOGIT in head.features) == (None, False)
        assert verifier_files(tmp_path / "m2") == set()

    def test_without_one_what_is_said_is_no_feature(
        self, plain, output, model_id, tmp_path, capsys
    ):
        self.reviewed(output, model_id, ["0" * 12] * 120)
        flags = ["--model", str(plain), "--no_guarantee"]
        assert calibrate(output.uri, tmp_path / "m2", *flags) == EXIT_DONE
        assert capsys.readouterr().out.startswith("120 of 120 reviews are used\n")
        head = greedy_head(tmp_path / "m2")
        assert (head.verifier, LOGIT in head.features) == (None, False)

    def test_one_that_saw_what_is_kept_for_guarantees_spends_them(
        self, verified, output, model_id, tmp_path, capsys
    ):
        folder = tmp_path / "model"
        verifier = with_verifier(verified, folder, ["elsewhere"], all_labels=True)
        self.reviewed(output, model_id, [verifier.id] * 120)
        assert calibrate(output.uri, tmp_path / "m2", "--model", str(folder)) == EXIT_DONE
        assert "no guarantee can rest on this head, as on the one before" in capsys.readouterr().err
        head = greedy_head(tmp_path / "m2")
        assert (head.verifier, head.all_labels) == (verifier.id, True)
        # One that is learned anew spends nothing of them.
        flags = ["--model", str(folder)]
        assert calibrate("scenes:50", tmp_path / "m3", "--verifier", *flags) == EXIT_DONE
        assert not greedy_head(tmp_path / "m3").all_labels


COUNT = 132


class TestReviews:
    """Captions of real images, reviewed; the images are read again."""

    @pytest.fixture(scope="class")
    def world(self, plain, tmp_path_factory) -> Path:
        folder = tmp_path_factory.mktemp("world")
        write_folder(str(folder / "in"), count=COUNT, seed=5, image_size=64)
        output = Output((folder / "out").as_uri())
        assert annotate(folder / "in", output, plain) == EXIT_DONE
        return folder

    @pytest.fixture
    def reviewed(self, world, tmp_path) -> Output:
        """A copy of them, all reviewed: people accept what is probable."""
        shutil.copytree(world / "in", tmp_path / "in")
        shutil.copytree(world / "out", tmp_path / "out")
        output = Output((tmp_path / "out").as_uri())
        here, there = (f"{(place / 'in').as_uri()}/" for place in (tmp_path, world))
        captions = [row | {"uri": row["uri"].replace(there, here)} for row in rows(output)]
        middle = float(np.median([row["features"]["logprob_mean"] for row in captions]))
        reviews = [
            {
                **dict.fromkeys(REVIEWS.names),
                **{name: row[name] for name in ("image_id", "model_id", "decoding")},
                "shown_caption": row["caption"],
                "verdict": "accepted" if row["features"]["logprob_mean"] > middle else "rejected",
                "reviewed_at": NOON,
            }
            for row in captions
        ]
        current = output.current()
        for file in current.of("captions"):
            current = current.replacing("captions", [file.path], [])
        output.replace_current(current)
        return write(output, captions, reviews)

    def test_they_are_read_again_and_those_kept_for_guarantees_never(
        self, reviewed, plain, tmp_path, capsys
    ):
        flags = ["--verifier", "--model", str(plain)]
        assert calibrate(reviewed.uri, tmp_path / "m2", *flags) == EXIT_DONE
        ids = [row["image_id"] for row in rows(reviewed)]
        kept = {one for one in ids if kept_for_guarantees(one)}
        assert capsys.readouterr().out.splitlines()[0] == (
            f"{COUNT - len(kept)} of {COUNT} reviews are used; {len(kept)} are kept for guarantees "
            "(use them: --no_guarantee)"
        )
        head = greedy_head(tmp_path / "m2")
        assert (head.labels, head.all_labels) == (COUNT - len(kept), False)
        verifier = load_verifier(str(tmp_path / "m2"), head.verifier)
        assert {one for one in ids if verifier.saw(one)} == set(ids) - kept

    def test_those_that_cannot_be_had_are_counted_and_the_rest_is_learned_from(
        self, reviewed, plain, tmp_path, capsys
    ):
        first, second, third, fourth = sorted(rows(reviewed), key=lambda row: row["uri"])[:4]
        Path(first["uri"][7:]).write_bytes(Path(fourth["uri"][7:]).read_bytes())
        Path(second["uri"][7:]).unlink()
        twice = tmp_path / "in" / "twice.jpg"
        Path(third["uri"][7:]).rename(twice)
        write(reviewed, [third | {"uri": twice.as_uri()}], [], files=1)
        flags = ["--verifier", "--model", str(plain), "--no_guarantee", "--batch_size", "7"]
        assert calibrate(reviewed.uri, tmp_path / "m2", *flags) == EXIT_DONE
        told = capsys.readouterr()
        assert told.out.splitlines()[0] == (
            f"{COUNT - 2} of {COUNT} reviews are used; 1 are of images that cannot be read or "
            "captioned any more; 1 are of images that have changed"
        )
        assert f"{first['uri']} has changed since it was captioned" in told.err
        head = greedy_head(tmp_path / "m2")
        assert (head.labels, head.all_labels) == (COUNT - 2, True)
        verifier = load_verifier(str(tmp_path / "m2"), head.verifier)
        assert not verifier.saw(first["image_id"])
        assert not verifier.saw(second["image_id"])
        assert verifier.saw(third["image_id"])

    def test_captions_that_are_others_now_are_counted(self, reviewed, plain, tmp_path, capsys):
        every = rows(reviewed, "reviews")
        changed = [row | {"caption": f"{row['caption']} indeed"} for row in rows(reviewed)[:5]]
        texts = {row["image_id"]: row["caption"] for row in changed}
        for row in every:
            row["shown_caption"] = texts.get(row["image_id"], row["shown_caption"])
        output = Output((tmp_path / "changed").as_uri())
        write(output, changed + rows(reviewed)[5:], every)
        flags = ["--verifier", "--model", str(plain), "--no_guarantee"]
        assert calibrate(output.uri, tmp_path / "m2", *flags) == EXIT_DONE
        assert capsys.readouterr().out.splitlines()[0] == (
            f"{COUNT - 5} of {COUNT} reviews are used; 5 are of images that are captioned "
            "differently now"
        )
        assert greedy_head(tmp_path / "m2").labels == COUNT - 5

    def test_where_too_few_are_left_it_says_why(self, reviewed, plain, tmp_path, capsys):
        for row in rows(reviewed)[: COUNT - 20]:
            Path(row["uri"][7:]).unlink()
        flags = ["--verifier", "--model", str(plain), "--no_guarantee"]
        assert calibrate(reviewed.uri, tmp_path / "m2", *flags) == EXIT_USAGE
        said = capsys.readouterr().err
        assert "there are 20 labels; give at least 50 (20 of" in said
        assert f"{COUNT - 20} are of images that cannot be read or captioned any more" in said
        assert not (tmp_path / "m2").exists()


class Evident(FakeCaptioner):
    """Tells of each word a figure, the image's red."""

    def caption_with_evidence(
        self, batch: Sequence[Prepared]
    ) -> tuple[list[Caption], list[Tensor]]:
        captions = self.caption(batch)
        evidence = [torch.full((len(c.tokens), 1), c.features["red"]) for c in captions]
        return captions, evidence


class TestEvidence:
    @pytest.fixture
    def labelled(self, tmp_path) -> list[LabelledCaption]:
        paths = write_images(tmp_path / "in", 40)
        return [
            LabelledCaption(
                image_id(path.read_bytes()),
                " ".join(f"{name}{value}" for name, value in zip("rgb", colour(i), strict=True)),
                i % 3 > 0,
                {"logprob_mean": float(i)},
                (path.as_uri(),),
            )
            for i, path in enumerate(paths)
        ]

    def config(self, **changes) -> AnnotateConfig:
        settings = {"output": "memory://o", "run_id": "r", "model": "fake", "model_id": "fake@1"}
        return AnnotateConfig(**settings, **changes)

    def test_each_label_has_its_own(self, labelled):
        joined = Joined(captions=labelled)
        labels = with_evidence(joined, Evident(fills=("red",)), self.config(batch_size=7))
        assert sorted(labels.groups) == sorted(one.image_id for one in labelled)
        reds = {one.image_id: float(one.caption.split()[0][1:]) for one in labelled}
        right = {one.image_id: one.correct for one in labelled}
        for group, correct, evidence in zip(
            labels.groups, labels.correct, labels.evidence, strict=True
        ):
            assert evidence.tolist() == [[reds[group]]] * 4
            assert correct == right[group]

    def test_a_poison_image_costs_itself_alone(self, labelled):
        joined = Joined(captions=labelled)
        poisoned = Evident(fills=("red",), poison=7)
        labels = with_evidence(joined, poisoned, self.config())
        assert joined.unreadable == 1
        assert len(labels.evidence) == len(labels.rows) == len(joined.captions) == 39

    def test_no_more_than_a_verifier_learns_from_chosen_by_image(self, labelled, monkeypatch):
        monkeypatch.setattr("pipelines.verifying.MOST_CAPTIONS", 15)
        fake = Evident(fills=("red",))
        chosen = []
        for captions in (labelled, labelled[::-1], labelled[5:]):
            joined = Joined(captions=list(captions), reviews=40)
            labels = with_evidence(joined, fake, self.config())
            assert joined.beyond == len(captions) - 15
            assert len(labels.evidence) == len(labels.rows) == 15
            chosen.append(set(labels.groups))
        assert chosen[0] == chosen[1]
        there = {one.image_id for one in labelled[5:]}
        assert chosen[0] & there <= chosen[2], "others that are gone change nothing for these"
        assert "25 are more than the 32,768 that a verifier learns from, by a hash" in (
            Joined(beyond=25).summary()
        )


class TestRefused:
    @pytest.mark.parametrize(
        ("labels", "message"),
        [
            ("scenes:32769", "a verifier learns from 32,768 captions at most; name scenes:32768"),
            ("scenes:49", "there are 49 labels; give at least 50 (49 scenes)"),
        ],
    )
    def test_too_many_and_too_few(self, plain, tmp_path, capsys, labels, message):
        flags = ["--verifier", "--model", str(plain)]
        assert calibrate(labels, tmp_path / "m2", *flags) == EXIT_USAGE
        assert message in capsys.readouterr().err
        assert not (tmp_path / "m2").exists()

    def test_models_of_hugging_face_have_none(self, tmp_path, capsys):
        from tests.captioner.test_huggingface import make_checkpoint

        model = make_checkpoint("git", tmp_path / "model")
        flags = ["--verifier", "--model", str(model)]
        assert calibrate("scenes:50", tmp_path / "m2", *flags) == EXIT_USAGE
        said = capsys.readouterr().err
        assert f"--verifier: {model} is a model of Hugging Face" in said
        assert not (tmp_path / "m2").exists()

    def test_a_head_whose_verifier_is_gone(self, verified, images, output, tmp_path, capsys):
        folder = tmp_path / "model"
        verifier = with_verifier(verified, folder, ["a"])
        (folder / verifier_file(verifier.id)).unlink()
        assert annotate(images, output, folder) == EXIT_USAGE
        assert f"{verifier_file(verifier.id)} is missing" in capsys.readouterr().err
        assert not Path(output.uri[7:]).exists()
        flags = ["--verifier", "--model", str(folder)]
        assert calibrate(f"scenes:{SCENES}", folder, *flags) == EXIT_DONE
        assert annotate(images, output, folder) == EXIT_DONE


class TestBroken:
    def test_another_head_whose_verifier_is_gone_stands_in_no_way(self, verified, tmp_path, capsys):
        folder = tmp_path / "model"
        verifier = with_verifier(verified, folder, ["a"])
        (head,) = load_heads(str(folder))
        save_heads(str(folder), [head, replace(head, decoding=BEAM)])
        (folder / verifier_file(verifier.id)).unlink()
        flags = ["--verifier", "--model", str(folder)]
        assert calibrate(f"scenes:{SCENES}", folder, *flags) == EXIT_DONE
        assert f"left out: the head for decoding {BEAM}" in capsys.readouterr().err
        (made,) = load_heads(str(folder))
        assert made.decoding == GREEDY

    def test_a_run_does_not_go_on_with_another_verifier(self, verified, tmp_path):
        folder = tmp_path / "model"
        verifier = with_verifier(verified, folder, ["a"])
        (head,) = load_heads(str(verified))
        config = AnnotateConfig(
            output="file:///out",
            run_id="run",
            model=str(folder),
            model_id=head.model_id,
            device="cpu",
            decoding=DecodingConfig(),
            head=head,
        )
        with pytest.raises(ModelLoadError, match=f"has verifier {verifier.id} now, but the run"):
            acquire(Shared(), config)
