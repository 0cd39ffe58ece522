"""The nouns of the synthetic world, and the geometry that decides what is true of a scene.

Lengths are shares of the side of the (square) image, x to the right and y downwards.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from typing import Any

SHAPES = ("circle", "square", "triangle", "diamond", "star", "cross", "ring", "crescent")
COLOURS: Mapping[str, tuple[int, int, int]] = {
    "red": (215, 35, 35),
    "orange": (245, 135, 20),
    "yellow": (240, 220, 40),
    "green": (40, 160, 60),
    "cyan": (50, 200, 215),
    "blue": (35, 70, 215),
    "purple": (125, 45, 165),
    "pink": (245, 130, 185),
}
SIZES: Mapping[str, tuple[float, float]] = {
    "small": (0.15, 0.18),
    "medium": (0.235, 0.275),
    "large": (0.36, 0.41),
}
"""The extent of an object: the longer side of its box. Classes are a factor of 1.3 apart."""
TEXTURES = ("solid", "striped", "dotted")

MIN_OBJECTS, MAX_OBJECTS = 2, 5
MAX_OCCLUSION = 0.3
"""Most that may be hidden of an object."""

BESIDE_MARGIN = 0.03
"""`left of` and the like hold from this distance between centres on."""
OVERLAP_MARGIN = 0.02
"""`in front of` holds where this share of the hidden object's area is visibly covered."""
CLEARLY_BESIDE = 0.1
CLEARLY_COVERED = 0.08
"""What the grammar asks for before it says so; any two objects are clearly beside each other."""


class Relation(StrEnum):
    """How a first object lies to a second."""

    LEFT = "left"
    RIGHT = "right"
    ABOVE = "above"
    BELOW = "below"
    FRONT = "front"
    BEHIND = "behind"

    @property
    def inverse(self) -> "Relation":
        """The relation of the second object to the first."""
        return _INVERSE[self]


_INVERSE = {
    Relation.LEFT: Relation.RIGHT,
    Relation.RIGHT: Relation.LEFT,
    Relation.ABOVE: Relation.BELOW,
    Relation.BELOW: Relation.ABOVE,
    Relation.FRONT: Relation.BEHIND,
    Relation.BEHIND: Relation.FRONT,
}


@dataclass(frozen=True)
class SceneObject:
    """One object, with the truth about it.

    Attributes:
        shape: one of ``SHAPES``.
        colour: one of ``COLOURS``.
        size: one of ``SIZES``.
        texture: one of ``TEXTURES``.
        x: its middle, from left to right.
        y: its middle, from top to bottom.
        extent: its longer side.
        rotation: in degrees, clockwise.
        tint: the red, green and blue actually painted.
        second_tint: the colour of stripes or dots.
        pattern_angle: direction of stripes or rows of dots, in degrees.
        box: left, top, right and bottom of the whole outline.
        visible_area: share of the image on which it is seen.
        visible_share: share of the object that is seen.
    """

    shape: str
    colour: str
    size: str
    texture: str
    x: float
    y: float
    extent: float
    rotation: float
    tint: tuple[int, int, int]
    second_tint: tuple[int, int, int]
    pattern_angle: float
    box: tuple[float, float, float, float]
    visible_area: float = 0.0
    visible_share: float = 1.0

    @property
    def attributes(self) -> tuple[str, str, str, str]:
        """Size, texture, colour and shape: what captions say of it."""
        return self.size, self.texture, self.colour, self.shape


@dataclass(frozen=True)
class Look:
    """How a scene is photographed, so to say: none of it changes what is true.

    Attributes:
        top: background colour at the top.
        bottom: background colour at the bottom.
        contrast: 1 leaves contrast as it is, less brings all colours closer to grey.
        blur: standard deviation of the blur, as a share of the side.
        noise: standard deviation of the noise, of 255.
    """

    top: tuple[int, int, int]
    bottom: tuple[int, int, int]
    contrast: float
    blur: float
    noise: float


@dataclass(frozen=True)
class Scene:
    """Objects from back to front, and what hides what.

    Attributes:
        seed: the number that the scene was made from.
        objects: from back to front.
        covers: ``covers[front][back]``: the share of the object ``back`` that ``front`` visibly
            covers.
        look: background, noise, blur and contrast.
    """

    seed: int
    objects: tuple[SceneObject, ...]
    covers: tuple[tuple[float, ...], ...]
    look: Look

    def holds(self, relation: Relation, first: int, second: int) -> bool:
        """Whether object ``first`` lies in that relation to object ``second``."""
        return self.strength(relation, first, second) >= (
            OVERLAP_MARGIN if relation in (Relation.FRONT, Relation.BEHIND) else BESIDE_MARGIN
        )

    def strength(self, relation: Relation, first: int, second: int) -> float:
        """By how much a relation holds: distance of centres, or share that is covered."""
        a, b = self.objects[first], self.objects[second]
        match relation:
            case Relation.LEFT:
                return b.x - a.x
            case Relation.RIGHT:
                return a.x - b.x
            case Relation.ABOVE:
                return b.y - a.y
            case Relation.BELOW:
                return a.y - b.y
            case Relation.FRONT:
                return self.covers[first][second]
            case Relation.BEHIND:
                return self.covers[second][first]

    def mirrored(
        self, *, horizontally: bool, vertically: bool, transposed: bool = False
    ) -> "Scene":
        """The truth of the mirror image, transposed last: x is then y and y is x.

        It serves captions; the outlines are not mirrored.
        """

        def mirror(thing: SceneObject) -> SceneObject:
            left, top, right, bottom = thing.box
            x, y = thing.x, thing.y
            if horizontally:
                x, left, right = 1 - x, 1 - right, 1 - left
            if vertically:
                y, top, bottom = 1 - y, 1 - bottom, 1 - top
            if transposed:
                x, y, left, top, right, bottom = y, x, top, left, bottom, right
            return replace(thing, x=x, y=y, box=(left, top, right, bottom))

        return replace(self, objects=tuple(mirror(thing) for thing in self.objects))

    def as_dict(self) -> dict[str, Any]:
        """The whole truth, ready for JSON."""
        return asdict(self)
