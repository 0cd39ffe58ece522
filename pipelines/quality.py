"""The command `quality`: how many captions of an output are right, from the reviews so far."""

import argparse
import math
import os
from collections.abc import Callable, Iterable, Sequence

from captioner.confidence.quality import (
    Estimate,
    by_confidence,
    by_group,
    estimate,
    labels_needed,
)
from pipelines.commands import CommandError, chosen_kind, output_of, uri_of
from pipelines.next_command import plan_command
from pipelines.options import EXIT_DONE
from pipelines.output import Output
from pipelines.report.curves import curves_of
from pipelines.report.quality import Quality, write_report
from pipelines.reviewed import ReviewedCaptions, read_reviewed
from schemas.uris import redact, split_archive

_NAME = 40
"""Letters of a folder's name in the table; what stands in front of them is left out."""


def quality(args: argparse.Namespace) -> int:
    """Print what the reviews say of all captions, and draw it where that is asked for.

    Raises:
        CommandError: if the reviews do not allow an estimate; says what is missing.
        UsageError: if the output has no captions, or several models' and none is chosen.
    """
    output = output_of(args.output)
    report = uri_of("--report", args.report) if args.report else None
    model_id, decoding = chosen_kind(output, args.model_id, args.decoding)
    try:
        captions = read_reviewed(output, model_id, decoding)
    except ValueError as error:
        raise CommandError(f"{output.uri}: {error}") from error

    def plan(audit: str) -> str:
        return plan_command(output.uri, "--audit", audit, args.model_id, args.decoding)

    _check(output, captions, plan)
    found = _estimates(captions, model_id, decoding, args.width)
    print("\n".join(_lines(captions, found, plan)))
    if report is not None:
        curves = curves_of(captions.audited)
        names = write_report(report, found, curves)
        if curves is None:
            print(
                "no audited image that is kept for guarantees is reviewed, so there is nothing to "
                "draw"
            )
        else:
            print(f"the curves rest on {curves.labels:,} {curves.rest_on}")
        print(f"{', '.join(names)} in {redact(args.report)}")
    return EXIT_DONE


def _check(output: Output, captions: ReviewedCaptions, plan: Callable[[str], str]) -> None:
    """Refuse reviews that tell nothing of the captions that nobody reviewed."""
    elsewhere = (
        f" ({captions.elsewhere:,} reviews are of images without such a caption)"
        if captions.elsewhere
        else ""
    )
    if not captions.judged:
        raise CommandError(
            f"{output.uri} holds no reviews of these captions{elsewhere}. Queue a random sample "
            f"({plan('2%')}), send it to reviewers (captioner review push {output.uri}), and bring "
            f"back what they said (captioner review pull {output.uri})"
        )
    if len(captions.audited.correct) or not captions.reviewed.accepted.any():
        return
    if captions.audit:
        raise CommandError(
            f"{captions.judged:,} images are reviewed, but none of the {captions.audit:,} that "
            "the audit drew. Those tell of the captions that nobody looks at: have them reviewed"
        )
    raise CommandError(
        f"{captions.judged:,} images are reviewed{elsewhere}, none of them drawn by an audit. "
        "Without an audit nothing follows for captions that are accepted unreviewed, nor for all: "
        f"those in the queue are worse than the others. Draw one: {plan('2%')}"
    )


def _estimates(captions: ReviewedCaptions, model_id: str, decoding: str, width: float) -> Quality:
    reviewed = captions.reviewed
    everything = estimate(reviewed)
    accepted = reviewed.accepted
    return Quality(
        model_id=model_id,
        decoding=decoding,
        captions=everything,
        accepted=estimate(reviewed, accepted) if accepted.any() else None,
        by_confidence=by_confidence(reviewed),
        by_folder=by_group(reviewed, folders(captions.uris)),
        audit=captions.audit,
        audited=len(captions.audited.correct),
        width=width,
        labels_needed=labels_needed(everything, width),
    )


def folders(uris: Sequence[str]) -> list[str]:
    """Return of each uri its first folder below those that all share; ``.`` if there is none."""
    paths = [_as_path(uri).split("/")[:-1] for uri in uris]
    shared = len(os.path.commonprefix([min(paths), max(paths)])) if paths else 0
    return [path[shared] if len(path) > shared else "." for path in paths]


def _as_path(uri: str) -> str:
    """Return a uri with the archive, if it is in one, in front of the member."""
    member = split_archive(uri)
    return uri if member is None else f"{member.archive}/{member.member}"


