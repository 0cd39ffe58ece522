"""Labels, boxes and masks as data sets write them, checked and put together image by image."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any

import numpy as np

from captioner.annotations import Annotations, Box, Label, Mask
from captioner.images import Limits
from captioner.training.sources.examples import DataError
from schemas.uris import redact

logger = logging.getLogger(__name__)

MOST_LEFT_OUT = 1000
"""Bad annotations that are left out; of fewer than 100,000 annotations, fewer than 1% are."""

_MOST = 1e9
_NOTICED = 0.01
_BITS, _SIGN, _MORE = 31, 16, 32
_Size = tuple[int, int]
_Rle = dict[str, Any]


class BadAnnotationError(DataError):
    """An annotation that cannot be used: says which, its value, and what to do."""


class Tally:
    """Counts annotations, those that are left out since they are bad, and clipped boxes."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.seen = self.bad = self.clipped = 0
        self._first: BadAnnotationError | None = None

    @contextmanager
    def annotation(self) -> Iterator[None]:
        """Count an annotation that is read within; leave it out if it is bad.

        Raises:
            DataError: if more than ``MOST_LEFT_OUT`` were bad.
        """
        self.seen += 1
        try:
            yield
        except BadAnnotationError as error:
            self._first = self._first or error
            self.bad += 1
        if self.bad > MOST_LEFT_OUT:
            self._refuse(f"more than {MOST_LEFT_OUT:,}")

    def finish(self) -> None:
        """Say in the log what was left out or clipped.

        Raises:
            DataError: if 1% of the annotations or more are bad.
        """
        if self.bad * 100 >= self.seen and self.bad:
            self._refuse(f"{self.bad:,} of {self.seen:,}")
        if self.bad:
            logger.warning(
                "%s: left out %d of %d annotations that cannot be used; the first: %s",
                *(self.source, self.bad, self.seen, self._first),
            )
        if self.clipped:
            logger.warning(
                "%s: clipped %d boxes that were partly outside their images",
                *(self.source, self.clipped),
            )

    def _refuse(self, count: str) -> None:
        raise DataError(
            f"{self.source}: {count} annotations cannot be used (left out are at most "
            f"{MOST_LEFT_OUT:,}, and less than 1%). The first: {self._first}"
        ) from self._first


class Marks:
    """What is said of one image, gathered annotation by annotation.

    Attributes:
        size: height and width of the image; None as long as nobody has said.
        boxes_known: false once an object came without a box: then the image's boxes say nothing.
        masks_known: likewise.
    """

    def __init__(self, size: _Size | None) -> None:
        self.size = size
        self.boxes_known = self.masks_known = True
        self._names: set[str] = set()
        self._boxes: list[Box] = []
        self._masks: dict[str, list[_Rle]] = {}

    def add(self, name: str, box: Box | None = None, mask: _Rle | None = None) -> None:
        """Add an object: its class, and its box and pixels where they are known."""
        self._names.add(name)
        if box is not None:
            self._boxes.append(box)
        if mask is not None:
            self.size = self.size or tuple(mask["size"])
            # Taken out and put in again: classes stand in the order of their last objects.
            self._masks[name] = [*self._masks.pop(name, ()), mask]

    def annotations(self, *, boxes: bool, masks: bool) -> Annotations:
        """Return all of it.

        Args:
            boxes: whether the data set has boxes at all.
            masks: whether it has masks.
        """
        drawn = tuple(_union(name, rles) for name, rles in self._masks.items())
        return Annotations(
            labels=labels(self._names),
            boxes=tuple(self._boxes) if boxes and self.boxes_known else None,
            masks=tuple(mask for mask in drawn if mask) if masks and self.masks_known else None,
        )


def labels(names: set[str]) -> tuple[Label, ...]:
    """Return classes that are seen, sorted."""
    return tuple(map(_label, sorted(names)))


@cache
def _label(name: str) -> Label:
    return Label(name)  # one for all images: there may be millions of them


