"""The command `promote`: is another model better than the present one, and if so, the default.

Each run does what is next: the candidate captions audited images that it has not captioned yet,
people's answers are read, tasks are made where there are none, and what the answers say is said.
The candidate's captions are kept in the table ``comparisons``, not in ``captions``: there they
would be a second model's, between which every other command would have to be told to choose.
"""

import argparse
from collections.abc import Sequence
from functools import partial

from tqdm import tqdm

from captioner.contract import EMBEDDED, Captioner, ModelLoadError
from captioner.evaluation.paired import Better, Paired, compare
from captioner.images import Limits
from captioner.loading import load
from captioner.training.learned import images_learned
from pipelines import comparisons
from pipelines.commands import (
    CommandError,
    UsageError,
    chosen_kind,
    decoding_config,
    label_studio_settings,
    output_of,
    refuse_credentials,
)
from pipelines.comparisons import AuditedImage, Pair, Row
from pipelines.confidence import model_folder
from pipelines.config import AnnotateConfig
from pipelines.default_model import DefaultModel, read_default, write_default
from pipelines.labelstudio.annotations import failing_tasks
from pipelines.labelstudio.client import Client, LabelStudioError, LabelStudioSettings
from pipelines.labelstudio.comparing import ComparingProject, title_of
from pipelines.labelstudio.project import deletion_told
from pipelines.local import opened
from pipelines.next_command import plan_command
from pipelines.options import EXIT_DONE, EXIT_NOT_PUSHED
from pipelines.output import Output, new_run_id
from pipelines.recaptioning import caption_again
from pipelines.records import Failure
from pipelines.report.promotion import lines, what_next
from pipelines.report.terminal import say
from pipelines.review_queue import caption_limits
from schemas.kinds import Choice
from schemas.uris import redact

CHUNK = 1_000
"""Images between two commits."""

_SHOWN = 3


def promote(args: argparse.Namespace) -> int:
    """Do what is next in a comparison of two models, and say what comes then.

    Raises:
        CommandError: if nothing was audited, or no audited image is left to compare on.
        ModelLoadError: if the candidate cannot be loaded.
        UsageError: if the candidate is the present model, or options cannot be used.
    """
    refuse_credentials("--candidate", args.candidate)
    output = Output(output_of(args.output).uri, new_run_id())
    settings = _settings(args)
    default = read_default(output)
    present = _present(args, output, default)
    captioner = load(args.candidate, args.device, decoding_config(args))
    pair = Pair(*present, captioner.model_id, captioner.decoding.id)
    if present == (pair.candidate_id, pair.candidate_decoding):
        if default is not None and args.model_id is None:
            say(f"{default.model_id} is the output's model since {default.promoted_at}")
            return EXIT_DONE
        raise UsageError(
            f"--candidate {redact(args.candidate)} is the present model, {pair.model_id} with "
            f"decoding {pair.decoding}; there is nothing to compare"
        )
    with opened(output, str(output.run_id)):
        limits = caption_limits(output, pair.model_id, pair.decoding)
        images = _images(output, pair, _learned(args.candidate, default, pair))
        rows = _caption(output, pair, captioner, args, images, limits)
        rows, exchanged = _exchange(output, pair, settings, rows, limits)
        found = _compared(rows)
        print("\n".join(lines(pair, found)))
        _conclude(output, args, captioner, pair, found, rows)
    return EXIT_DONE if exchanged else EXIT_NOT_PUSHED


def _settings(args: argparse.Namespace) -> LabelStudioSettings:
    try:
        return label_studio_settings(args, title_of(args.label_studio_project))
    except LabelStudioError as error:
        raise UsageError(redact(str(error))) from error


def _present(
    args: argparse.Namespace, output: Output, default: DefaultModel | None
) -> tuple[str, str]:
    """Return the model and decoding to compare to: as told, else the output's model."""
    if default is None or args.model_id is not None:
        return chosen_kind(output, args.model_id, args.decoding)
    return default.model_id, args.decoding or default.decoding.id


def _learned(candidate: str, default: DefaultModel | None, pair: Pair) -> frozenset[str]:
    """Return the reviewed images that one of the two has learned from, as far as is known."""
    folder = model_folder(candidate)
    learned = images_learned(folder) if folder else frozenset[str]()
    if default is not None and default.model_id == pair.model_id:
        try:
            folder = model_folder(default.model)
            learned |= images_learned(folder) if folder else frozenset[str]()
        except (ModelLoadError, OSError) as error:
            say(f"what the present model has learned from is not known: {redact(str(error))}")
    return learned


def _images(output: Output, pair: Pair, learned: frozenset[str]) -> list[AuditedImage]:
    """Return the audited images that tell of these models; none where an audit before told all."""
    drawn = comparisons.audited(output, pair.model_id, pair.decoding)
    if not drawn and (known := len({row["image_id"] for row in comparisons.read(output, pair)})):
        say(f"no audit is planned now; what counts are the {known:,} images of an earlier one")
        return []
    if not drawn:
        raise CommandError(
            f"no caption by {pair.model_id} with decoding {pair.decoding} was drawn by an audit. "
            f"Draw one, with your rules: {_plan(output, pair, '2%')}"
        )
    images = [image for image in drawn if image.image_id not in learned]
    if len(images) < len(drawn):
        say(
            f"{len(drawn) - len(images):,} of {len(drawn):,} audited images are left out: a model "
            "has learned from reviews of them"
        )
    if not images:
        raise CommandError("there is no audited image that neither model has learned from")
    return images


