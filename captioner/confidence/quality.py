"""How many captions of a data set are right, from reviews of some of them, with 95% intervals.

Captions fall into two parts. *Accepted* ones stay unreviewed but for the audit, a random sample,
so only the audit tells of them: each label counts 1 / its inclusion probability (Hájek). *Queued*
ones are all there to be reviewed, so what is reviewed is known, and only the rest is estimated.
Not every audited or queued caption has been reviewed yet; those that have not are taken to be like
reviewed ones of like confidence (missing at random within a stratum of confidence).

A part's estimate is a regression estimator (GREG; Särndal, Swensson and Wretman 1992, chapter 6):
labels are regressed on strata of confidence and on confidence within them, and the fit is averaged
over all captions of the part. That is prediction-powered inference with a tuned weight of the
predictions (2311.01453), within strata. Confidence need not be calibrated: if it says little, the
interval is that of the labels alone. The variance is the sandwich with residuals for their
leverage (HC2), without what a finite population leaves to chance. It becomes an effective number
of labels, of which the interval is Wilson's, as in surveys (Korn and Graubard 1998): accuracies
near 1 then keep an interval of a width and within [0, 1]. Few labels, or few of the rarer verdict,
bear no regression: theirs is Wilson's interval of the weighted mean.

The intervals of both parts are joined by what each lacks to its limits (MOVER; Zou and Donner
2008). ``benchmarks/quality_intervals.py`` measures how often intervals hold the truth.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats

Values = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

_Z = float(stats.norm.ppf(0.975))
_STRATA = 5
_LEAST_IN_STRATUM = 20
_EACH = 10
"""Labels of the rarer verdict that each coefficient of the regression needs (Peduzzi 1996)."""
_MOST_WORTH = 10.0
"""Labels that one can be worth by regression: a perfect fit to few must not claim certainty."""


@dataclass(frozen=True, eq=False)
class Reviewed:
    """The captions of a data set, and what reviewers said of some.

    Attributes:
        confidence: of every caption, in [0, 1], [N].
        accepted: whether a caption goes out unreviewed, unless the audit drew it, [N].
        index: which captions have a label that counts, each once: accepted ones that were
            audited, and queued ones, [n].
        correct: whether the reviewer accepted the caption, [n].
        inclusion_probability: with which the audit draws each of them; not looked at where the
            caption was queued, [n].
    """

    confidence: Values
    accepted: Mask
    index: npt.NDArray[np.int64]
    correct: Mask
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
        shapes = {self.index.shape, self.correct.shape, self.inclusion_probability.shape}
        if shapes != {(self.index.size,)}:
            raise ValueError(
                f"index is of shape {self.index.shape}, correct of {self.correct.shape} and "
                f"inclusion_probability of {self.inclusion_probability.shape}; give [n] of all"
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
        drawn = self.inclusion_probability[self.accepted[self.index]]
        bad = ~((drawn > 0) & (drawn <= 1))
        if bad.any():
            raise ValueError(
                f"inclusion_probability of an accepted caption is {drawn[bad][0]}; it must be "
                "above 0 and at most 1. Leave out labels that no audit drew"
            )


@dataclass(frozen=True)
class Estimate:
    """A share of right captions and its 95% interval.

    Attributes:
        value: the estimate; without labels the mean confidence, which is no estimate at all.
        low: the interval's lower limit.
        high: and its upper one.
        rows: how many captions it is about.
        labels: how many of them have a label that counts.
        known: how many of those are queued, so that nothing is left to chance about them.
        method: ``regression``, ``wilson``, ``known`` (all have labels) or ``none`` (none has).
            Of two parts, that of the accepted captions.
    """

    value: float
    low: float
    high: float
    rows: int
    labels: int
    known: int
    method: str


@dataclass(frozen=True)
class _Part:
    value: float
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
        (float(mask.sum()) / total, _part(reviewed, mask, weighted))
        for mask, weighted in ((rows & reviewed.accepted, True), (rows & ~reviewed.accepted, False))
        if mask.any()
    ]
    value = sum(share * part.value for share, part in parts)
    below = math.hypot(*(share * (part.value - part.low) for share, part in parts))
    above = math.hypot(*(share * (part.high - part.value) for share, part in parts))
    chosen = rows[reviewed.index]
    return Estimate(
        value=value,
        low=max(0.0, value - below),
        high=min(1.0, value + above),
        rows=total,
        labels=int(chosen.sum()),
        known=int((chosen & ~reviewed.accepted[reviewed.index]).sum()),
        method=parts[0][1].method,
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


def wilson(value: float, labels: float, quantile: float = _Z) -> tuple[float, float]:
    """Return Wilson's score interval (1927) of a share.

    Args:
        value: the share.
        labels: among how many; need not be whole.
        quantile: of the distribution of errors; for 95% of a normal one by default.
    """
    extra = quantile**2 / labels
    centre = (value + extra / 2) / (1 + extra)
    half = math.sqrt(extra * value * (1 - value) + extra**2 / 4) / (1 + extra)
    return max(0.0, centre - half), min(1.0, centre + half)


def _part(reviewed: Reviewed, mask: Mask, weighted: bool) -> _Part:
    """Estimate a part whose labels are a sample of it, weighted or not."""
    chosen = mask[reviewed.index]
    rows, labels = int(mask.sum()), int(chosen.sum())
    confidence, correct = reviewed.confidence[mask], reviewed.correct[chosen].astype(np.float64)
    if labels == 0:
        return _Part(float(confidence.mean()), 0.0, 1.0, "none")
    if labels == rows:
        share = float(correct.mean())
        return _Part(share, share, share, "known")
    weights = 1 / reviewed.inclusion_probability[chosen] if weighted else np.ones(labels)
    seen = reviewed.confidence[reviewed.index[chosen]]
    found = _regression(confidence, seen, correct, weights)
    if found is not None:
        return found
    shares = weights / weights.sum()
    effective = 1 / float(shares @ shares) / (1 - labels / rows)
    value = float(shares @ correct)
    return _Part(value, *wilson(value, effective), "wilson")


def _regression(confidence: Values, seen: Values, correct: Values, weights: Values) -> _Part | None:
    """Estimate by regression; None where there are too few labels for one.

    Args:
        confidence: of all captions of the part, [N].
        seen: of those that have labels, [n].
        correct: the labels, 0 or 1, [n].
        weights: of the labels, [n].
    """
    labels = len(correct)
    coefficients = int(min(correct.sum(), labels - correct.sum())) // _EACH
    if coefficients < 1:
        return None
    edges = _edges(confidence, seen, min(coefficients, _STRATA))
    strata, stratum = np.searchsorted(edges, confidence), np.searchsorted(edges, seen)
    sizes = np.bincount(strata, minlength=len(edges) + 1)
    counts = np.bincount(stratum, minlength=len(edges) + 1)
    centre = confidence.mean()
    design = np.column_stack((np.eye(len(sizes))[stratum], seen - centre))
    everyone = np.append(sizes / len(confidence), 0.0)
    scaled = design * weights[:, None]
    inverse = np.linalg.pinv(scaled.T @ design)
    shares = scaled @ inverse @ everyone  # What each label counts in the estimate, [n].
    leverage = np.clip(np.sum(scaled @ inverse * design, 1), 0, 0.99)
    residuals = (correct - design @ (inverse @ (scaled.T @ correct))) / np.sqrt(1 - leverage)
    left = 1 - (counts / sizes)[stratum]  # Of a stratum that all labels are known nothing is left.
    value = float(shares @ correct)
    if not 0 < value < 1:
        return None
    variance = float(np.sum(left * (shares * residuals) ** 2))
    alone = float(np.sum(left * shares**2)) / _MOST_WORTH
    effective = value * (1 - value) / max(variance, value * (1 - value) * alone, 1e-300)
    quantile = float(stats.t.ppf(0.975, labels - design.shape[1]))
    return _Part(value, *wilson(value, effective, quantile), "regression")


def _edges(confidence: Values, seen: Values, strata: int) -> list[float]:
    """Return the upper edges of all strata but the last: quantiles, with enough labels between."""
    edges: list[float] = []
    before = 0
    for edge in np.unique(np.quantile(confidence, np.arange(1, strata) / strata)):
        upto = int(np.sum(seen <= edge))
        if min(upto - before, len(seen) - upto) >= _LEAST_IN_STRATUM:
            edges.append(float(edge))
            before = upto
    return edges
