"""Fitting a confidence head on labelled captions, and measuring it on captions that it never saw.

Everything is cross-validated by group, so that no image is on both sides of a split. Within a
fitting, the calibration is learned from out-of-fold logits (the head itself would be too sure of
captions that it was fitted on). Around it stands a second loop: for the report, each caption is
scored by a head, strength of regularisation and calibration included, that was fitted without it.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize_scalar
from scipy.special import expit, logit
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.model_selection import StratifiedKFold
from sklearn.preprocessing import StandardScaler

from captioner.confidence.calibration import KINDS, Calibration, Isotonic, Sigmoid, Temperature
from captioner.confidence.head import VERIFIED, ConfidenceHead
from captioner.confidence.report import Report, measure
from schemas.tables import FEATURES

logger = logging.getLogger(__name__)

LEAST_LABELS = 50
"""Fewer tell nothing: the 95% interval of an accuracy is then wider than 0.2."""
LEAST_FOR_ISOTONIC = 1_000
"""Below, an isotonic curve follows chance."""
LEAST_OF_A_CLASS = 10
"""Images with right captions, and with wrong ones: two in each fold of each loop."""

_FOLDS = 5
_STRENGTHS = (0.01, 0.1, 1.0, 10.0)
"""Inverse strengths of regularisation that are tried, scikit-learn's C."""

_Values = npt.NDArray[np.float64]
_Correct = npt.NDArray[np.bool_]
_Groups = npt.NDArray[np.str_]
_Splits = list[tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]]


class FitError(ValueError):
    """Labels that no head can be fitted on: says what is wrong with them and what to do."""


@dataclass(frozen=True)
class Fitted:
    """A head fitted on all labels, and what cross-validation says of it."""

    head: ConfidenceHead
    report: Report


def fit(
    rows: Sequence[Mapping[str, float | None]],
    correct: Sequence[bool] | _Correct,
    groups: Sequence[str],
    *,
    model_id: str,
    decoding: str,
    calibration: str = "auto",
    seed: int = 0,
    all_labels: bool = False,
    verifier: str | None = None,
) -> Fitted:
    """Fit a confidence head.

    Features that are null in all rows, or the same in all, are left out; one that is null in some
    rows is left out with a warning.

    Args:
        rows: features of each caption, named as in ``schemas.tables.FEATURES``.
        correct: whether each caption is right.
        groups: the image of each, so that none is in two folds.
        model_id: of the model that made the captions.
        decoding: id of the decoding configuration that made them.
        calibration: ``sigmoid``, ``temperature``, ``isotonic``; or ``auto``, which is sigmoid
            below 1,000 labels, and from there on isotonic where that fits unseen captions better.
        seed: of the folds.
        all_labels: whether some of the labels are among those that are kept for guarantees.
        verifier: id of the one whose ``verifier_logit`` the rows have; without one that feature is
            left out.

    Raises:
        FitError: if the labels are too few, of one class, a feature is not a number, or the
            features tell nothing about the labels.
    """
    right, images = np.asarray(correct, np.bool_), np.asarray(groups, np.str_)
    check_labels(len(rows), right, images)
    kinds = _kinds(calibration, len(right))
    names, table = _table(rows, () if verifier else (VERIFIED,))
    logprob_mean = np.array([row["logprob_mean"] for row in rows], np.float64)
    order = np.argsort(images, kind="stable")  # So that the order of rows changes no digit.
    table, right, images = table[order], right[order], images[order]
    parts = _fit(table, right, images, kinds, seed)
    if np.ptp(parts.calibration(parts.logits(table))) == 0:
        raise FitError(
            f"the features tell nothing about these {len(right):,} labels: of captions that a head "
            "has not seen, those that it is surer of are no more often right; label more, or leave "
            "confidence uncalibrated"
        )
    unseen = np.empty(len(right))
    for training, held_out in splits_of(right, images, seed):
        fold = _fit(table[training], right[training], images[training], kinds, seed)
        unseen[held_out] = fold.calibration(fold.logits(table[held_out]))
    head = ConfidenceHead(
        model_id=model_id,
        decoding=decoding,
        features=names,
        means=tuple(parts.means.tolist()),
        scales=tuple(parts.scales.tolist()),
        weights=tuple(parts.weights.tolist()),
        bias=parts.bias,
        calibration=parts.calibration,
        labels=len(right),
        all_labels=all_labels,
        verifier=verifier if VERIFIED in names else None,
    )
    before = np.exp(np.minimum(0.0, logprob_mean[order]))
    lengths = table[:, names.index("num_tokens")] if "num_tokens" in names else None
    images_seen = len(np.unique(images))
    return Fitted(head, measure(before, unseen, right, lengths, images_seen, head))