def _plan(output: Output, pair: Pair, audit: str) -> str:
    return plan_command(output.uri, "--audit", audit, pair.model_id, pair.decoding)


def _caption(
    output: Output,
    pair: Pair,
    captioner: Captioner,
    args: argparse.Namespace,
    images: Sequence[AuditedImage],
    limits: Limits,
) -> list[Row]:
    """Have the candidate caption what it has not captioned yet; return all rows."""
    config = AnnotateConfig(
        output=output.uri,
        run_id=str(output.run_id),
        model=args.candidate,
        model_id=captioner.model_id,
        device=args.device,
        decoding=captioner.decoding,
        limits=limits,
    )
    rows = comparisons.read(output, pair)
    known = {row["image_id"] for row in rows}
    rest = [image for image in images if image.image_id not in known]
    failures: list[Failure] = []
    progress = tqdm(total=len(rest), desc="captioning", unit=" images", leave=False, disable=None)
    for start in range(0, len(rest), CHUNK):
        chunk = rest[start : start + CHUNK]
        for image, item in caption_again(captioner.caption, chunk, captioner, config):
            progress.update()
            if isinstance(item, Failure):
                failures.append(item)
            else:
                rows.append(comparisons.new_row(pair, image, item.text))
        comparisons.replace(output, pair, rows)
    progress.close()
    for failure in failures[:_SHOWN]:
        say(f"{redact(failure.ref.uri)}: {redact(failure.message)}")
    if failures:
        say(
            f"{len(failures):,} of {len(images):,} audited images could not be captioned and are "
            "left out; the next run tries them again"
        )
    if not rows:
        raise CommandError("none of the audited images could be captioned by the candidate")
    return rows


def _exchange(
    output: Output, pair: Pair, settings: LabelStudioSettings, rows: list[Row], limits: Limits
) -> tuple[list[Row], bool]:
    """Read answers and make tasks; return all rows, and whether that was finished."""
    differing = {row["image_id"] for row in rows if row["choice"] != Choice.SAME}
    if not differing:
        return rows, True
    try:
        with Client(settings) as client:
            client.check()
            project = ComparingProject(client, settings.project, settings.previews, limits)
            meanwhile = "captions were compared; the next run makes it anew"
            with deletion_told(client, project.id, settings.project, meanwhile):
                answers = project.answers(pair.id, sorted(differing))
                rows = comparisons.answered(rows, answers)
                comparisons.replace(output, pair, rows)
                numbers, failed = project.ask(pair.id, comparisons.to_ask(output, rows))
    except LabelStudioError as error:
        say(f"Label Studio: {redact(str(error))}")
        say("What was captioned and answered is kept; run the same command again to go on.")
        return rows, False
    if numbers:
        rows = [{**row, "task_id": numbers.get(row["image_id"], row["task_id"])} for row in rows]
        comparisons.replace(output, pair, rows)
    for uri, why in failed:
        say(f"cannot be shown, so nobody can compare it: {redact(uri)}: {redact(why)}")
    if answers.unread:
        say(f"{answers.unread:,} annotations hold no answer and are passed over")
    if answers.failing:
        say(failing_tasks(answers.failing))
    say(
        f"Label Studio: {len(numbers):,} tasks made, {len(answers.tasks):,} there before, in "
        f"project {settings.project!r}: {project.address}"
    )
    return rows, not (failed or answers.failing)


def _compared(rows: list[Row]) -> Paired:
    counted = comparisons.newest(rows).values()
    same = sum(row["choice"] == Choice.SAME for row in counted)
    waiting = sum(row["choice"] is None for row in counted)
    return compare(comparisons.outcomes(rows), same=same, waiting=waiting)


def _conclude(
    output: Output,
    args: argparse.Namespace,
    captioner: Captioner,
    pair: Pair,
    found: Paired,
    rows: list[Row],
) -> None:
    """Make a better model the default, or say what comes next."""
    if found.verdict == Better.CANNOT_TELL:
        share = max(row["inclusion_probability"] for row in rows)
        say(what_next(found, share, partial(_plan, output, pair)))
        if found.waiting:
            say("Have tasks answered, and run the same command again.")
        return
    if found.waiting:
        say(f"The {found.waiting:,} tasks that wait need no answer.")
    if found.verdict == Better.WORSE:
        say("The present model stays.")
        return
    folder = None if args.candidate == EMBEDDED else model_folder(args.candidate)
    present = (pair.model_id, pair.decoding)
    written = write_default(output, folder or args.candidate, captioner, present)
    print(f"{written.model_id} is the output's model now: {output.path('model')}")
    say(f"captioner annotate --output {output.uri} takes it from now on, unless --model is given")
