"""Pictures changed at random while what their captions say stays true.

Everything random is drawn beforehand, from (seed, epoch, image), so that it does not depend on
threads, batches or where a run was taken up again.
"""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageEnhance

Pixels = npt.NDArray[np.uint8]

_STREAM = 1
"""Sets these random numbers apart from others of the same seed."""
_RATIOS = (math.log(3 / 4), math.log(4 / 3))
_SIDES = re.compile(r"左右|[左右]|\b(left|right)(?=(?:most|wards?)?\b)", re.IGNORECASE)
_OTHER_SIDE = {"left": "right", "right": "left", "左": "右", "右": "左"}


@dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """How pictures may be changed; by itself not at all.

    Attributes:
        crop_scale: least share of a picture's area that a crop keeps; 1 does not crop. What a
            caption names may be cut off, so less than 0.5 is rarely good for captions.
        colour: brightness, contrast and saturation are each multiplied by up to 1 + this, or 1
            less this; 0 leaves them. Names of colours suffer where it is much more than 0.2.
        flip: half of the pictures are mirrored, and left and right swap in their captions (see
            `swap_sides`, also for where that goes wrong).
    """

    crop_scale: float = 1.0
    colour: float = 0.0
    flip: bool = False

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            ValueError: if one is out of range.
        """
        for name, least, most in (("crop_scale", 0.01, 1.0), ("colour", 0.0, 0.9)):
            if not least <= (value := getattr(self, name)) <= most:
                raise ValueError(f"{name} is {value}; use {least} to {most}")


UNCHANGED = AugmentConfig()


@dataclass(frozen=True)
class Change:
    """What is done to one picture.

    Attributes:
        box: what is kept: left, top, right and bottom, as shares of width and height.
        colour: factors of brightness, contrast and saturation.
        flipped: whether it is mirrored.
    """

    box: tuple[float, float, float, float] = (0.0, 0.0, 1.0, 1.0)
    colour: tuple[float, float, float] = (1.0, 1.0, 1.0)
    flipped: bool = False


def draw_change(
    config: AugmentConfig, size: tuple[int, int], *, seed: int, epoch: int, image: int
) -> Change:
    """Draw what is done to a picture in an epoch.

    The same numbers are drawn whatever is on, so that turning one thing off changes no other.

    Args:
        config: what may be done.
        size: width and height of the picture.
        seed: of the run.
        epoch: number of the epoch.
        image: number of the picture.
    """
    rng = np.random.default_rng((_STREAM, seed, epoch, image))
    flipped = bool(rng.random() < 0.5)
    brightness, contrast, saturation = (1 + config.colour * rng.uniform(-1, 1, 3)).tolist()
    area = rng.uniform(config.crop_scale, 1.0)
    ratio = math.exp(rng.uniform(*_RATIOS))
    across, down = rng.random(2)
    box = (0.0, 0.0, 1.0, 1.0)
    if config.crop_scale < 1:
        # A random area and ratio of sides (1409.4842); what does not fit is as wide, or high, as
        # the picture.
        width, height = size
        wide = min(1.0, math.sqrt(area * width * height * ratio) / width)
        high = min(1.0, math.sqrt(area * width * height / ratio) / height)
        left, top = across * (1 - wide), down * (1 - high)
        box = (left, top, left + wide, top + high)
    return Change(box, (brightness, contrast, saturation), flipped and config.flip)


def changed(image: Image.Image, change: Change, prepare: Callable[[Image.Image], Pixels]) -> Pixels:
    """Bring a picture to the model's size, changed.

    Colours are changed at the model's size, which is quicker than at the original's.

    Args:
        image: RGB.
        change: what is done to it.
        prepare: brings an image to the model's size, [h x w x 3], uint8.
    """
    if change.box != (0.0, 0.0, 1.0, 1.0):
        image = image.crop(whole_pixels(change.box, image.size))
    pixels = prepare(image)
    if change.colour != (1.0, 1.0, 1.0):
        picture = Image.fromarray(pixels)
        kinds = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)
        for kind, factor in zip(kinds, change.colour, strict=True):
            picture = kind(picture).enhance(factor)
        pixels = np.asarray(picture)
    return np.ascontiguousarray(pixels[:, ::-1]) if change.flipped else pixels


def swap_sides(caption: str) -> str:
    """Swap left and right in a caption, as befits the mirror image.

    Swapped are the English words, their case kept, also in leftmost, rightward or left-hand, and
    左 and 右 in Chinese (左右, both sides, stays). It goes by words, not by what they mean: "right
    now" and "a dog left alone" come out wrong, and what other languages or written signs in the
    picture say is not swapped. Where much of that is in the captions, do not flip.
    """
    return _SIDES.sub(lambda found: _swapped(found[0]), caption)


def _swapped(side: str) -> str:
    other = _OTHER_SIDE.get(side.lower(), side)
    if side.isupper():
        return other.upper()
    return other.capitalize() if side[:1].isupper() else other


def whole_pixels(
    box: tuple[float, float, float, float], size: tuple[int, int]
) -> tuple[int, int, int, int]:
    """Return a box, given as shares of width and height, in pixels; at least one is kept."""
    width, height = size
    left, top = min(int(box[0] * width), width - 1), min(int(box[1] * height), height - 1)
    right, bottom = round(box[2] * width), round(box[3] * height)
    return left, top, max(right, left + 1), max(bottom, top + 1)