def check_labels(count: int, right: _Correct, images: _Groups) -> None:
    """Check that there is something to learn from.

    Args:
        count: of captions.
        right: whether each is.
        images: of each.

    Raises:
        FitError: if not.
    """
    if not count == len(right) == len(images):
        raise FitError(
            f"there are {count} rows, {len(right)} labels and {len(images)} groups; give one "
            "of each for a caption"
        )
    if count < LEAST_LABELS:
        raise FitError(f"there are {count} labels; give at least {LEAST_LABELS}")
    for label, name in ((True, "right"), (False, "wrong")):
        count = len(np.unique(images[right == label]))
        if count == 0:
            raise FitError(f"none of the {len(right):,} captions is {name}; label some that are")
        if count < LEAST_OF_A_CLASS:
            raise FitError(
                f"only {count} images have a caption that is {name}, of {len(right):,} labels; "
                f"label more until there are {LEAST_OF_A_CLASS}"
            )


def splits_of(right: _Correct, images: _Groups, seed: int) -> _Splits:
    """Return rows to train on and rows held out, fold by fold.

    Whole images are spread over the folds, those with a wrong caption evenly.
    """
    names, place = np.unique(images, return_inverse=True)
    has_wrong = np.bincount(place, weights=~right) > 0
    folds = StratifiedKFold(_FOLDS, shuffle=True, random_state=seed)
    splits = []
    for _, chosen in folds.split(names, has_wrong):
        held_out = np.isin(place, chosen)
        splits.append((np.flatnonzero(~held_out), np.flatnonzero(held_out)))
    return splits


@dataclass(frozen=True)
class _Parts:
    """What a fitting finds."""

    means: _Values
    scales: _Values
    weights: _Values
    bias: float
    calibration: Calibration

    def logits(self, table: _Values) -> _Values:
        logits: _Values = (table - self.means) / self.scales @ self.weights + self.bias
        return logits


def _fit(
    table: _Values, right: _Correct, images: _Groups, kinds: Sequence[str], seed: int
) -> _Parts:
    splits = splits_of(right, images, seed + 1)
    unseen = {strength: _unseen_logits(table, right, splits, strength) for strength in _STRENGTHS}
    losses = {strength: _loss(expit(logits), right) for strength, logits in unseen.items()}
    strength = min(losses, key=losses.__getitem__)
    scaler, model = _logistic(table, right, strength)
    return _Parts(
        means=scaler.mean_,
        scales=scaler.scale_,
        weights=model.coef_[0],
        bias=float(model.intercept_[0]),
        calibration=_calibrate(unseen[strength], right, splits, kinds),
    )


def _unseen_logits(table: _Values, right: _Correct, splits: _Splits, strength: float) -> _Values:
    logits = np.empty(len(right))
    for training, held_out in splits:
        scaler, model = _logistic(table[training], right[training], strength)
        logits[held_out] = model.decision_function(scaler.transform(table[held_out]))
    return logits


def _logistic(
    table: _Values, right: _Correct, strength: float
) -> tuple[StandardScaler, LogisticRegression]:
    scaler = StandardScaler().fit(table)
    model = LogisticRegression(C=strength, max_iter=1000).fit(scaler.transform(table), right)
    return scaler, model


def _calibrate(
    logits: _Values, right: _Correct, splits: _Splits, kinds: Sequence[str]
) -> Calibration:
    """Fit the kind of calibration that does best on folds that it has not seen."""
    losses = {}
    for kind in kinds if len(kinds) > 1 else ():
        unseen = np.empty(len(right))
        for training, held_out in splits:
            unseen[held_out] = _CALIBRATE[kind](logits[training], right[training])(logits[held_out])
        losses[kind] = _loss(unseen, right)
    best = min(losses, key=losses.__getitem__) if losses else kinds[0]
    return _CALIBRATE[best](logits, right)


