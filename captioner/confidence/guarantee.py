"""The largest set of captions that may be accepted unreviewed, with a promise of its accuracy.

Learn then test (2110.01052): each threshold of a grid is a hypothesis "of the captions at or above
it, too many are wrong", tested on labels by an exact binomial tail. The tests run in a fixed
sequence (section 2.3 there) from the surest captions down and end at the first that fails, so no
level is lost to the number of thresholds. MAPIE's ``BinaryClassificationController`` gives the
p-values, and its ``control_fwer`` walks.
"""

import math
import warnings
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.stats import binom

from schemas.identity import row_key

WRONG_AT_THE_START = 3
"""Wrong labels that the first test bears. Fewer, and a single slip among the surest captions ends
the sequence before it began; more, and the sequence begins with less sure captions."""
_LARGEST_START = 0.25  # of the labels: with few of them the start bears fewer wrong ones instead
_MOST_LABELS = 10_000_000

_Floats = npt.NDArray[np.float64]
_Bools = npt.NDArray[np.bool_]


def kept_for_guarantees(image_id: str) -> bool:
    """Whether labels of an image certify, and so must not fit the score: half of all images.

    It hangs on the image's bytes alone, so that both sides agree on it whenever they ask.

    It is about heads. Models learn from no image that a live queue audits, be it of this half or
    of the other (``captioner.training.sources.reviews``), so that they can be compared on those.
    The audit of a later model is another draw, and may hold images which that model learned from:
    its guarantee holds of the output's captions all the same, those of such images among them, but
    is none of images to come.
    """
    return row_key("guarantee", image_id)[0] % 2 == 0


@dataclass(frozen=True)
class Certificate:
    """What labels say of a promise: the threshold that keeps it, or what is missing.

    The promise is of distinct images, and holds for one look at the labels (`accept_threshold`).

    Attributes:
        accuracy: share of the accepted captions that is to be correct, at least.
        confidence: probability with which that is to hold, over the draws of the labels.
        labels: labels that were looked at.
        threshold: captions with this score or a higher one may be accepted; None if nothing can be
            certified.
        share: of all scores, those that may be accepted.
        accepted_labels: labels at or above the threshold.
        wrong_labels: of these, those of wrong captions.
        missing: labels that are missing for a certificate, at least and about: as many as would do
            if no worse ones came; 0 if there is one, None if no number of them helps.
    """

    accuracy: float
    confidence: float
    labels: int
    threshold: float | None = None
    share: float = 0.0
    accepted_labels: int = 0
    wrong_labels: int = 0
    missing: int | None = 0

    @property
    def message(self) -> str:
        """What to tell a person."""
        goal = f"{100 * self.accuracy:g}% correct with {100 * self.confidence:g}% confidence"
        if self.threshold is not None:
            return (
                f"confidence {self.threshold:.4g} and above is {goal}: {self.share:.1%} of "
                f"distinct images ({self.accepted_labels:,} labels there, {self.wrong_labels:,} of "
                "them wrong)"
            )
        found = f"{self.labels:,} labels of distinct images cannot show that any are {goal}"
        if self.missing is None:
            return (
                f"{found}, and no number of labels helps: even the surest are wrong more often. "
                "Ask for less accuracy, calibrate, or train a better model"
            )
        return (
            f"{found}; at least about {self.missing:,} more are missing. The promise holds for one "
            "look at the labels, decided before: ask again only once so many are there"
        )


def accept_threshold(
    scores: _Floats,
    labelled_scores: _Floats,
    labelled_correct: _Bools,
    *,
    accuracy: float,
    confidence: float,
    grid: int = 33,
) -> Certificate:
    """Find the largest set accepted unreviewed whose accuracy holds.

    The set is that of the scores at or above a threshold. With probability ``confidence`` over the
    draw of the labels its accuracy is at least ``accuracy``, for any score: a better one makes the
    set larger, not the promise truer. That asks for labels drawn uniformly from what is scored,
    and not used to fit what scores. Give each distinct image once, as a score and as a label:
    copies of one image have one label, and would count as many.

    The promise holds for one look at the labels, decided before. Who labels some more and asks
    again until there is a threshold is promised less: of ten looks, about twice as many end in a
    false one. So ask again only once the number of labels is there that was said to be missing.

    Args:
        scores: of all images, labelled or not [n]; only quantiles of them are used.
        labelled_scores: of the labelled ones [m].
        labelled_correct: whether they are correct [m].
        accuracy: share that is to be correct, between 0 and 1.
        confidence: probability with which that is to hold, between 0 and 1.
        grid: thresholds that are tried: quantiles of ``scores``, evenly spaced.

    Raises:
        ValueError: if there are no scores, one is not a number, lengths differ, or a level is not
            between 0 and 1.
    """
    scores, labelled = np.asarray(scores, np.float64), np.asarray(labelled_scores, np.float64)
    correct = np.asarray(labelled_correct, np.bool_)
    _check(scores, labelled, correct, accuracy, confidence)
    thresholds = _quantiles(scores, _start(len(labelled), accuracy, confidence), grid)
    passed = _fixed_sequence(thresholds, labelled, correct, accuracy, confidence)
    if not passed:
        everywhere = _quantiles(scores, 1 / grid, grid)
        counts = _counts(everywhere, labelled, correct)
        missing = _missing(*counts, len(labelled), accuracy, confidence)
        return Certificate(accuracy, confidence, len(labelled), missing=missing)
    threshold = float(thresholds[passed - 1])
    accepted, wrong = _counts(np.array([threshold]), labelled, correct)
    share = float(np.mean(scores >= threshold))
    counted = (int(accepted[0]), int(wrong[0]))
    return Certificate(accuracy, confidence, len(labelled), threshold, share, *counted)


