"""Labels, boxes and masks as panels that one can look at."""

import colorsys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from PIL import Image, ImageDraw

from captioner.annotations import Annotations, Box, Label, Mask
from captioner.fonts import font_for
from captioner.heads.targets import decoded

Colour = tuple[int, int, int]

_COLOURS: tuple[Colour, ...] = (
    (230, 159, 0),
    (86, 180, 233),
    (0, 158, 115),
    (240, 228, 66),
    (0, 114, 178),
    (213, 94, 0),
    (204, 121, 167),
)
"""Told apart by people who are colour-blind, too (Okabe and Ito)."""
_NEXT_HUE = 0.618
_LETTERS = 14
_LINE = 20
_PAD = 3
"""Pixels round the letters of a tag."""
_LEAST_WIDTH = 224
"""Of panels: names need room beside a narrow image, too."""
_MOST_LABELS = 20
_OPAQUE = 0.6
"""Share of a mask's colour; the rest is the image in grey."""
_BAR = "#cfe3f3"

_Area = tuple[float, float, float, float]


def panels_of(
    found: Annotations, image: Image.Image, size: tuple[int, int]
) -> list[tuple[str, Image.Image]]:
    """Draw what was found in an image: a panel, with its title, of each kind that is known.

    Args:
        found: in pixels of the image.
        image: RGB.
        size: width and height of the image in the panels, which are larger where names need room.
    """
    small = image.resize(size, Image.Resampling.LANCZOS)
    names = [box.name for box in found.boxes or ()] + [mask.name for mask in found.masks or ()]
    colours = colours_of(names)
    panels = []
    if found.boxes is not None:
        scale = size[0] / image.width, size[1] / image.height
        panels.append(
            (_title("boxes", found.boxes), with_boxes(small, found.boxes, scale, colours))
        )
    if found.masks is not None:
        panels.append((_title("masks", found.masks), with_masks(small, found.masks, colours)))
    if found.labels is not None:
        panels.append((_title("labels", found.labels), label_list(found.labels, size[0])))
    return panels


def _title(kind: str, items: Sequence[object]) -> str:
    return kind if items else f"{kind}: none found"


def colours_of(names: Sequence[str]) -> dict[str, Colour]:
    """Return a colour for each class, the same one in all panels."""
    return {
        name: _COLOURS[n] if n < len(_COLOURS) else _further(n)
        for n, name in enumerate(sorted(set(names)))
    }


def _further(number: int) -> Colour:
    """Return one of endlessly many colours."""
    red, green, blue = colorsys.hsv_to_rgb(number * _NEXT_HUE % 1, 0.6, 0.9)
    return round(255 * red), round(255 * green), round(255 * blue)


def with_boxes(
    image: Image.Image,
    boxes: Sequence[Box],
    scale: tuple[float, float],
    colours: Mapping[str, Colour],
) -> Image.Image:
    """Draw boxes on an image, each with its name and probability; the surest are on top.

    Args:
        image: that is drawn on, a copy of it; if it is narrow, white is added on its right.
        boxes: in pixels of the original.
        scale: from the original's pixels to the image's, across and down.
        colours: of their names.
    """
    drawn = Image.new("RGB", (max(image.width, _LEAST_WIDTH), image.height), "white")
    drawn.paste(image)
    draw = ImageDraw.Draw(drawn)
    tags = _Tags(drawn)
    boxes = sorted(boxes, key=lambda box: box.probability)
    areas = [_area(box, scale) for box in boxes]
    for box, area in zip(boxes, areas, strict=True):
        colour = colours[box.name]
        outside = (area[0] - 1, area[1] - 1, area[2] + 1, area[3] + 1)
        draw.rectangle(outside, outline=_ink(colour), width=4)  # Seen on a ground of its colour.
        draw.rectangle(area, outline=colour, width=2)
    for box, area in reversed(list(zip(boxes, areas, strict=True))):
        tags.add(f"{box.name}  {box.probability:.2f}", area, colours[box.name])
    return drawn


def _area(box: Box, scale: tuple[float, float]) -> _Area:
    across, down = scale
    left, top = box.x * across, box.y * down
    # The last pixel that is drawn on is inside.
    right = max(left, (box.x + box.width) * across - 1)
    bottom = max(top, (box.y + box.height) * down - 1)
    return left, top, right, bottom


