"""The commands: what each does, from options to exit status."""

import argparse
import shlex
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import apache_beam as beam
import pyarrow.compute as pc
from apache_beam.options.pipeline_options import PipelineOptions, StandardOptions
from apache_beam.utils.shared import Shared

from captioner.contract import Captioner, DecodingConfig, ModelLoadError
from captioner.images import Limits
from captioner.loading import load
from pipelines import storage
from pipelines.annotate import AnnotateFolders
from pipelines.commit import compact
from pipelines.config import AnnotateConfig
from pipelines.listing import ListingCounts, ListingError, list_images
from pipelines.local import Listed, LocalRun, RunError, opened
from pipelines.manifest import BalanceError, start_run
from pipelines.options import (
    EXIT_DONE,
    EXIT_NOT_PUSHED,
    EXIT_STOPPED,
    EXIT_TOO_MANY_FAILURES,
)
from pipelines.output import Output, OutputError, new_run_id
from pipelines.report.terminal import ProgressBar, ignored, say, summary
from pipelines.review import ReviewConfig, push_queue, review_committed
from pipelines.routing import plan_review
from schemas.uris import credentials_in, redact

_IN_PROCESS = ("FnApiRunner", "DirectRunner")


class UsageError(Exception):
    """An option that cannot be used."""


USAGE_ERRORS = (UsageError, ListingError, ModelLoadError)
RUN_ERRORS = (RunError, OutputError, BalanceError, storage.StorageError)


def annotate(args: argparse.Namespace, beam_args: Sequence[str]) -> int:
    """Run the main job."""
    started = time.monotonic()
    output = Output(_output_uri(args.output))
    inputs = [_input_uri(uri) for uri in args.input]
    review = _review_config(args)
    options = PipelineOptions(list(beam_args))
    in_process = (options.view_as(StandardOptions).runner or _IN_PROCESS[0]) in _IN_PROCESS
    if args.limit and not in_process:
        raise UsageError("--limit works for runs in this process only; leave --runner out")
    decoding = DecodingConfig(precision=args.precision, draft=args.draft)
    captioner = load(args.model, args.device, decoding)
    config = AnnotateConfig(
        output=output.uri,
        run_id=new_run_id(),
        model=args.model,
        model_id=captioner.model_id,
        device=args.device,
        decoding=decoding,
        batch_size=args.batch_size,
        limits=Limits(args.max_image_bytes, args.max_image_pixels),
    )
    with opened(output, config.run_id):
        start_run(output, config.run_id, _recorded(args, inputs, config))
        if in_process:
            manifest = _run_here(args, inputs, config, options, captioner)
            if manifest["status"] == "done":
                manifest = review_committed(
                    output, config.run_id, config.model_id, decoding.id, review
                )
        else:
            manifest = _run_remotely(args, inputs, config, options, review)
        seconds = time.monotonic() - started
        print(summary(manifest["counts"], _failure_kinds(output, config), seconds))
        _say_where(output)
    return _conclude(args, output, manifest)


def _run_here(
    args: argparse.Namespace,
    inputs: Sequence[str],
    config: AnnotateConfig,
    options: PipelineOptions,
    captioner: Captioner,
) -> dict[str, Any]:
    counts = ListingCounts()
    bars: list[ProgressBar] = []

    def on_listed(listed: Listed) -> None:
        _say_listed(args.input, listed, counts)
        if listed.to_do.count:
            bars.append(ProgressBar(listed.to_do.count))

    run = LocalRun(
        captioner,
        config,
        options,
        on_listed=on_listed,
        on_progress=lambda progress: bars[0].show(progress),
        on_stop=lambda: say("stopping after the images in the making; Ctrl-C again ends at once"),
    )
    try:
        return run.run(list_images(inputs, args.glob, counts=counts), args.limit)
    finally:
        for bar in bars:
            bar.close()


def _conclude(args: argparse.Namespace, output: Output, manifest: dict[str, Any]) -> int:
    """Say what there is to do next and return the exit status."""
    counts, max_failure_rate = manifest["counts"], args.max_failure_rate
    review = manifest.get("review")
    if review is not None:
        say(f"to review: {review['queued']:,} captions with confidence below {args.review_below:g}")
    pushed = review and review.get("pushed")
    if pushed:
        _say_pushed(output, pushed, args)
    if manifest["status"] == "stopped":
        say("stopped: what was finished is committed. Run the same command again to do the rest.")
        return EXIT_STOPPED
    if pushed and not pushed["finished"]:
        return EXIT_NOT_PUSHED
    tried = counts["captioned"] + counts["failed"]
    if tried and counts["failed"] / tried > max_failure_rate:
        say(
            f"{counts['failed'] / tried:.0%} of the images failed, more than --max_failure_rate "
            f"{max_failure_rate:g} allows; see failures/ for each one's reason."
        )
        return EXIT_TOO_MANY_FAILURES
    return EXIT_DONE


def _say_listed(inputs: Sequence[str], listed: Listed, counts: ListingCounts) -> None:
    if counts.ignored:
        say(ignored(counts.ignored))
    if not listed.listed.count:
        say(f"no images in {', '.join(map(redact, inputs))}: nothing to do")
    elif not listed.to_do.count:
        say(f"all {listed.listed.count:,} images have their captions already: nothing to do")
    else:
        say(f"{listed.to_do.count:,} of {listed.listed.count:,} images to caption")


def _failure_kinds(output: Output, config: AnnotateConfig) -> Counter[str]:
    kinds: Counter[str] = Counter()
    ours = pc.field("run_id") == config.run_id
    for _, table in output.tables("failures", ["kind"], ours):
        kinds.update(table.column("kind").to_pylist())
    return kinds


