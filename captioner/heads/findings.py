"""The way back: from what heads say of an image to annotations of the original."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from torch import Tensor

from captioner.annotations import Box, Label, Mask
from captioner.contract import Geometry
from captioner.heads.detector import Found
from captioner.heads.segmenter import classes_at

_FINEST = 4
"""Points that are looked at for each of the segmenter's pixels: a photograph has a hundred times as
many, which would take seconds and tell no more."""


def labels_of(logits: Tensor, names: Sequence[str], threshold: float) -> tuple[Label, ...]:
    """Return the classes that are seen, the surest first.

    Args:
        logits: of one image, [classes].
        names: of the classes.
        threshold: least probability.
    """
    probabilities = logits.float().sigmoid().tolist()
    seen = [Label(n, p) for n, p in zip(names, probabilities, strict=True) if p >= threshold]
    return tuple(sorted(seen, key=lambda label: -label.probability))


def boxes_of(
    found: Found, names: Sequence[str], geometry: Geometry, image_size: int
) -> tuple[Box, ...]:
    """Return objects in pixels of the original, the surest first; none reaches beyond it.

    Args:
        found: of one image.
        names: of the classes.
        geometry: the way from the original to the model's picture.
        image_size: side of the model's picture, in pixels.
    """
    across = geometry.offset_x, geometry.scale_x, geometry.width
    down = geometry.offset_y, geometry.scale_y, geometry.height
    boxes = []
    for ends, kind, probability in zip(
        found.boxes.tolist(), found.classes.tolist(), found.probabilities.tolist(), strict=True
    ):
        left, right = (_across(end, image_size, *across) for end in ends[::2])
        top, bottom = (_across(end, image_size, *down) for end in ends[1::2])
        boxes.append(Box(names[kind], left, top, right - left, bottom - top, probability))
    return tuple(box for box in boxes if box.width > 0 and box.height > 0)


def _across(end: float, image_size: int, offset: float, scale: float, most: int) -> float:
    """Bring a share of the model's picture to pixels of the original."""
    return min(max((end * image_size - offset) / scale, 0.0), float(most))


def masks_of(
    logits: Tensor, names: Sequence[str], geometry: Geometry, image_size: int
) -> tuple[Mask, ...]:
    """Return a mask of each class that is there, of the original's size; no two hold a pixel.

    Args:
        logits: of one image, [(1 + classes) x h x w].
        names: of the classes.
        geometry: the way from the original to the model's picture.
        image_size: side of the model's picture, in pixels.
    """
    from pycocotools import mask as coco

    height, width = logits.shape[1:]
    columns, column = _points(geometry.width, _FINEST * width)
    rows, row = _points(geometry.height, _FINEST * height)
    x = (columns * geometry.scale_x + geometry.offset_x) * (width / image_size)
    y = (rows * geometry.scale_y + geometry.offset_y) * (height / image_size)
    # Columns lie together, as the encoder wants them.
    pixels = classes_at(logits, x, y).T
    kinds = _kinds(pixels)
    if pixels.shape != (geometry.width, geometry.height):
        pixels = pixels[np.ix_(column, row)]
    size = geometry.height, geometry.width
    masks = []
    for kind in kinds:
        encoded = coco.encode((pixels == kind).view(np.uint8).T)
        masks.append(Mask(names[kind - 1], size, encoded["counts"].decode("ascii")))
    return tuple(masks)


def _kinds(pixels: npt.NDArray[np.uint8]) -> list[int]:
    """Return the classes that are there, without the background."""
    flat = pixels.ravel()
    # Each begins somewhere, and to look where is many times as fast as to count all pixels.
    begins = np.append(flat[1:][flat[1:] != flat[:-1]], flat[0])
    return [kind for kind in np.unique(begins).tolist() if kind]


def _points(side: int, most: int) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    """Return where to look along a side, in pixels, and which of these points each pixel takes."""
    count = min(side, most)
    middles = np.arange(count, dtype=np.float64) + 0.5
    return middles * (side / count), np.arange(side, dtype=np.int64) * count // side
