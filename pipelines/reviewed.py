"""One model's captions in an output, joined with the queue and with what reviewers said."""

from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from captioner.confidence.guarantee import kept_for_guarantees
from captioner.confidence.quality import Reviewed
from pipelines.committed import first_of_image, newest_verdicts
from pipelines.output import Output
from schemas.kinds import ConfidenceKind, ReviewReason
from schemas.tables import TABLES

_NEARLY_ALL = 0.95
"""Near-duplicates of what was reviewed are not queued, so some captions are always missing."""
_KEPT = 0.5
"""Of all images, those whose labels fit no confidence head."""
_NOT_QUEUED: tuple[frozenset[str], float] = (frozenset(), float("nan"))


@dataclass(frozen=True, eq=False)
class Audited:
    """Captions that the audit drew and a reviewer judged: a random sample of distinct images.

    Attributes:
        confidence: of each, [n].
        correct: whether the reviewer accepted it, [n].
        inclusion_probability: with which the audit drew it, [n].
        kept: whether its label is kept for guarantees, and so fitted no confidence head, [n].
    """

    confidence: npt.NDArray[np.float64]
    correct: npt.NDArray[np.bool_]
    inclusion_probability: npt.NDArray[np.float64]
    kept: npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class ReviewedCaptions:
    """A model's captions, and what is known of them.

    Attributes:
        uris: of the captions, the least sure first, by uri where confidence is equal, [N].
        reviewed: in the same order, for estimates.
        audited: the judged part of the audit.
        audit: how many captions the audit drew, judged or not, each the first of its image, of
            those that may stand for others.
        learned: how many judged ones it drew besides, from which a verifier may have learned.
        drawn_for_one: how many the audit draws, on the whole, for one that may stand for others.
        deferred: how many of the queued captions wait for the review of a near-duplicate.
        unreviewed: how many of the accepted captions are of images that nobody has judged.
        uncalibrated: how many have a confidence that is no probability.
        judged: how many images reviewers have judged.
        unused: of those, how many count neither as queued nor as audited.
        elsewhere: how many judged images have no caption of this model here.
    """

    uris: list[str]
    reviewed: Reviewed
    audited: Audited
    audit: int
    learned: int
    drawn_for_one: float
    deferred: int
    unreviewed: int
    uncalibrated: int
    judged: int
    unused: int
    elsewhere: int


