"""``captioner annotate``: from options to exit status."""

import argparse
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

import apache_beam as beam
import pyarrow.compute as pc
from apache_beam.options.pipeline_options import (
    PipelineOptions,
    StandardOptions,
    TestOptions,
)
from apache_beam.transforms.resources import parse_resource_hints
from apache_beam.utils.shared import Shared

from captioner.confidence.head import VERIFIED
from captioner.contract import Captioner
from captioner.images import Limits
from captioner.loading import load
from pipelines import storage
from pipelines.annotate import AnnotateFolders
from pipelines.commands import (
    UsageError,
    decoding_config,
    output_of,
    refuse_credentials,
    review_config,
    say_pushed,
)
from pipelines.confidence import head_of, say_uncalibrated
from pipelines.config import AnnotateConfig
from pipelines.default_model import choose_model
from pipelines.done import lost_by
from pipelines.listing import ImageRef, ListingCounts, list_images
from pipelines.local import Listed, LocalRun, RunError, explain, opened
from pipelines.manifest import start_run
from pipelines.models import check_verifier
from pipelines.next_command import plan_command, push_command
from pipelines.options import (
    EXIT_DONE,
    EXIT_NOT_PUSHED,
    EXIT_STOPPED,
    EXIT_TOO_MANY_FAILURES,
    EXIT_USAGE,
)
from pipelines.output import Output, new_run_id
from pipelines.planning import check_head
from pipelines.report.terminal import ProgressBar, ignored, queue_lines, say, summary
from pipelines.review import ReviewConfig, review_committed
from pipelines.review_rules import RulesError
from schemas.uris import redact

_IN_PROCESS = ("FnApiRunner", "DirectRunner")
_PLAN, _PUSH = "the planning of the review", "the push to Label Studio"


def annotate(args: argparse.Namespace, beam_args: Sequence[str]) -> int:
    """Run the main job and return the exit status."""
    started = time.monotonic()
    output = output_of(args.output)
    named = args.model
    promoted = choose_model(args, output)
    options = PipelineOptions(list(beam_args))
    in_process = (options.view_as(StandardOptions).runner or _IN_PROCESS[0]) in _IN_PROCESS
    _check(args, options, in_process)
    review = review_config(args)
    listing = ListingCounts()
    interrupted = None
    # Before the model is loaded: a misspelt folder should not take a minute to be found out.
    refs = list_images(args.input, args.glob, counts=listing)
    captioner = load(args.model, args.device, decoding_config(args), args.features)
    if promoted is not None:
        promoted.check(captioner)
    config = _config(args, output, captioner)
    check_verifier(captioner, config)
    # Before hours of captioning: that captions then have no plan is told too late.
    try:
        check_head(review.rules.guarantee, None if config.head is None else config.head.id)
    except RulesError as error:
        raise UsageError(str(error)) from error
    output = Output(output.uri, config.run_id)
    if options.view_as(TestOptions).dry_run:
        _build(args, config, options, review).run()
        say("the job was built; --dry_run does not submit it")
        return EXIT_DONE
    with opened(output, config.run_id):
        if config.refill:
            _check_loses_nothing(output, config)
        start_run(output, config.run_id, _recorded(args, config, review), captioner.classes)
        if in_process:
            manifest = _run_here(args, config, options, captioner, refs, listing)
            if manifest["status"] == "done":
                interrupted = _review_here(output, config, review, captioner)
        else:
            _run_remotely(args, config, options, review)
        manifest = output.read_manifest(config.run_id)
        seconds = time.monotonic() - started
        print(summary(manifest["counts"], _failure_kinds(output, config), seconds))
        say_uncalibrated(output, config.run_id, config.head)
        _say_where(output)
    kind = {"model_id": config.model_id, "decoding": config.decoding.id}
    again = push_command(output.uri, args, model=named, device=args.device, **kind)
    planned = plan_command(output.uri, "--review_budget", "5%", **kind)
    if interrupted:
        say(f"The captions are committed; {interrupted} was interrupted.")
        if interrupted == _PUSH:
            say("Send what is left of the queue later with:")
            say(f"  {again}")
        else:
            say("Run the same command again: it captions nothing twice, and plans the review.")
        return EXIT_STOPPED
    return _conclude(args, manifest, again, planned)


def _check(args: argparse.Namespace, options: PipelineOptions, in_process: bool) -> None:
    """Refuse what cannot be used, before anything begins.

    Raises:
        UsageError: naming the option.
    """
    refuse_credentials("--model", args.model)
    if args.limit and not in_process:
        raise UsageError("--limit works for runs in this process only; leave --runner out")
    if in_process and options.view_as(TestOptions).dry_run:
        raise UsageError("--dry_run is for --runner DataflowRunner; use --limit to try a few")
    for name, value in (("accelerator", args.accelerator), ("min_ram", args.min_ram)):
        try:
            parse_resource_hints({name: value} if value else {})
        except ValueError as error:
            raise UsageError(f"--{name} {value!r}: {error}") from error


def _config(args: argparse.Namespace, output: Output, captioner: Captioner) -> AnnotateConfig:
    return AnnotateConfig(
        output=output.uri,
        run_id=new_run_id(),
        model=args.model,
        model_id=captioner.model_id,
        device=args.device,
        decoding=decoding_config(args),
        features=tuple(args.features),
        refill=_refilled(captioner) if args.refill else (),
        head=head_of(args.model, captioner.model_id, captioner.decoding.id, args.features),
        batch_size=args.batch_size,
        limits=Limits(args.max_image_bytes, args.max_image_pixels),
    )


