"""Files of masks: images whose pixels are the numbers of classes or of segments."""

import io
from dataclasses import replace
from typing import Any

import numpy as np
from PIL import Image

from captioner.annotations import Annotations, Mask
from captioner.images import Limits
from captioner.training.sources import files
from captioner.training.sources.examples import DataError, Example, MaskFile
from captioner.training.sources.marks import clipped, mask_from_pixels
from schemas.uris import redact

FORMATS = ("PNG", "BMP", "TIFF")
"""Formats that keep each pixel's number; JPEG does not."""

_VALUES = ("1", "L", "P", "I;16", "I")
_COLOURS = ("RGB", "RGBA", "P")
_SHOWN = 8


def load_annotations(
    example: Example, size: tuple[int, int] | None = None, *, tries: int = 3
) -> Annotations | None:
    """Return what is known of an image, its file of masks decoded.

    Args:
        example: the image.
        size: its height and width, upright, if they are known by now: boxes are clipped to it.
        tries: how often a file of masks is read before it counts as lost.

    Raises:
        DataError: if a mask is not of the image's size, a box wholly outside it, or the file of
            masks cannot be read.
    """
    known, file = example.annotations, example.mask_file
    if file is not None:
        known = known or Annotations()
        known = replace(known, masks=(*(known.masks or ()), *_masks(file, tries)))
    if known is None or size is None:
        return known
    where = f"the image {redact(example.uri)}"
    for mask in known.masks or ():
        if mask.size != size:
            raise DataError(_other_size(f"{where} has a mask of", mask.size, size))
    if known.boxes is None:
        return known
    return replace(known, boxes=tuple(clipped(box, size, where) for box in known.boxes))


def _masks(file: MaskFile, tries: int) -> tuple[Mask, ...]:
    numbers = _numbers(file, tries)
    classes = dict(file.classes)
    pixels: dict[str, np.ndarray[Any, Any]] = {}
    for number in np.unique(numbers).tolist():
        if number not in classes:
            known = ", ".join(str(number) for number in list(classes)[:_SHOWN])
            raise DataError(
                f"{redact(file.uri)} has the number {number}, which is of no class; known are "
                f"{known}{', ...' if len(classes) > _SHOWN else ''}"
            )
        if (name := classes[number]) is not None:
            here = numbers == number
            pixels[name] = pixels[name] | here if name in pixels else here
    return tuple(mask_from_pixels(name, here) for name, here in pixels.items())


def _numbers(file: MaskFile, tries: int) -> np.ndarray[Any, Any]:
    """Return the number of each pixel, [height x width]."""
    limits, shown = Limits(), redact(file.uri)
    data = files.read_patiently(file.uri, limits.max_bytes, tries)
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
        _check(image, file, limits)
        values = np.asarray(image.convert("RGB") if file.coloured else image).astype(np.int32)
    except DataError:
        raise
    except Exception as error:  # Pillow raises nearly anything on broken bytes
        raise DataError(
            f"{shown} cannot be read as a mask in {', '.join(FORMATS)}: {error}"
        ) from error
    if not file.coloured:
        return values
    red, green, blue = np.moveaxis(values, 2, 0)
    coded: np.ndarray[Any, Any] = red + 256 * green + 65536 * blue
    return coded


def _check(image: Image.Image, file: MaskFile, limits: Limits) -> None:
    """Check what the header says, before memory is taken."""
    shown, size = redact(file.uri), (image.height, image.width)
    if file.size is not None and size != file.size:
        raise DataError(_other_size(f"the mask {shown} is", size, file.size))
    if image.width * image.height > limits.max_pixels:
        raise DataError(
            f"the mask {shown} has {image.width:,} x {image.height:,} pixels; the limit is "
            f"{limits.max_pixels:,} in all"
        )
    wanted = _COLOURS if file.coloured else _VALUES
    if image.mode not in wanted:
        kind = "of colours, as panoptic masks are" if file.coloured else "of one number a pixel"
        raise DataError(
            f"the mask {shown} is of the mode {image.mode}; it must be {kind} ({', '.join(wanted)})"
        )


def _other_size(what: str, size: tuple[int, int], image: tuple[int, int]) -> str:
    return (
        f"{what} {size[1]} x {size[0]}, but the image is {image[1]} x {image[0]}; draw it on the "
        "image as it is, upright"
    )
