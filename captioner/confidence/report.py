"""What a confidence head is worth, before and after, over all captions and by their length."""

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from captioner.confidence.calibration import calibration_to_dict
from captioner.confidence.head import ConfidenceHead
from captioner.evaluation.selective import (
    aurc,
    auroc,
    brier,
    excess_aurc,
    expected_calibration_error,
)

_Values = npt.NDArray[np.float64]
_Correct = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Figures:
    """How good a score is; see ``captioner.evaluation.selective``.

    Attributes:
        auroc: more is better; NaN where all captions are right, or all wrong.
        ece: expected calibration error, 15 bins of equal mass; less is better.
        brier: less is better.
        aurc: less is better.
        excess_aurc: less is better, 0 is perfect.
    """

    auroc: float
    ece: float
    brier: float
    aurc: float
    excess_aurc: float


@dataclass(frozen=True)
class Slice:
    """Captions of some lengths.

    Attributes:
        name: ``all``, or the numbers of tokens.
        captions: how many.
        correct: how many of them are right.
        before: of the exponential of the mean log-probability.
        after: of the head, where each caption was scored by one fitted without it.
    """

    name: str
    captions: int
    correct: int
    before: Figures
    after: Figures


@dataclass(frozen=True)
class Report:
    """Cross-validated figures of a head.

    Attributes:
        images: how many the captions are of.
        features: that the head looks at.
        calibration: its kind.
        slices: all captions first, then by length.
    """

    images: int
    features: tuple[str, ...]
    calibration: str
    slices: tuple[Slice, ...]

    def to_dict(self) -> dict[str, Any]:
        """All of it, ready for JSON; what cannot be told is null."""
        content: dict[str, Any] = _without_nan(asdict(self))
        return content

    def lines(self) -> list[str]:
        """A table for a terminal: a line a slice before, and one after."""
        every = self.slices[0]
        lines = [
            f"{every.captions:,} captions of {self.images:,} images, {every.correct:,} of them "
            f"right ({every.correct / every.captions:.1%})",
            f"calibration: {self.calibration}; features: {', '.join(self.features)}",
            "",
            "of these labels; captioner quality tells of all captions of an output:",
            f"{'captions':<16}{'number':>8}{'right':>8}  {'score':<18}"
            f"{'AUROC':>7}{'ECE':>7}{'Brier':>7}{'AURC':>7}{'excess':>8}",
        ]
        for part in self.slices:
            share = f"{part.correct / part.captions:.1%}"
            begins = (f"{part.name:<16}{part.captions:>8,}{share:>8}", " " * 32)
            scored = (("mean log-prob", part.before), ("head", part.after))
            for begin, (title, figures) in zip(begins, scored, strict=True):
                lines.append(f"{begin}  {title:<18}{_columns(figures)}")
        return lines


def measure(
    before: _Values,
    after: _Values,
    correct: _Correct,
    lengths: _Values | None,
    images: int,
    head: ConfidenceHead,
) -> Report:
    """Measure both scores.

    Args:
        before: uncalibrated confidences, [n].
        after: probabilities from heads that were fitted without the caption, [n].
        correct: whether each caption is right, [n].
        lengths: in tokens, [n]; by their terciles captions are told apart. None for no such bins.
        images: how many the captions are of.
        head: what is reported on.
    """
    slices = [_slice("all", before, after, correct)]
    for name, rows in _length_bins(lengths) if lengths is not None else ():
        slices.append(_slice(name, before[rows], after[rows], correct[rows]))
    kind = str(calibration_to_dict(head.calibration)["kind"])
    return Report(images, head.features, kind, tuple(slices))


def _length_bins(lengths: _Values) -> list[tuple[str, _Correct]]:
    """Return what each tercile is called, and its rows; fewer where most lengths are the same."""
    edges = np.quantile(lengths, (1 / 3, 2 / 3))
    places = np.searchsorted(edges, lengths)
    bins = []
    for place in np.unique(places):
        rows = places == place
        least, most = int(lengths[rows].min()), int(lengths[rows].max())
        bins.append((f"{least} to {most} tokens" if least < most else f"{least} tokens", rows))
    return bins


def _slice(name: str, before: _Values, after: _Values, correct: _Correct) -> Slice:
    return Slice(
        name, len(correct), int(correct.sum()), _figures(before, correct), _figures(after, correct)
    )


def _figures(scores: _Values, correct: _Correct) -> Figures:
    return Figures(
        auroc=auroc(scores, correct),
        ece=expected_calibration_error(scores, correct),
        brier=brier(scores, correct),
        aurc=aurc(scores, correct),
        excess_aurc=excess_aurc(scores, correct),
    )


def _columns(figures: Figures) -> str:
    values = (figures.auroc, figures.ece, figures.brier, figures.aurc)
    shown = "".join("      -" if math.isnan(value) else f"{value:7.3f}" for value in values)
    return f"{shown}{figures.excess_aurc:8.4f}"


def _without_nan(content: Any) -> Any:
    if isinstance(content, dict):
        return {name: _without_nan(value) for name, value in content.items()}
    if isinstance(content, tuple | list):
        return [_without_nan(value) for value in content]
    return None if isinstance(content, float) and math.isnan(content) else content
