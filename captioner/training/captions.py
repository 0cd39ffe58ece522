"""Which images and captions a batch holds, and the captions as tokens."""

import itertools
import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from captioner.tokenizer import CaptionTokenizer
from captioner.training.augment import swap_sides
from captioner.training.sources import DataError, Example

logger = logging.getLogger(__name__)

_ENCODED_AT_ONCE = 10_000
_ORDER_STREAM, _CAPTION_STREAM = 2, 3
"""Set these random numbers apart from those of `augment`, and from each other."""


@dataclass(frozen=True, kw_only=True)
class LoaderConfig:
    """What goes into a batch.

    Attributes:
        batch_size: images in a batch.
        captions_per_image: captions of each image, drawn at random, each once before any comes
            again.
        max_tokens: most tokens of a caption, start and end included; a longer one is cut, and
            then has no end: nobody ended it there.
        seed: decides order, captions and changes.
        shuffle: draw an order for each epoch, and leave out what does not fill a last batch,
            other images each time; without it images keep their order and all of them come.
    """

    batch_size: int
    captions_per_image: int = 1
    max_tokens: int = 64
    seed: int = 0
    shuffle: bool = True

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            ValueError: if one is too small.
        """
        for name, least in (
            ("batch_size", 1),
            ("captions_per_image", 1),
            ("max_tokens", 3),
            ("seed", 0),
        ):
            if (value := getattr(self, name)) < least:
                raise ValueError(f"{name} is {value}; use {least} or more")


class CaptionBatches:
    """Which images a batch holds, and their captions as tokens: what all loaders share.

    Attributes:
        cut: captions that are longer than ``max_tokens``.
    """

    def __init__(
        self,
        examples: Sequence[Example],
        tokenizer: CaptionTokenizer,
        config: LoaderConfig,
        *,
        mirrored: bool,
    ) -> None:
        """Turn all captions into tokens.

        Args:
            examples: images and their captions.
            tokenizer: knows the words.
            config: what goes into a batch.
            mirrored: whether captions of mirrored images are needed, too.

        Raises:
            DataError: if there are no examples.
        """
        if not examples:
            raise DataError("there are no images to make batches of")
        self._config, self._pad, self._images = config, tokenizer.pad, len(examples)
        self._first = np.cumsum([0, *(len(example.captions) for example in examples)])
        captions = [caption for example in examples for caption in example.captions]
        self._said, self.cut = _encode(captions, tokenizer, config.max_tokens)
        self._said_mirrored = list(self._said)
        self._silent = np.array([tokenizer.start], np.int32)
        if mirrored:
            other = {number: swap_sides(caption) for number, caption in enumerate(captions)}
            other = {number: text for number, text in other.items() if text != captions[number]}
            said, _ = _encode(list(other.values()), tokenizer, config.max_tokens)
            for number, ids in zip(other, said, strict=True):
                self._said_mirrored[number] = ids
        if self.cut:
            logger.warning(
                "%d of %d captions are cut to %d tokens",
                *(self.cut, len(captions), config.max_tokens),
            )

    def rows(self, epoch: int) -> list[npt.NDArray[np.int64]]:
        """Return the numbers of the images in each batch of an epoch."""
        size = min(self._config.batch_size, self._images)
        order: npt.NDArray[np.int64] = np.arange(self._images)
        if self._config.shuffle:
            rng = np.random.default_rng((_ORDER_STREAM, self._config.seed, epoch))
            order = rng.permutation(order)[: self._images // size * size]
        return [order[start : start + size] for start in range(0, len(order), size)]

    def __len__(self) -> int:
        """How many batches an epoch has."""
        size = min(self._config.batch_size, self._images)
        return self._images // size if self._config.shuffle else -(-self._images // size)

    def tokens(
        self, epoch: int, rows: Sequence[int] | npt.NDArray[np.int64], flipped: Sequence[bool]
    ) -> Tensor:
        """Return captions of images, start to end and padded, [b*k x t], int64.

        Args:
            epoch: number of the epoch.
            rows: numbers of b images.
            flipped: which of them are mirrored.
        """
        spoken = [self._said_mirrored if mirror else self._said for mirror in flipped]
        said = [
            self._silent if caption is None else captions[caption]
            for row, captions in zip(rows, spoken, strict=True)
            for caption in self._drawn(epoch, int(row))
        ]
        length = max(2, *map(len, said))  # To have one word to say, even if it counts nothing.
        tokens = torch.full((len(said), length), self._pad, dtype=torch.int64)
        for line, ids in zip(tokens, said, strict=True):
            line[: len(ids)] = torch.from_numpy(ids)
        return tokens

    def _drawn(self, epoch: int, row: int) -> Sequence[int | None]:
        """Draw the captions of an image without replacement; too few of them go in a circle.

        Of an image without captions they are None.
        """
        rng = np.random.default_rng((_CAPTION_STREAM, self._config.seed, epoch, row))
        first, end = self._first[row : row + 2].tolist()
        if first == end:
            return [None] * self._config.captions_per_image
        order = itertools.cycle(rng.permutation(end - first).tolist())
        return [first + next(order) for _ in range(self._config.captions_per_image)]


def _encode(
    captions: Sequence[str], tokenizer: CaptionTokenizer, max_tokens: int
) -> tuple[list[npt.NDArray[np.int32]], int]:
    """Return the tokens of captions, start to end, and how many captions were cut."""
    said: list[npt.NDArray[np.int32]] = []
    cut = 0
    for start in range(0, len(captions), _ENCODED_AT_ONCE):
        for ids in tokenizer.encode(captions[start : start + _ENCODED_AT_ONCE]):
            line = (tokenizer.start, *ids, tokenizer.end)
            cut += len(line) > max_tokens
            said.append(np.array(line[:max_tokens], np.int32))
    return said, cut
