"""Is one model better than another, from a person's choice between their captions of an image.

Images on which the choice falls on neither say nothing of which is better, as in McNemar's test:
what counts is the share of the others that the candidate wins, and whether that is a half.

**The test holds however often one looks.** It is for somebody who comes back with more answers
until they suffice, which would let a test for one look find a winner among equals sooner or later.
Here evidence against "the candidate wins a share s or less" is the likelihood of the answers under
shares above s, mixed uniformly, over that under s. Where s or less is true this is a
supermartingale, so that the probability of its ever reaching 1 / a is at most a (Ville's
inequality; Robbins 1970; Howard, Ramdas, McAuliffe and Sekhon, 1810.08240; Johari, Pekelis and
Walsh, 1512.04922). The shares that are not refuted are an interval that holds at all looks at
once. It is wider than an interval for one look, such as that of Clopper and Pearson.
"""

from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import numpy.typing as npt
from scipy import stats
from scipy.optimize import brentq
from scipy.special import betainc, betaln

LEVEL = 0.05
"""Probability of ever calling a winner, on either side, where there is none."""

FEWEST = 8
"""Answers that tell if all are for the same model."""

_MOST_NEEDED = 1_000_000
_Values = npt.NDArray[np.float64]


class Better(StrEnum):
    """What answers say of a candidate."""

    BETTER = "better"
    WORSE = "worse"
    CANNOT_TELL = "cannot_tell"


@dataclass(frozen=True)
class Paired:
    """What a comparison says so far.

    Attributes:
        verdict: of the candidate.
        images: that were compared, or are to be.
        same: of these, images of which both models say the same.
        waiting: images that wait for an answer.
        won: images whose caption by the candidate is better.
        lost: images whose caption by the present model is better.
        share: of won and lost ones, those won; None as long as there are none.
        share_low: lower limit of the 95% interval of that, which holds at all looks at once.
        share_high: its upper limit.
        difference: of all images, the share won less the share lost; None without an answer.
        difference_low: lower limit of its 95% interval, which holds for one look.
        difference_high: its upper limit.
        missing: how many more answers would tell, about, if they go on as so far; 0 where it can
            be told, None where no million of them would, or nothing is won nor lost.
    """

    verdict: Better
    images: int
    same: int
    waiting: int
    won: int
    lost: int
    share: float | None
    share_low: float
    share_high: float
    difference: float | None
    difference_low: float
    difference_high: float
    missing: int | None


def compare(outcomes: npt.NDArray[np.int8], *, same: int = 0, waiting: int = 0) -> Paired:
    """Say which of two models is better, as far as the answers go.

    Args:
        outcomes: of each image that somebody looked at: 1 if the candidate's caption is better, -1
            if the present one's is, 0 if both are right or both wrong, [n].
        same: images of which both say the same.
        waiting: images on which they differ and nobody has said anything; those that have an
            answer are taken for a random part of all on which they differ.

    Raises:
        ValueError: if an outcome is something else, or a number is below 0.
    """
    if not np.isin(outcomes, (-1, 0, 1)).all():
        odd = outcomes[~np.isin(outcomes, (-1, 0, 1))][0]
        raise ValueError(f"outcomes holds {odd}; use 1, 0 and -1")
    for name, number in (("same", same), ("waiting", waiting)):
        if number < 0:
            raise ValueError(f"{name} is {number}; use 0 or more")
    won, lost, answers = int((outcomes == 1).sum()), int((outcomes == -1).sum()), len(outcomes)
    low, high = share_interval(won, lost)
    differing = answers + waiting
    difference, limits = None, (-1.0, 1.0)
    if answers or not differing:
        # As many of those with the same captions as there are answers: one random part of all.
        told = answers + same * (answers / differing if differing else 1.0)
        difference = (won - lost) / told if told else None
        limits = difference_interval(won, lost, told)
    verdict = Better.BETTER if low > 0.5 else Better.WORSE if high < 0.5 else Better.CANNOT_TELL
    return Paired(
        verdict=verdict,
        images=same + differing,
        same=same,
        waiting=waiting,
        won=won,
        lost=lost,
        share=won / (won + lost) if won + lost else None,
        share_low=low,
        share_high=high,
        difference=difference,
        difference_low=limits[0],
        difference_high=limits[1],
        missing=0 if verdict != Better.CANNOT_TELL else missing(won, lost, answers),
    )


