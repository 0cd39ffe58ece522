"""What an audit says of a model's confidence: curves, as numbers and as pictures."""

import io
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from captioner.confidence.sampling import wilson
from captioner.evaluation.selective import (
    Bin,
    aurc,
    auroc,
    brier,
    expected_calibration_error,
    reliability,
    review_budget,
    risk_coverage,
    share_reviewed_for,
)
from pipelines.reviewed import Audited

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_BLUE, _ORANGE, _GREY, _BLACK = "#0072B2", "#D55E00", "#6E6E6E", "#000000"
"""Told apart by people who are colour-blind, too (Okabe and Ito)."""
_BINS = 15
_IN_A_BIN = 20
_INCHES = 6.0, 4.5
_DOTS = 200
"""To an inch: twice what screens have."""
_GOAL = 0.95

REST_ON = "audited images that are kept for guarantees, so that no confidence head has seen them"

Values = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Curves:
    """What the audit says of the confidence of all captions.

    Attributes:
        labels: how many captions were judged.
        rest_on: of which labels it is made.
        accuracy: the share of right ones.
        bins: of the reliability diagram.
        coverage: shares of captions that are accepted, the surest first, [m].
        risk: the share of wrong ones among those, [m].
        reviewed: shares of captions that are reviewed, the least sure first, [m + 1].
        final: the accuracy of all after that, [m + 1].
        figures: AUROC (None if all captions are right, or all wrong), ECE, Brier score, AURC, and
            the share to review for an accuracy of 95%.
    """

    labels: int
    accuracy: float
    bins: list[Bin]
    coverage: Values
    risk: Values
    reviewed: Values
    final: Values
    figures: dict[str, float | None]
    rest_on: str = REST_ON


def curves_of(audited: Audited) -> Curves | None:
    """Return the curves of an audit, in which a label counts 1 / its inclusion probability.

    Only labels that are kept for guarantees count: a head that was fitted on the others would look
    better than it is. None without such labels. Where probabilities differ, labels are repeated in
    proportion, to a tenth.
    """
    labels = int(audited.kept.sum())
    if not labels:
        return None
    chances = audited.inclusion_probability[audited.kept]
    weights = chances.max() / chances
    copies = np.rint(10 * weights).astype(np.int64)
    rows = np.repeat(np.arange(labels), copies // np.gcd.reduce(copies))
    scores = audited.confidence[audited.kept][rows]
    correct = audited.correct[audited.kept][rows]
    bins = max(1, min(_BINS, labels // _IN_A_BIN))
    rank = auroc(scores, correct)
    coverage, risk = risk_coverage(scores, correct)
    reviewed, final = review_budget(scores, correct)
    return Curves(
        labels=labels,
        accuracy=float(correct.mean()),
        bins=reliability(scores, correct, bins),
        coverage=coverage,
        risk=risk,
        reviewed=reviewed,
        final=final,
        figures={
            "auroc": None if math.isnan(rank) else rank,
            "expected_calibration_error": expected_calibration_error(scores, correct, bins),
            "brier": brier(scores, correct),
            "aurc": aurc(scores, correct),
            "share_reviewed_for_95": share_reviewed_for(scores, correct, _GOAL),
        },
    )


def pictures_of(curves: Curves, accepted: float) -> dict[str, bytes]:
    """Return the pictures as PNG, by file name.

    Args:
        curves: what to draw.
        accepted: the share of captions that go out unreviewed now.
    """
    return {
        "reliability.png": _picture(lambda axes: _draw_reliability(axes, curves)),
        "risk_coverage.png": _picture(lambda axes: _draw_risk(axes, curves, accepted)),
        "review_budget.png": _picture(lambda axes: _draw_budget(axes, curves)),
    }


def _picture(draw: "Callable[[Axes], None]") -> bytes:
    from matplotlib.figure import Figure  # Takes a second, and only a report needs it.
    from matplotlib.ticker import PercentFormatter

    figure = Figure(figsize=_INCHES, layout="constrained")  # Drawn by Agg: needs no screen.
    axes = figure.add_subplot()
    draw(axes)
    for axis in (axes.xaxis, axes.yaxis):
        low, high = axis.get_view_interval()
        axis.set_major_formatter(PercentFormatter(1.0, 0 if high - low > 0.1 else 1))
    axes.grid(color="#E3E3E3", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    figure.supxlabel(f"Rests on {REST_ON}", fontsize="x-small", color=_GREY)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=_DOTS)
    return buffer.getvalue()


def _draw_reliability(axes: "Axes", curves: Curves) -> None:
    confidence = np.array([one.confidence for one in curves.bins])
    accuracy = np.array([one.accuracy for one in curves.bins])
    # Repeated labels must not make intervals narrower.
    labels = curves.labels / sum(one.count for one in curves.bins)
    limits = np.array([wilson(one.accuracy, one.count * labels) for one in curves.bins])
    axes.plot((0, 1), (0, 1), "--", color=_GREY, label="calibrated")
    axes.errorbar(
        confidence,
        accuracy,
        yerr=np.abs(limits.T - accuracy),
        fmt="o",
        color=_BLUE,
        markersize=5,
        elinewidth=1,
        capsize=2,
        label="audited captions, 95% intervals",
    )
    error = curves.figures["expected_calibration_error"]
    axes.set(
        title=f"Reliability: {curves.labels:,} audited captions, ECE {error:.3f}",
        xlabel="confidence",
        ylabel="captions that are right",
        xlim=(-0.02, 1.02),
        ylim=(-0.02, 1.02),
    )


def _draw_risk(axes: "Axes", curves: Curves, accepted: float) -> None:
    wrong = 1 - curves.accuracy
    perfect = np.maximum(0, 1 - curves.accuracy / curves.coverage)
    axes.plot(curves.coverage, curves.risk, color=_BLUE, label="by confidence")
    axes.plot(curves.coverage, perfect, ":", color=_ORANGE, label="if confidence knew the truth")
    axes.plot((0, 1), (wrong, wrong), "--", color=_GREY, label="in random order")
    if 0 < accepted < 1:
        label = f"accepted now: {accepted:.0%}"
        axes.axvline(accepted, color=_BLACK, linewidth=0.8, label=label)
    axes.set(
        title=f"Risk and coverage: {curves.labels:,} audited captions",
        xlabel="captions accepted, the surest first",
        ylabel="wrong ones among those accepted",
        xlim=(0, 1),
        ylim=(0, max(1.05 * curves.risk.max(), 0.01)),
    )


def _draw_budget(axes: "Axes", curves: Curves) -> None:
    share = curves.figures["share_reviewed_for_95"]
    axes.plot(curves.reviewed, curves.final, color=_BLUE, label="the least confident first")
    axes.plot((0, 1), (curves.accuracy, 1), "--", color=_GREY, label="in random order")
    if share:
        axes.plot(share, _GOAL, "o", color=_ORANGE, label=f"{_GOAL:.0%} right: review {share:.0%}")
    axes.set(
        title=f"Review budget: {curves.labels:,} audited captions",
        xlabel="captions reviewed and put right",
        ylabel="captions that are right in the end",
        xlim=(0, 1),
        ylim=(None, 1.005),
    )
