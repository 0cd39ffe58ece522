"""Attention one can look at: each word of a caption over what the model looked at to say it.

What the heads of a model found, and where they looked, is shown below the words.
"""

import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from captioner.annotations import Annotations
from captioner.contract import Caption, Captioner, Prepared
from captioner.drawing import panels_of
from captioner.fonts import font_for
from captioner.model import AttentionCaptioner
from captioner.tokenizer import readable

_PANEL = 224
_COLUMNS = 6
_MARGIN = 8
_LINE = 22
_TITLE, _WORDS = 17, 14
"""Sizes of letters, in pixels."""
_DIMMED = 0.3
_END = "<end>"


class NoAttentionError(Exception):
    """A model that does not tell where it looked."""


@dataclass(frozen=True, eq=False)
class Explanation:
    """A caption and where the model looked, and what its heads found.

    Attributes:
        image: the original, upright, or a smaller copy of it.
        caption: what was said of it, with its attention [tokens x grid height x grid width].
        region: left, top, right and bottom of what the grid covers, in pixels of the image.
        head_attention: where each head looked, by its name, [grid height x grid width]: what a
            gate let through, from 0 to 1, or weights that sum to 1. Empty without heads.
    """

    image: Image.Image
    caption: Caption
    region: tuple[float, float, float, float]
    head_attention: Mapping[str, npt.NDArray[np.float32]] = field(default_factory=dict)

    @property
    def annotations(self) -> Annotations | None:
        """Labels, boxes and masks that were found; None of a model without heads."""
        return self.caption.annotations

    def maps(self, width: int, height: int) -> npt.NDArray[np.float32]:
        """Spread the attention over the whole image.

        Args:
            width: of the maps, in pixels.
            height: likewise.

        Returns:
            [tokens x height x width], from 0 to the highest of each token, which is 1; 0 where
            the model did not see the image.
        """
        return self._spread(list(self._attention()), width, height)

    def head_maps(self, width: int, height: int) -> dict[str, npt.NDArray[np.float32]]:
        """Spread the attention of heads over the whole image, each [height x width], as ``maps``.

        Args:
            width: of the maps, in pixels.
            height: likewise.
        """
        if not self.head_attention:
            return {}
        spread = self._spread(list(self.head_attention.values()), width, height)
        return dict(zip(self.head_attention, spread, strict=True))

    def draw(self) -> Image.Image:
        """Draw the image with its caption, and then each word over what was looked at.

        Below come panels of what the heads found and where they looked, if there are heads.
        """
        scale = _PANEL / max(self.image.size)
        width, height = (max(1, round(side * scale)) for side in self.image.size)
        small = self.image.resize((width, height), Image.Resampling.LANCZOS)
        panels = [("", small)]
        spoken = zip(
            self.caption.tokens,
            self.caption.token_logprobs,
            self.maps(width, height),
            strict=True,
        )
        for token, logprob, weights in spoken:
            if token != _END:
                panels.append((f"{readable(token)}  {math.exp(logprob):.2f}", lit(small, weights)))
        sheet = _sheet(self.caption.text, panels)
        findings = self._findings(small)
        return _with_rows(sheet, findings) if findings else sheet

    def _findings(self, small: Image.Image) -> list[tuple[str, Image.Image]]:
        """Draw what the heads found, at twice the size of words' panels, and where they looked."""
        if self.annotations is None:
            return []
        width, height = small.size
        twice = 2 + _MARGIN / _PANEL  # The margin between two words' panels is filled, too.
        size = round(width * twice), round(height * twice)
        looked = [
            (f"where {name} looked", lit(small, weights))
            for name, weights in self.head_maps(width, height).items()
        ]
        return [*panels_of(self.annotations, self.image, size), *looked]

    def _spread(
        self, attention: Sequence[npt.NDArray[np.float32]], width: int, height: int
    ) -> npt.NDArray[np.float32]:
        across, down = width / self.image.width, height / self.image.height
        left, top, right, bottom = (
            round(edge * scale)
            for edge, scale in zip(self.region, (across, down, across, down), strict=True)
        )
        maps = []
        for weights in attention:
            seen = Image.fromarray(weights / (weights.max() or 1))
            seen = seen.resize(
                (max(1, right - left), max(1, bottom - top)), Image.Resampling.BICUBIC
            )
            whole = Image.new("F", (width, height))
            whole.paste(seen, (left, top))
            maps.append(np.asarray(whole, np.float32).clip(0, 1))
        return np.stack(maps)

    def _attention(self) -> npt.NDArray[np.float32]:
        assert self.caption.attention is not None, "explain made sure of it"
        return self.caption.attention


