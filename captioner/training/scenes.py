"""Scenes made ready to train on: rendered once, in memory, with captions of every mirror image."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, fields
from functools import partial
from itertools import product
from multiprocessing import get_context

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from captioner.heads.targets import NO_OBJECT, HeadTargets
from captioner.model import prepare
from captioner.scenes import Scene, captions, render, samples, truth
from captioner.scenes.combinations import shows_held_out
from captioner.scenes.grammar import Description, describe
from captioner.scenes.languages import ATTRIBUTES
from captioner.scenes.world import MAX_OBJECTS
from captioner.tokenizer import CaptionTokenizer
from captioner.training.batch import Batch

MIRRORS = tuple(product((False, True), repeat=3))
"""Horizontally, vertically, transposed: every shape's mirror image is again that shape."""
MAX_TOKENS = 40
"""Of a caption in the language that needs most, start and end included."""
_CHUNK = 250
_Pixels = npt.NDArray[np.uint8]


@dataclass
class SceneData:
    """Scenes as arrays; s scenes.

    Attributes:
        pixels: [s x size x size x 3], uint8.
        tokens: captions of each mirror image, those of one language following each other, padded,
            [s x mirrors x captions x tokens]; uint8, or uint16 where there are too many words.
        objects: which object each of those tokens is about, as ``tokens``, int8; -1 is none.
        relations: from and to which token each caption says how the two objects lie,
            [s x mirrors x captions x 2], uint8.
        centres: of each object, x and y from 0 to 1, [s x objects x 2]; NaN where there is none.
        attributes: which of each of ``ATTRIBUTES``, [s x objects x 4]; -1 where there is none.
        targets: what heads are to say of them; None where there are none.
        pad: the padding token.
    """

    pixels: npt.NDArray[np.uint8]
    tokens: npt.NDArray[np.unsignedinteger]
    objects: npt.NDArray[np.int8]
    relations: npt.NDArray[np.uint8]
    centres: npt.NDArray[np.float32]
    attributes: npt.NDArray[np.int8]
    targets: "SceneTargets | None"
    pad: int

    def __len__(self) -> int:
        """How many scenes there are."""
        return len(self.pixels)


@dataclass
class SceneTargets:
    """What heads are to say of scenes; s scenes.

    Attributes:
        labels: whether each of ``truth.LABELS`` is seen, [s x labels], bool.
        boxes: of each object, left, top, right and bottom from 0 to 1, [s x objects x 4]; 0 where
            there is none.
        classes: which of ``truth.BOXES`` each object is, [s x objects], int8; -1 is none.
        masks: the class of each pixel, 0 for the background, then those of ``truth.MASKS``,
            [s x size x size], uint8.
    """

    labels: npt.NDArray[np.bool_]
    boxes: npt.NDArray[np.float32]
    classes: npt.NDArray[np.int8]
    masks: npt.NDArray[np.uint8]

    @classmethod
    def of(cls, scenes: Sequence[Scene], size: int) -> "SceneTargets":
        """Take the truth of scenes, for pictures of ``size`` pixels a side."""
        targets = HeadTargets.of(
            [truth.annotations(scene, size) for scene in scenes],
            [(size, size)] * len(scenes),
            labels=truth.LABELS,
            boxes=truth.BOXES,
            masks=truth.MASKS,
            image_size=size,
        )
        boxes = np.zeros((len(scenes), MAX_OBJECTS, 4), np.float32)
        classes = np.full((len(scenes), MAX_OBJECTS), NO_OBJECT, np.int8)
        most = targets.classes.shape[1]
        boxes[:, :most], classes[:, :most] = targets.boxes.numpy(), targets.classes.numpy()
        return cls(
            targets.labels.numpy() > 0, boxes, classes, targets.masks.numpy().astype(np.uint8)
        )

    @classmethod
    def joined(cls, parts: Sequence["SceneTargets"]) -> "SceneTargets":
        """Join those of some scenes and of others."""
        names = [field.name for field in fields(cls)]
        return cls(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))


@dataclass(frozen=True, kw_only=True)
class SceneBatch(Batch):
    """Scenes, one caption each, with the truth about them.

    Attributes:
        objects: which object each token is about, as ``tokens``, int64; -1 is none.
        relating: which tokens say how the two objects lie, as ``tokens``, bool.
        centres: of each object, x and y from 0 to 1, [b x objects x 2]; NaN where there is none.
        attributes: which of each of ``ATTRIBUTES``, [b x objects x 4]; -1 where there is none.
    """

    objects: Tensor
    relating: Tensor
    centres: Tensor
    attributes: Tensor


