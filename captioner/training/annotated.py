"""What is known of pictures that are changed: boxes and masks go where the pixels go."""

from collections.abc import Sequence
from dataclasses import replace
from typing import TypeVar

from captioner.annotations import Annotations, Box, ClassNames, Label, Mask
from captioner.heads.targets import Size, decoded
from captioner.training.augment import Change, whole_pixels
from captioner.training.sources.marks import mask_from_pixels

_LEAST_SEEN = 0.25
"""Of an object that a crop leaves less of, nothing is asked: it can hardly be told."""

_Crop = tuple[int, int, int, int]
Item = TypeVar("Item", Label, Box, Mask)


def changed_annotations(known: Annotations, size: Size, change: Change) -> tuple[Annotations, Size]:
    """Return what is known of a cropped and mirrored picture, and its size.

    An object is left out if less than a quarter of its box remains, and a label if all boxes and
    masks of its name are gone. Labels that nothing is known of in place stay.

    Args:
        known: of the original.
        size: its width and height.
        change: what is done to it.
    """
    crop = whole_pixels(change.box, size)
    left, top, right, bottom = crop
    boxes, masks = known.boxes, known.masks
    if boxes is not None:
        cropped = (_cropped(box, crop) for box in boxes)
        boxes = tuple(
            _mirrored(box, right - left) if change.flipped else box
            for box in cropped
            if box is not None
        )
    if masks is not None:
        cut = (_cut(mask, crop, change.flipped) for mask in masks)
        masks = tuple(mask for mask in cut if mask is not None)
    after = Annotations(_still_seen(known, boxes, masks), boxes, masks)
    return after, (right - left, bottom - top)


def _cropped(box: Box, crop: _Crop) -> Box | None:
    left, top, right, bottom = crop
    x, y = max(box.x, left), max(box.y, top)
    width, height = min(box.x + box.width, right) - x, min(box.y + box.height, bottom) - y
    if min(width, height) <= 0 or width * height < _LEAST_SEEN * box.width * box.height:
        return None
    return replace(box, x=x - left, y=y - top, width=width, height=height)


def _mirrored(box: Box, width: int) -> Box:
    return replace(box, x=width - box.x - box.width)


def _cut(mask: Mask, crop: _Crop, flipped: bool) -> Mask | None:
    left, top, right, bottom = crop
    if crop == (0, 0, mask.size[1], mask.size[0]) and not flipped:
        return mask
    pixels = decoded(mask)[top:bottom, left:right]
    if not pixels.any():
        return None
    return mask_from_pixels(mask.name, pixels[:, ::-1] if flipped else pixels)


def _still_seen(
    known: Annotations, boxes: Sequence[Box] | None, masks: Sequence[Mask] | None
) -> tuple[Label, ...] | None:
    if known.labels is None:
        return None
    placed = _names(known.boxes) | _names(known.masks)
    left = _names(boxes) | _names(masks)
    return tuple(item for item in known.labels if item.name in left or item.name not in placed)


def _names(items: Sequence[Box] | Sequence[Mask] | None) -> set[str]:
    return {item.name for item in items or ()}


def of_classes(known: Annotations, classes: ClassNames) -> Annotations:
    """Leave out what is of other classes than these."""
    return Annotations(
        _named(known.labels, classes.labels),
        _named(known.boxes, classes.boxes),
        _named(known.masks, classes.masks),
    )


def _named(items: tuple[Item, ...] | None, names: Sequence[str]) -> tuple[Item, ...] | None:
    return None if items is None else tuple(item for item in items if item.name in names)
