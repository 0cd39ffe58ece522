"""What is known of an image besides captions: labels, boxes, masks; by people or by a model."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Label:
    """A class that is seen somewhere in the image."""

    name: str
    probability: float = 1.0


@dataclass(frozen=True)
class Box:
    """An object, in pixels of the original image after EXIF orientation.

    Attributes:
        name: its class.
        x: left edge.
        y: upper edge.
        width: greater than 0.
        height: greater than 0.
        probability: 1 where people drew it.
    """

    name: str
    x: float
    y: float
    width: float
    height: float
    probability: float = 1.0


@dataclass(frozen=True)
class Mask:
    """Pixels of one class, as COCO's compressed run-length encoding.

    Attributes:
        name: the class.
        size: height and width of the original image after EXIF orientation.
        counts: the encoding, as ``pycocotools.mask`` writes it, in ASCII.
    """

    name: str
    size: tuple[int, int]
    counts: str


@dataclass(frozen=True)
class Annotations:
    """What is known of one image; None is unknown, empty is known to be none.

    Attributes:
        labels: classes that are seen.
        boxes: objects.
        masks: pixels of each class; a pixel of none is background, and where two masks hold a
            pixel the later one counts.
    """

    labels: tuple[Label, ...] | None = None
    boxes: tuple[Box, ...] | None = None
    masks: tuple[Mask, ...] | None = None


@dataclass(frozen=True)
class ClassNames:
    """What labels, boxes and masks may be named, of a data set or of a model."""

    labels: tuple[str, ...] = ()
    boxes: tuple[str, ...] = ()
    masks: tuple[str, ...] = ()


NO_CLASSES = ClassNames()
"""Those of a model without heads."""