def _check(
    scores: _Floats, labelled: _Floats, correct: _Bools, accuracy: float, confidence: float
) -> None:
    for name, level in (("accuracy", accuracy), ("confidence", confidence)):
        if not 0.0 < level < 1.0:
            raise ValueError(f"{name} is {level}; use a number between 0 and 1, such as 0.95")
    if not len(scores):
        raise ValueError("there are no scores; a guarantee needs captions to speak of")
    if labelled.shape != correct.shape:
        raise ValueError(
            f"labelled_scores has shape {labelled.shape} and labelled_correct {correct.shape}; "
            "give one of each a label"
        )
    for name, values in (("scores", scores), ("labelled_scores", labelled)):
        wrong = int(np.sum(~np.isfinite(values)))
        if wrong:
            raise ValueError(f"{wrong:,} of {len(values):,} {name} are not finite numbers")


def _start(labels: int, accuracy: float, confidence: float) -> float:
    """Return the share of the captions that the first test looks at.

    It hangs on the number of labels alone, never on what they say: else the sequence would not be
    fixed.
    """
    if not labels:
        return 1.0
    for wrong in range(WRONG_AT_THE_START, 0, -1):
        enough = _labels_for(wrong, accuracy, confidence)
        if enough <= _LARGEST_START * labels:
            break
    return min(1.0, enough / labels)


def _labels_for(wrong: int, accuracy: float, confidence: float) -> int:
    """Return how many labels certify a set if so many of them are wrong."""
    sizes = _sizes()
    return int(sizes[np.argmax(binom.cdf(wrong, sizes, 1 - accuracy) <= 1 - confidence)])


def _sizes() -> npt.NDArray[np.int64]:
    """Return numbers of labels to look at: each up to a hundred, then steps of a percent."""
    return np.unique(np.geomspace(1, _MOST_LABELS, 2000).astype(np.int64))


def _quantiles(scores: _Floats, smallest: float, grid: int) -> _Floats:
    """Return thresholds that accept from a share ``smallest`` to all, the safest first."""
    shares = np.linspace(smallest, 1.0, grid)
    found: _Floats = np.unique(np.quantile(scores, 1.0 - shares, method="inverted_cdf"))[::-1]
    return found


def _fixed_sequence(
    thresholds: _Floats, labelled: _Floats, correct: _Bools, accuracy: float, confidence: float
) -> int:
    """Return how many thresholds pass, from the first on."""
    if not len(labelled):
        return 0
    # Imported here, since MAPIE takes seconds and most plans have no guarantee.
    from mapie.risk_control import BinaryClassificationController, BinaryRisk, control_fwer

    error_rate = BinaryRisk(
        risk_occurrence=lambda correct, accepted: correct == 0,
        risk_condition=lambda correct, accepted: accepted == 1,
        higher_is_better=False,
    )
    controller = BinaryClassificationController(
        predict_function=lambda scores: np.column_stack([scores, scores]),
        risk=error_rate,
        target_level=1 - accuracy,
        confidence_level=confidence,
        best_predict_param_choice="recall",
        list_predict_params=thresholds,
        fwer_method="fixed_sequence",
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of labels that pass nowhere: the certificate tells
        controller.calibrate(labelled, correct.astype(np.int64))
    # The controller turns the sequence round where the labels err more at the safe end than at the
    # other. An order that hangs on the labels may miss twice as often, so it is walked again.
    passed = control_fwer(controller.p_values[:, 0], 1 - confidence, "fixed_sequence")
    return len(passed)


def _counts(
    thresholds: _Floats, labelled: _Floats, correct: _Bools
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return labels at or above each threshold and, of these, those of wrong captions."""
    above = labelled[None, :] >= thresholds[:, None]
    return above.sum(1), (above & ~correct).sum(1)


def _missing(
    accepted: npt.NDArray[np.int64],
    wrong: npt.NDArray[np.int64],
    labels: int,
    accuracy: float,
    confidence: float,
) -> int | None:
    """Return how many labels more would certify the set for which that is fewest.

    Each set is taken to keep the error rate that was observed in it; one without a wrong label
    gives the fewest that could do.
    """
    if not labels:
        return _labels_for(0, accuracy, confidence)
    sizes, totals = _sizes(), []
    for inside, errors in zip(accepted.tolist(), wrong.tolist(), strict=True):
        if not inside or errors / inside >= 1 - accuracy:
            continue
        expected = np.ceil(sizes * errors / inside)
        enough = (sizes > inside) & (binom.cdf(expected, sizes, 1 - accuracy) <= 1 - confidence)
        if enough.any():
            totals.append(math.ceil(sizes[np.argmax(enough)] * labels / inside))
    return max(1, min(totals) - labels) if totals else None
