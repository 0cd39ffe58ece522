"""``--language`` on the command line."""

from pathlib import Path

import pytest

from captioner.contract import DecodingConfig
from captioner.scenes import write_folder
from pipelines.cli import main
from pipelines.commands import decoding_config
from pipelines.options import EXIT_USAGE, parse


@pytest.mark.parametrize("command", [["annotate", "--input", "in"], ["explain", "image.jpg"]])
def test_it_is_part_of_the_decoding_only_where_it_is_given(command: list[str]):
    args, _ = parse([*command, "--output", "out"])
    assert decoding_config(args) == DecodingConfig()
    args, _ = parse([*command, "--output", "out", "--language", "zh"])
    assert decoding_config(args) == DecodingConfig(language="zh")


@pytest.mark.parametrize(
    ("language", "said"),
    [("xx", "language is 'xx'; "), ("a b", "--language is 'a b'; use a short name")],
)
def test_one_that_the_model_does_not_know_ends_at_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], language: str, said: str
):
    write_folder(str(tmp_path / "in"), count=1, image_size=64)
    image = str(tmp_path / "in" / "scene-000000.jpg")
    for command in (["annotate", "--input", str(tmp_path / "in")], ["explain", image]):
        output = tmp_path / command[0]
        status = main([*command, "--output", str(output), "--language", language])
        assert status == EXIT_USAGE
        assert said in capsys.readouterr().err
        assert not output.exists()
