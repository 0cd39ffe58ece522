"""PlanReview: which committed captions a person should look at, and why.

The queue is a pure function of what was committed, of the reviews so far and of the rules, never
of rows in flight or of chance: a resumed run plans the same queue as an unbroken one.
"""

from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from captioner.confidence.duplicates import group_ids
from captioner.confidence.guarantee import (
    Certificate,
    accept_threshold,
    kept_for_guarantees,
)
from captioner.confidence.head import ALL_LABELS
from pipelines.committed import first_of_image, newest_verdicts
from pipelines.output import Output, OutputError
from pipelines.review_queue import replace_queue
from pipelines.review_rules import Guarantee, ReviewRules, RulesError
from schemas.kinds import ReviewReason
from schemas.tables import CAPTIONS, REVIEW
from schemas.uris import redact

__all__ = ["Guarantee", "ReviewPlan", "ReviewRules", "RulesError", "plan_review"]

_PLANNED = [
    *("image_id", "uri", "uri_version", "model_id", "decoding", "confidence", "run_id"),
    *("phash", "confidence_id"),
]
_Mask = npt.NDArray[np.bool_]
_Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class ReviewPlan:
    """What is in the queue.

    Attributes:
        queued: captions to review; audited ones that have a verdict are none.
        deferred: captions that a rule chose, but that wait for the review of a near-duplicate.
        audited: captions of the audit; some of them are queued for other reasons, too.
        reasons: queued and deferred captions a reason; one that has several counts for each.
        certificate: what the labels say of the guarantee, if one was asked for.
        messages: what a person should know besides.
    """

    queued: int = 0
    deferred: int = 0
    audited: int = 0
    reasons: dict[str, int] = field(default_factory=dict)
    certificate: Certificate | None = None
    messages: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """All of it, ready for JSON."""
        certificate = self.certificate and {
            **asdict(self.certificate),
            "message": self.certificate.message,
        }
        return {**vars(self), "messages": list(self.messages), "certificate": certificate}


def plan_review(output: Output, model_id: str, decoding: str, rules: ReviewRules) -> ReviewPlan:
    """Plan the review of one model's captions and make it the live queue.

    The queue is the union of what the rules choose, least confident first; each row says all its
    reasons.

    - Near-duplicates (see `group_ids`) are one item: of what a rule chooses, the least confident of
      a group is queued, then by uri, and the others are deferred. Once one of a group was
      reviewed, no other is queued.
    - Captions that were reviewed are not queued again, and cost no budget. Audited ones keep their
      row, as the record of the draw, and are no longer to review once they have a verdict.
    - The audit draws each caption by a hash of seed, uri, model and decoding, alone: groups and
      reviews are of no account, a caption once drawn is drawn in every later plan, and a larger
      share adds to a smaller one. Equal bytes under two uris may both be drawn: each is a draw of
      its own, though one review, which is of an image and its caption, answers for both.
    - A guarantee is one about distinct images, of each of which the first row by uri counts. It
      rests on the images whose first row the audit drew and that were reviewed, edited ones counted
      as wrong and skipped ones left out; never on other reviews, which are no random sample. Of
      these it takes the half that never fits a confidence head (`kept_for_guarantees`). Any score
      will do, calibrated or not. What cannot be certified is queued: all captions, where the labels
      are too few. The promise holds for one look at the labels, decided before (see
      `accept_threshold`).

    Raises:
        OutputError: if a confidence is not a number, or a perceptual hash none.
        RulesError: if the budget is above the number of captions, or a guarantee is asked for
            and a head was fitted on all labels. The queue is as before.
    """
    captions = _read(output, model_id, decoding, rules)
    if not len(captions.confidence):
        replace_queue(output, model_id, decoding, REVIEW.empty_table())
        return ReviewPlan()
    choice = _choose(captions, rules)
    reasons = _reasons(captions, choice)
    replace_queue(output, model_id, decoding, _rows(captions, reasons, rules))
    left = {reason: mask & ~captions.judged for reason, mask in reasons.items()}
    counts = {reason.value: int(mask.sum()) for reason, mask in left.items()}
    deferred = counts[ReviewReason.DEFERRED]
    return ReviewPlan(
        queued=int(np.logical_or.reduce([*left.values()]).sum()) - deferred,
        deferred=deferred,
        audited=int(captions.audited.sum()),
        reasons={reason: count for reason, count in counts.items() if count},
        certificate=choice.certificate,
        messages=(*_of_several_heads(captions), *choice.messages),
    )