def explain(captioner: Captioner, image: Image.Image) -> Explanation:
    """Caption an RGB image and tell where the model looked at each word.

    Raises:
        NoAttentionError: if the model does not tell.
    """
    prepared = captioner.prepare(image)
    (found,) = explain_prepared(captioner, [prepared], [image])
    looked = {}
    if isinstance(captioner, AttentionCaptioner) and found.annotations is not None:
        looked = captioner.head_attention(prepared)
    return replace(found, head_attention=looked)


def explain_prepared(
    captioner: Captioner, prepared: Sequence[Prepared], images: Sequence[Image.Image]
) -> list[Explanation]:
    """Caption a batch and tell where the model looked at each word, but not where heads did.

    Args:
        captioner: the model.
        prepared: images as the model takes them.
        images: each in RGB, upright, to be drawn on: the original or a smaller copy.

    Returns:
        One for each image, in order, whose region is in pixels of the image that was given.

    Raises:
        NoAttentionError: if the model does not tell.
    """
    captions = captioner.caption(prepared)
    if any(caption.attention is None for caption in captions):
        raise NoAttentionError(
            f"model {captioner.model_id} does not tell where it looks; use one of this project's"
        )
    return [
        Explanation(image, caption, _region(item, image.size))
        for item, image, caption in zip(prepared, images, captions, strict=True)
    ]


def _region(prepared: Prepared, size: tuple[int, int]) -> tuple[float, float, float, float]:
    """Return what of an image of this size the model saw: left, top, right and bottom."""
    height, width = prepared.pixels.shape[:2]
    way = prepared.geometry
    across, down = size[0] / way.width, size[1] / way.height
    return (
        -way.offset_x / way.scale_x * across,
        -way.offset_y / way.scale_y * down,
        (width - way.offset_x) / way.scale_x * across,
        (height - way.offset_y) / way.scale_y * down,
    )


def lit(image: Image.Image, weights: npt.NDArray[np.float32]) -> Image.Image:
    """Show an image as it is where the weights are 1, and dim and grey where they are 0.

    Args:
        image: RGB.
        weights: [height x width] of the image, from 0 to 1.
    """
    dim = Image.blend(Image.new("L", image.size, "white"), image.convert("L"), _DIMMED)
    share = Image.fromarray(np.rint(weights * 255).astype(np.uint8))
    return Image.composite(image, dim.convert("RGB"), share)


def _sheet(title: str, panels: list[tuple[str, Image.Image]]) -> Image.Image:
    """Lay out panels in rows under a title, each with its words below it."""
    width, height = panels[0][1].size
    columns = min(_COLUMNS, len(panels))
    rows = math.ceil(len(panels) / columns)
    across = columns * (width + _MARGIN) + _MARGIN
    font, title = font_for(title, _TITLE)
    letter = max(9.0, font.getlength(title) / max(1, len(title)))  # Chinese ones are wide.
    lines = textwrap.wrap(title, max(8, int(across / letter))) or [""]
    top = _MARGIN + len(lines) * _LINE
    sheet = Image.new("RGB", (across, top + rows * (height + _LINE + _MARGIN)), "white")
    draw = ImageDraw.Draw(sheet)
    for number, line in enumerate(lines):
        draw.text((_MARGIN, _MARGIN + number * _LINE), line, "black", font)
    for number, (words, panel) in enumerate(panels):
        x = _MARGIN + number % columns * (width + _MARGIN)
        y = top + _MARGIN + number // columns * (height + _LINE + _MARGIN)
        sheet.paste(panel, (x, y))
        font, words = font_for(words, _WORDS)
        draw.text((x + width / 2, y + height + 2), words, "black", font, anchor="ma")
    return sheet


def _with_rows(sheet: Image.Image, panels: Sequence[tuple[str, Image.Image]]) -> Image.Image:
    """Put panels of any size under a sheet, in as many rows as they need, each under its title."""
    needed = [
        math.ceil(max(panel.width, font_for(title, _WORDS)[0].getlength(title)))
        for title, panel in panels
    ]
    width = max(sheet.width, max(needed) + 2 * _MARGIN)
    places = []
    x, y, below = _MARGIN, sheet.height + _MARGIN, 0
    for (_, panel), own in zip(panels, needed, strict=True):
        if x > _MARGIN and x + own + _MARGIN > width:
            x, y = _MARGIN, below
        places.append((x, y))
        below = max(below, y + _LINE + panel.height + _MARGIN)
        x += own + _MARGIN
    whole = Image.new("RGB", (width, below), "white")
    whole.paste(sheet, (0, 0))
    draw = ImageDraw.Draw(whole)
    for (title, panel), (x, y) in zip(panels, places, strict=True):
        font, title = font_for(title, _WORDS)
        draw.text((x, y), title, "black", font)
        whole.paste(panel, (x, y + _LINE))
    return whole
