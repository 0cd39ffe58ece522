"""Whether attention falls on what is named, where the truth is known."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from captioner.contract import Captioner
from captioner.explain import Explanation, explain
from captioner.scenes import Scene, render, samples
from captioner.scenes.languages import LANGUAGES, Attributes, Language
from captioner.scenes.outlines import mask
from captioner.tokenizer import readable

_CELL_PIXELS = 16


@dataclass(frozen=True)
class AttentionOnShapes:
    """Where the words for shapes look.

    Attributes:
        words: how many words were looked at: the shapes of objects that are named as they are.
        inside: mean share of a word's attention within the mask of its object.
        chance: mean share of the image that such a mask covers: the attention that falls on it
            when it is spread evenly.
    """

    words: int
    inside: float
    chance: float


def attention_on_shapes(captioner: Captioner, first_seed: int, count: int) -> AttentionOnShapes:
    """Hold the attention of each shape's word against that shape's mask.

    A mask is the whole outline, also where another object hides it. The attention of a position
    of the grid is spread evenly over what it covers. Of a word of several tokens it is their mean.

    Raises:
        ValueError: if no caption names an object as it is, or the tokens do not spell the caption.
        NoAttentionError: if the captioner does not tell where it looked.
    """
    shares = [
        (float((weights * inside).sum()), float(inside.mean()))
        for scene in samples(first_seed, count)
        for weights, inside in _named(scene, explain(captioner, render(scene)))
    ]
    if not shares:
        raise ValueError("no caption names an object as it is; train the model first")
    inside, chance = np.mean(shares, axis=0)
    return AttentionOnShapes(len(shares), float(inside), float(chance))


def _named(
    scene: Scene, explanation: Explanation
) -> Iterator[tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]]:
    """Yield attention, which sums to 1, and mask of each object that is named without a twin."""
    caption = explanation.caption
    read = _read(caption.text)
    if read is None or caption.attention is None:
        return
    language, both = read
    text = language.normal(caption.text)
    places = _places(caption.tokens, text)
    end = 0
    for named in both:
        name = language.name(named)
        end = text.index(name, end) + len(name)
        begin = end - len(language.words[named[-1]])  # The shape is what a name ends with.
        said = [i for i, (left, right) in enumerate(places) if left < end and right > begin]
        if not said:
            raise ValueError(
                f"no token spells {text[begin:end]!r} in {text!r}: {caption.tokens}; "
                "measure a model whose tokens are words or whole characters"
            )
        things = [thing for thing in scene.objects if thing.attributes == named]
        if len(things) == 1:
            grid, thing = caption.attention[said].mean(0, dtype=np.float64), things[0]
            cell = np.ones((_CELL_PIXELS, _CELL_PIXELS))
            side = len(grid) * _CELL_PIXELS  # Scenes are square, and so is what is seen of them.
            area = mask(thing.shape, thing.rotation, thing.x, thing.y, thing.extent, side)
            yield np.kron(grid, cell) / cell.size, area


def _read(caption: str) -> tuple[Language, tuple[Attributes, Attributes]] | None:
    """Return what language a caption is in, and the two objects that it names."""
    for language in LANGUAGES.values():
        if (said := language.read(caption)) is not None:
            first, _, second, _ = said
            return language, (first, second)
    return None


def _places(tokens: Sequence[str], text: str) -> list[tuple[int, int]]:
    """Find from and to which character each token stands; what is no text stands nowhere."""
    places, at = [], 0
    for token in tokens:
        shown = readable(token).lower()
        found = text.find(shown, at)
        if found >= 0:
            at = found + len(shown)
        places.append((found, at) if found >= 0 else (0, 0))
    return places
