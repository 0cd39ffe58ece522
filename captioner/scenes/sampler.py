"""Scenes from seeds: the same seed gives the same scene on every machine."""

import math
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from captioner.scenes.outlines import half_sides, mask, sides
from captioner.scenes.world import (
    CLEARLY_BESIDE,
    COLOURS,
    MAX_OBJECTS,
    MAX_OCCLUSION,
    MIN_OBJECTS,
    SHAPES,
    SIZES,
    TEXTURES,
    Look,
    Scene,
    SceneObject,
)

TRAINING, VALIDATION, TEST = 0, 1_000_000, 2_000_000
"""Where the seeds of each part begin; no part may take more than a million."""

_PREFIX = "scenes:"
_MOST_SCENES = 500_000
"""In one part: as training leaves some seeds out, it needs more of them than it has scenes."""

_MASK_PIXELS = 128
_TRIES_AN_OBJECT = 12
_QUARTER_TURNS = (0, 90, 180, 270)
_EDGE = 0.02


def scene_count(data: str) -> int | None:
    """Return how many drawn scenes ``data`` asks for, as ``scenes:N``; None if it is a place.

    Raises:
        ValueError: if N is no such number.
    """
    if not data.startswith(_PREFIX):
        return None
    count = data.removeprefix(_PREFIX)
    if not count.isdecimal() or not 1 <= int(count) <= _MOST_SCENES:
        raise ValueError(f"{data!r} names no scenes; use {_PREFIX}1 to {_PREFIX}{_MOST_SCENES}")
    return int(count)


def sample(seed: int) -> Scene:
    """Make the scene of a seed."""
    rng = np.random.default_rng((seed, 0))
    while True:
        count = int(rng.integers(MIN_OBJECTS, MAX_OBJECTS + 1))
        placed = _place(rng, count)
        if placed is not None:
            objects, covers = placed
            return Scene(seed, objects, covers, _look(rng))


def samples(first_seed: int, count: int) -> Iterator[Scene]:
    """Make the scenes of ``count`` seeds, one after another, without end in memory or on disk."""
    for seed in range(first_seed, first_seed + count):
        yield sample(seed)


def _place(
    rng: np.random.Generator, count: int
) -> tuple[tuple[SceneObject, ...], tuple[tuple[float, ...], ...]] | None:
    """Place objects from back to front, or return None where they do not fit."""
    objects: list[SceneObject] = []
    whole: list[npt.NDArray[np.bool_]] = []
    seen: list[npt.NDArray[np.bool_]] = []
    for _ in range(count):
        drawn = _object(rng)
        for _ in range(_TRIES_AN_OBJECT):
            thing = _moved(rng, drawn)
            if any(_too_close(thing, other) for other in objects):
                continue
            area = mask(thing.shape, thing.rotation, thing.x, thing.y, thing.extent, _MASK_PIXELS)
            left = [other & ~area for other in seen]
            if all(_acceptable(thing, *pair) for pair in zip(objects, whole, left, strict=True)):
                objects.append(thing)
                whole.append(area)
                seen = [*left, area]
                break
        else:
            return None
    covers = tuple(
        tuple(
            float((seen[front] & whole[back]).sum() / whole[back].sum()) if front > back else 0.0
            for back in range(count)
        )
        for front in range(count)
    )
    finished = tuple(
        replace(
            thing,
            visible_area=float(visible.sum()) / _MASK_PIXELS**2,
            visible_share=float(visible.sum() / area.sum()),
        )
        for thing, area, visible in zip(objects, whole, seen, strict=True)
    )
    return finished, covers


def _too_close(thing: SceneObject, other: SceneObject) -> bool:
    """Whether two centres are so near that neither object is clearly beside the other."""
    across, down = abs(thing.x - other.x), abs(thing.y - other.y)
    distance = math.hypot(across, down)
    return max(across, down) < CLEARLY_BESIDE or distance < 0.3 * (thing.extent + other.extent)


def _acceptable(
    thing: SceneObject,
    other: SceneObject,
    whole: npt.NDArray[np.bool_],
    left: npt.NDArray[np.bool_],
) -> bool:
    """Whether enough stays visible of ``other``, and it does not melt into its own colour."""
    share = left.sum() / whole.sum()
    return bool(share == 1 or (share >= 1 - MAX_OCCLUSION and thing.colour != other.colour))


def _object(rng: np.random.Generator) -> SceneObject:
    shape = SHAPES[rng.integers(len(SHAPES))]
    colour = tuple(COLOURS)[rng.integers(len(COLOURS))]
    size = tuple(SIZES)[rng.integers(len(SIZES))]
    tint = np.clip(
        np.array(COLOURS[colour]) * rng.uniform(0.9, 1.05) + rng.uniform(-10, 10, 3), 0, 255
    )
    shade = 255.0 if rng.random() < 0.5 else 0.0
    second = tint + (shade - tint) * 0.6
    return SceneObject(
        shape=shape,
        colour=colour,
        size=size,
        texture=TEXTURES[rng.integers(len(TEXTURES))],
        x=0.0,
        y=0.0,
        extent=round(float(rng.uniform(*SIZES[size])), 4),
        rotation=float(rng.choice(_QUARTER_TURNS) + rng.integers(-10, 11)),
        tint=_rgb(tint),
        second_tint=_rgb(second),
        pattern_angle=float(rng.integers(0, 180)),
        box=(0.0, 0.0, 0.0, 0.0),
    )


def _moved(rng: np.random.Generator, thing: SceneObject) -> SceneObject:
    half_width, half_height = (
        half * thing.extent for half in half_sides(thing.shape, thing.rotation)
    )
    x = round(float(rng.uniform(_EDGE + half_width, 1 - _EDGE - half_width)), 4)
    y = round(float(rng.uniform(_EDGE + half_height, 1 - _EDGE - half_height)), 4)
    left, top, right, bottom = (
        round(middle + side * thing.extent, 4)
        for middle, side in zip((x, y, x, y), sides(thing.shape, thing.rotation), strict=True)
    )
    return replace(thing, x=x, y=y, box=(left, top, right, bottom))


def _look(rng: np.random.Generator) -> Look:
    """Pale or dark greys, a hint of colour in them, so that no object is lost in the ground."""
    grey = rng.uniform(50, 230)
    top, bottom = grey + rng.uniform(-25, 25), grey + rng.uniform(-25, 25)
    hue = rng.uniform(-9, 9, 3)
    noisy, blurred, faint = rng.random(3) < (0.5, 0.4, 0.4)
    return Look(
        top=_rgb(top + hue),
        bottom=_rgb(bottom + hue),
        contrast=round(float(rng.uniform(0.5, 0.85)), 3) if faint else 1.0,
        blur=round(float(rng.uniform(0.001, 0.006)), 5) if blurred else 0.0,
        noise=round(float(rng.uniform(3, 16)), 2) if noisy else 0.0,
    )


def _rgb(values: npt.NDArray[np.float64]) -> tuple[int, int, int]:
    red, green, blue = (int(value) for value in np.clip(values, 0, 255))
    return red, green, blue
