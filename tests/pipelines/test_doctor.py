"""Checks that run side by side, each within its time; and this machine and its model."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from captioner.contract import Captioner, DecodingConfig, ModelLoadError
from pipelines.cli import main
from pipelines.default_model import write_default
from pipelines.doctor import machine
from pipelines.doctor.checks import Check, Finding, Mark, failed, ok, refused, run
from pipelines.output import Output
from pipelines.storage import StorageError
from schemas.kinds import FailureKind
from tests.fakes import FakeCaptioner


def marks(*chains: list[Check]) -> dict[str, Mark]:
    """Run chains and return how each check ended."""
    said: dict[str, Mark] = {}
    found = run(chains, lambda subject, finding: said.update({subject: finding.mark}))
    assert [finding.mark for finding in found] == list(said.values())
    return said


def raising(error: Exception) -> Callable[[], Finding]:
    def look() -> Finding:
        raise error

    return look


class TestChecks:
    def test_all_run_although_one_fails(self) -> None:
        chain = [
            Check("one", lambda: ok("fine")),
            Check("two", lambda: failed("broken", "mend it")),
            Check("three", raising(RuntimeError("unforeseen"))),
            Check("four", lambda: ok("fine")),
        ]
        assert marks(chain) == {
            "one": Mark.OK,
            "two": Mark.FAILED,
            "three": Mark.FAILED,
            "four": Mark.OK,
        }

    def test_behind_a_gate_that_failed_nothing_is_checked(self) -> None:
        chain = [
            Check("gate", lambda: failed("closed", "open it"), gate=True),
            Check("behind", raising(AssertionError("looked at"))),
        ]
        beside = [Check("beside", lambda: ok("fine"))]
        found = run([chain, beside], lambda subject, finding: None)
        assert [finding.mark for finding in found] == [Mark.FAILED, Mark.NOT_CHECKED, Mark.OK]
        assert found[1].found == "gate has failed"

    def test_one_that_hangs_is_given_up_and_the_next_one_runs(self) -> None:
        never = threading.Event()

        def hang() -> Finding:
            never.wait()
            return ok("too late")

        started = time.monotonic()
        chain = [Check("hangs", hang, seconds=0.2), Check("next", lambda: ok("fine"))]
        found = run([chain], lambda subject, finding: None)
        never.set()
        assert time.monotonic() - started < 5
        assert [finding.mark for finding in found] == [Mark.FAILED, Mark.OK]
        assert found[0].found == "no answer within 0.2 s"

    def test_chains_run_side_by_side(self) -> None:
        both = threading.Barrier(2)

        def meet() -> Finding:
            both.wait(20)
            return ok("met")

        assert set(marks([Check("one", meet)], [Check("two", meet)]).values()) == {Mark.OK}

    def test_what_a_check_made_is_put_away_when_the_user_stops(self) -> None:
        made, stopped, put_away = threading.Event(), threading.Event(), threading.Event()

        def probe() -> Finding:
            made.set()
            stopped.wait(20)
            put_away.set()
            return ok("done")

        def show(subject: str, finding: Finding) -> None:
            made.wait(20)
            threading.Timer(0.2, stopped.set).start()
            raise KeyboardInterrupt

        after = Check("after", raising(AssertionError("looked at after the stop")))
        with pytest.raises(KeyboardInterrupt):
            run([[Check("first", lambda: ok("fine"))], [Check("probe", probe), after]], show)
        assert put_away.is_set()

    @pytest.mark.parametrize(
        ("error", "found", "remedy"),
        [
            (ModelLoadError("no such model; name one"), "no such model", "name one"),
            (RuntimeError("it broke. Put it back."), "it broke", "Put it back."),
            (RuntimeError("2.5 of a.b are gone"), "2.5 of a.b are gone", "as told"),
            (ValueError("two\nlines"), "two lines", "as told"),
            (KeyError(), "KeyError", "as told"),
            (
                StorageError(FailureKind.PERMISSION, "http://me:secret@host/a refuses; log in"),
                "http://***@host/a refuses",
                "log in",
            ),
        ],
    )
    def test_an_error_says_what_and_what_to_do(
        self, error: Exception, found: str, remedy: str
    ) -> None:
        assert refused(error, "as told") == failed(found, remedy)

    def test_what_is_not_ok_has_a_remedy(self) -> None:
        with pytest.raises(ValueError, match="without a remedy"):
            failed("broken", "")


def without_gpu(monkeypatch: pytest.MonkeyPatch, **version: str | None) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    monkeypatch.setattr(torch, "version", SimpleNamespace(**{"cuda": None, "hip": None} | version))


class TestAccelerator:
    def test_none_is_fine_without_a_driver(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for version in ({}, {"cuda": "12.8"}):
            without_gpu(monkeypatch, **version)
            monkeypatch.setattr(machine, "_has_driver", lambda: False)
            assert machine.accelerator().mark is Mark.OK

    def test_a_build_without_cuda_beside_a_driver(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        without_gpu(monkeypatch)
        driver = tmp_path / "version"
        driver.write_text("NVRM version: NVIDIA UNIX x86_64 Kernel Module")
        monkeypatch.setattr(machine, "_DRIVER", driver)
        found = machine.accelerator()
        assert found.mark is Mark.WARNING
        assert f"torch {torch.__version__} is built without any" in found.found
        assert found.remedy.startswith("install a build of torch for it")

    def test_a_driver_that_is_too_old_for_the_build(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse() -> None:
            raise RuntimeError("The NVIDIA driver on your system is too old (found version 11040).")

        without_gpu(monkeypatch, cuda="12.8")
        monkeypatch.setattr(machine, "_has_driver", lambda: True)
        monkeypatch.setattr(torch.cuda, "init", refuse)
        found = machine.accelerator()
        assert found.mark is Mark.WARNING
        assert "built for 12.8" in found.found
        assert "found version 11040" in found.found
        assert found.remedy.startswith("update the driver")

    def test_a_gpu_that_the_build_cannot_compute_on(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def ones(*size: int, **where: Any) -> None:
            raise RuntimeError("CUDA error: no kernel image is available for execution\nmore")

        properties = SimpleNamespace(name="Old GPU", total_memory=8e9, major=3, minor=5)
        monkeypatch.setattr(torch, "version", SimpleNamespace(cuda="12.8", hip=None))
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda number: properties)
        monkeypatch.setattr(torch, "ones", ones)
        found = machine.accelerator()
        assert found.mark is Mark.FAILED
        assert found.found == (
            "2 x Old GPU, 8 GB, CUDA 12.8: it does not compute: "
            "CUDA error: no kernel image is available for execution"
        )
        assert "compute capability 3.5" in found.remedy


class TestPrecision:
    def test_on_a_processor_all_compute(self) -> None:
        found = machine.computes_in("bfloat16", "cpu")
        assert found == ok("bfloat16 on cpu; float32 and float16 would do as well")

    def test_one_that_does_not_compute(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(machine, "_computes", lambda name, where: name == "float32")
        found = machine.computes_in("float16", "cpu")
        assert found == failed("float16 does not compute on cpu", "choose --precision of: float32")

    @pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is there")
    def test_a_device_that_is_not_there(self) -> None:
        with pytest.raises(ModelLoadError, match="device 'cuda' is not there"):
            machine.computes_in("float32", "cuda")


class TestModel:
    def test_the_embedded_one_captions_a_drawn_scene(self) -> None:
        loaded: Future[Captioner] = Future()
        found = machine.model("embedded", "cpu", DecodingConfig(), loaded)
        assert found.mark is Mark.OK
        assert loaded.result().model_id in found.found
        assert "images/s" in found.found
        assert "above a" in found.found or "below a" in found.found or "of a" in found.found

    @pytest.mark.parametrize(
        ("seconds", "said"), [(16, "0.5"), (2, "4"), (0.08, "100"), (0.004, "2,000")]
    )
    def test_speeds_are_numbers_that_people_write(
        self, monkeypatch: pytest.MonkeyPatch, seconds: float, said: str
    ) -> None:
        monkeypatch.setattr(machine, "_caption", lambda captioner, scenes: ("a dog", seconds))
        found = machine.model("embedded", "cpu", DecodingConfig(), Future())
        assert f" about {said} images/s in batches of 8" in found.found

    def test_a_broken_folder(self, tmp_path: Path) -> None:
        (tmp_path / "config.json").write_text('{"format_version": 1}')
        loaded: Future[Captioner] = Future()
        found = machine.model(str(tmp_path), "cpu", DecodingConfig(), loaded)
        assert found.mark is Mark.FAILED
        assert "there is no model.safetensors" in found.found
        assert isinstance(loaded.exception(), ModelLoadError)

    def test_one_that_breaks_in_a_library_leaves_nobody_waiting(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(machine, "load", lambda *_: (_ for _ in ()).throw(OSError("cut off")))
        loaded: Future[Captioner] = Future()
        assert machine.model("m", "cpu", DecodingConfig(), loaded).found == "cut off"
        assert isinstance(loaded.exception(timeout=0), OSError)

    def test_one_that_says_nothing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        silent = FakeCaptioner()
        monkeypatch.setattr(silent, "_caption", lambda item: SimpleNamespace(text=""), raising=True)
        monkeypatch.setattr(machine, "load", lambda *_: silent)
        found = machine.model("m", "cpu", DecodingConfig(), Future())
        assert found.mark is Mark.WARNING
        assert "says nothing" in found.found


BEAMS = DecodingConfig(strategy="beam", beam_size=5)


class TestOutputsModel:
    """Without ``--model`` it is the one that annotate would take."""

    @pytest.fixture
    def output(self, tmp_path: Path) -> Output:
        return Output(tmp_path.as_uri())

    @pytest.fixture
    def asked(self, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, DecodingConfig]]:
        """What is loaded, each as a model ``new@2``."""
        asked: list[tuple[str, DecodingConfig]] = []

        def load(name: str, device: str, decoding: DecodingConfig) -> FakeCaptioner:
            asked.append((name, decoding))
            return FakeCaptioner("new@2", decoding)

        monkeypatch.setattr(machine, "load", load)
        return asked

    def promote(self, output: Output, model_id: str = "new@2") -> None:
        write_default(output, "gs://b/model", FakeCaptioner(model_id, BEAMS), ("old@1", "abc"))

    @pytest.mark.parametrize(
        ("name", "given", "taken"),
        [
            (None, DecodingConfig(), ("gs://b/model", BEAMS)),
            (
                None,
                DecodingConfig(precision="float16"),
                ("gs://b/model", DecodingConfig(precision="float16")),
            ),
            ("mine", DecodingConfig(), ("mine", DecodingConfig())),
        ],
    )
    def test_is_loaded_as_it_was_compared_unless_options_say_otherwise(
        self,
        output: Output,
        asked: list[tuple[str, DecodingConfig]],
        name: str | None,
        given: DecodingConfig,
        taken: tuple[str, DecodingConfig],
    ) -> None:
        self.promote(output)
        found = machine.model(name, "cpu", given, Future(), output)
        assert asked == [taken]
        assert found.mark is Mark.OK
        assert found.found.startswith(f"{taken[0]}, new@2, on cpu: loaded")

    def test_there_may_be_none(
        self, output: Output, asked: list[tuple[str, DecodingConfig]]
    ) -> None:
        assert machine.model(None, "cpu", DecodingConfig(), Future(), output).mark is Mark.OK
        assert asked == [("embedded", DecodingConfig())]

    @pytest.mark.parametrize(
        ("name", "given", "found"),
        [
            (None, "float32", failed("float16 does not", "--model gs://b/model --precision of: ")),
            (None, "bfloat16", failed("bfloat16 does not", "choose --precision of: float32")),
            ("mine", "float32", ok("float32 on cpu; ")),
        ],
    )
    def test_its_own_precision_is_looked_at(
        self,
        output: Output,
        monkeypatch: pytest.MonkeyPatch,
        name: str | None,
        given: str,
        found: Finding,
    ) -> None:
        monkeypatch.setattr(machine, "_computes", lambda name, where: name == "float32")
        half = FakeCaptioner("new@2", DecodingConfig(precision="float16"))
        write_default(output, "gs://b/model", half, ("old@1", "abc"))
        chain = machine.checks(name, "cpu", given, Future(), output)
        (check,) = (check for check in chain if check.subject == "precision")
        said = check.look()
        assert said.mark is found.mark
        assert said.found.startswith(found.found)
        assert found.remedy in said.remedy

    @pytest.mark.usefixtures("asked")
    def test_another_one_in_its_place(self, output: Output) -> None:
        self.promote(output, "old@2")
        loaded: Future[Captioner] = Future()
        assert machine.model(None, "cpu", DecodingConfig(), loaded, output) == failed(
            "gs://b/model is now new@2, but the output's model is old@2, as it was compared",
            "put that back, or name a --model",
        )
        assert isinstance(loaded.exception(timeout=0), ModelLoadError)

    def test_a_damaged_file_is_found(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (tmp_path / "model").write_text("{")
        assert main(["doctor", "--output", str(tmp_path)]) == 1
        said = capsys.readouterr().out.splitlines()
        (at,) = (number for number, line in enumerate(said) if line.startswith("FAILED"))
        wrong = (
            f"FAILED       model: {tmp_path.as_uri()}/model is not what captioner promote writes"
        )
        assert said[at].startswith(wrong)
        assert said[at + 1] == "             -> put back a copy of it, or remove it"
        wrong = "not checked  precision: what the output's model computes in cannot be read"
        assert wrong in said[:at]


class TestCommand:
    def test_without_arguments_it_looks_at_the_machine(
        self, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main(["doctor"]) == 0
        said = capsys.readouterr().out.splitlines()
        assert said[0].startswith("ok           versions: Python 3.")
        assert "not checked  inputs: none was named" in said
        assert "             -> name it by --output" in said
        assert said[-1] == "5 ok, 3 not checked"

    def test_what_fails_is_the_exit_status(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        folder = tmp_path / "no model"
        status = main(["doctor", str(tmp_path / "gone"), "--model", str(folder)])
        assert status == 1
        said = capsys.readouterr().out.splitlines()
        at = said.index(f"FAILED       input {tmp_path / 'gone'}: no such file or folder")
        assert said[at + 1] == "             -> check the spelling"
        assert any(line.startswith("FAILED       model: ") for line in said)

    @pytest.mark.parametrize(
        ("arguments", "said"),
        [
            (["--output", "zip://a::file:///b.zip"], "cannot be written"),
            (["--output", "s3://me:secret@bucket/a"], "carries a user name or password"),
            (["--model", "https://me:secret@host/m"], "carries a user name or password"),
            (["--label_studio_url", "http://me:secret@host"], "carries a user name or password"),
        ],
    )
    def test_what_cannot_be_used(
        self, arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main(["doctor", *arguments]) == 2
        error = capsys.readouterr().err
        assert said in error
        assert "secret" not in error

    def test_a_misspelt_option_is_named(self, capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit) as ended:
            main(["doctor", "--outputt", "x"])
        assert ended.value.code == 2
        assert "did you mean --output?" in capsys.readouterr().err