def scene_tokenizer(
    first_seed: int, count: int = 500, languages: Sequence[str] = ("en",)
) -> CaptionTokenizer:
    """Learn the words of the grammar from the captions of some scenes.

    Raises:
        ValueError: if the grammar does not know a language.
    """
    return CaptionTokenizer.train(
        (
            text
            for scene in samples(first_seed, count)
            for language in languages
            for text in captions(scene, language)
        ),
        languages=languages,
    )


def render_scenes(
    first_seed: int,
    count: int,
    *,
    image_size: int,
    tokenizer: CaptionTokenizer,
    workers: int,
    hold_out: bool = False,
    targets: bool = False,
) -> SceneData:
    """Render scenes at full size, bring them to the model's, and write their captions.

    Args:
        first_seed: of the first scene; the others follow.
        count: how many scenes.
        image_size: side of the model's pictures, in pixels.
        tokenizer: for the words; captions are written in each of the languages it has by name.
        workers: processes that render.
        hold_out: skip scenes that show a colour and a shape of ``HELD_OUT``.
        targets: whether to tell what heads are to say, too.
    """
    make = partial(
        _render_chunk,
        image_size=image_size,
        words=tokenizer.to_json(),
        hold_out=hold_out,
        targets=targets,
    )
    pixels = np.empty((count, image_size, image_size, 3), np.uint8)
    rest = []
    known: list[SceneTargets] = []
    made, seed = 0, first_seed
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        while made < count:  # As many seeds as scenes are wanted; what was skipped is made up for.
            end = seed + count - made
            jobs = [(start, min(_CHUNK, end - start)) for start in range(seed, end, _CHUNK)]
            for chunk in filter(None, pool.map(make, jobs)):
                pixels[made : made + len(chunk)] = chunk.pixels
                made += len(chunk)
                if chunk.targets is not None:
                    known.append(chunk.targets)
                rest.append(
                    (chunk.tokens, chunk.objects, chunk.relations, chunk.centres, chunk.attributes)
                )
            seed = end
    tokens, objects, relations, centres, attributes = map(np.concatenate, zip(*rest, strict=True))
    return SceneData(
        pixels,
        tokens,
        objects,
        relations,
        centres,
        attributes,
        SceneTargets.joined(known) if targets else None,
        tokenizer.pad,
    )


def _render_chunk(
    job: tuple[int, int], *, image_size: int, words: str, hold_out: bool, targets: bool
) -> SceneData | None:
    tokenizer = CaptionTokenizer.from_json(words)
    scenes = [scene for scene in samples(*job) if not (hold_out and shows_held_out(scene))]
    if not scenes:
        return None
    shape = (len(scenes), len(MIRRORS), -1)
    tokens, objects, relations = _said(scenes, tokenizer)
    centres = np.full((len(scenes), MAX_OBJECTS, 2), np.nan, np.float32)
    attributes = np.full((len(scenes), MAX_OBJECTS, len(ATTRIBUTES)), -1, np.int8)
    for i, scene in enumerate(scenes):
        for j, thing in enumerate(scene.objects):
            centres[i, j] = thing.x, thing.y
            attributes[i, j] = [
                names.index(name) for names, name in zip(ATTRIBUTES, thing.attributes, strict=True)
            ]
    pixels = [prepare(render(scene), image_size).pixels for scene in scenes]
    return SceneData(
        np.stack(pixels),
        tokens.reshape(*shape, MAX_TOKENS),
        objects.reshape(*shape, MAX_TOKENS),
        relations.reshape(*shape, 2),
        centres,
        attributes,
        SceneTargets.of(scenes, image_size) if targets else None,
        tokenizer.pad,
    )


def _said(
    scenes: Sequence[Scene], tokenizer: CaptionTokenizer
) -> tuple[npt.NDArray[np.unsignedinteger], npt.NDArray[np.int8], npt.NDArray[np.uint8]]:
    """Write the captions of all mirror images, c of them: tokens, objects and relations.

    As a token is said, one is to look at the first object while that is named, and at the second
    from then on: who says how the two lie to each other has to look at the second before it is
    named.

    Returns:
        [c x tokens], [c x tokens] and [c x 2], as in ``SceneData``.
    """
    said: list[tuple[str, Description]] = [
        (language, description)
        for scene in scenes
        for across, down, turn in MIRRORS
        for mirror in [scene.mirrored(horizontally=across, vertically=down, transposed=turn)]
        for language in tokenizer.languages
        for description in describe(mirror, language)
    ]
    texts = list({description.text for _, description in said})  # Many mirrors say the same.
    pieces = zip(tokenizer.encode(texts), tokenizer.offsets(texts), strict=True)
    encoded = dict(zip(texts, pieces, strict=True))
    tokens = np.full((len(said), MAX_TOKENS), tokenizer.pad, np.min_scalar_type(len(tokenizer) - 1))
    places = np.full((len(said), MAX_TOKENS, 2), -1)  # Start, end and padding lie nowhere.
    for row, (language, description) in enumerate(said):
        ids, offsets = encoded[description.text]
        tokens[row, : len(ids) + 2] = (tokenizer.start_of(language), *ids, tokenizer.end)
        places[row, 1 : len(ids) + 1] = offsets
    pairs, spans, phrases = (
        np.array([getattr(description, name) for _, description in said])
        for name in ("objects", "spans", "relation")
    )
    first = _overlap(places, spans[:, 0])
    second = ~first & (places[..., 0] >= spans[:, :1, 1])
    objects = np.select([first, second], [pairs[:, :1], pairs[:, 1:]], -1)
    relating = _overlap(places, phrases)
    begin = relating.argmax(1)
    relations = np.stack([begin, begin + relating.sum(1)], 1)
    return tokens, objects.astype(np.int8), relations.astype(np.uint8)


