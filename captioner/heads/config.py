"""What heads are built from."""

import math
from dataclasses import dataclass
from typing import Literal

from captioner.decoders.base import check_choice, check_range

AttentionPooling = Literal["gate", "query", "none"]

_MOST_CLASSES = 10_000
_MOST_OF_PIXELS = 254
"""Masks are bytes: 0 is the background, 255 is ignored."""
_MOST_ANCHORS = 64


@dataclass(frozen=True, kw_only=True)
class ClassifierConfig:
    """A head that says which classes are seen.

    Attributes:
        classes: their names.
        attention: how the positions become one: by a gate for each, by a query that looks at
            them, or as their plain mean.
        attention_size: numbers in which a query and the positions are compared.
        threshold: a class of this probability is seen.
    """

    classes: tuple[str, ...]
    attention: AttentionPooling = "gate"
    attention_size: int = 64
    threshold: float = 0.5

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            ValueError: if one is beyond all use.
        """
        _check_classes(self.classes, _MOST_CLASSES)
        check_choice(self, "attention", AttentionPooling)
        check_range(self, "attention_size", 1, 8192)
        check_range(self, "threshold", 0, 1)


@dataclass(frozen=True, kw_only=True)
class DetectorConfig:
    """A head that finds objects.

    Attributes:
        classes: of the objects.
        gate: whether features pass through a learned map of attention.
        finer: how many steps finer than the encoder's grid its map is; the encoder must hand out
            as many finer maps.
        width: channels of its map.
        layers: 3 x 3 convolutions of its map.
        sizes: of anchors, as shares of the picture's side: the root of their area.
        ratios: of the anchors' width to their height; each size comes in each ratio.
        matched_iou: an anchor that overlaps an object as much is to find it.
        score_threshold: least probability of a box.
        iou_threshold: of two boxes of one class that overlap by more, the surer one stays.
        most: boxes in a picture.
    """

    classes: tuple[str, ...]
    gate: bool = True
    finer: int = 0
    width: int = 64
    layers: int = 2
    sizes: tuple[float, ...] = (0.16, 0.26, 0.4)
    ratios: tuple[float, ...] = (0.7, 1.0, 1.4)
    matched_iou: float = 0.5
    score_threshold: float = 0.3
    iou_threshold: float = 0.5
    most: int = 30

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            ValueError: if one is beyond all use, or they do not fit together.
        """
        _check_classes(self.classes, _MOST_CLASSES)
        for name, least, most in (
            ("finer", 0, 8),
            ("width", 1, 4096),
            ("layers", 1, 16),
            ("matched_iou", 0, 1),
            ("score_threshold", 0, 1),
            ("iou_threshold", 0, 1),
            ("most", 1, 1000),
        ):
            check_range(self, name, least, most)
        for name in ("sizes", "ratios"):
            values = getattr(self, name)
            if not values or not all(0 < value < math.inf for value in values):
                raise ValueError(f"{name} is {values}; give one or more numbers above 0")
        if self.anchors > _MOST_ANCHORS:
            raise ValueError(
                f"sizes and ratios make {self.anchors} anchors a position; use {_MOST_ANCHORS} "
                "at most"
            )

    @property
    def anchors(self) -> int:
        """How many there are in each position."""
        return len(self.sizes) * len(self.ratios)


@dataclass(frozen=True, kw_only=True)
class SegmenterConfig:
    """A head that says what each pixel belongs to.

    Attributes:
        classes: of pixels; the background is none of them.
        gate: whether features pass through a learned map of attention.
        width: channels of its finest map; coarser ones have two and four times as many.
    """

    classes: tuple[str, ...]
    gate: bool = True
    width: int = 16

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            ValueError: if one is beyond all use.
        """
        _check_classes(self.classes, _MOST_OF_PIXELS)
        check_range(self, "width", 1, 4096)


@dataclass(frozen=True, kw_only=True)
class HeadsConfig:
    """The heads of one encoder; None is left out.

    Attributes:
        labels: says which classes are seen.
        boxes: finds objects.
        masks: says what each pixel belongs to.
    """

    labels: ClassifierConfig | None = None
    boxes: DetectorConfig | None = None
    masks: SegmenterConfig | None = None

    def __post_init__(self) -> None:
        """Check that there is a head.

        Raises:
            ValueError: if there is none.
        """
        if self.labels is None and self.boxes is None and self.masks is None:
            raise ValueError("labels, boxes and masks are all None; give one head or more")


def _check_classes(classes: tuple[str, ...], most: int) -> None:
    if isinstance(classes, str) or not 1 <= len(classes) <= most:
        raise ValueError(f"classes is {_some(classes)}; give 1 to {most} names")
    for name in classes:
        if not isinstance(name, str) or not name.strip():
            raise ValueError(f"classes holds {name!r}; use names that are not empty")
    if twice := [name for name in classes if classes.count(name) > 1]:
        raise ValueError(f"classes holds {twice[0]!r} twice; give each name once")


def _some(classes: tuple[str, ...]) -> str:
    return repr(classes) if len(classes) < 10 else f"{len(classes)} names"
