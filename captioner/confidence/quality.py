"""How many captions of a data set are right, from reviews of some of them, with 95% intervals.

Captions fall into two parts. *Accepted* ones stay unreviewed but for the audit, a random sample,
so only the audit tells of them: each label counts 1 / its inclusion probability (Hájek). *Queued*
ones are all there to be reviewed, the least sure first, so those reviewed so far are known, but
say nothing of the others: these, too, are estimated from what the audit drew. Not every audited
caption has been reviewed yet; those that have not are taken to be like reviewed ones of like
confidence (missing at random within a stratum of confidence). Where no label is, or where captions
are surer or less sure than all labels, and more of them than chance leaves, there is no estimate:
the limits then hold whether all of those are wrong or all are right.

``sampling.py`` has the estimate of what the audit tells of. The intervals of both parts are joined
by what each lacks to its limits (MOVER; Zou and Donner 2008). ``benchmarks/quality_intervals.py``
measures how often intervals hold the truth.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats

from captioner.confidence.sampling import sampled

Values = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

_ENDS = ("low", "high")
_Z = float(stats.norm.ppf(0.975))
_BY_CHANCE = 1e-4
"""Probability with which a random sample leaves out so many of the surest, or the least sure."""


@dataclass(frozen=True, eq=False)
class Reviewed:
    """The captions of a data set, and what reviewers said of some.

    Attributes:
        confidence: of every caption, in [0, 1], [N].
        accepted: whether a caption goes out unreviewed, unless the audit drew it, [N].
        index: which captions have a label that counts, each once: accepted ones that were
            audited, and queued ones, [n].
        correct: whether the reviewer accepted the caption, [n].
        known: whether the label tells of that caption alone: it was reviewed, but not as a random
            draw, [n].
        inclusion_probability: with which the audit draws each of the others; not looked at where
            ``known``, [n].
    """

    confidence: Values
    accepted: Mask
    index: npt.NDArray[np.int64]
    correct: Mask
    known: Mask
    inclusion_probability: Values

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            ValueError: naming what does not fit, and the value.
        """
        if self.confidence.ndim != 1 or self.confidence.shape != self.accepted.shape:
            raise ValueError(
                f"confidence is of shape {self.confidence.shape} and accepted of "
                f"{self.accepted.shape}; give [N] of both"
            )
        labels = ("index", "correct", "known", "inclusion_probability")
        shapes = {name: getattr(self, name).shape for name in labels}
        if set(shapes.values()) != {(self.index.size,)}:
            raise ValueError(
                ", ".join(f"{name} is of shape {shape}" for name, shape in shapes.items())
                + "; give [n] of all"
            )
        wrong = ~((self.confidence >= 0) & (self.confidence <= 1))
        if wrong.any():
            raise ValueError(
                f"confidence of {wrong.sum():,} captions is outside [0, 1] or not a number, first "
                f"{self.confidence[wrong][0]}; rescore them"
            )
        if self.index.size and not 0 <= self.index.min() <= self.index.max() < len(wrong):
            raise ValueError(f"index reaches beyond the {len(wrong):,} captions")
        if len(np.unique(self.index)) < self.index.size:
            raise ValueError("index names a caption twice; keep one label a caption")
        drawn = self.inclusion_probability[~self.known]
        bad = ~((drawn > 0) & (drawn <= 1))
        if bad.any():
            raise ValueError(
                f"inclusion_probability of an audited caption is {drawn[bad][0]}; it must be "
                "above 0 and at most 1. Leave out accepted captions that no audit drew"
            )


@dataclass(frozen=True)
class Estimate:
    """A share of right captions and its 95% interval.

    Attributes:
        value: the estimate; None where the labels do not tell of all captions.
        low: the interval's lower limit; without an estimate a bound, as if all captions that no
            label tells of were wrong.
        high: its upper limit; or a bound, as if all of those were right.
        rows: how many captions it is about.
        labels: how many of them have a label that counts.
        known: how many of those are queued, so that nothing is left to chance about them.
        method: ``regression``, ``wilson``, ``known`` (all have labels) or ``none`` (no estimate).
            Of two parts, that of the accepted captions, unless one of them has no estimate.
    """

    value: float | None
    low: float
    high: float
    rows: int
    labels: int
    known: int
    method: str


@dataclass(frozen=True)
class _Part:
    value: float | None
    low: float
    high: float
    method: str


def estimate(reviewed: Reviewed, rows: Mask | None = None) -> Estimate:
    """Estimate how many captions are right.

    Args:
        reviewed: the data set.
        rows: which of its captions, [N]; all by default.

    Raises:
        ValueError: if ``rows`` holds none, or is not of the data set's length.
    """
    rows = np.ones(len(reviewed.confidence), np.bool_) if rows is None else rows
    if rows.shape != reviewed.confidence.shape or not rows.any():
        raise ValueError(
            f"rows is of shape {rows.shape} and holds {int(rows.sum())} captions; choose at least "
            f"one of the data set's {len(reviewed.confidence):,}"
        )
    total = int(rows.sum())
    parts = [
        (float(mask.sum()) / total, _part(reviewed, mask))
        for mask in (rows & reviewed.accepted, rows & ~reviewed.accepted)
        if mask.any()
    ]
    joined = _join(parts)
    chosen = rows[reviewed.index]
    return Estimate(
        value=joined.value,
        low=max(0.0, joined.low),
        high=min(1.0, joined.high),
        rows=total,
        labels=int(chosen.sum()),
        known=int((chosen & ~reviewed.accepted[reviewed.index]).sum()),
        method=joined.method,
    )


