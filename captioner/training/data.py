"""Scenes made ready to train on: rendered once, in memory, with captions of every mirror image."""

from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import product
from multiprocessing import get_context

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from captioner.model import prepare
from captioner.scenes import captions, render, sample
from captioner.scenes.grammar import PHRASES, describe
from captioner.scenes.world import COLOURS, MAX_OBJECTS, SHAPES, SIZES, TEXTURES
from captioner.tokenizer import WordTokenizer

MIRRORS = tuple(product((False, True), repeat=3))
"""Horizontally, vertically, transposed: every shape's mirror image is again that shape."""
ATTRIBUTES: tuple[tuple[str, ...], ...] = (tuple(SIZES), TEXTURES, tuple(COLOURS), SHAPES)
MAX_TOKENS = 24
_CHUNK = 250


@dataclass
class SceneData:
    """Scenes as arrays; s scenes.

    Attributes:
        pixels: [s x size x size x 3], uint8.
        tokens: captions of each mirror image, [s x mirrors x captions x tokens], uint8, padded.
        objects: which object each of those tokens is about, as ``tokens``, int8; -1 is none.
        centres: of each object, x and y from 0 to 1, [s x objects x 2]; NaN where there is none.
        attributes: which of each of ``ATTRIBUTES``, [s x objects x 4]; -1 where there is none.
    """

    pixels: npt.NDArray[np.uint8]
    tokens: npt.NDArray[np.uint8]
    objects: npt.NDArray[np.int8]
    centres: npt.NDArray[np.float32]
    attributes: npt.NDArray[np.int8]

    def __len__(self) -> int:
        """How many scenes there are."""
        return len(self.pixels)


@dataclass
class Batch:
    """A part of the data, one caption a scene, as ``SceneData`` without mirrors and captions."""

    pixels: npt.NDArray[np.uint8]
    tokens: npt.NDArray[np.int64]
    objects: npt.NDArray[np.int64]
    centres: npt.NDArray[np.float32]
    attributes: npt.NDArray[np.int64]


def scene_tokenizer(first_seed: int, count: int = 2000) -> WordTokenizer:
    """Learn the words of the grammar from the captions of some scenes."""
    return WordTokenizer.train(
        text for seed in range(first_seed, first_seed + count) for text in captions(sample(seed))
    )


def relation_weights(tokenizer: WordTokenizer, weight: float) -> Tensor:
    """Let the words that relate two objects count more than others: few, and hardest to learn."""
    words = " ".join(phrase for phrases in PHRASES.values() for phrase in phrases)
    weights = torch.ones(len(tokenizer))
    weights[tokenizer.encode([words])[0]] = weight
    return weights


def render_scenes(
    first_seed: int, count: int, *, image_size: int, tokenizer: WordTokenizer, workers: int
) -> SceneData:
    """Render scenes at full size, bring them to the model's, and write their captions."""
    words = tokenizer.to_json()
    starts = range(first_seed, first_seed + count, _CHUNK)
    jobs = [(start, min(_CHUNK, first_seed + count - start)) for start in starts]
    make = partial(_render_chunk, image_size=image_size, words=words)
    pixels = np.empty((count, image_size, image_size, 3), np.uint8)
    rest = []
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        for (start, size), chunk in zip(jobs, pool.map(make, jobs), strict=True):
            pixels[start - first_seed : start - first_seed + size] = chunk.pixels
            rest.append((chunk.tokens, chunk.objects, chunk.centres, chunk.attributes))
    tokens, objects, centres, attributes = map(np.concatenate, zip(*rest, strict=True))
    return SceneData(pixels, tokens, objects, centres, attributes)


def _render_chunk(job: tuple[int, int], *, image_size: int, words: str) -> SceneData:
    first_seed, count = job
    tokenizer = WordTokenizer.from_json(words)
    scenes = [sample(seed) for seed in range(first_seed, first_seed + count)]
    said = [
        description
        for scene in scenes
        for across, down, turn in MIRRORS
        for description in describe(
            scene.mirrored(horizontally=across, vertically=down, transposed=turn)
        )
    ]
    tokens = np.full((len(said), MAX_TOKENS), tokenizer.pad, np.uint8)
    for row, ids in zip(tokens, tokenizer.encode([item.text for item in said]), strict=True):
        row[: len(ids) + 2] = (tokenizer.start, *ids, tokenizer.end)
    objects = _objects_looked_at(tokens, np.array([item.objects for item in said]), tokenizer)
    centres = np.full((count, MAX_OBJECTS, 2), np.nan, np.float32)
    attributes = np.full((count, MAX_OBJECTS, len(ATTRIBUTES)), -1, np.int8)
    for i, scene in enumerate(scenes):
        for j, thing in enumerate(scene.objects):
            centres[i, j] = thing.x, thing.y
            attributes[i, j] = [
                names.index(name) for names, name in zip(ATTRIBUTES, thing.attributes, strict=True)
            ]
    return SceneData(
        np.stack([prepare(render(scene), image_size).pixels for scene in scenes]),
        tokens.reshape(count, len(MIRRORS), -1, MAX_TOKENS),
        objects.reshape(count, len(MIRRORS), -1, MAX_TOKENS),
        centres,
        attributes,
    )


def _objects_looked_at(
    tokens: npt.NDArray[np.uint8], pairs: npt.NDArray[np.int64], tokenizer: WordTokenizer
) -> npt.NDArray[np.int8]:
    """Tell for each token which object to look at as it is said.

    It is the first object while that is named, and the second one from then on: who says how the
    two lie to each other has to look at the second before it is named.

    Args:
        tokens: of captions, [c x tokens].
        pairs: the two objects of each caption, [c x 2].
        tokenizer: knows the tokens.
    """
    words = " ".join(word for names in ATTRIBUTES for word in names)
    attribute = np.isin(tokens, tokenizer.encode([words])[0])
    said = attribute.cumsum(1)
    first = attribute & (said <= len(ATTRIBUTES))
    second = ~first & (said >= len(ATTRIBUTES)) & ~np.isin(tokens, (tokenizer.pad, tokenizer.end))
    return np.select([first, second], [pairs[:, :1], pairs[:, 1:]], -1).astype(np.int8)


def batches(data: SceneData, size: int, rng: np.random.Generator) -> Iterator[Batch]:
    """Go through the scenes once in random order, each mirrored at random.

    Scenes of a batch differ in mirror and caption; what is left over of the last batch is dropped.
    """
    order = rng.permutation(len(data))
    for start in range(0, len(order) - size + 1, size):
        rows = order[start : start + size]
        pixels, centres = data.pixels[rows], data.centres[rows]
        mirror = rng.integers(len(MIRRORS), size=size)
        for number, (across, down, turn) in enumerate(MIRRORS):
            chosen = mirror == number
            part, points = pixels[chosen], centres[chosen]
            if across:
                part, points[..., 0] = part[:, :, ::-1], 1 - points[..., 0]
            if down:
                part, points[..., 1] = part[:, ::-1], 1 - points[..., 1]
            if turn:
                part, points = part.swapaxes(1, 2), points[..., ::-1]
            pixels[chosen], centres[chosen] = part, points
        said = rng.integers(data.tokens.shape[2], size=size)
        tokens = data.tokens[rows, mirror, said].astype(np.int64)
        objects = data.objects[rows, mirror, said].astype(np.int64)
        longest = int((tokens != 0).sum(1).max())
        attributes = data.attributes[rows].astype(np.int64)
        yield Batch(pixels, tokens[:, :longest], objects[:, :longest], centres, attributes)
