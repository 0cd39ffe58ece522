"""Labels, boxes and masks that a reviewer left: `regions` the other way round."""

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt
from label_studio_sdk.converter.brush import decode_rle
from PIL import Image
from pycocotools import mask as coco

from captioner.annotations import Annotations, Box, Label, Mask
from captioner.images import Limits
from pipelines.labelstudio.regions import BOXES, LABELS, MASKS, TAGS

BY_DEFAULT = Limits()
_Size = tuple[int, int]
_Pixels = npt.NDArray[np.uint8]
_HALF = 128
"""A brush in a browser has soft edges; what it covers at least by half is of the mask."""


class ResultError(ValueError):
    """A result of an annotation that cannot be read: says what is wrong with it."""


def annotations_left(
    results: Sequence[Mapping[str, Any]],
    controls: Collection[str],
    original: _Size | None,
    limits: Limits = BY_DEFAULT,
) -> Annotations:
    """Read labels, boxes and masks as a reviewer left them.

    Args:
        results: of an annotation; those of other controls are passed over.
        controls: of the project. Of a kind that is among them, nothing left means that there is
            none; one that is not is unknown.
        original: width and height of the upright original, in pixels. Without them boxes and
            masks are unknown.
        limits: how many pixels the picture of a mask may have.

    Returns:
        What was left, in pixels of the upright original, clipped to it. What has no area there is
        left out.

    Raises:
        ResultError: if a result is no such thing.
    """
    labels = boxes = masks = None
    if LABELS in controls:
        names = chain.from_iterable(_names(result, LABELS) for result in _of(results, LABELS))
        labels = tuple(Label(name) for name in dict.fromkeys(names))
    if BOXES in controls and original:
        found = chain.from_iterable(_boxes(result, original) for result in _of(results, BOXES))
        boxes = tuple(found)
    if MASKS in controls and original:
        areas = (_masks(result, original, limits) for result in _of(results, MASKS))
        masks = tuple(chain.from_iterable(areas))
    return Annotations(labels, boxes, masks)


def value_of(result: Mapping[str, Any], name: str, kind: str) -> Mapping[str, Any]:
    """Return the value of a control's result.

    Args:
        result: of an annotation.
        name: of the control.
        kind: what its results are, such as ``choices``.

    Raises:
        ResultError: if it is of another kind or has no value.
    """
    if result.get("type") != kind:
        raise ResultError(f"{name!r} holds a {result.get('type')!r}, not a {kind!r}")
    value = result.get("value")
    if not isinstance(value, Mapping):
        raise ResultError(f"{name!r} has no value")
    return value


def texts(value: Mapping[str, Any], key: str, name: str) -> list[str]:
    """Return the texts that a value holds under a key, be it one or a list.

    Raises:
        ResultError: if they are something else.
    """
    found = value.get(key)
    found = [found] if isinstance(found, str) else found
    if not isinstance(found, list) or not all(isinstance(text, str) for text in found):
        raise ResultError(f"{key} of {name!r} is {_short(found)}, not text")
    return found


def _of(results: Sequence[Mapping[str, Any]], kind: str) -> Iterator[Mapping[str, Any]]:
    return (result for result in results if result.get("from_name") == kind)


def _names(result: Mapping[str, Any], kind: str) -> list[str]:
    """Return the classes of a result, of which there must be one at least."""
    type_ = TAGS[kind].lower()
    names = texts(value_of(result, kind, type_), type_, kind)
    if not names:
        raise ResultError(f"{kind!r} holds something without a class")
    return names


def _boxes(result: Mapping[str, Any], original: _Size) -> Iterator[Box]:
    """Turn percent of the sides into pixels; of one that was turned, what bounds it."""
    names, value = _names(result, BOXES), result["value"]
    _refuse_turned(result, BOXES)
    x, width = (_number(value, side) * original[0] / 100 for side in ("x", "width"))
    y, height = (_number(value, side) * original[1] / 100 for side in ("y", "height"))
    angle = math.radians(_number(value, "rotation", 0.0))
    across = np.array([0, width * math.cos(angle), -height * math.sin(angle)])
    down = np.array([0, width * math.sin(angle), height * math.cos(angle)])
    across, down = np.append(across, across.sum()), np.append(down, down.sum())
    left, right = np.clip([x + across.min(), x + across.max()], 0, original[0])
    top, bottom = np.clip([y + down.min(), y + down.max()], 0, original[1])
    if right > left and bottom > top:
        sides = (float(left), float(top), float(right - left), float(bottom - top))
        yield from (Box(name, *sides) for name in names)


def _number(value: Mapping[str, Any], side: str, default: float | None = None) -> float:
    number = value.get(side, default)
    if isinstance(number, bool) or not isinstance(number, int | float) or not math.isfinite(number):
        raise ResultError(f"{side} of a box in {BOXES!r} is {_short(number)}, not a number")
    return float(number)


def _masks(result: Mapping[str, Any], original: _Size, limits: Limits) -> Iterator[Mask]:
    """Decode a brush, which has a pixel for each of the picture that was shown."""
    names = _names(result, MASKS)
    _refuse_turned(result, MASKS)
    shown = _shown(result, limits)
    if result["value"].get("format") != "rle":
        raise ResultError(f"a mask in {MASKS!r} is not in Label Studio's run lengths")
    area = Image.fromarray(_covered(result["value"].get("rle"), shown))
    pixels = np.asarray(area.resize(original, Image.Resampling.NEAREST))
    if pixels.any():
        counts = coco.encode(np.asfortranarray(pixels))["counts"].decode("ascii")
        yield from (Mask(name, (original[1], original[0]), counts) for name in names)


def _covered(rle: object, shown: _Size) -> _Pixels:
    """Return 1 where a brush went, [height x width] of the picture that was shown."""
    width, height = shown
    if not isinstance(rle, list) or not all(type(byte) is int and 0 <= byte < 256 for byte in rle):
        raise ResultError(f"the run lengths of a mask are {_short(rle)}, not bytes")
    values = int.from_bytes(bytes(rle[:4]))
    if values != 4 * width * height:  # Checked first: the decoder takes what memory it says.
        raise ResultError(
            f"the run lengths of a mask make {values:,} values, not {4 * width * height:,} for "
            f"{width} x {height} pixels"
        )
    try:
        decoded = decode_rle(rle)
    except (ValueError, IndexError, OverflowError) as error:  # What it meets where bits are wrong.
        raise ResultError(f"the run lengths of a mask are damaged ({error})") from error
    covered: _Pixels = (decoded.reshape(height, width, 4)[..., 3] >= _HALF).astype(np.uint8)
    return covered


def _shown(result: Mapping[str, Any], limits: Limits) -> _Size:
    size = result.get("original_width"), result.get("original_height")
    width, height = size
    if type(width) is not int or type(height) is not int or min(width, height) < 1:
        raise ResultError(f"a mask is on a picture of {_short(size)} pixels")
    if width * height > limits.max_pixels:
        raise ResultError(f"a mask is on a picture of {width} x {height} pixels, which is too many")
    return width, height


def _refuse_turned(result: Mapping[str, Any], kind: str) -> None:
    if turn := result.get("image_rotation"):
        raise ResultError(
            f"{kind!r} was drawn on a picture turned by {_short(turn)} degrees; set "
            'rotateControl="false" in the project\'s labelling config'
        )


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
