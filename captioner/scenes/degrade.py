"""Scenes that are harder to read than a model is used to, so that it errs more often.

What is true of a scene stays true: of a degraded picture it is just less plain to see.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageFilter

NONE = "none"
"""The name for a picture that is left as it is."""

_STREAM = 2
"""Sets these random numbers apart from others of the same seed: the scene's, and its noise."""
_NOISE = 90.0
_BLUR = 0.03
_OCCLUSION = 0.4


@dataclass(frozen=True)
class Degradation:
    """What is done to a picture.

    Attributes:
        kind: ``none``, or a name in ``DEGRADATIONS``.
        strength: from 0, which changes nothing, to 1.
    """

    kind: str = NONE
    strength: float = 0.0

    def __post_init__(self) -> None:
        """Check the values; ``ValueError`` if the kind is unknown or the strength out of range."""
        if self.kind != NONE and self.kind not in DEGRADATIONS:
            raise ValueError(f"kind is {self.kind!r}; use one of {NONE}, {', '.join(DEGRADATIONS)}")
        if not 0 <= self.strength <= 1:
            raise ValueError(f"strength is {self.strength}; use a number from 0 to 1")


def draw_degradation(seed: int) -> Degradation:
    """Draw what is done to the scene of a seed: nothing or one of each kind, equally often.

    The strength is drawn evenly from 0 to 1. The same seed draws the same on every machine.
    """
    rng = np.random.default_rng((seed, _STREAM))
    kind = (NONE, *DEGRADATIONS)[rng.integers(1 + len(DEGRADATIONS))]
    strength = float(rng.uniform(0, 1))
    return Degradation(kind, 0.0 if kind == NONE else strength)


def degrade(image: Image.Image, degradation: Degradation, seed: int) -> Image.Image:
    """Return a degraded copy of an RGB picture of any size.

    Args:
        image: the picture.
        degradation: what is done to it.
        seed: of the noise, and of where the picture is hidden.
    """
    if degradation.kind == NONE or degradation.strength == 0:
        return image.copy()
    rng = np.random.default_rng((seed, _STREAM, 1))
    return DEGRADATIONS[degradation.kind](image, degradation.strength, rng)


def noise(image: Image.Image, strength: float, rng: np.random.Generator) -> Image.Image:
    """Add Gaussian noise to each value; its standard deviation is 90 levels at strength 1."""
    pixels = np.asarray(image, np.float32)
    pixels = pixels + strength * _NOISE * rng.standard_normal(pixels.shape, np.float32)
    return Image.fromarray(np.clip(np.rint(pixels), 0, 255).astype(np.uint8))


def blur(image: Image.Image, strength: float, rng: np.random.Generator) -> Image.Image:
    """Blur by a Gaussian; its standard deviation is 3% of the longer side at strength 1."""
    return image.filter(ImageFilter.GaussianBlur(strength * _BLUR * max(image.size)))


def occlude(image: Image.Image, strength: float, rng: np.random.Generator) -> Image.Image:
    """Hide a rectangle behind an even grey; it is 40% of the picture at strength 1."""
    area = strength * _OCCLUSION
    ratio = np.exp(rng.uniform(-0.5, 0.5))
    width, height = (
        max(1, min(side, round(side * share)))
        for side, share in zip(
            image.size, (np.sqrt(area * ratio), np.sqrt(area / ratio)), strict=True
        )
    )
    left = int(rng.integers(0, image.width - width + 1))
    top = int(rng.integers(0, image.height - height + 1))
    hidden = image.copy()
    hidden.paste((int(rng.integers(0, 256)),) * 3, (left, top, left + width, top + height))
    return hidden


DEGRADATIONS: Mapping[str, Callable[[Image.Image, float, np.random.Generator], Image.Image]] = {
    "noise": noise,
    "blur": blur,
    "occlusion": occlude,
}
"""The kinds of degradation, by name."""
