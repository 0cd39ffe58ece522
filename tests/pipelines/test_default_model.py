import argparse
import json
from pathlib import Path

import pytest

from captioner.contract import DecodingConfig, ModelLoadError
from captioner.loading import load
from pipelines.cli import main
from pipelines.default_model import DefaultModel, choose_model, read_default, write_default
from pipelines.output import Output, OutputError
from tests.fakes import FakeCaptioner
from tests.pipelines.helpers import bare_model, rows, write_images

BEAMS = DecodingConfig(strategy="beam", beam_size=5)


@pytest.fixture
def output(tmp_path: Path) -> Output:
    (tmp_path / "out").mkdir()
    return Output((tmp_path / "out").as_uri())


def promoted(output: Output, decoding: DecodingConfig = BEAMS) -> DefaultModel:
    captioner = FakeCaptioner("new@2", decoding)
    return write_default(output, "gs://bucket/model", captioner, ("old@1", "abc"))


def options(model: str | None = None, **given: object) -> argparse.Namespace:
    return argparse.Namespace(**{"model": model, "precision": "float32", "draft": False, **given})


class TestFile:
    def test_is_read_as_it_was_written(self, output: Output, tmp_path: Path):
        default = promoted(output)
        assert read_default(output) == default
        assert default.decoding == BEAMS
        assert json.loads((tmp_path / "out" / "model").read_text()) == {
            "schema_version": 1,
            "model": "gs://bucket/model",
            "model_id": "new@2",
            "decoding": {"strategy": "beam", "beam_size": 5},
            "promoted_at": default.promoted_at,
            "instead_of": {"model_id": "old@1", "decoding": "abc"},
        }

    def test_an_output_without_one(self, output: Output):
        assert read_default(output) is None

    @pytest.mark.parametrize("content", ["{", "[]", '{"schema_version": 1, "model": "x"}'])
    def test_another_file_is_refused(self, output: Output, tmp_path: Path, content: str):
        (tmp_path / "out" / "model").write_text(content)
        with pytest.raises(OutputError, match="is not what captioner promote writes"):
            read_default(output)

    def test_a_newer_version_is_refused(self, output: Output, tmp_path: Path):
        promoted(output)
        path = tmp_path / "out" / "model"
        path.write_text(path.read_text().replace('"schema_version": 1', '"schema_version": 99'))
        with pytest.raises(OutputError, match="schema version 99, newer than 1"):
            read_default(output)

    def test_another_model_in_that_place_is_refused(self, output: Output):
        with pytest.raises(ModelLoadError, match="is now other@9, but the output's model is new@2"):
            promoted(output).check(FakeCaptioner("other@9"))


class TestChoice:
    def test_the_outputs_model_decodes_as_it_was_compared(self, output: Output, capsys):
        default, args = promoted(output), options()
        assert choose_model(args, output) == default
        assert (args.model, args.strategy, args.beam_size) == ("gs://bucket/model", "beam", 5)
        told = capsys.readouterr().err
        assert "model: new@2, from gs://bucket/model: promoted " in told
        assert "decoding: as it was compared: strategy beam, beam_size 5" in told

    @pytest.mark.parametrize("given", [{"max_length": 9}, {"precision": "bfloat16"}])
    def test_options_say_how_to_decode(self, output: Output, capsys, given):
        promoted(output)
        args = options(**given)
        assert choose_model(args, output) is not None
        assert not hasattr(args, "strategy")
        assert "decoding: as the options say" in capsys.readouterr().err

    def test_model_wins(self, output: Output, capsys):
        promoted(output)
        args = options("mine")
        assert choose_model(args, output) is None
        assert args.model == "mine"
        assert not hasattr(args, "strategy")
        assert "model: mine, as --model says; not the output's" in capsys.readouterr().err

    def test_an_output_without_one(self, output: Output, capsys):
        args = options()
        assert choose_model(args, output) is None
        assert args.model == "embedded"
        assert capsys.readouterr().err == ""


class TestAnnotate:
    def test_takes_the_outputs_model(self, output: Output, tmp_path: Path, capsys):
        write_images(tmp_path / "in", 3)
        model = bare_model(tmp_path / "model")
        config = json.loads((model / "config.json").read_text()) | {"name": "mine"}
        (model / "config.json").write_text(json.dumps(config))
        captioner = load(str(model), "cpu", DecodingConfig(max_length=7))
        write_default(output, model.as_uri(), captioner, ("old@1", "abc"))
        command = ["annotate", "--input", str(tmp_path / "in"), "--output", output.uri]
        assert main([*command, "--device", "cpu"]) == 0
        assert f"model: {captioner.model_id}, from {model.as_uri()}" in capsys.readouterr().err
        done = {(row["model_id"], row["decoding"]) for row in rows(output)}
        assert done == {(captioner.model_id, captioner.decoding.id)}
        assert captioner.model_id.startswith("mine@")

        config["name"] = "changed"
        (model / "config.json").write_text(json.dumps(config))
        assert main([*command, "--device", "cpu"]) == 2
        assert f"but the output's model is {captioner.model_id}" in capsys.readouterr().err
