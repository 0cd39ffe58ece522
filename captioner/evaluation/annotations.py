"""Scores of labels, boxes and masks that a model found, against the truth.

The counting is that of torchmetrics and pycocotools. A kind is scored on the images of which both
what was found and the truth are known; that there is none is known, too.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from captioner.annotations import Annotations
from captioner.evaluation.annotation_counts import (
    Counts,
    Floats,
    box_precisions,
    count_labels,
    count_masks,
    require_torchmetrics,
)
from captioner.evaluation.metrics import Score

BACKGROUND = "background"
"""What figures of masks call pixels of no class."""

_RESAMPLES = 1000

Figures = Mapping[str, float | None]
"""Of each class; None where it is not defined."""


@dataclass(frozen=True)
class LabelScores:
    """How well the classes that are seen are named. Figures reach from 0 to 1.

    Attributes:
        images: how many.
        f1_micro: F1 of all classes' counts together; found is what is more probable than 0.5.
        f1_macro: mean of ``f1``.
        mean_average_precision: mean of ``average_precision``.
        f1: of each class; None for one that is neither found nor true anywhere.
        average_precision: of each class, over all thresholds; a class that is not named has the
            probability 0. None for one that is true nowhere.
    """

    images: int
    f1_micro: Score
    f1_macro: Score
    mean_average_precision: float
    f1: Figures
    average_precision: Figures


@dataclass(frozen=True)
class BoxScores:
    """How well objects are found, as COCO has it (1405.0312). Figures reach from 0 to 1.

    Attributes:
        images: how many.
        map_50: mean of ``average_precision_50``.
        map_50_95: mean of ``average_precision``; this is COCO's AP.
        average_precision_50: of each class, where a box is found by one that has an IoU of 0.5
            with it. None for a class that is true nowhere, as below.
        average_precision: of each class, a mean over IoUs of 0.5, 0.55 ... 0.95.
    """

    images: int
    map_50: float
    map_50_95: float
    average_precision_50: Figures
    average_precision: Figures


@dataclass(frozen=True)
class MaskScores:
    """How well each pixel's class is found. Figures reach from 0 to 1.

    Attributes:
        images: how many.
        mean_iou: mean of ``iou``, background included.
        iou: of the background and each class, pixels that both have over pixels that either has,
            in all images together; None for a class that is neither found nor true anywhere.
    """

    images: int
    mean_iou: Score
    iou: Figures


@dataclass(frozen=True)
class AnnotationScores:
    """Scores of each kind; None where that was not asked for, or no image has any in truth."""

    labels: LabelScores | None
    boxes: BoxScores | None
    masks: MaskScores | None

    def as_dict(self) -> dict[str, Any]:
        """All of it, ready for JSON."""
        return asdict(self)

    def headline(self) -> dict[str, float]:
        """The scores that tell most, by name, and their mean, from 0 to 1; none if none is scored.

        The mean, ``heads``, takes one score of each kind.
        """
        scores = {}
        if self.labels is not None:
            scores["label_f1"] = self.labels.f1_micro.value
        if self.boxes is not None:
            scores["map_50_95"] = self.boxes.map_50_95
        if self.masks is not None:
            scores["mean_iou"] = self.masks.mean_iou.value
        if scores:
            scores["heads"] = sum(scores.values()) / len(scores)
        if self.boxes is not None:
            scores["map_50"] = self.boxes.map_50
        return scores

    def table(self) -> str:
        """A line a score, times 100 as papers have it, with its interval where there is one."""
        return "\n".join(["Scores times 100", *self._lines()])

    def _lines(self) -> Iterator[str]:
        if self.labels is not None:
            yield f"Labels of {self.labels.images:,} images"
            yield _line("F1 micro", self.labels.f1_micro)
            yield _line("F1 macro", self.labels.f1_macro)
            yield _line("mAP", self.labels.mean_average_precision)
        if self.boxes is not None:
            yield f"Boxes of {self.boxes.images:,} images"
            yield _line("mAP@50", self.boxes.map_50)
            yield _line("mAP@50:95", self.boxes.map_50_95)
        if self.masks is not None:
            yield f"Masks of {self.masks.images:,} images"
            yield _line("mIoU", self.masks.mean_iou)


def _line(title: str, score: Score | float) -> str:
    if isinstance(score, float):
        return f"{title:9} {100 * score:6.1f}"
    interval = f"95% interval {100 * score.low:.1f} to {100 * score.high:.1f}"
    return f"{title:9} {100 * score.value:6.1f}   {interval}"


def score_annotations(
    found: Sequence[Annotations],
    truth: Sequence[Annotations],
    *,
    labels: Sequence[str] = (),
    boxes: Sequence[str] = (),
    masks: Sequence[str] = (),
) -> AnnotationScores:
    """Hold what was found against the truth.

    Intervals are percentiles of a bootstrap: images are drawn anew a thousand times, always the
    same draws for the same number of images. Average precision has none: it would take as many
    times as long.

    Args:
        found: one an image, with probabilities; leave improbable labels and boxes in, for average
            precision asks for all.
        truth: of the same images.
        labels: classes of labels; without any this kind is not scored.
        boxes: classes of boxes, alike.
        masks: classes of masks, alike; the background is not named.

    Raises:
        ValueError: if there is nothing to score, a class is unknown or called "background", a
            probability is not from 0 to 1, or masks of one image differ in size.
        ModuleNotFoundError: if torchmetrics or pycocotools is not installed.
    """
    if len(found) != len(truth) or not truth:
        raise ValueError(
            f"annotations of {len(found)} images but the truth of {len(truth)}; give both of each "
            "image, of at least one"
        )
    if BACKGROUND in masks:
        raise ValueError(
            f"a class of masks is called {BACKGROUND!r}, as pixels of none are; leave it out"
        )
    require_torchmetrics()
    return AnnotationScores(
        labels=_score_labels(*_known("labels", found, truth, labels), labels),
        boxes=_score_boxes(*_known("boxes", found, truth, boxes), boxes),
        masks=_score_masks(*_known("masks", found, truth, masks), masks),
    )


def _known(
    kind: str, found: Sequence[Annotations], truth: Sequence[Annotations], classes: Sequence[str]
) -> tuple[list[Any], list[Any]]:
    """Return what was found and the truth of the images of which both are known."""
    known = []
    for image, each in enumerate(zip(found, truth, strict=True) if classes else ()):
        pair = [getattr(annotations, kind) for annotations in each]
        if None in pair:
            continue
        known.append(pair)
        for whose, items in zip(("what was found", "the truth"), pair, strict=True):
            for item in items:
                if item.name not in classes:
                    raise ValueError(
                        f"{whose} of image {image} has {item.name!r} among its {kind}, which is no "
                        f"class; the classes are: {', '.join(classes)}"
                    )
    return [said for said, _ in known], [there for _, there in known]


def _score_labels(
    found: Sequence[Any], truth: Sequence[Any], classes: Sequence[str]
) -> LabelScores | None:
    if not any(truth):
        return None
    counts, precisions = count_labels(found, truth, classes)
    drawn = _drawn(counts)
    return LabelScores(
        images=len(truth),
        f1_micro=_score(lambda totals: _f1(totals.sum(-2)), counts, drawn),
        f1_macro=_score(lambda totals: _mean(_f1(totals)), counts, drawn),
        mean_average_precision=float(_mean(precisions)),
        f1=_figures(classes, _f1(counts.sum(0))),
        average_precision=_figures(classes, precisions),
    )


def _score_boxes(
    found: Sequence[Any], truth: Sequence[Any], classes: Sequence[str]
) -> BoxScores | None:
    if not any(truth):
        return None
    precisions = box_precisions(found, truth, classes)
    return BoxScores(
        images=len(truth),
        map_50=float(_mean(precisions[0])),
        map_50_95=float(_mean(precisions.mean(0))),
        average_precision_50=_figures(classes, precisions[0]),
        average_precision=_figures(classes, precisions.mean(0)),
    )


def _score_masks(
    found: Sequence[Any], truth: Sequence[Any], classes: Sequence[str]
) -> MaskScores | None:
    if not any(truth):
        return None
    counts = count_masks(found, truth, classes)
    return MaskScores(
        images=len(truth),
        mean_iou=_score(lambda totals: _mean(_iou(totals)), counts, _drawn(counts)),
        iou=_figures((BACKGROUND, *classes), _iou(counts.sum(0))),
    )


def _drawn(counts: Counts) -> Floats:
    """Sum the counts [n x c x 3] of images that are drawn anew, [draws x c x 3]."""
    images = len(counts)
    each = counts.reshape(images, -1).astype(np.float64)
    rng = np.random.default_rng(0)
    totals = [
        np.bincount(rng.integers(images, size=images), minlength=images) @ each
        for _ in range(_RESAMPLES)
    ]
    return np.reshape(totals, (_RESAMPLES, *counts.shape[1:]))


def _score(measure: Callable[[Floats], Floats], counts: Counts, drawn: Floats) -> Score:
    """Measure all images and each draw; draws in which nothing is defined do not count."""
    low, high = np.nanpercentile(measure(drawn), (2.5, 97.5))
    return Score(float(measure(counts.sum(0))), float(low), float(high))


def _f1(totals: Floats | Counts) -> Floats:
    right, wrong, missed = np.moveaxis(totals, -1, 0)
    return _ratio(2 * right, 2 * right + wrong + missed)


def _iou(totals: Floats | Counts) -> Floats:
    right, wrong, missed = np.moveaxis(totals, -1, 0)
    return _ratio(right, right + wrong + missed)


def _mean(figures: Floats) -> Floats:
    """Return the mean over classes [... x c] of what is defined."""
    return _ratio(np.nansum(figures, -1), (~np.isnan(figures)).sum(-1))


def _ratio(part: Any, whole: Any) -> Floats:
    """Divide, with NaN where there is nothing to divide by."""
    nothing = np.full(np.shape(whole), np.nan)
    ratio: Floats = np.divide(part, whole, out=nothing, where=np.asarray(whole) > 0)
    return ratio


def _figures(classes: Sequence[str], values: Floats) -> Figures:
    pairs = zip(classes, values.tolist(), strict=True)
    return {name: None if np.isnan(value) else value for name, value in pairs}