@dataclass
class _Tags:
    """Names beside boxes, where none of them hides another as long as there is room."""

    image: Image.Image
    taken: list[_Area] = field(default_factory=list)

    def add(self, text: str, area: _Area, colour: Colour) -> None:
        """Write a text at an area's upper edge, or else at its lower one, or inside."""
        draw = ImageDraw.Draw(self.image)
        font, text = font_for(text, _LETTERS)
        width, height = font.getlength(text) + 2 * _PAD, _LINE
        left, top, right, bottom = area
        lefts = (left, right - width)
        tops = (top - height, bottom + 1, top + 2, bottom - height - 1)
        places = [self._inside(x, y, width, height) for y in tops for x in lefts]
        place = next((p for p in places if not self._hides(p)), places[0])
        self.taken.append(place)
        draw.rectangle(place, fill=colour)
        draw.text((place[0] + _PAD, place[1] + 1), text, _ink(colour), font)

    def _inside(self, x: float, y: float, width: float, height: float) -> _Area:
        x = max(0, min(x, self.image.width - width))
        y = max(0, min(y, self.image.height - height))
        return x, y, x + width - 1, y + height - 1

    def _hides(self, place: _Area) -> bool:
        left, top, right, bottom = place
        return any(
            left <= other[2] and other[0] <= right and top <= other[3] and other[1] <= bottom
            for other in self.taken
        )


def _ink(colour: Colour) -> str:
    """Return what can be read on a colour: black or white."""
    red, green, blue = colour
    return "black" if 0.299 * red + 0.587 * green + 0.114 * blue > 128 else "white"


def with_masks(
    image: Image.Image, masks: Sequence[Mask], colours: Mapping[str, Colour]
) -> Image.Image:
    """Lay masks over an image in grey, of which no colour can be mistaken for theirs.

    Args:
        image: that is laid under, of any size.
        masks: of the original; where two hold a pixel the later one counts.
        colours: of their names.

    Returns:
        The image, and below it a legend.
    """
    grey = image.convert("L").convert("RGB")
    tinted = grey.copy()
    shown = [Image.fromarray(decoded(mask) * np.uint8(255)) for mask in masks]
    for mask, area in zip(masks, shown, strict=True):
        # Pixels at an edge are of both sides by their share: a thin part is not lost.
        share = area.resize(image.size, Image.Resampling.BOX)
        colour = Image.blend(grey, Image.new("RGB", image.size, colours[mask.name]), _OPAQUE)
        tinted.paste(colour, mask=share)
    return _above(
        tinted, _legend([mask.name for mask in masks], max(image.width, _LEAST_WIDTH), colours)
    )


def _legend(names: Sequence[str], width: int, colours: Mapping[str, Colour]) -> Image.Image:
    """Write names, each beside its colour, in as many lines as they need."""
    places: list[tuple[int, int, str]] = []
    x, line, side = 0, 0, _LETTERS
    for name in dict.fromkeys(names):
        font, text = font_for(name, _LETTERS)
        needed = side + 2 * _PAD + int(font.getlength(text)) + side
        if x and x + needed > width:
            x, line = 0, line + 1
        places.append((x, line * _LINE, name))
        x += needed
    legend = Image.new("RGB", (width, (line + 1) * _LINE if places else 0), "white")
    draw = ImageDraw.Draw(legend)
    for x, y, name in places:
        font, text = font_for(name, _LETTERS)
        draw.rectangle((x, y + _PAD, x + side, y + _PAD + side), colours[name], "black")
        draw.text((x + side + 2 * _PAD, y + 1), text, "black", font)
    return legend


def _above(upper: Image.Image, lower: Image.Image) -> Image.Image:
    size = max(upper.width, lower.width), upper.height + lower.height
    whole = Image.new("RGB", size, "white")
    whole.paste(upper, (0, 0))
    whole.paste(lower, (0, upper.height))
    return whole


def label_list(labels: Sequence[Label], width: int) -> Image.Image:
    """Write labels one below the other, the surest first, each on a bar as long as it is sure."""
    width = max(width, _LEAST_WIDTH)
    surest = sorted(labels, key=lambda label: -label.probability)
    shown = [(f"{item.name}  {item.probability:.2f}", item.probability) for item in surest]
    if more := len(shown) - _MOST_LABELS:
        shown = [*shown[:_MOST_LABELS], (f"and {more:,} more", 0.0)] if more > 0 else shown
    written = Image.new("RGB", (width, max(1, len(shown)) * (_LINE + 2)), "white")
    draw = ImageDraw.Draw(written)
    for number, (line, probability) in enumerate(shown):
        font, text = font_for(line, _LETTERS)
        y = number * (_LINE + 2)
        if probability:
            draw.rectangle((0, y, max(1.0, probability * (width - 1)), y + _LINE - 1), _BAR)
        draw.text((_PAD, y + 1), text, "black", font)
    return written
