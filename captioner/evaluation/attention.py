"""Whether attention falls on what is named, where the truth is known."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from captioner.contract import Captioner
from captioner.explain import Explanation, explain
from captioner.scenes import Scene, parse, render, samples
from captioner.scenes.outlines import mask

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
    of the grid is spread evenly over what it covers.

    Raises:
        ValueError: if no caption names an object as it is.
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
    caption, facts = explanation.caption, parse(explanation.caption.text)
    if facts is None or caption.attention is None:
        return
    after = 0
    for named in (facts.first, facts.second):
        at = caption.tokens.index(named[-1], after)
        after = at + 1
        things = [thing for thing in scene.objects if thing.attributes == named]
        if len(things) == 1:
            grid, thing = caption.attention[at].astype(np.float64), things[0]
            cell = np.ones((_CELL_PIXELS, _CELL_PIXELS))
            side = len(grid) * _CELL_PIXELS  # Scenes are square, and so is what is seen of them.
            area = mask(thing.shape, thing.rotation, thing.x, thing.y, thing.extent, side)
            yield np.kron(grid, cell) / cell.size, area
