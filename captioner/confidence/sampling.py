"""The share of right captions among some of which a random sample has labels, with a 95% interval.

The estimate is a regression estimator (GREG; Särndal, Swensson and Wretman 1992, chapter 6):
labels are regressed on strata of confidence and on confidence within them, and the fit is averaged
over all captions. That is prediction-powered inference with a tuned weight of the predictions
(2311.01453), within strata. Confidence need not be calibrated: if it says little, the
interval is that of the labels alone. The variance is the sandwich with residuals for their
leverage (HC2), without what a finite population leaves to chance. It becomes an effective number
of labels, of which the interval is Wilson's, as in surveys (Korn and Graubard 1998): accuracies
near 1 then keep an interval of a width and within [0, 1]. Few labels, or few of the rarer verdict,
bear no regression: theirs is Wilson's interval of the mean, weighted so that some neighbours in
confidence stand for all captions near them (post-stratification).
"""

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import stats

Values = npt.NDArray[np.float64]

_Z = float(stats.norm.ppf(0.975))
_STRATA = 5
_LEAST_IN_STRATUM = 20
_NEIGHBOURS = 5
"""Labels that together stand for the captions near them, where there is no regression."""
_EACH = 10
"""Labels of the rarer verdict that each coefficient of the regression needs (Peduzzi 1996)."""
_MOST_WORTH = 10.0
"""Labels that one can be worth by regression: a perfect fit to few must not claim certainty."""


class Sampled(NamedTuple):
    """An estimate, the limits of its interval, and how it was made: regression or wilson."""

    value: float
    low: float
    high: float
    method: str


def sampled(confidence: Values, seen: Values, correct: Values, weights: Values) -> Sampled:
    """Estimate captions of which some were drawn at random and have labels.

    Args:
        confidence: of all of them, [N].
        seen: of those that have labels, [n].
        correct: the labels, 0 or 1, [n].
        weights: 1 / inclusion probability, [n].
    """
    found = _regression(confidence, seen, correct, weights)
    if found is not None:
        return found
    weights = _standing_for(confidence, seen, weights)
    shares = weights / weights.sum()
    effective = 1 / max(float(np.sum(shares**2 * np.maximum(1 - 1 / weights, 0))), 1e-300)
    value = float(shares @ correct)
    return Sampled(value, *wilson(value, effective), "wilson")


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


def _standing_for(confidence: Values, seen: Values, weights: Values) -> Values:
    """Return how many captions each label stands for: it and its neighbours for those near them."""
    ordered = np.sort(seen)
    edges = np.unique(ordered[_NEIGHBOURS - 1 : len(seen) - _NEIGHBOURS : _NEIGHBOURS])
    edges = edges[edges < ordered[-1]]
    strata, stratum = np.searchsorted(edges, confidence), np.searchsorted(edges, seen)
    sizes = np.bincount(strata, minlength=len(edges) + 1)
    totals = np.bincount(stratum, weights, minlength=len(edges) + 1)
    standing: Values = weights * (sizes / totals)[stratum]
    return standing


def _regression(
    confidence: Values, seen: Values, correct: Values, weights: Values
) -> Sampled | None:
    """Estimate by regression; None where there are too few labels for one.

    Args:
        confidence: of all captions, [N].
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
    return Sampled(value, *wilson(value, effective, quantile), "regression")


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