def _say_where(output: Output) -> None:
    current = output.current()
    for table, text in (("captions", "captions"), ("failures", "failures"), ("review", "queue")):
        rows = sum(file.rows for file in current.of(table))
        where = output.path(table).removeprefix("file://")
        print(f"  {text:<10}{rows:>8,} rows  {where}")


def _recorded(
    args: argparse.Namespace, inputs: Sequence[str], config: AnnotateConfig
) -> dict[str, Any]:
    """Return what a manifest says of the configuration; no secret is in it (promise 10)."""
    return {
        "inputs": [redact(uri) for uri in inputs],
        "glob": args.glob,
        "limit": args.limit,
        "review_below": args.review_below,
        "label_studio_url": args.label_studio_url and redact(args.label_studio_url),
        "label_studio_project": args.label_studio_project,
        **{key: value for key, value in asdict(config).items() if key != "progress_folder"},
    }


def _output_uri(text: str) -> str:
    found = credentials_in(text)
    if found:
        raise UsageError(
            f"--output {redact(text)} carries {found}. Take it out; credentials come from the "
            "environment."
        )
    return storage.absolute_uri(text).rstrip("/")


def _input_uri(text: str) -> str:
    found = credentials_in(text)
    if found:
        raise UsageError(
            f"--input {redact(text)} carries {found}. Take it out; credentials come from the "
            "environment."
        )
    return storage.absolute_uri(text)


def _review_config(args: argparse.Namespace) -> ReviewConfig:
    url = args.label_studio_url
    found = url and credentials_in(url)
    if found:
        raise UsageError(
            f"--label_studio_url {redact(url)} carries {found}. Take it out; give the token in "
            "LABEL_STUDIO_API_KEY or --label_studio_token_file."
        )
    return ReviewConfig(
        review_below=getattr(args, "review_below", 0.0),
        label_studio_url=url,
        label_studio_project=args.label_studio_project,
        label_studio_token_file=args.label_studio_token_file,
    )


def _say_pushed(output: Output, pushed: dict[str, Any], args: argparse.Namespace) -> None:
    """Say what a push did, and how to go on if it did not finish."""
    for uri, why in pushed["failed"]:
        say(f"not pushed: {uri}: {why}")
    if pushed["error"]:
        say(f"not pushed: {pushed['error']}")
    if pushed["finished"]:
        say(
            f"Label Studio: {pushed['tasks_created']:,} tasks made, {pushed['tasks_found']:,} "
            f"there before, in project {args.label_studio_project!r} at {args.label_studio_url}"
        )
        return
    command = ["captioner", "review", "push", output.uri]
    command += ["--label_studio_url", args.label_studio_url]
    command += ["--label_studio_project", args.label_studio_project]
    if args.label_studio_token_file:
        command += ["--label_studio_token_file", args.label_studio_token_file]
    say("The captions are committed and the queue is kept. Send the rest later with:")
    say(f"  {shlex.join(command)}")


def review_push(args: argparse.Namespace) -> int:
    """Push the live queue of an output."""
    output = Output(_output_uri(args.output))
    review = _review_config(args)
    _check_output(output)
    with opened(output, new_run_id()):
        pushed = push_queue(output, review)
    _say_pushed(output, {**vars(pushed), "finished": pushed.finished}, args)
    return EXIT_DONE if pushed.finished else EXIT_NOT_PUSHED


def review_plan(args: argparse.Namespace) -> int:
    """Plan the queue of an output that is there already."""
    output = Output(_output_uri(args.output))
    _check_output(output)
    with opened(output, new_run_id()):
        for model_id, decoding in _models(output):
            if args.model_id in (None, model_id):
                plan = plan_review(output, model_id, decoding, args.review_below)
                print(
                    f"{model_id} {decoding}: {plan.queued:,} to review, {plan.deferred:,} deferred"
                )
    return EXIT_DONE


def _check_output(output: Output) -> None:
    if not output.current().files and not storage.list_files(output.path("staging")):
        raise UsageError(f"{output.uri} holds no captions; run captioner annotate first")


def _models(output: Output) -> list[tuple[str, str]]:
    return sorted(
        {
            (row["model_id"], row["decoding"])
            for _, table in output.tables("captions", ["model_id", "decoding"])
            for row in table.group_by(["model_id", "decoding"]).aggregate([]).to_pylist()
        }
    )


def compact_output(args: argparse.Namespace) -> int:
    """Merge an output's small files."""
    output = Output(_output_uri(args.output))
    _check_output(output)
    with opened(output, new_run_id()):
        before, after = compact(output, args.max_file_bytes)
    print(f"{before:,} files before, {after:,} now")
    return EXIT_DONE


def scenes(args: argparse.Namespace) -> int:
    """Write a folder of drawn scenes."""
    from captioner.scenes import write_folder

    write_folder(args.output, count=args.count, seed=args.seed)
    print(f"{args.count:,} scenes in {args.output}")
    return EXIT_DONE


def _run_remotely(
    args: argparse.Namespace,
    inputs: Sequence[str],
    config: AnnotateConfig,
    options: PipelineOptions,
    review: ReviewConfig,
) -> dict[str, Any]:
    """Run the job as one graph on a runner that outlives this process, and wait for it."""
    pipeline = beam.Pipeline(options=options)
    _ = pipeline | "AnnotateFolders" >> AnnotateFolders(
        inputs, config, Shared(), Shared(), args.glob, args.accelerator, args.min_ram, review
    )
    state = pipeline.run().wait_until_finish()
    manifest = Output(config.output).read_manifest(config.run_id)
    if "counts" not in manifest:
        raise RunError(f"the runner ended as {state} before the commit")
    return manifest