@dataclass(frozen=True, eq=False)
class _Captions:
    """One model's captions, least confident first, then by uri.

    Attributes:
        table: what the queue takes from them, a row each.
        confidence: of each [n].
        group: number of each one's group of near-duplicates [n].
        group_names: what the groups are called.
        audited: which the audit draws [n].
        verdicts: what was said of images: whether the caption is right; None if that was skipped.
        reviewed: which have a verdict, even that [n].
        judged: which have one that was not skipped [n].
        open: the one of each group that is to be reviewed if a rule chooses it [n]; none where one
            was reviewed.
    """

    table: pa.Table
    confidence: _Floats
    group: npt.NDArray[np.int64]
    group_names: pa.Array
    audited: _Mask
    verdicts: dict[str, bool | None]
    reviewed: _Mask
    judged: _Mask
    open: _Mask


def _read(output: Output, model_id: str, decoding: str, rules: ReviewRules) -> _Captions:
    ours = (pc.field("model_id") == model_id) & (pc.field("decoding") == decoding)
    parts = [table for _, table in output.tables("captions", _PLANNED, ours)]
    empty = pa.schema([CAPTIONS.field(name) for name in _PLANNED]).empty_table()
    table = pa.concat_tables([empty, *parts], promote_options="permissive").combine_chunks()
    table = table.sort_by([("confidence", "ascending"), ("uri", "ascending")])
    confidence = table["confidence"].to_numpy().astype(np.float64)
    _check_confidence(output, table, confidence)
    try:
        groups = group_ids(*(table[name].combine_chunks() for name in ("image_id", "phash")))
    except ValueError as error:
        raise OutputError(f"{output.uri} is damaged: {error}") from error
    encoded = groups.dictionary_encode()
    group = encoded.indices.to_numpy().astype(np.int64)
    verdicts = newest_verdicts(output, ours)
    said = [image for image, verdict in verdicts.items() if verdict is not None]
    reviewed, judged = (
        pc.is_in(table["image_id"], pa.array(images, pa.string())).to_numpy()
        for images in (verdicts, said)
    )
    # Of rows in this order the first of a group is its least confident; one reviewed comes first.
    order = np.argsort(~reviewed, kind="stable")
    firsts = order[np.unique(group[order], return_index=True)[1]]
    first = np.zeros(len(group), np.bool_)
    first[firsts] = True
    keys = (table[name].to_pylist() for name in ("uri", "model_id", "decoding"))
    audited = np.array([rules.draws(*key) for key in zip(*keys, strict=True)], np.bool_)
    return _Captions(
        table,
        confidence,
        group,
        encoded.dictionary,
        audited,
        verdicts,
        reviewed,
        judged,
        first & ~reviewed,
    )


def _check_confidence(output: Output, table: pa.Table, confidence: _Floats) -> None:
    wrong = np.flatnonzero(np.isnan(confidence))
    if len(wrong):
        raise OutputError(
            f"{output.uri} has {len(wrong):,} captions whose confidence is not a number, such as "
            f"that of {redact(table['uri'][int(wrong[0])].as_py())}; give them one: captioner "
            "rescore"
        )


@dataclass(frozen=True, eq=False)
class _Choice:
    """What the rules choose, before groups are looked at, and what the budget buys."""

    chosen: dict[ReviewReason, _Mask]
    bought: _Mask
    certificate: Certificate | None = None
    messages: tuple[str, ...] = ()


def _choose(captions: _Captions, rules: ReviewRules) -> _Choice:
    chosen, certificate, messages = {}, None, []
    if rules.review_below is not None:
        chosen[ReviewReason.THRESHOLD] = captions.confidence < rules.review_below
    budget = rules.budgeted(len(captions.confidence))
    bought = captions.open & (np.cumsum(captions.open) <= budget)
    if bought.sum() < budget:
        messages.append(f"the budget is {budget:,}, but only {bought.sum():,} are left to review")
    if rules.guarantee is not None:
        certificate, unlabelled = _certify(captions, rules.guarantee)
        lowest = np.inf if certificate.threshold is None else certificate.threshold
        chosen[ReviewReason.GUARANTEE] = captions.confidence < lowest
        if unlabelled:
            messages.append(
                f"{unlabelled:,} audited captions that are to certify have no verdict yet; the "
                "guarantee takes those that have one for a random part of them"
            )
    return _Choice(chosen, bought, certificate, tuple(messages))