def box_of(name: str, value: object, size: _Size | None, where: str, tally: Tally) -> Box:
    """Read a box, and clip it where the image ends.

    Args:
        name: its class.
        value: x, y, width and height in pixels.
        size: height and width of the image, if known.
        where: what says so, for the message.
        tally: counts boxes that are clipped.

    Raises:
        BadAnnotationError: if it is something else, has no area, or is outside the image.
    """
    if not isinstance(value, list) or len(value) != 4 or not _are_numbers(value):
        raise bad(f"{where} has the box {shown(value)}, which is not four numbers", _BOX)
    x, y, width, height = map(float, value)
    if width <= 0 or height <= 0:
        raise bad(f"{where} has the box {shown(value)}, which has no area", _BOX)
    box = Box(name, x, y, width, height)
    return box if size is None else clipped(box, size, where, tally)


def clipped(box: Box, size: _Size, where: str, tally: Tally | None = None) -> Box:
    """Clip a box where the image ends.

    Raises:
        BadAnnotationError: if it is wholly outside.
    """
    high, wide = size
    left, upper = max(box.x, 0.0), max(box.y, 0.0)
    right, lower = min(box.x + box.width, wide), min(box.y + box.height, high)
    if right <= left or lower <= upper:
        corners = f"[{box.x:g}, {box.y:g}, {box.width:g}, {box.height:g}]"
        raise bad(f"{where} has the box {corners}, outside the image of {wide} x {high}", _BOX)
    cut = max(box.width - (right - left), box.height - (lower - upper))
    if tally is not None and cut > _NOTICED:
        tally.clipped += 1
    return Box(box.name, left, upper, right - left, lower - upper, box.probability)


_BOX = "boxes are x, y, width and height in pixels: correct it, or take it out"
_MASK = "draw it again on the image as it is, or take it out"


def mask_of(value: object, size: _Size | None, where: str) -> _Rle:
    """Read the pixels of an object, in any of COCO's three forms.

    Args:
        value: a list of polygons, each x and y by turns; or run lengths with their size, as
            numbers or compressed.
        size: height and width of the image, if known.
        where: what says so, for the message.

    Returns:
        Compressed run lengths, as ``pycocotools.mask`` has them.

    Raises:
        BadAnnotationError: if it is something else, or does not fit the image.
    """
    if isinstance(value, Mapping):
        return _runs_of(value, size, where)
    if not isinstance(value, list) or not value:
        raise bad(f"{where} has the mask {shown(value)}, neither polygons nor run lengths", _MASK)
    if size is None:
        raise bad(f"{where} has polygons", "say the image's width and height")
    for polygon in value:
        _check_polygon(polygon, size, where)
    coco = _pycocotools()
    drawn: _Rle = coco.merge(coco.frPyObjects(value, *size))
    return drawn


def _check_polygon(polygon: object, size: _Size, where: str) -> None:
    if not isinstance(polygon, list) or not _are_numbers(polygon):
        raise bad(f"{where} has the polygon {shown(polygon)}, which is not of numbers", _MASK)
    if len(polygon) < 6 or len(polygon) % 2:
        points = f"a polygon of {len(polygon) / 2:g} points, {shown(polygon)}"
        raise bad(f"{where} has {points}", "give three or more, each as x and y, or take it out")
    high, wide = size
    xs, ys = polygon[::2], polygon[1::2]
    outside = max(xs) <= 0 or max(ys) <= 0 or min(xs) >= wide or min(ys) >= high
    # As far out as the image is large: a mistake, and every pixel on the way takes memory.
    far = min(xs) < -wide or min(ys) < -high or max(xs) > 2 * wide or max(ys) > 2 * high
    if outside or far:
        corners = f"({min(xs):g}, {min(ys):g}) to ({max(xs):g}, {max(ys):g})"
        raise bad(
            f"{where} has a polygon from {corners}, outside the image of {wide} x {high}", _MASK
        )