def _lines(captions: ReviewedCaptions, found: Quality, plan: Callable[[str], str]) -> Iterable[str]:
    kinds = [("all captions", found.captions)]
    if found.accepted is not None:
        kinds.append(("accepted", found.accepted))
    yield f"model {found.model_id}, decoding {found.decoding}"
    yield from _table("accuracy of", kinds)
    yield ""
    yield from _sources(captions, found)
    yield from _wanted(captions, found, plan)
    yield ""
    yield from _table(
        "confidence",
        [(f"{low:.3f} to {high:.3f}", one) for low, high, one in found.by_confidence],
    )
    if len(found.by_folder) > 1:
        yield ""
        yield from _table("folder", list(found.by_folder.items()))


def _table(title: str, rows: Sequence[tuple[str, Estimate]]) -> Iterable[str]:
    names = [name if len(name) <= _NAME else f"...{name[3 - _NAME :]}" for name, _ in rows]
    width = max(map(len, (title, *names)))
    yield f"{title:{width}}  captions  labels  accuracy  95% interval"
    for name, (_, one) in zip(names, rows, strict=True):
        value = "-" if one.value is None else f"{one.value:.1%}"
        interval = f"{one.low:.1%} to {one.high:.1%}"
        yield f"{name:{width}}  {one.rows:8,}  {one.labels:6,}  {value:>8}  {interval}"


def _sources(captions: ReviewedCaptions, found: Quality) -> Iterable[str]:
    """Say what the estimates rest on, and what there is to warn of."""
    queued = int((~captions.reviewed.accepted).sum())
    known = found.captions.known
    if found.accepted is not None:
        yield (
            f"{found.accepted.rows:,} captions, surer than the queued ones, are accepted; "
            f"{captions.unreviewed:,} of them are not reviewed"
        )
    yield (
        f"{known / found.captions.rows:.1%} of the captions are queued and reviewed, so known; "
        f"the rest is estimated, from {found.audited:,} of {found.audit:,} audited captions"
    )
    if found.audited < found.audit:
        yield (
            f"{found.audit - found.audited:,} audited captions are not reviewed yet; taken to be "
            "like reviewed ones of like confidence"
        )
    if known < queued:
        deferred = f", {captions.deferred:,} of them deferred" if captions.deferred else ""
        yield (
            f"{queued - known:,} of {queued:,} queued captions are not reviewed yet{deferred}; "
            "taken to be like audited ones of like confidence"
        )
    if found.captions.value is None:
        yield (
            "no estimate of all captions: none that the audit drew and a reviewer judged tells of "
            "some of them. The interval holds whether those are all wrong or all right; have the "
            "audited ones reviewed first"
        )
    if captions.learned:
        yield (
            f"{captions.learned:,} audited captions more are known, but stand for no others: the "
            "verifier may have learned from them"
        )
    if captions.unused:
        yield (
            f"{captions.unused:,} reviewed images are neither audited nor among the least "
            "confident, of which all are queued; not used"
        )
    if captions.elsewhere:
        yield f"{captions.elsewhere:,} reviews are of images without such a caption; not used"
    if captions.uncalibrated:
        yield (
            f"warning: the confidence of {captions.uncalibrated:,} captions is uncalibrated. "
            "Estimates hold all the same, but may need more reviews; captioner calibrate fits it, "
            "captioner rescore applies that"
        )


def _wanted(
    captions: ReviewedCaptions, found: Quality, plan: Callable[[str], str]
) -> Iterable[str]:
    """Say what brings the interval of all captions to the wanted width."""
    needed, waiting = found.labels_needed, found.audit - found.audited
    if not needed:
        yield f"the interval of all captions is no wider than {found.width:g}"
    elif found.accepted is None:
        yield f"{needed:,} more reviews of the queue bring the interval to width {found.width:g}"
    else:
        yield f"{needed:,} more audited captions bring the interval of all to width {found.width:g}"
    if needed > waiting and found.accepted is not None:
        # What is drawn of the queued ones tells nothing new.
        more = found.audit / found.captions.rows + (needed - waiting) / found.accepted.rows
        # Where only half of what is drawn stands for others, twice as much has to be.
        more *= captions.drawn_for_one
        share = min(math.ceil(1000 * more) / 10, 100.0)
        yield (
            f"{waiting:,} wait for review; to draw the others, plan with your rules and a larger "
            f"audit: {plan(f'{share:g}%')}"
        )