def _overlap(places: npt.NDArray[np.int64], span: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """Tell which tokens, at places [c x tokens x 2], have a character of a span [c x 2]."""
    return (places[..., 0] < span[:, 1:]) & (places[..., 1] > span[:, :1])


@dataclass(frozen=True)
class SceneBatches:
    """Goes through scenes in random order, each mirrored at random, with one of its captions.

    Attributes:
        data: the scenes.
        size: scenes a batch; what is left over of the last one is dropped.
        seed: decides order, mirrors and captions.
    """

    data: SceneData
    size: int
    seed: int

    def __len__(self) -> int:
        """How many batches a pass has."""
        return len(self.data) // self.size

    def batches(self, epoch: int, first: int = 0) -> Iterator[SceneBatch]:
        """Yield the batches of a pass from number ``first`` on, the same ones every time."""
        order = np.random.default_rng((self.seed, epoch)).permutation(len(self.data))
        for number in range(first, len(self)):
            rng = np.random.default_rng((self.seed, epoch, number))
            yield self._batch(order[number * self.size : (number + 1) * self.size], rng)

    def _batch(self, rows: npt.NDArray[np.int64], rng: np.random.Generator) -> SceneBatch:
        data = self.data
        pixels, centres = data.pixels[rows], data.centres[rows]
        mirror = rng.integers(len(MIRRORS), size=len(rows))
        for number, (across, down, turn) in enumerate(MIRRORS):
            chosen = mirror == number
            points = centres[chosen]
            if across:
                points[..., 0] = 1 - points[..., 0]
            if down:
                points[..., 1] = 1 - points[..., 1]
            pixels[chosen] = _mirrored(pixels[chosen], across, down, turn)
            centres[chosen] = points[..., ::-1] if turn else points
        said = rng.integers(data.tokens.shape[2], size=len(rows))
        tokens = data.tokens[rows, mirror, said].astype(np.int64)
        objects = data.objects[rows, mirror, said].astype(np.int64)
        begin, end = np.moveaxis(data.relations[rows, mirror, said], 1, 0)[..., None]
        place = np.arange(tokens.shape[1])
        relating = (place >= begin) & (place < end)
        longest = int((tokens != data.pad).sum(1).max())
        return SceneBatch(
            pixels=torch.from_numpy(pixels),
            tokens=torch.from_numpy(tokens[:, :longest]),
            objects=torch.from_numpy(objects[:, :longest]),
            relating=torch.from_numpy(relating[:, :longest]),
            centres=torch.from_numpy(centres),
            attributes=torch.from_numpy(data.attributes[rows].astype(np.int64)),
            targets=None if data.targets is None else _targets(data.targets, rows, mirror),
        )


def _mirrored(pixels: _Pixels, across: bool, down: bool, turn: bool) -> _Pixels:
    """Mirror pictures [b x size x size ...], transposed last."""
    if across:
        pixels = pixels[:, :, ::-1]
    if down:
        pixels = pixels[:, ::-1]
    return pixels.swapaxes(1, 2) if turn else pixels


def _targets(
    known: SceneTargets, rows: npt.NDArray[np.int64], mirror: npt.NDArray[np.int64]
) -> HeadTargets:
    boxes, masks = known.boxes[rows], known.masks[rows]
    for number, (across, down, turn) in enumerate(MIRRORS):
        chosen = mirror == number
        masks[chosen] = _mirrored(masks[chosen], across, down, turn)
        boxes[chosen] = truth.mirrored_boxes(
            boxes[chosen], horizontally=across, vertically=down, transposed=turn
        )
    return HeadTargets(
        labels=torch.from_numpy(known.labels[rows].astype(np.float32)),
        boxes=torch.from_numpy(boxes),
        classes=torch.from_numpy(known.classes[rows].astype(np.int64)),
        boxes_known=torch.ones(len(rows), dtype=torch.bool),
        masks=torch.from_numpy(masks.astype(np.int64)),
    )