def _sigmoid(logits: _Values, right: _Correct) -> Sigmoid:
    """Fit with Platt's targets, (n + 1) / (n + 2) in place of 1, so that no label is certain.

    The slope is at least 0: a falling curve would only follow chance. Where it would fall, the
    best of those that do not is level, at the mean target (the loss is convex).
    """
    positive, negative = right.sum(), (~right).sum()
    target = np.where(right, (positive + 1) / (positive + 2), 1 / (negative + 2))
    model = LogisticRegression(C=np.inf, max_iter=1000).fit(
        np.tile(logits, 2)[:, None],
        np.repeat([True, False], len(logits)),
        np.concatenate([target, 1 - target]),
    )
    slope = float(model.coef_[0, 0])
    if slope <= 0:
        return Sigmoid(0.0, float(logit(target.mean())))
    return Sigmoid(slope, float(model.intercept_[0]))


def _temperature(logits: _Values, right: _Correct) -> Temperature:
    def loss(log_temperature: float) -> float:
        return _loss(Temperature(float(np.exp(log_temperature)))(logits), right)

    found = minimize_scalar(loss, bounds=(-4, 4), method="bounded")
    return Temperature(float(np.exp(found.x)))


def _isotonic(logits: _Values, right: _Correct) -> Isotonic:
    """Fit centred isotonic regression (Oron, Flournoy 2017): a curve without steps.

    Each stretch of logits of one probability becomes one point, at the mean of its logits. A step
    between stretches could be as narrow as two labels lie close, and logits, which no two batches
    give alike to the last digit, would fall on either side. The curve is never certain: n labels
    in a row are no proof of the next.
    """
    least = 1 / (len(right) + 2)
    curve = IsotonicRegression(y_min=least, y_max=1 - least).fit(logits, right)
    probabilities, first = np.unique(curve.y_thresholds_, return_index=True)
    stretch = np.searchsorted(curve.X_thresholds_[first], logits, side="right") - 1
    centres = np.bincount(stretch, logits) / np.bincount(stretch)
    return Isotonic(tuple(centres.tolist()), tuple(probabilities.tolist()))


_CALIBRATE: Mapping[str, Callable[[_Values, _Correct], Calibration]] = {
    "sigmoid": _sigmoid,
    "temperature": _temperature,
    "isotonic": _isotonic,
}


def _loss(probabilities: _Values, right: _Correct) -> float:
    return float(log_loss(right, probabilities, labels=[False, True]))


def _kinds(calibration: str, labels: int) -> tuple[str, ...]:
    """Return what kinds of calibration may be taken."""
    if calibration not in ("auto", *KINDS):
        raise FitError(f"calibration is {calibration!r}; use one of auto, {', '.join(KINDS)}")
    if calibration == "isotonic" and labels < LEAST_FOR_ISOTONIC:
        raise FitError(
            f"calibration is 'isotonic' and there are {labels:,} labels; it needs "
            f"{LEAST_FOR_ISOTONIC:,}, use 'sigmoid' or label more"
        )
    if calibration != "auto":
        return (calibration,)
    return ("sigmoid",) if labels < LEAST_FOR_ISOTONIC else ("sigmoid", "isotonic")


def _table(
    rows: Sequence[Mapping[str, float | None]], without: Sequence[str] = ()
) -> tuple[tuple[str, ...], _Values]:
    """Return the features that can be used and their values, [n x features]."""
    names, columns = [], []
    for name in (name for name, _ in FEATURES if name not in without):
        values = [row.get(name) for row in rows]
        missing = values.count(None)
        column = np.array([0.0 if value is None else value for value in values], np.float32)
        if not np.isfinite(column).all():
            row = int(np.argmin(np.isfinite(column)))
            raise FitError(
                f"{name} is {values[row]!r} in row {row}; leave such captions out, or caption "
                "their images anew"
            )
        if missing and name == "logprob_mean":
            raise FitError(
                f"logprob_mean is null in {missing:,} of {len(rows):,} rows; it is needed"
            )
        if 0 < missing < len(rows):
            logger.warning("%s is null in %d of %d rows and is left out", name, missing, len(rows))
        if missing == 0 and np.ptp(column) > 0:
            names.append(name)
            columns.append(column.astype(np.float64))
    if not names:
        raise FitError("every feature is the same in all rows; there is nothing to learn from")
    return tuple(names), np.stack(columns, axis=1)