def _refilled(captioner: Captioner) -> tuple[str, ...]:
    if not captioner.fills:
        raise UsageError(
            f"--refill: model {captioner.model_id} fills no column that a row may lack; leave it "
            "out, or ask for --features"
        )
    return captioner.fills


def _check_loses_nothing(output: Output, config: AnnotateConfig) -> None:
    """Refuse a refill that takes from rows what they have.

    Raises:
        UsageError: saying what to ask for.
    """
    lost = lost_by(output, config.model_id, config.decoding.id, config.refill, config.verifier)
    if VERIFIED in lost:
        raise UsageError(
            f"--refill would run images again and lose {VERIFIED} of {lost[VERIFIED]:,} rows: the "
            "model has no verifier for these options. Take with --model the folder that they were "
            "captioned with, or learn one: captioner calibrate --verifier"
        )
    if lost:
        told = " and ".join(f"{name} of {rows:,} rows" for name, rows in lost.items())
        wanted = " ".join(dict.fromkeys((*config.features, *lost)))
        raise UsageError(
            f"--refill would run images again and lose {told}; ask for all: --features {wanted}"
        )


def _recorded(
    args: argparse.Namespace, config: AnnotateConfig, review: ReviewConfig
) -> dict[str, Any]:
    """Return what a manifest says of the configuration; no secret is in it (promise 10)."""
    return {
        "inputs": [redact(uri) for uri in args.input],
        "glob": args.glob,
        "limit": args.limit,
        "review": review.rules.as_dict(),
        "label_studio_url": args.label_studio_url,
        "label_studio_project": args.label_studio_project,
        "confidence_id": config.head and config.head.id,
        **{
            key: value
            for key, value in asdict(config).items()
            if key not in ("progress_folder", "head")
        },
    }


def _run_here(
    args: argparse.Namespace,
    config: AnnotateConfig,
    options: PipelineOptions,
    captioner: Captioner,
    refs: Iterator[ImageRef],
    listing: ListingCounts,
) -> dict[str, Any]:
    bars: list[ProgressBar] = []

    def on_listed(listed: Listed) -> None:
        _say_listed(args.input, listed, listing)
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
        return run.run(refs, args.limit)
    finally:
        for bar in bars:
            bar.close()


def _review_here(
    output: Output, config: AnnotateConfig, review: ReviewConfig, captioner: Captioner
) -> str | None:
    """Plan and push the queue; return which of the two the user did not wait for, if any."""
    kind = config.model_id, config.decoding.id
    try:
        review_committed(output, config.run_id, *kind, review, lambda: captioner)
    except KeyboardInterrupt:
        return _PUSH if "review" in output.read_manifest(config.run_id) else _PLAN
    return None


def _build(
    args: argparse.Namespace,
    config: AnnotateConfig,
    options: PipelineOptions,
    review: ReviewConfig,
) -> beam.Pipeline:
    inputs = [storage.absolute_uri(uri) for uri in args.input]
    pipeline = beam.Pipeline(options=options)
    _ = pipeline | "AnnotateFolders" >> AnnotateFolders(
        inputs, config, Shared(), Shared(), args.glob, args.accelerator, args.min_ram, review
    )
    return pipeline


def _run_remotely(
    args: argparse.Namespace,
    config: AnnotateConfig,
    options: PipelineOptions,
    review: ReviewConfig,
) -> None:
    """Run the job as one graph on a runner that outlives this process, and wait for it.

    Raises:
        RunError: if it failed there.
    """
    result = None
    try:
        result = _build(args, config, options, review).run()
        state = result.wait_until_finish()
    except KeyboardInterrupt:
        if result is not None:
            say("cancelling the job; what its workers had finished is committed by the next run")
            result.cancel()
        raise
    except Exception as error:
        raise RunError(explain(error)) from error
    if "counts" not in Output(config.output).read_manifest(config.run_id):
        raise RunError(f"the runner ended as {state} before the commit")


def _say_listed(inputs: Sequence[str], listed: Listed, counts: ListingCounts) -> None:
    if counts.ignored:
        say(ignored(counts.ignored))
    if counts.not_matched:
        say(f"{counts.not_matched:,} images do not match --glob")
    if counts.duplicates:
        say(f"{counts.duplicates:,} images are in more than one input; each is taken once")
    if not listed.complete:
        say(f"the listing was stopped after {listed.listed.count:,} images")
    elif not listed.listed.count:
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


def _conclude(args: argparse.Namespace, manifest: dict[str, Any], again: str, planned: str) -> int:
    """Say what there is to do next and return the exit status.

    Args:
        args: options.
        manifest: of the run.
        again: the command that pushes what is left of its queue.
        planned: one that plans its queue by a rule that always can be followed.
    """
    if manifest["status"] == "stopped":
        say("stopped: what was finished is committed. Run the same command again to do the rest.")
        return EXIT_STOPPED
    review = manifest.get("review", {})
    if "error" in review:
        say(f"The captions are committed, but the review is not planned: {review['error']}")
        say("Plan it with another rule, such as:")
        say(f"  {planned}")
        return EXIT_USAGE
    for line in queue_lines(review):
        say(line)
    pushed = review.get("pushed")
    if pushed:
        say_pushed(pushed, args, again)
        if not pushed["finished"]:
            return EXIT_NOT_PUSHED
    counts = manifest["counts"]
    if counts["failed"] > args.max_failure_rate * counts["listed"]:
        say(
            f"{counts['failed']:,} of {counts['listed']:,} images failed, more than "
            f"--max_failure_rate {args.max_failure_rate:g} allows; see failures/ for each reason."
        )
        return EXIT_TOO_MANY_FAILURES
    return EXIT_DONE
