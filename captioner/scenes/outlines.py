"""Outlines of the shapes, as polygons, and their masks."""

import math
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

Polygon = tuple[tuple[float, float], ...]


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
    "crescent": (_arc(1.0), _arc(0.82, x=0.48)),
}
"""The outer polygon of each shape, and the hole in it where there is one."""


@lru_cache(maxsize=4096)
def outline(shape: str, rotation: float) -> tuple[Polygon, ...]:
    """Return the polygons of a shape, the first filled and the second a hole.

    They are turned by ``rotation`` degrees, moved and scaled so that the box of what is filled
    is centred on 0 and its longer side is 1.
    """
    turn = math.radians(rotation)
    cos, sin = math.cos(turn), math.sin(turn)
    polygons = [[(x * cos - y * sin, x * sin + y * cos) for x, y in p] for p in _OUTLINES[shape]]
    points = polygons[0]
    if shape == "crescent":  # The hole reaches over the edge and takes some of the box with it.
        (hole_x, hole_y), radius = (0.48 * cos, 0.48 * sin), 0.82
        points = [p for p in points if math.hypot(p[0] - hole_x, p[1] - hole_y) >= radius]
    xs, ys = [x for x, _ in points], [y for _, y in points]
    middle_x, middle_y = (min(xs) + max(xs)) / 2, (min(ys) + max(ys)) / 2
    scale = 1 / max(max(xs) - min(xs), max(ys) - min(ys))
    return tuple(
        tuple(((x - middle_x) * scale, (y - middle_y) * scale) for x, y in p) for p in polygons
    )


def half_sides(shape: str, rotation: float) -> tuple[float, float]:
    """Return half the width and half the height of a shape of extent 1."""
    x, y = zip(*outline(shape, rotation)[0], strict=True)
    if shape == "crescent":
        pixels = np.asarray(mask_image(shape, rotation, 0.5, 0.5, 1.0, 128)) > 0
        return float(pixels.any(0).sum()) / 256, float(pixels.any(1).sum()) / 256
    return max(x), max(y)


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
