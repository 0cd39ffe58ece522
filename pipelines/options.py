"""The command line: our options, grouped by what they are for, and every option of Beam's."""

import argparse
import difflib
import os
from collections.abc import Sequence
from typing import Any

from captioner.contract import EMBEDDED, EXTRAS, PRECISIONS, STRATEGIES, DecodingConfig
from captioner.images import Limits
from pipelines import __version__
from pipelines.arguments import EXIT_USAGE, Parser, add_kind, positive, share
from pipelines.confidence_options import add_calibrate, add_rescore
from pipelines.doctor_options import add_doctor
from pipelines.merge_options import add_merge
from pipelines.promote_options import add_promote
from pipelines.quality_options import add_quality
from pipelines.review_init_options import add_init, add_queue_model
from pipelines.review_loop_options import add_pull_and_status
from pipelines.review_options import REVIEW_BELOW, add_review_rules
from pipelines.training_options import add_evaluate, add_statistics, add_train

EXIT_DONE = 0
EXIT_FAILED = 1
EXIT_TOO_MANY_FAILURES = 3
EXIT_NOT_PUSHED = 4
EXIT_STOPPED = 130

_EXITS = """\
exit status:
  0    done
  1    the run failed, or does not balance
  2    wrong usage: an option, an input or a model that cannot be used
  3    done, but more images failed than --max_failure_rate allows
  4    captions committed, but the push to Label Studio did not finish
  130  stopped by the user; what was finished is committed
"""

_PUSHED = ("push the queue to", "made if there is none of that title")
"""What annotate and push do with Label Studio and its project."""

_EXAMPLE = """\
example:
  captioner annotate --input photos gs://bucket/more --output captions

Run the same command again after a crash, a stop, or when images were added: only new, changed
or failed images are captioned.

"""


