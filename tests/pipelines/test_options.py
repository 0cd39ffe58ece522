"""The command line as a person meets it."""

from dataclasses import fields

import pytest

from captioner.contract import DecodingConfig
from pipelines import __version__
from pipelines.options import parse

REQUIRED = ["annotate", "--input", "in", "--output", "out"]


def fail(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as exit_:
        parse(arguments)
    assert exit_.value.code == 2
    return capsys.readouterr().err


@pytest.mark.parametrize(
    ("flag", "nearest"),
    [
        ("--batchsize", "--batch_size"),
        ("--batch-size", "--batch_size"),
        ("--review-below=0.3", "--review_below"),
        ("--runnner=X", "--runner"),
        ("--direct_num_worker", "--direct_num_workers"),
    ],
)
def test_an_unknown_flag_names_the_nearest(capsys, flag: str, nearest: str):
    message = fail(capsys, *REQUIRED, flag)
    assert f"unknown option {flag.partition('=')[0]}; did you mean {nearest}?" in message


def test_a_misspelt_flag_is_named_before_what_it_leaves_out(capsys):
    message = fail(capsys, "annotate", "--imput", "in", "--output", "out")
    assert "unknown option --imput; did you mean --input?" in message


def test_a_flag_like_no_other(capsys):
    message = fail(capsys, *REQUIRED, "--xyzzy")
    assert "unknown option --xyzzy\n" in message


def test_beam_options_pass_through():
    beam = ["--runner=DataflowRunner", "--region", "us-central1", "--direct_num_workers=2"]
    args, rest = parse([*REQUIRED, *beam])
    assert rest == beam
    assert args.input == ["in"]


def test_decoding_options_are_the_fields_of_the_configuration():
    args, _ = parse([*REQUIRED, "--strategy", "sample", "--top_p", "0.9", "--seed", "7"])
    assert (args.strategy, args.top_p, args.seed) == ("sample", 0.9, 7)
    args, _ = parse([*REQUIRED, "--forbidden_words", "a", "b"])
    assert args.forbidden_words == ["a", "b"]
    unasked = {field.name for field in fields(DecodingConfig)} & set(vars(args))
    assert unasked == {"precision", "draft", "forbidden_words"}
    with pytest.raises(SystemExit):
        parse([*REQUIRED, "--beam_size", "many"])


def test_several_inputs():
    args, _ = parse(["annotate", "--input", "a", "gs://b/c", "--output", "out"])
    assert args.input == ["a", "gs://b/c"]


@pytest.mark.parametrize(
    "arguments",
    [
        ["--batch_size", "0"],
        ["--limit", "-1"],
        ["--review_below", "1.5"],
        ["--review_budget", "some"],
        ["--guarantee", "accuracy>95"],
        ["--audit", "200%"],
        ["--max_failure_rate", "nan"],
        ["--device", "tpu"],
        ["--direct_num_workers=two"],
    ],
)
def test_a_wrong_value_is_named(capsys, arguments: list[str]):
    message = fail(capsys, *REQUIRED, *arguments)
    assert arguments[-1].rpartition("=")[2] in message


def test_what_is_missing_is_named(capsys):
    assert "--output" in fail(capsys, "annotate", "--input", "in")


def test_help_groups_options_by_what_they_are_for(capsys):
    with pytest.raises(SystemExit):
        parse(["annotate", "--help"])
    text = capsys.readouterr().out
    titles = [
        "input and output:",
        "model:",
        "decoding:",
        "images:",
        "review:",
        "Beam:",
        "exit status:",
    ]
    places = [text.index(title) for title in titles]
    assert places == sorted(places)


@pytest.mark.parametrize(
    ("command", "url", "title"),
    [
        (["annotate"], "push the queue to", "made if there is none of that title"),
        (["review", "push"], "push the queue to", "made if there is none of that title"),
        (["review", "init"], "make the project in", "made if there is none of that title"),
        (["review", "pull"], "read from", "its title"),
        (["review", "status"], "read from", "its title"),
        (["doctor"], "look at", "its title; it is not made"),
        (["promote"], "have captions compared in", "that of the reviews"),
    ],
)
def test_help_says_what_a_command_does_with_label_studio(capsys, command, url, title):
    with pytest.raises(SystemExit):
        parse([*command, "--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert f"--label_studio_url URL {url} this Label Studio (default: " in text
    assert f"--label_studio_project TITLE {title} (default: Captions to review)" in text


@pytest.mark.parametrize("command", ["annotate", "doctor"])
def test_no_model_is_named_where_the_output_may_name_one(command):
    given = ["--input", "in"] if command == "annotate" else []
    assert parse([command, *given, "--output", "out"])[0].model is None


def test_version(capsys):
    with pytest.raises(SystemExit):
        parse(["--version"])
    assert capsys.readouterr().out == f"captioner {__version__}\n"
