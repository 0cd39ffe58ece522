"""How well a score tells right captions from wrong ones, and what that is worth to reviewers.

Every function takes ``scores`` of shape [n] (higher is surer), or ``probabilities`` in [0, 1], and
``correct`` of shape [n]. Rows of equal score count as the mean over all orders in which they could
stand, so that no figure depends on the order of the rows. All raise ``ValueError`` for rows that
cannot be measured: none, lengths that differ, a score that is not a number.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from sklearn.metrics import roc_auc_score

Scores = npt.NDArray[np.float64]
Correct = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Bin:
    """Captions of neighbouring probability.

    Attributes:
        count: how many.
        confidence: the mean of their probabilities.
        accuracy: the share of them that is correct.
    """

    count: int
    confidence: float
    accuracy: float


def auroc(scores: Scores, correct: Correct) -> float:
    """Return how often a right caption scores above a wrong one, a tie counting as half.

    NaN where all captions are right, or all wrong.
    """
    _check(scores, correct)
    if correct.all() or not correct.any():
        return float("nan")
    return float(roc_auc_score(correct, scores))


def brier(probabilities: Scores, correct: Correct) -> float:
    """Return the mean square of probability less outcome."""
    _check_probabilities(probabilities, correct)
    return float(np.mean((probabilities - correct) ** 2))


def reliability(probabilities: Scores, correct: Correct, bins: int = 15) -> list[Bin]:
    """Return bins of equal mass, the lowest probability first.

    A bin holds as many captions as any other, give or take one; with fewer captions than bins,
    each has its own.
    """
    _check_probabilities(probabilities, correct)
    if bins < 1:
        raise ValueError(f"bins is {bins}; give at least 1")
    ordered, shares = _surest_first(probabilities, correct)
    pieces = min(bins, len(ordered))
    return [
        Bin(len(values), float(values.mean()), float(right.mean()))
        for values, right in zip(
            np.array_split(ordered[::-1], pieces),
            np.array_split(shares[::-1], pieces),
            strict=True,
        )
    ]


def expected_calibration_error(probabilities: Scores, correct: Correct, bins: int = 15) -> float:
    """Return the mean distance of confidence and accuracy over bins of equal mass."""
    return sum(
        item.count / len(probabilities) * abs(item.confidence - item.accuracy)
        for item in reliability(probabilities, correct, bins)
    )


def risk_coverage(scores: Scores, correct: Correct) -> tuple[Scores, Scores]:
    """Return the share of wrong captions among the surest 1, 2, ... n.

    Returns:
        Coverage 1/n, 2/n, ... 1 of shape [n], and the risk at each.
    """
    _check(scores, correct)
    counts = np.arange(1, len(scores) + 1)
    return counts / len(scores), _errors(scores, correct) / counts


def aurc(scores: Scores, correct: Correct) -> float:
    """Return the area under the risk-coverage curve: the mean risk over all coverages."""
    return float(risk_coverage(scores, correct)[1].mean())


def excess_aurc(scores: Scores, correct: Correct) -> float:
    """Return ``aurc`` less the least that the same accuracy allows (1805.08206).

    The least is that of a score that ranks every right caption above every wrong one.
    """
    return aurc(scores, correct) - aurc(correct.astype(np.float64), correct)


def augrc(scores: Scores, correct: Correct) -> float:
    """Return the area under the generalised risk-coverage curve (2407.01032).

    The generalised risk is the share of all captions that are accepted and wrong. By trapezoids,
    which makes it (1 - AUROC) * accuracy * (1 - accuracy) + (1 - accuracy)^2 / 2, as there.
    """
    _check(scores, correct)
    errors = np.concatenate(([0.0], _errors(scores, correct)))
    return float(np.trapezoid(errors) / len(scores) ** 2)


def review_budget(scores: Scores, correct: Correct) -> tuple[Scores, Scores]:
    """Return the accuracy of all captions after review of the least confident.

    Reviewers put right whatever they see.

    Returns:
        Shares reviewed 0, 1/n, ... 1 of shape [n + 1], and the final accuracy at each.
    """
    _check(scores, correct)
    wrong = np.concatenate(([0.0], _errors(scores, correct)))[::-1]
    return np.arange(len(scores) + 1) / len(scores), 1 - wrong / len(scores)


def share_reviewed_for(scores: Scores, correct: Correct, accuracy: float) -> float:
    """Return the least share that must be reviewed for a final accuracy.

    Raises:
        ValueError: if the accuracy is not in [0, 1].
    """
    if not 0 <= accuracy <= 1:
        raise ValueError(f"accuracy is {accuracy}; give a share from 0 to 1")
    reviewed, final = review_budget(scores, correct)
    return float(reviewed[np.argmax(final >= accuracy - 1e-12)])


def _errors(scores: Scores, correct: Correct) -> Scores:
    """Return how many of the surest 1, 2, ... n captions are wrong, of shape [n]."""
    return np.cumsum(1 - _surest_first(scores, correct)[1])


def _surest_first(scores: Scores, correct: Correct) -> tuple[Scores, Scores]:
    """Return scores in falling order, and of each row the share of right captions at its score."""
    _, group, sizes = np.unique(scores, return_inverse=True, return_counts=True)
    shares = np.bincount(group, weights=correct) / sizes
    order = np.argsort(-scores, kind="stable")
    return scores[order], shares[group[order]]


def _check(scores: Scores, correct: Correct) -> None:
    if scores.ndim != 1 or scores.shape != correct.shape:
        raise ValueError(f"scores are of shape {scores.shape}, correct {correct.shape}; give [n]")
    if len(scores) == 0:
        raise ValueError("there are no captions to measure")
    if correct.dtype != np.bool_:
        raise ValueError(f"correct is of {correct.dtype}; give booleans")
    if not np.isfinite(scores).all():
        raise ValueError(f"{np.sum(~np.isfinite(scores))} of {len(scores)} scores are not finite")


def _check_probabilities(probabilities: Scores, correct: Correct) -> None:
    _check(probabilities, correct)
    low, high = probabilities.min(), probabilities.max()
    if low < 0 or high > 1:
        raise ValueError(f"probabilities reach from {low} to {high}; they must lie in [0, 1]")