def _runs_of(value: Mapping[str, Any], size: _Size | None, where: str) -> _Rle:
    said = value.get("size")
    if not isinstance(said, list) or len(said) != 2 or not all(map(is_count, said)):
        raise bad(f"{where} has run lengths of the size {shown(said)}", "say height and width")
    high, wide = said
    if size is not None and (high, wide) != size:
        raise bad(f"{where} has a mask of {wide} x {high}, but the image is {_times(size)}", _MASK)
    if high * wide > Limits().max_pixels:
        raise bad(f"{where} has a mask of {wide} x {high}, more than is read", _MASK)
    counts = value.get("counts")
    runs = _decompressed(counts) if isinstance(counts, str) else counts
    # pycocotools would write and read beyond its memory.
    good = isinstance(runs, list) and all(type(run) is int and run >= 0 for run in runs)
    if not good or sum(runs or ()) != high * wide:
        text = f"{where} has run lengths {shown(counts)} that do not make {wide} x {high} pixels"
        raise bad(text, _MASK)
    coded: _Rle = _pycocotools().frPyObjects({"counts": runs, "size": [high, wide]}, high, wide)
    return coded


def _decompressed(counts: str) -> list[int] | None:
    """Read COCO's compressed run lengths; None if they are none.

    Six bits a character from "0" on: five of a number, lowest first, and whether more follow; from
    the fourth on the numbers are differences to those two before (``rleFrString`` of COCO's API).
    """
    runs: list[int] = []
    number = shift = 0
    for character in counts:
        code = ord(character) - 48
        if not 0 <= code < 64 or shift > 30:
            return None
        number |= (code & _BITS) << shift
        shift += 5
        if code & _MORE:
            continue
        if code & _SIGN:
            number -= 1 << shift
        runs.append(number + (runs[-2] if len(runs) > 2 else 0))
        number = shift = 0
    return None if shift else runs


def _union(name: str, rles: Sequence[_Rle]) -> Mask | None:
    """Return the pixels of any of the objects; None if there are none, as of very small ones."""
    coco = _pycocotools()
    whole = coco.merge(list(rles))
    if not coco.area(whole):
        return None
    high, wide = whole["size"]
    return Mask(name, (int(high), int(wide)), whole["counts"].decode("ascii"))


def mask_from_pixels(name: str, pixels: np.ndarray[Any, Any]) -> Mask:
    """Turn pixels [height x width], true where the class is, into a mask."""
    coded = _pycocotools().encode(np.asfortranarray(pixels, np.uint8))
    return Mask(name, (pixels.shape[0], pixels.shape[1]), coded["counts"].decode("ascii"))


def name_of(value: str) -> str:
    """Return a class's name, its white space made single blanks."""
    return " ".join(value.split())


def size_of(about: Mapping[str, Any], where: str) -> _Size | None:
    """Return the height and width that are said of an image; None if they are not.

    Raises:
        DataError: if they are not whole numbers of 1 and more, or too large.
    """
    height, width = about.get("height"), about.get("width")
    if height is None or width is None:
        return None
    if not is_count(height) or not is_count(width) or height * width > Limits().max_pixels:
        raise DataError(
            f"{where} has the width {width!r} and the height {height!r}; give those of the image, "
            f"in pixels, or none; {Limits().max_pixels:,} pixels at most"
        )
    return height, width


def is_count(value: object) -> bool:
    """Say whether it is a whole number of 1 and more."""
    return type(value) is int and value > 0


def _are_numbers(values: Sequence[object]) -> bool:
    if not set(map(type, values)) <= {int, float}:
        return False
    return all(-_MOST < value < _MOST for value in values)  # type: ignore[operator]


def _times(size: _Size) -> str:
    return f"{size[1]} x {size[0]}"


def shown(value: object) -> str:
    """Return the beginning of a value, without credentials, for a message."""
    return redact(repr(value)[:80])


def bad(text: str, remedy: str) -> BadAnnotationError:
    """Return the error for an annotation, of what is wrong and what to do."""
    return BadAnnotationError(f"{text}; {remedy}")


def _pycocotools() -> Any:
    """Import it only when there are masks."""
    try:
        import pycocotools.mask as coco
    except ImportError as error:
        raise DataError("masks need pycocotools; install it: pip install pycocotools") from error
    return coco
