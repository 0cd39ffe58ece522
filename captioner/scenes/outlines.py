"""Outlines of the shapes, as polygons, and their masks."""

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

Polygon = tuple[tuple[float, float], ...]

_HOLE_RADIUS, _HOLE_SHIFT = 0.82, 0.48
"""What makes a crescent of a circle of radius 1."""


def _arc(radius: float, count: int = 40, x: float = 0.0) -> Polygon:
    turn = 2 * math.pi / count
    return tuple(
        (x + radius * math.cos(turn * i), radius * math.sin(turn * i)) for i in range(count)
    )


def _star() -> Polygon:
    radii = (1.0, 0.45)
    turn = math.pi / 5
    return tuple(
        (radii[i % 2] * math.sin(turn * i), -radii[i % 2] * math.cos(turn * i)) for i in range(10)
    )


def _cross(arm: float = 0.32) -> Polygon:
    corner = ((arm, arm), (arm, 1.0), (-arm, 1.0))
    points = list(corner)
    for _ in range(3):
        corner = tuple((-y, x) for x, y in corner)  # type: ignore[assignment]
        points.extend(corner)
    return tuple(points)


_OUTLINES: dict[str, tuple[Polygon, ...]] = {
    "circle": (_arc(1.0),),
    "square": (((-1, -1), (1, -1), (1, 1), (-1, 1)),),
    "triangle": (((0, -0.9), (1, 0.8), (-1, 0.8)),),
    "diamond": (((0, -1), (0.66, 0), (0, 1), (-0.66, 0)),),
    "star": (_star(),),
    "cross": (_cross(),),
    "ring": (_arc(1.0), _arc(0.52)),
    "crescent": (_arc(1.0), _arc(_HOLE_RADIUS, x=_HOLE_SHIFT)),
}
"""The outer polygon of each shape, and the hole in it where there is one."""


@lru_cache(maxsize=4096)
def outline(shape: str, rotation: float) -> tuple[Polygon, ...]:
    """Return the polygons of a shape, the first filled and the second a hole.

    They are turned by ``rotation`` degrees, moved and scaled so that the box of the corners that
    are seen is centred on 0 and its longer side is 1.
    """
    cos, sin = _turn(rotation)
    polygons = [[(x * cos - y * sin, x * sin + y * cos) for x, y in p] for p in _OUTLINES[shape]]
    left, top, right, bottom = _sides(_seen_corners(shape, polygons[0], cos, sin))
    middle_x, middle_y = (left + right) / 2, (top + bottom) / 2
    scale = 1 / max(right - left, bottom - top)
    return tuple(
        tuple(((x - middle_x) * scale, (y - middle_y) * scale) for x, y in p) for p in polygons
    )


@lru_cache(maxsize=4096)
def sides(shape: str, rotation: float) -> tuple[float, float, float, float]:
    """Return left, top, right and bottom of what is filled, for an extent of 1.

    The tips of a crescent lie between the corners of its outline, so that its box is a little
    larger than that of its corners.
    """
    points = outline(shape, rotation)
    if shape != "crescent":
        return _sides(points[0])
    image = np.asarray(mask_image(shape, rotation, 0.5, 0.5, 0.9, 1000)) > 0
    down, across = np.nonzero(image)
    ends = (across.min(), down.min(), across.max() + 1, down.max() + 1)
    left, top, right, bottom = (float(end / 1000 - 0.5) / 0.9 for end in ends)
    return left, top, right, bottom


@lru_cache(maxsize=4096)
def half_sides(shape: str, rotation: float) -> tuple[float, float]:
    """Return half the width and half the height for an extent of 1: the room that it needs."""
    if shape != "crescent":
        _, _, right, bottom = _sides(outline(shape, rotation)[0])
        return right, bottom
    area = mask(shape, rotation, 0.5, 0.5, 1.0, 128)
    return float(area.any(0).sum()) / 256, float(area.any(1).sum()) / 256


def _turn(rotation: float) -> tuple[float, float]:
    angle = math.radians(rotation)
    return math.cos(angle), math.sin(angle)


def _seen_corners(
    shape: str, points: Sequence[tuple[float, float]], cos: float, sin: float
) -> Sequence[tuple[float, float]]:
    """Leave out the corners that a crescent's hole takes away."""
    if shape != "crescent":
        return points
    x, y = _HOLE_SHIFT * cos, _HOLE_SHIFT * sin
    return [p for p in points if math.hypot(p[0] - x, p[1] - y) >= _HOLE_RADIUS]


def _sides(points: Sequence[tuple[float, float]]) -> tuple[float, float, float, float]:
    x, y = zip(*points, strict=True)
    return min(x), min(y), max(x), max(y)


def mask_image(
    shape: str, rotation: float, x: float, y: float, extent: float, pixels: int
) -> Image.Image:
    """Draw a shape in white on a black square of that many pixels, whose side has length 1."""
    image = Image.new("L", (pixels, pixels))
    draw = ImageDraw.Draw(image)
    for polygon, value in zip(outline(shape, rotation), (255, 0), strict=False):
        draw.polygon(
            [((x + px * extent) * pixels, (y + py * extent) * pixels) for px, py in polygon],
            fill=value,
        )
    return image


def mask(
    shape: str, rotation: float, x: float, y: float, extent: float, pixels: int
) -> npt.NDArray[np.bool_]:
    """Return where a shape lies, on a grid of ``pixels`` x ``pixels``."""
    return np.asarray(mask_image(shape, rotation, x, y, extent, pixels)) > 0
