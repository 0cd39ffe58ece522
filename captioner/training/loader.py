"""Examples as batches: pixels decoded on threads ahead of the model, or features from disk."""

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from captioner.annotations import Annotations
from captioner.heads import HeadTargets
from captioner.heads.targets import Size
from captioner.tokenizer import CaptionTokenizer
from captioner.training.annotated import changed_annotations
from captioner.training.augment import UNCHANGED, AugmentConfig, Pixels, changed, draw_change
from captioner.training.batch import Batch
from captioner.training.captions import CaptionBatches, LoaderConfig
from captioner.training.features import FeatureCache
from captioner.training.images import in_order, load_decoded
from captioner.training.sources import Example, load_annotations

Targets = Callable[[Sequence[Annotations], Sequence[Size]], HeadTargets]
"""Makes targets of what is known of images, and of their widths and heights."""

_BATCHES_AHEAD = 3
_VIEW_STREAM = 4
"""Sets these random numbers apart from those of `captions` and `augment`."""


class ExampleLoader:
    """Batches of pixels and captions; for the same seed and epoch always the same.

    Attributes:
        cut: captions that are longer than ``max_tokens``.
    """

    def __init__(
        self,
        examples: Sequence[Example],
        tokenizer: CaptionTokenizer,
        config: LoaderConfig,
        *,
        prepare: Callable[[Image.Image], Pixels],
        augment: AugmentConfig = UNCHANGED,
        draft_size: tuple[int, int] | None = None,
        targets: Targets | None = None,
        threads: int = 4,
    ) -> None:
        """Make a loader.

        Args:
            examples: images that can be decoded, as `captioner.training.images.check` finds
                out, and their captions.
            tokenizer: knows the words.
            config: what goes into a batch.
            prepare: brings an image to the model's size, [h x w x 3], uint8, on any thread.
            augment: how pictures may be changed.
            draft_size: width and height that suffice, as of `captioner.images.decode`: large
                JPEGs are decoded several times as fast, and a little differently.
            targets: makes targets of heads of what is known of images and their sizes; None
                without heads.
            threads: that read and decode.

        Raises:
            DataError: if there are no examples.
        """
        self._captions = CaptionBatches(examples, tokenizer, config, mirrored=augment.flip)
        self.cut = self._captions.cut
        self._examples, self._targets = examples, targets
        self._config, self._prepare, self._augment = config, prepare, augment
        self._draft_size, self._threads = draft_size, threads

    def __len__(self) -> int:
        """How many batches an epoch has."""
        return len(self._captions)

    def batches(self, epoch: int, first: int = 0) -> Iterator[Batch]:
        """Yield the batches of an epoch from number ``first`` on.

        Raises:
            DataError: if an image cannot be read or decoded.
        """
        rows = self._captions.rows(epoch)[first:]

        def load(row: int) -> tuple[Pixels, bool, HeadTargets | None]:
            return self._load(epoch, row)

        images = itertools.chain.from_iterable(batch.tolist() for batch in rows)
        ahead = _BATCHES_AHEAD * self._config.batch_size
        with closing(in_order(load, images, threads=self._threads, ahead=ahead)) as loaded:
            for batch in rows:
                pixels, flipped, targets = zip(*itertools.islice(loaded, len(batch)), strict=True)
                yield Batch(
                    tokens=self._captions.tokens(epoch, batch, flipped),
                    pixels=torch.from_numpy(np.stack(pixels)),
                    targets=HeadTargets.joined(targets) if self._targets is not None else None,
                )

    def _load(self, epoch: int, row: int) -> tuple[Pixels, bool, HeadTargets | None]:
        """Return the pixels of an image as they are in an epoch, and whether it is mirrored.

        And the targets of heads, where there are any.
        """
        example = self._examples[row]
        decoded = load_decoded(example.uri, self._draft_size)
        image = decoded.image
        change = draw_change(
            self._augment, image.size, seed=self._config.seed, epoch=epoch, image=row
        )
        pixels, targets = changed(image, change, self._prepare), None
        if self._targets is not None:
            known = load_annotations(example, (decoded.height, decoded.width)) or Annotations()
            size = decoded.width, decoded.height
            known, size = changed_annotations(known, size, change)
            targets = self._targets([known], [size])
        return pixels, change.flipped, targets


class FeatureLoader:
    """Batches of features and captions; otherwise like `ExampleLoader`.

    Attributes:
        cut: captions that are longer than ``max_tokens``.
    """

    def __init__(
        self,
        cache: FeatureCache,
        examples: Sequence[Example],
        tokenizer: CaptionTokenizer,
        config: LoaderConfig,
    ) -> None:
        """Make a loader; a view of each image is drawn for each epoch.

        Args:
            cache: features of just these examples.
            examples: images and their captions.
            tokenizer: knows the words.
            config: what goes into a batch.

        Raises:
            DataError: if there are no examples.
            ValueError: if the cache is of another number of images.
        """
        if len(cache.features) != len(examples) * cache.views:
            raise ValueError(
                f"the cache has {len(cache.features)} features, {cache.views} of an image, but "
                f"there are {len(examples)} images"
            )
        mirrored = bool(cache.flipped.any())
        self._captions = CaptionBatches(examples, tokenizer, config, mirrored=mirrored)
        self.cut = self._captions.cut
        self._cache, self._config = cache, config

    def __len__(self) -> int:
        """How many batches an epoch has."""
        return len(self._captions)

    def batches(self, epoch: int, first: int = 0) -> Iterator[Batch]:
        """Yield the batches of an epoch from number ``first`` on, read one ahead."""

        def load(rows: npt.NDArray[np.int64]) -> Batch:
            seen = rows * self._cache.views + self._drawn_views(epoch, rows)
            return Batch(
                tokens=self._captions.tokens(epoch, rows, self._cache.flipped[seen].tolist()),
                memory=torch.from_numpy(np.asarray(self._cache.features[seen])),
            )

        with closing(
            in_order(load, self._captions.rows(epoch)[first:], threads=1, ahead=1)
        ) as loaded:
            yield from loaded

    def _drawn_views(self, epoch: int, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Draw a view of each image; without shuffling, as for validation, the plain one."""
        if not self._config.shuffle:
            return np.zeros_like(rows)
        seeds = ((_VIEW_STREAM, self._config.seed, epoch, int(row)) for row in rows)
        views = [np.random.default_rng(seed).integers(self._cache.views) for seed in seeds]
        return np.array(views, np.int64)