def evidence(won: npt.ArrayLike, lost: npt.ArrayLike, share: float = 0.5) -> _Values:
    """Return the evidence that the candidate wins more than a share: 1 is none, 40 is enough.

    Args:
        won: numbers of images that the candidate won, 0 or more; expected ones need not be whole.
        lost: numbers of images that it lost, likewise.
        share: what it wins at most, if there is nothing to be found; above 0 and below 1.
    """
    with np.errstate(over="ignore"):
        found: _Values = np.exp(_log_evidence(won, lost, share))
    return found


def _log_evidence(won: npt.ArrayLike, lost: npt.ArrayLike, share: float) -> _Values:
    wins, losses = np.asarray(won, np.float64), np.asarray(lost, np.float64)
    with np.errstate(divide="ignore"):
        above = np.log(betainc(losses + 1, wins + 1, 1 - share))
    found: _Values = above + betaln(wins + 1, losses + 1)
    found -= wins * np.log(share) + (losses + 1) * np.log1p(-share)
    return found


def share_interval(won: int, lost: int, level: float = LEVEL) -> tuple[float, float]:
    """Return limits of the share that the candidate wins, which hold at all looks at once.

    Args:
        won: images that the candidate won.
        lost: images that it lost.
        level: probability that a look will ever find the true share outside.

    Raises:
        ValueError: if a number is below 0, or the level not between 0 and 1.
    """
    if min(won, lost) < 0:
        raise ValueError(f"won is {won} and lost {lost}; use 0 or more")
    if not 0.0 < level < 1.0:
        raise ValueError(f"level is {level}; use a number between 0 and 1, such as {LEVEL}")
    return _lower(won, lost, level / 2), 1.0 - _lower(lost, won, level / 2)


def _lower(won: int, lost: int, level: float) -> float:
    """Return the largest share that is refuted; evidence grows as the share falls."""
    if not won:
        return 0.0

    def excess(share: float) -> float:
        return float(np.maximum(_log_evidence(won, lost, share), -1e9)) + float(np.log(level))

    edge = 1e-9
    return float(brentq(excess, edge, 1.0 - edge)) if excess(edge) > 0 else 0.0


def difference_interval(
    won: float, lost: float, images: float, level: float = LEVEL
) -> tuple[float, float]:
    """Return limits of the share of images won less that lost, for one look.

    Wald's interval with the Laplace adjustment of Bonett and Price (2012), which Fagerland,
    Lydersen and Laake (2014, "Recommended tests and confidence intervals for paired binomial
    proportions") recommend.

    Args:
        won: images that the candidate won.
        lost: images that it lost.
        images: all of them; they need not be whole numbers.
        level: probability that the true difference is outside.
    """
    plus, minus = (won + 1) / (images + 2), (lost + 1) / (images + 2)
    deviation = np.sqrt((plus + minus - (plus - minus) ** 2) / (images + 2))
    reach = float(stats.norm.ppf(1 - level / 2)) * float(deviation)
    return max(-1.0, plus - minus - reach), min(1.0, plus - minus + reach)


def missing(won: int, lost: int, answers: int, level: float = LEVEL) -> int | None:
    """Return how many more answers would tell, about, if they go on as so far.

    Args:
        won: images that the candidate won.
        lost: images that it lost.
        answers: of these and of images on which neither won.
        level: of the test, for both sides.

    Returns:
        The number; None if no million of answers would do, or nothing is won nor lost.
    """
    if won == lost:
        return None
    decided, most = won + lost, max(won, lost)
    sizes = np.unique(np.geomspace(decided, _MOST_NEEDED, 2000).astype(np.int64))
    share = most / decided
    enough = evidence(share * sizes, (1 - share) * sizes) >= 2 / level
    if not enough.any():
        return None
    more = (int(sizes[np.argmax(enough)]) - decided) * answers / decided
    return max(1, round(more)) if more <= _MOST_NEEDED else None