def parse(argv: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """Return our options, and those that are Beam's as they were given.

    Exits with status 2 on wrong usage.
    """
    parser, annotate = _parsers()
    if not argv:
        parser.print_help()
        parser.exit(EXIT_USAGE)
    if argv[0] == "annotate":
        _check_flags(annotate, argv[1:])
    args, rest = parser.parse_known_args(argv)
    if args.command == "annotate":
        _check_beam(annotate, rest)
    elif rest:
        args.parser.error(_unknown(rest[0], _flags(args.parser)))
    return args, rest


def _parsers() -> tuple[Parser, Parser]:
    parser = Parser(
        prog="captioner",
        description="Captions for folders of images, in Parquet, and a review queue.",
    )
    parser.add_argument("--version", action="version", version=f"captioner {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    annotate = commands.add_parser(
        "annotate",
        help="caption the images of folders, write Parquet, queue what is unsure",
        description="Caption every image of the inputs once; write Parquet; queue what is unsure.",
        epilog=_EXAMPLE + _EXITS,
    )
    annotate.set_defaults(parser=annotate)
    _add_annotate(annotate)
    add_doctor(commands, _add_outputs_model, _add_label_studio)
    _add_review(commands)
    add_quality(commands)
    _add_compact(commands)
    _add_explain(commands)
    add_train(commands)
    add_evaluate(commands, _add_model, _add_decoding)
    add_calibrate(commands, _add_model, _add_decoding)
    add_rescore(commands)
    add_statistics(commands)
    add_promote(commands, _add_label_studio, _add_decoding)
    _add_scenes(commands)
    return parser, annotate


def _add_annotate(parser: argparse.ArgumentParser) -> None:
    files = parser.add_argument_group("input and output")
    files.add_argument(
        "--input",
        nargs="+",
        required=True,
        metavar="URI",
        help="folders, images, globs, zip or tar archives, or list files (.txt, or .csv and "
        ".parquet with a column uri), on any store: a path, gs://, s3://, http://, ...",
    )
    files.add_argument("--output", required=True, metavar="URI", help="folder for the Parquet")
    files.add_argument(
        "--glob", metavar="PATTERN", help="only images whose path in the input matches: '2024/**'"
    )
    files.add_argument(
        "--limit", type=positive, metavar="N", help="caption at most N images in this run"
    )
    files.add_argument(
        "--refill",
        action="store_true",
        help="run images again whose rows lack what this run fills, such as a feature that is "
        "asked for now (default: what has a caption is done)",
    )
    model = _add_outputs_model(parser)
    model.add_argument(
        "--features",
        nargs="+",
        choices=EXTRAS,
        default=(),
        metavar="NAME",
        help="columns that cost a pass of the decoder each: image_information (log-probability "
        "of the caption given the image less that given the mean training image) and "
        "rescored_logprob_mean (of the finished caption read as a whole) (default: none)",
    )
    model.add_argument(
        "--batch_size",
        type=positive,
        default=32,
        metavar="N",
        help="images through the model at once; fewer after an out-of-memory error "
        "(default: %(default)s)",
    )
    _add_decoding(parser)
    images = parser.add_argument_group("images")
    images.add_argument(
        "--draft",
        action="store_true",
        help="decode JPEG at a reduced scale: faster on large photographs, pixels differ a little",
    )
    images.add_argument(
        "--max_image_bytes",
        type=positive,
        default=Limits().max_bytes,
        metavar="N",
        help="larger files fail, unread (default: %(default)s)",
    )
    images.add_argument(
        "--max_image_pixels",
        type=positive,
        default=Limits().max_pixels,
        metavar="N",
        help="images of more pixels fail, undecoded (default: %(default)s)",
    )
    images.add_argument(
        "--max_failure_rate",
        type=share,
        default=0.1,
        metavar="SHARE",
        help="exit with status 3 if more of the images failed (default: %(default)s)",
    )
    review = parser.add_argument_group("review")
    add_review_rules(review, f"default, unless another rule is given: {REVIEW_BELOW}")
    _add_label_studio(review, False, *_PUSHED)
    beam = parser.add_argument_group(
        "Beam",
        "Every option of Apache Beam's is taken as well, e.g. --runner, --direct_running_mode, "
        "--direct_num_workers, --project, --region, --temp_location, --setup_file. "
        "Without --runner the job runs in this process.",
    )
    beam.add_argument(
        "--accelerator",
        metavar="HINT",
        help="GPU for Dataflow's workers: 'type:nvidia-l4;count:1;install-nvidia-driver'",
    )
    beam.add_argument("--min_ram", metavar="SIZE", help="memory for Dataflow's workers, e.g. 16GB")


def _add_model(
    parser: argparse.ArgumentParser, default: str | None = EMBEDDED, shown: str = EMBEDDED
) -> argparse._ArgumentGroup:
    model = parser.add_argument_group("model")
    model.add_argument(
        "--model",
        default=default,
        help="a model folder on any store, or the name of a Hugging Face image-to-text model such "
        f"as Salesforce/blip-image-captioning-base (default: {shown}, which knows drawn scenes "
        "only)",
    )
    model.add_argument(
        "--device", default="auto", choices=("auto", "cpu", "cuda", "mps"), help="(default: auto)"
    )
    model.add_argument(
        "--precision", default="float32", choices=PRECISIONS, help="(default: float32)"
    )
    return model


def _add_outputs_model(parser: argparse.ArgumentParser) -> argparse._ArgumentGroup:
    """Add what ``_add_model`` does, for a command that takes the output's model by itself."""
    shown = f"the one that OUTPUT/model names, see captioner promote; else {EMBEDDED}"
    return _add_model(parser, None, shown)


def _add_decoding(parser: argparse.ArgumentParser) -> None:
    """Add what ``DecodingConfig`` holds; what is not given is not in the namespace."""
    default = DecodingConfig()
    group = parser.add_argument_group(
        "decoding",
        "How a caption is made from the model's probabilities. Captions made in another way have "
        "rows\nof their own in the output, and are not taken for done.",
        argument_default=argparse.SUPPRESS,
    )
    group.add_argument(
        "--strategy",
        choices=STRATEGIES,
        help="the most probable token at each step, a search for the most probable caption, or "
        f"tokens drawn by probability (default: {default.strategy})",
    )
    for name, kind, metavar, text in (
        ("max_length", int, "N", "most tokens in a caption"),
        ("min_length", int, "N", "fewest tokens before the one that ends a caption"),
        ("beam_size", int, "N", "captions that --strategy beam follows at once"),
        (
            "length_penalty",
            float,
            "P",
            "--strategy beam divides log-probabilities by length ** P; more makes captions longer",
        ),
        ("temperature", float, "T", "of --strategy sample; less is safer"),
        ("top_k", int, "N", "--strategy sample draws from the N most probable tokens; 0 from all"),
        (
            "top_p",
            float,
            "P",
            "--strategy sample draws from the fewest tokens that have P of the probability",
        ),
        ("seed", int, "N", "of --strategy sample"),
        ("no_repeat_ngram", int, "N", "no sequence of N tokens comes twice; 0 allows all"),
    ):
        group.add_argument(
            f"--{name}",
            type=kind,
            metavar=metavar,
            help=f"{text} (default: {getattr(default, name)})",
        )
    group.add_argument(
        "--forbidden_words", nargs="+", metavar="WORD", help="words that no caption may hold"
    )
    group.add_argument(
        "--language",
        metavar="NAME",
        help="of the captions, of those that the model knows, such as en (default: its first)",
    )


def _add_label_studio(
    group: argparse._ArgumentGroup, required: bool, used: str, titled: str
) -> None:
    """Add the options that say where Label Studio is.

    Args:
        group: that they belong to.
        required: whether the command needs it.
        used: what the command does there, before "this Label Studio".
        titled: what the title is of, or what becomes of a project that is not there.
    """
    group.add_argument(
        "--label_studio_url",
        required=required and "LABEL_STUDIO_URL" not in os.environ,
        default=os.environ.get("LABEL_STUDIO_URL"),
        metavar="URL",
        help=f"{used} this Label Studio (default: the environment's LABEL_STUDIO_URL)",
    )
    group.add_argument(
        "--label_studio_project",
        default="Captions to review",
        metavar="TITLE",
        help=f"{titled} (default: %(default)s)",
    )
    group.add_argument(
        "--label_studio_token_file",
        metavar="FILE",
        help="holds the access token, personal or legacy (default: the environment's "
        "LABEL_STUDIO_API_KEY)",
    )


def _add_review(commands: Any) -> None:
    review = commands.add_parser(
        "review", help="plan the review queue, push it, bring back what people said, and use it"
    )
    actions = review.add_subparsers(dest="action", metavar="ACTION", required=True)
    plan = actions.add_parser("plan", help="choose which committed captions need a person")
    plan.add_argument("output", metavar="OUTPUT", help="folder written by annotate")
    add_review_rules(plan, "at least one rule is needed")
    add_kind(plan)
    add_init(actions, _add_label_studio)
    push = actions.add_parser("push", help="send the queue to Label Studio; what is there stays")
    push.add_argument("output", metavar="OUTPUT", help="folder written by annotate")
    _add_label_studio(push.add_argument_group("Label Studio"), True, *_PUSHED)
    add_kind(push)
    add_queue_model(push)
    for parser in (plan, push):
        parser.set_defaults(parser=parser)
    add_pull_and_status(actions, _add_label_studio)
    add_merge(actions)


def _add_compact(commands: Any) -> None:
    compact = commands.add_parser("compact", help="merge an output's small files into few")
    compact.add_argument("output", metavar="OUTPUT", help="folder written by annotate")
    compact.add_argument(
        "--max_file_bytes",
        type=positive,
        default=128 * 1024 * 1024,
        metavar="N",
        help="size of a file at most, about (default: %(default)s)",
    )
    compact.set_defaults(parser=compact)


def _add_explain(commands: Any) -> None:
    explain = commands.add_parser(
        "explain",
        help="draw an image's caption, each word over what the model looked at",
        description="Caption one image, and draw each word over what the model looked at for it.",
    )
    explain.add_argument("image", metavar="IMAGE", help="on any store: a path, gs://, s3://, ...")
    explain.add_argument(
        "--output", default="explain.png", metavar="FILE", help="(default: %(default)s)"
    )
    _add_model(explain)
    _add_decoding(explain)
    explain.set_defaults(parser=explain, draft=False)


def _add_scenes(commands: Any) -> None:
    scenes = commands.add_parser("scenes", help="write a folder of drawn scenes with captions")
    scenes.add_argument("--count", type=positive, required=True, metavar="N")
    scenes.add_argument("--seed", type=int, default=0, metavar="S", help="(default: 0)")
    scenes.add_argument(
        "--language", default="en", metavar="NAME", help="of the captions: en or zh (default: en)"
    )
    scenes.add_argument("--output", required=True, metavar="DIR")
    scenes.set_defaults(parser=scenes)


def _check_flags(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> None:
    """Refuse a flag that is neither ours nor Beam's, before what it leaves out is missed."""
    given = [argument.partition("=")[0] for argument in arguments if argument.startswith("--")]
    ours = _flags(parser)
    if set(given) <= set(ours):
        return
    known = [*ours, *_flags(_beam_parser())]
    for flag in given:
        if flag not in known:
            parser.error(_unknown(flag, known))


def _check_beam(parser: argparse.ArgumentParser, rest: Sequence[str]) -> None:
    """Refuse what Beam would warn of and then go on without."""
    if not rest:
        return
    try:
        _, unknown = _beam_parser().parse_known_args(list(rest))
    except (argparse.ArgumentError, ValueError) as error:
        parser.error(str(error))
    if unknown:
        parser.error(_unknown(unknown[0], _flags(parser)))


def _beam_parser() -> Any:
    # Imported here, so that --help need not wait for Beam.
    from apache_beam.options.pipeline_options import PipelineOptions, _BeamArgumentParser

    beam = _BeamArgumentParser(allow_abbrev=False, add_help=False, exit_on_error=False)
    for options in PipelineOptions.__subclasses__():
        options._add_argparse_args(beam)
    return beam


def _flags(parser: argparse.ArgumentParser) -> list[str]:
    return [flag for action in parser._actions for flag in action.option_strings]


def _unknown(argument: str, flags: Sequence[str]) -> str:
    flag = argument.partition("=")[0]
    if not flag.startswith("-"):
        return f"unexpected argument {argument!r}"
    nearest = difflib.get_close_matches(flag.replace("-", "_").replace("__", "--", 1), flags, 1)
    hint = f"; did you mean {nearest[0]}?" if nearest else ""
    return f"unknown option {flag}{hint}"
