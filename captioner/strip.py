"""A few words of a caption, each over what the model looked at: a picture to be seen small."""

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from captioner.explain import lit
from captioner.fonts import font_for

WIDTH = 1000
"""Of a strip, in pixels, however few words there are: so all of them are shown at one scale."""
COLUMNS = 4
MOST_BYTES = 150_000
_MARGIN = 8
PANEL = (WIDTH - _MARGIN) // COLUMNS - _MARGIN
"""Longest side of the image in a panel."""
_LETTERS, _LINE = 24, 34
_MARK = "#ffef99"
_QUALITIES = (85, 70, 50, 30, 10)


@dataclass(frozen=True, eq=False)
class Look:
    """Where a model looked for a word.

    Attributes:
        words: what is written below.
        weights: [height x width] of the strip's image, from 0 to 1.
        marked: whether the words stand on a coloured ground.
    """

    words: str
    weights: npt.NDArray[np.float32]
    marked: bool = False


def small(image: Image.Image) -> Image.Image:
    """Return a copy of an RGB image whose longest side is a panel's."""
    share = PANEL / max(image.size)
    size = max(1, round(image.width * share)), max(1, round(image.height * share))
    return image.resize(size, Image.Resampling.LANCZOS, reducing_gap=2.0)


def strip(image: Image.Image, looks: Sequence[Look]) -> Image.Image:
    """Draw panels side by side, ``COLUMNS`` in a row, each with its words below.

    Args:
        image: RGB, as ``small`` makes it.
        looks: at least one.
    """
    rows = math.ceil(len(looks) / COLUMNS)
    height = image.height + _LINE + _MARGIN
    drawn = Image.new("RGB", (WIDTH, _MARGIN + rows * height), "white")
    draw = ImageDraw.Draw(drawn)
    for number, look in enumerate(looks):
        x = _MARGIN + number % COLUMNS * (PANEL + _MARGIN)
        y = _MARGIN + number // COLUMNS * height
        drawn.paste(lit(image, look.weights), (x + (PANEL - image.width) // 2, y))
        font, words = font_for(look.words, _LETTERS)
        middle, ends = x + PANEL / 2, min(PANEL, font.getlength(words) + 2 * _MARGIN) / 2
        if look.marked:
            area = (middle - ends, y + image.height + 1, middle + ends, y + height - _MARGIN)
            draw.rectangle(area, _MARK)
        draw.text((middle, y + image.height + 2), words, "black", font, anchor="ma")
    return drawn


def without_looks(words: str) -> Image.Image:
    """Draw what stands in a strip's place where there is none: these words."""
    drawn = Image.new("RGB", (WIDTH, _LINE + 2 * _MARGIN), "white")
    font, words = font_for(words, _LETTERS)
    ImageDraw.Draw(drawn).text((_MARGIN, _MARGIN), words, "black", font)
    return drawn


def as_jpeg(drawn: Image.Image) -> bytes:
    """Return a strip as JPEG, in the best quality that takes no more than ``MOST_BYTES``."""
    data = b""
    for quality in _QUALITIES:
        output = io.BytesIO()
        drawn.save(output, "JPEG", quality=quality)
        data = output.getvalue()
        if len(data) <= MOST_BYTES:
            break
    return data