def by_confidence(reviewed: Reviewed, bins: int = 5) -> list[tuple[float, float, Estimate]]:
    """Return least and most confidence and the estimate of bins, the least sure first.

    Bins hold about as many captions as each other, each of them the upper number but not the lower.
    """
    inner = np.unique(np.quantile(reviewed.confidence, np.arange(1, bins) / bins, method="lower"))
    place = np.searchsorted(inner, reviewed.confidence)
    edges = [reviewed.confidence.min(), *inner, reviewed.confidence.max()]
    return [
        (float(edges[number]), float(edges[number + 1]), estimate(reviewed, place == number))
        for number in np.unique(place)
    ]


def by_group(reviewed: Reviewed, names: Sequence[str], most: int = 10) -> dict[str, Estimate]:
    """Return the estimates of the groups with most captions, the largest first.

    Args:
        reviewed: the data set.
        names: the group of each caption, [N].
        most: how many groups.
    """
    numbers = {name: number for number, name in enumerate(sorted(set(names)))}
    place = np.array([numbers[name] for name in names])
    counts = np.bincount(place)
    largest = sorted(numbers, key=lambda name: -counts[numbers[name]])[:most]
    return {name: estimate(reviewed, place == numbers[name]) for name in largest}


def labels_needed(estimate: Estimate, width: float) -> int:
    """Return how many more labels bring the interval to a width, if they are like those so far.

    The square of the width shrinks with 1 / labels - 1 / captions, both without what is known
    exactly. Near 0 and 1 that asks for some more than are needed.

    Raises:
        ValueError: if the width is not between 0 and 1.
    """
    if not 0 < width < 1:
        raise ValueError(f"width is {width}; give a number between 0 and 1, such as 0.02")
    now = estimate.high - estimate.low
    if now <= width:
        return 0
    labels, rows = estimate.labels - estimate.known, estimate.rows - estimate.known
    if labels:
        a_label = now**2 / (1 / labels - 1 / rows)
    else:  # At worst, half of them are right.
        a_label = (_Z * rows / estimate.rows) ** 2
    return math.ceil(1 / (width**2 / a_label + 1 / rows)) - labels


def _join(parts: Sequence[tuple[float, _Part]]) -> _Part:
    """Return the estimate of parts together, of each of which the share is given (MOVER)."""
    values = [part.value for _, part in parts]
    if None in values:  # Limits of a part without an estimate hold always: they just add.
        low, high = (sum(share * getattr(part, end) for share, part in parts) for end in _ENDS)
        return _Part(None, low, high, "none")
    value = sum(share * part.value for share, part in parts if part.value is not None)
    below, above = (
        math.hypot(*(share * (getattr(part, end) - (part.value or 0.0)) for share, part in parts))
        for end in _ENDS
    )
    return _Part(value, value - below, value + above, parts[0][1].method)


def _part(reviewed: Reviewed, mask: Mask) -> _Part:
    """Estimate a part: what is known of it, what its audit tells of, and what nothing tells of."""
    chosen = mask[reviewed.index]
    drawn = chosen & ~reviewed.known
    correct = reviewed.correct.astype(np.float64)
    known, seen = chosen & reviewed.known, reviewed.confidence[reviewed.index[drawn]]
    rest = mask.copy()
    rest[reviewed.index[known]] = False
    unlabelled = rest.copy()
    unlabelled[reviewed.index[drawn]] = False
    if not unlabelled.any():
        share = float(correct[chosen].mean())
        return _Part(share, share, share, "known")
    weights = 1 / reviewed.inclusion_probability[drawn]
    beyond = unlabelled & _beyond(reviewed.confidence, mask, seen, weights)
    told = rest & ~beyond
    pieces = [
        (int(known.sum()), float(correct[known].mean()) if known.any() else 0.0, "known"),
        (int(beyond.sum()), None, "none"),
    ]
    rows = float(mask.sum())
    parts = [
        (count / rows, _Part(value, value or 0.0, 1.0 if value is None else value, method))
        for count, value, method in pieces
        if count
    ]
    if told.any():
        found = sampled(reviewed.confidence[told], seen, correct[drawn], weights)
        parts.insert(0, (float(told.sum()) / rows, _Part(*found)))
    return _join(parts)


def _beyond(confidence: Values, mask: Mask, seen: Values, weights: Values) -> Mask:
    """Return which captions are surer, or less sure, than labels can tell of.

    Of a random sample, the surest label has few captions above it. If there are more, reviewers
    are still on their way through the order of confidence.
    """
    if not len(seen):
        return mask
    by_chance = -math.log(_BY_CHANCE) * mask.sum() * weights.max() / weights.sum()
    sides = (confidence > seen.max(), confidence < seen.min())
    beyond = np.zeros_like(mask)
    for side in sides:
        if np.sum(side & mask) > by_chance:
            beyond |= side
    return beyond
