"""Rows that are done, run again to fill columns that came to be asked for."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from apache_beam.utils.shared import Shared

from captioner.checkpoint import read, save
from captioner.confidence.calibration import Sigmoid
from captioner.confidence.head import ConfidenceHead
from captioner.contract import OF_BEAMS, DecodingConfig
from captioner.model import CaptionModel
from captioner.scenes import write_folder
from pipelines import storage
from pipelines.annotate import SkipDone
from pipelines.cli import main
from pipelines.confidence import say_uncalibrated
from pipelines.config import AnnotateConfig
from pipelines.listing import list_images
from pipelines.local import RunError
from pipelines.models import acquire
from pipelines.options import EXIT_DONE, EXIT_USAGE
from pipelines.output import Output
from tests.fakes import FakeCaptioner
from tests.pipelines.helpers import annotate, bare_model, essence, rows, write_images

INFORMATION, RESCORED = "image_information", "rescored_logprob_mean"


@pytest.fixture
def output(tmp_path: Path) -> Output:
    return Output((tmp_path / "out").as_uri())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_images(tmp_path / "in", 8)
    return tmp_path / "in"


def filled(output: Output, name: str = INFORMATION) -> list[bool]:
    return [row["features"][name] is not None for row in rows(output)]


def refill(folder: Path, output: Output, *names: str, **settings):
    names = names or (INFORMATION,)
    return annotate(folder, output, FakeCaptioner(fills=names), refill=names, **settings)


class TestRefill:
    def test_rows_that_lack_a_column_run_again_and_only_those(self, folder, output):
        annotate(folder, output)
        write_images(folder, 2, first=8)
        annotate(folder, output, FakeCaptioner(fills=(INFORMATION,)))
        assert filled(output) == [False] * 8 + [True] * 2
        manifest = refill(folder, output)
        assert manifest["counts"] == {
            "listed": 10,
            "captioned": 8,
            "skipped": 2,
            "failed": 0,
            "not_reached": 0,
        }
        assert filled(output) == [True] * 10
        assert len({row["uri"] for row in rows(output)}) == len(rows(output)) == 10

    def test_it_is_the_output_of_a_run_that_asked_at_once(self, folder, output, tmp_path):
        annotate(folder, output)
        refill(folder, output, part_rows=3)
        at_once = Output((tmp_path / "at_once").as_uri())
        annotate(folder, at_once, FakeCaptioner(fills=(INFORMATION,)))
        assert essence(output) == essence(at_once)

    def test_a_second_refill_runs_nothing(self, folder, output):
        annotate(folder, output)
        refill(folder, output)
        before = rows(output)
        assert refill(folder, output)["counts"]["skipped"] == 8
        assert rows(output) == before

    def test_without_it_nothing_runs_again(self, folder, output):
        annotate(folder, output)
        again = annotate(folder, output, FakeCaptioner(fills=(INFORMATION,)))
        assert again["counts"]["skipped"] == 8
        assert not any(filled(output))

    def test_rows_of_other_models_are_left_alone(self, folder, output):
        annotate(folder, output)
        annotate(folder, output, FakeCaptioner(model_id="fake@2"))
        refill(folder, output)
        of_first = [row["model_id"] == "fake@1" for row in rows(output)]
        assert filled(output) == of_first
        assert sum(of_first) == 8
        assert len(rows(output)) == 16

    def test_beams_are_filled_where_there_were_several_and_run_once(self, folder, output):
        """A search that found one caption has nothing to compare, however often it runs."""

        class Beams(FakeCaptioner):
            def caption(self, batch):
                return [self.compared(caption) for caption in super().caption(batch)]

            def compared(self, caption):
                if int(caption.tokens[0][1:]) % 2:  # red
                    told = {name: 0.5 for name in OF_BEAMS if self.fills}
                    return replace(
                        caption,
                        n_best=(*caption.n_best, ("other", -9.0)),
                        features={**caption.features, **told},
                    )
                features = {k: v for k, v in caption.features.items() if k not in OF_BEAMS}
                return replace(caption, features=features)

        annotate(folder, output, Beams())
        several = [len(row["n_best"]) > 1 for row in rows(output)]
        assert 0 < sum(several) < 8
        for captioned in (sum(several), 0):
            found = annotate(folder, output, Beams(fills=OF_BEAMS), refill=OF_BEAMS)
            assert found["counts"]["captioned"] == captioned
            assert filled(output, "beam_gap") == filled(output, "beam_agreement") == several

    def test_labels_that_a_row_lacks_are_a_column_like_others(self, folder, output):
        annotate(folder, output)
        counts = annotate(folder, output, FakeCaptioner(), refill=("labels",))["counts"]
        assert (counts["captioned"], counts["skipped"]) == (8, 0)

    def test_an_image_that_fails_now_keeps_its_caption_and_the_run_balances(self, folder, output):
        annotate(folder, output)
        poisoned = FakeCaptioner(fills=(INFORMATION,), poison=7)  # red of the second image
        counts = annotate(folder, output, poisoned, refill=(INFORMATION,))["counts"]
        assert (counts["captioned"], counts["failed"]) == (7, 1)
        assert filled(output) == [True, False, *[True] * 6]
        (failure,) = rows(output, "failures")
        assert failure["uri"] == rows(output)[1]["uri"]
        write_images(folder, 1, first=8)
        annotate(folder, output)
        assert len(rows(output, "failures")) == 1, "it was tried again by a run without --refill"
        assert refill(folder, output)["counts"]["captioned"] == 2
        assert all(filled(output))
        assert rows(output, "failures") == []

    @pytest.mark.parametrize("crash_at", range(1, 9))
    def test_a_crash_at_any_write_leaves_nothing_lost_or_doubled(
        self, folder, output, tmp_path, monkeypatch, crash_at
    ):
        annotate(folder, output, part_rows=3)
        calls = iter(range(1, 1_000))

        class Crash(Exception):
            pass

        def dying(function):
            def call(uri, *args):
                if "lease" not in uri and "runs/" not in uri and next(calls) >= crash_at:
                    raise Crash
                return function(uri, *args)

            return call

        with monkeypatch.context() as patch:
            for name in ("write_bytes_atomically", "remove"):
                patch.setattr(storage, name, dying(getattr(storage, name)))
            with pytest.raises((Crash, RunError)):
                refill(folder, output, part_rows=3)
        refill(folder, output, part_rows=3)
        unbroken = Output((tmp_path / "unbroken").as_uri())
        annotate(folder, unbroken, FakeCaptioner(fills=(INFORMATION,)))
        assert essence(output) == essence(unbroken)
        assert rows(output, "failures") == []
        assert storage.list_files(output.path("staging")) == []


LOGIT = "verifier_logit"


class TestVerifier:
    """What a verifier said is filled where another one said it, or none."""

    def annotate(self, folder, output, verifier: str, *fills: str, refill: bool = True, **more):
        fake = FakeCaptioner(fills=(LOGIT, *fills), verifier=verifier)
        names = fake.fills if refill else ()
        return annotate(folder, output, fake, head=head_with(verifier), refill=names, **more)

    def ids(self, output: Output) -> list[str | None]:
        return [row["verifier_id"] for row in rows(output)]

    def test_rows_of_none_and_of_another_run_again_and_no_others(self, folder, output):
        old, new = "0" * 12, "1" * 12
        annotate(folder, output)
        write_images(folder, 2, first=8)
        self.annotate(folder, output, old, refill=False)
        write_images(folder, 3, first=10)
        assert self.annotate(folder, output, new, refill=False)["counts"]["captioned"] == 3
        assert self.ids(output) == [None] * 8 + [old] * 2 + [new] * 3
        counts = self.annotate(folder, output, new)["counts"]
        assert (counts["captioned"], counts["skipped"]) == (10, 3)
        assert self.ids(output) == [new] * 13
        assert all(filled(output, LOGIT))
        assert {row["confidence_id"] for row in rows(output)} == {head_with(new).id}
        assert self.annotate(folder, output, new)["counts"]["skipped"] == 13

    def test_on_a_runner_of_its_own_the_same_images_are_skipped(self, folder, output):
        old, new = "0" * 12, "1" * 12
        self.annotate(folder, output, old)
        config = AnnotateConfig(
            output=output.uri, run_id="run", model="fake", model_id="fake@1", refill=(LOGIT,)
        )
        refs = list(list_images([folder.as_uri()]))
        for verifier, left in ((old, 0), (new, 8)):
            skip = SkipDone(replace(config, run_id=verifier, head=head_with(verifier)), Shared())
            skip.setup()
            assert sum(len(list(skip.process(ref))) for ref in refs) == left

    def test_captions_by_another_verifier_than_the_heads_are_told(self, folder, output, capsys):
        """As of a worker that loads a model after its folder was calibrated anew."""
        head = head_with("1" * 12)
        fake = FakeCaptioner(fills=(LOGIT,), verifier="2" * 12)
        run = annotate(folder, output, fake, head=head)["run_id"]
        assert {row["confidence_kind"] for row in rows(output)} == {"uncalibrated"}
        assert self.ids(output) == ["2" * 12] * 8
        say_uncalibrated(output, run, head)
        assert f"needs what they lack ({LOGIT} in 8)" in capsys.readouterr().err
        lacking = output.read_manifest(run)["uncalibrated"]["lacking"]
        assert lacking == {LOGIT: 8}

    def test_a_process_loads_a_model_once_for_each_verifier(self, monkeypatch):
        loaded = []

        def load(*args: object) -> FakeCaptioner:
            loaded.append(FakeCaptioner())
            return loaded[-1]

        monkeypatch.setattr("pipelines.models.load", load)
        shared = Shared()
        config = AnnotateConfig(output="memory://o", run_id="r", model="m", model_id="fake@1")
        for head in (None, head_with("0" * 12), head_with("1" * 12)):
            mine = replace(config, head=head)
            assert acquire(shared, mine) is acquire(shared, mine) is loaded[-1]
        assert len(loaded) == 3


def head_with(verifier: str) -> ConfidenceHead:
    return ConfidenceHead(
        model_id="fake@1",
        decoding=DecodingConfig().id,
        features=("logprob_mean", LOGIT),
        means=(0.0, 0.0),
        scales=(1.0, 1.0),
        weights=(1.0, 0.01),
        bias=0.0,
        calibration=Sigmoid(1.0, 0.0),
        labels=100,
        verifier=verifier,
    )


def headless_model(folder: Path) -> str:
    """Make a model that fills nothing by itself: captions are all that it knows."""
    whole = read(str(bare_model(folder)))
    model = CaptionModel(replace(whole.model.config, heads=None))
    weights = whole.model.state_dict()
    model.load_state_dict({name: weights[name] for name in model.state_dict()})
    save(model, whole.tokenizer, str(folder))
    return str(folder)


class TestCommand:
    """With a model without statistics, and with one to which they are added."""

    @pytest.fixture(scope="class")
    def images(self, tmp_path_factory) -> Path:
        folder = tmp_path_factory.mktemp("images") / "scenes"
        write_folder(str(folder), count=5, seed=3, image_size=64)
        return folder

    @pytest.fixture(scope="class")
    def model(self, images, tmp_path_factory) -> str:
        folder = bare_model(tmp_path_factory.mktemp("model") / "scenes")
        command = ["statistics", "--model", str(folder), "--data", str(images), "--device", "cpu"]
        assert main(command) == EXIT_DONE
        return str(folder)

    def run(self, images, output, *flags) -> int:
        command = ["annotate", "--input", str(images), "--output", output.uri, "--device", "cpu"]
        return main([*command, *flags])

    def test_features_are_asked_for_and_filled_later(self, images, model, output, capsys):
        assert self.run(images, output, "--model", model) == EXIT_DONE
        assert filled(output, "feature_distance") == [True] * 5
        assert not any(filled(output))
        first = ["--model", model, "--features", INFORMATION]
        assert self.run(images, output, *first) == EXIT_DONE
        assert not any(filled(output)), "--features alone runs nothing again"
        assert self.run(images, output, *first, "--refill") == EXIT_DONE
        assert all(filled(output))
        before = {row["uri"]: row["features"] for row in rows(output)}
        assert self.run(images, output, "--model", model, "--features", RESCORED, "--refill") == (
            EXIT_USAGE
        )
        told = capsys.readouterr().err
        assert f"lose {INFORMATION} of 5 rows; ask for all: --features {RESCORED} " in told
        both = [*first, RESCORED, "--refill"]
        assert self.run(images, output, *both) == EXIT_DONE
        for row in rows(output):
            found = row["features"]
            assert found[RESCORED] == pytest.approx(found["logprob_mean"], abs=1e-5)
            assert found[INFORMATION] == pytest.approx(before[row["uri"]][INFORMATION], abs=1e-5)
        manifests = [json.loads(path.read_text()) for path in Path(output.uri[7:]).glob("runs/*")]
        assert max(manifest["config"]["features"] for manifest in manifests) == [
            INFORMATION,
            RESCORED,
        ]

    @pytest.mark.parametrize(
        ("flags", "message"),
        [
            (["--refill"], "fills no column that a row may lack"),
            (["--features", INFORMATION], "has no statistics of its training images"),
            (["--features", "colour"], "invalid choice: 'colour'"),
        ],
    )
    def test_what_cannot_be_filled_is_told_before_the_run(
        self, images, output, tmp_path, capsys, flags, message
    ):
        model = ["--model", headless_model(tmp_path / "bare")]
        try:
            status = self.run(images, output, *model, *flags)
        except SystemExit as exit:
            status = exit.code
        assert status == EXIT_USAGE
        assert message in capsys.readouterr().err
        assert not Path(output.uri[7:]).exists()