def _certify(captions: _Captions, guarantee: Guarantee) -> tuple[Certificate, int]:
    """Return the certificate, and how many audited images have no label to support it.

    Each image counts once, and as labelled only if the audit drew its first row: else one with
    many rows would be labelled sooner, and often, and the labels no uniform sample.
    """
    for head in sorted(filter(None, pc.unique(captions.table["confidence_id"]).to_pylist())):
        check_head(guarantee, head)
    names = captions.table["image_id"].to_pylist()
    first = first_of_image(captions.table)
    drawn = np.flatnonzero(captions.audited & first)
    rows = [row for row in drawn if kept_for_guarantees(names[row])]
    images = [names[row] for row in rows]
    verdicts = [captions.verdicts.get(image) for image in images]
    known = np.array([verdict is not None for verdict in verdicts], np.bool_)
    correct = np.array([verdict is True for verdict in verdicts], np.bool_)
    certificate = accept_threshold(
        captions.confidence[first],
        captions.confidence[np.array(rows, np.intp)[known]],
        correct[known],
        accuracy=guarantee.accuracy,
        confidence=guarantee.confidence,
    )
    return certificate, int((~known).sum())


def _reasons(captions: _Captions, choice: _Choice) -> dict[ReviewReason, _Mask]:
    """Return which captions are in the queue for each reason, in the order of the reasons."""
    reasons = {reason: mask & captions.open for reason, mask in choice.chosen.items()}
    reasons |= {ReviewReason.BUDGET: choice.bought, ReviewReason.AUDIT: captions.audited}
    queued = np.logical_or.reduce([*reasons.values()])
    bought_groups = np.isin(captions.group, captions.group[choice.bought])
    waiting = np.logical_or.reduce([bought_groups, *choice.chosen.values()])
    reasons[ReviewReason.DEFERRED] = waiting & ~queued & ~captions.reviewed
    return {reason: reasons[reason] for reason in ReviewReason if reason in reasons}


def _rows(captions: _Captions, reasons: dict[ReviewReason, _Mask], rules: ReviewRules) -> pa.Table:
    """Return the rows of ``review``."""
    flags = np.stack([*reasons.values()], axis=1)
    rows = np.flatnonzero(flags.any(1))
    names = pa.array([reason.value for reason in reasons], pa.string())
    starts = np.concatenate([[0], np.cumsum(flags[rows].sum(1))])
    values = names.take(pa.array(np.nonzero(flags[rows])[1]))
    chance = rules.audit or None
    columns = {name: captions.table[name].take(rows) for name in _PLANNED if name in REVIEW.names}
    columns |= {
        "reasons": pa.ListArray.from_arrays(pa.array(starts, pa.int32()), values),
        "inclusion_probability": pa.array([chance] * len(rows), pa.float64()),
        "group_id": captions.group_names.take(pa.array(captions.group[rows])),
    }
    return pa.table([columns[name] for name in REVIEW.names], schema=REVIEW).combine_chunks()


def check_head(guarantee: Guarantee | None, confidence_id: str | None) -> None:
    """Refuse a guarantee for confidences that the labels that are to certify have fitted.

    Args:
        guarantee: None asks for nothing.
        confidence_id: of the head that the confidences are of; None of no head.

    Raises:
        RulesError: if no guarantee can rest on that head.
    """
    if guarantee is not None and confidence_id and confidence_id.endswith(ALL_LABELS):
        raise RulesError(
            f"captions have the confidence of head {confidence_id}, which was fitted on all "
            "labels, those that are to certify included, so that no guarantee can rest on it; run "
            "captioner calibrate without --no_guarantee, then captioner rescore"
        )


def _of_several_heads(captions: _Captions) -> list[str]:
    heads = pc.count_distinct(captions.table["confidence_id"], mode="all").as_py()
    if heads == 1:
        return []
    return [
        f"the captions' confidences come from {heads} confidence heads, or from none, and do not "
        "compare; captioner rescore makes them one"
    ]