def read_reviewed(output: Output, model_id: str, decoding: str) -> ReviewedCaptions:
    """Read one model's captions, its live queue and its reviews.

    A review is of an image: it tells of every caption of the same bytes. The newest verdict on an
    image counts; one that was skipped says nothing. So that one verdict is not several independent
    labels, only an image's first caption by uri is a random draw, if the audit drew it. The others
    are known once the image is judged, and stand for no other caption; of those that are not
    judged, the draw stands for more the more captions its image has.

    All rules queue the least confident first, by uri where confidence is equal. So what counts as
    queued is all up to a place in that order (see `queued_part`), not what the live queue holds:
    a caption leaves that once it is reviewed, and what only the audit brought to a reviewer could
    not be told from what a rule did.

    A verifier knows the captions whose labels it learned from, so that the confidence of those is
    not like that of others. Where captions have what a verifier says, an audited one stands for
    others only if its label is kept from heads (`kept_for_guarantees`), which is half of them: so
    it stands for twice as many. The other half is known, and stands for itself.

    Raises:
        ValueError: if a confidence is no probability, or an audited caption has none.
    """
    ours = (pc.field("model_id") == model_id) & (pc.field("decoding") == decoding)
    names = ["image_id", "uri", "confidence", "confidence_kind", "verifier_id"]
    captions = _read(output, "captions", names, ours)
    captions = captions.sort_by([("confidence", "ascending"), ("uri", "ascending")])
    uris, images = captions["uri"].to_pylist(), captions["image_id"].to_pylist()
    queue = _queue(output, ours)
    verdicts = newest_verdicts(output, ours)
    entries = [queue.get(key, _NOT_QUEUED) for key in zip(uris, images, strict=True)]
    reasons = [found for found, _ in entries]
    probability = np.array([chance for _, chance in entries], np.float64)
    in_audit = np.array([ReviewReason.AUDIT in found for found in reasons], np.bool_)
    chosen = np.array([not found <= {ReviewReason.AUDIT} for found in reasons], np.bool_)
    reviewed = np.array([image in verdicts for image in images], np.bool_)
    judged = np.array([verdicts.get(image) is not None for image in images], np.bool_)
    correct = np.array([verdicts.get(image) is True for image in images], np.bool_)
    confidence = np.asarray(captions["confidence"].to_numpy(), np.float64)
    queued = queued_part(chosen | reviewed, in_audit)
    useful = {images[row] for row in np.flatnonzero(judged & (in_audit | queued))}
    used = np.array([image in useful for image in images], np.bool_)
    in_audit &= first_of_image(captions)
    kept = np.array([kept_for_guarantees(image) for image in images], np.bool_)
    verified = pc.is_valid(captions["verifier_id"]).to_numpy()
    learned = in_audit & verified & ~kept
    in_audit &= ~learned
    # Of those that are not known by being in the other half.
    probability[verified] *= _KEPT / (1 - probability[verified] * (1 - _KEPT))
    drawn = judged & in_audit
    copies = Counter(images)
    standing = _standing(probability, np.array([copies[image] for image in images], np.float64))
    said = {image for image, verdict in verdicts.items() if verdict is not None}
    here = said & set(images)
    kinds = pc.equal(captions["confidence_kind"], ConfidenceKind.UNCALIBRATED.value)
    return ReviewedCaptions(
        uris=uris,
        reviewed=Reviewed(
            confidence,
            ~queued,
            np.flatnonzero(used),
            correct[used],
            ~in_audit[used],
            standing[used],
        ),
        audited=Audited(confidence[drawn], correct[drawn], probability[drawn], kept[drawn]),
        audit=int(in_audit.sum()),
        learned=int((learned & judged).sum()),
        drawn_for_one=1 / _KEPT if verified.any() else 1.0,
        deferred=sum(ReviewReason.DEFERRED in found for found in reasons),
        unreviewed=int((~queued & ~judged).sum()),
        uncalibrated=int(pc.sum(kinds).as_py() or 0),
        judged=len(here),
        unused=len(here - useful),
        elsewhere=len(said - here),
    )


def _standing(
    probability: npt.NDArray[np.float64], copies: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """Return one over the captions that a draw stands for: itself, and those not judged like it.

    Of an image with m captions these are all m, unless one of them was drawn: then all are known.
    """
    others = copies * (1 - probability) ** copies
    standing: npt.NDArray[np.float64] = probability / (probability + others)
    return standing


def queued_part(
    sent: npt.NDArray[np.bool_], audited: npt.NDArray[np.bool_]
) -> npt.NDArray[np.bool_]:
    """Return which captions count as queued: all up to the last place where nearly all were sent.

    Whether a place is that is told by the captions that the audit did not draw, so that the
    audited ones above it stay a random sample. Captions that were reviewed in another order, say
    of an older confidence head, are no part of it unless everything near them was reviewed.

    Args:
        sent: whether a caption was in the queue by a rule, or reviewed, the least sure first, [N].
        audited: whether the audit drew it, [N].
    """
    places = np.flatnonzero(~audited)
    known = sent[places]
    nearly_all = np.cumsum(known) >= _NEARLY_ALL * np.arange(1, len(known) + 1)
    last = places[known & nearly_all][-1:]
    queued: npt.NDArray[np.bool_] = np.arange(len(sent)) <= (last[0] if len(last) else -1)
    return queued


def _queue(output: Output, ours: pc.Expression) -> dict[tuple[str, str], tuple[Any, float]]:
    """Return the reasons and the inclusion probability of each queued uri and image."""
    columns = ["uri", "image_id", "reasons", "inclusion_probability"]
    return {
        (row["uri"], row["image_id"]): (
            frozenset(row["reasons"]),
            np.nan if row["inclusion_probability"] is None else row["inclusion_probability"],
        )
        for row in _rows(output, "review", columns, ours)
    }


def _rows(
    output: Output, table: str, columns: list[str], ours: pc.Expression
) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = _read(output, table, columns, ours).to_pylist()
    return rows


def _read(output: Output, table: str, columns: list[str], ours: pc.Expression) -> pa.Table:
    parts = [part for _, part in output.tables(table, columns, ours)]
    wanted = pa.schema([TABLES[table].field(name) for name in columns])
    return pa.concat_tables([wanted.empty_table(), *parts], promote_options="default")
