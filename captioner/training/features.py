"""What a frozen encoder sees of each image, computed once and kept on disk."""

import itertools
import json
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from captioner.training.augment import (
    UNCHANGED,
    AugmentConfig,
    Change,
    Pixels,
    changed,
    draw_change,
)
from captioner.training.images import in_order, load_image
from captioner.training.sources import DataError, Example
from captioner.training.sources.files import version

logger = logging.getLogger(__name__)

Half = npt.NDArray[np.float16]

_FORMAT = 1
"""Raised when what is kept is computed or laid out in another way."""
_FEATURES, _FLIPPED, _PARTIAL, _DONE = "features.npy", "flipped.npy", "partial.npy", "done.json"
_SAVE_EVERY_SECONDS = 30.0
_BATCHES_AHEAD = 3


@dataclass(frozen=True)
class FeatureCache:
    """Features of images, each seen in one or several views.

    Attributes:
        features: [images*views x positions x f], float16, on disk; views of an image follow each
            other, the first of them plain.
        flipped: which views are mirrored, [images*views].
        views: of each image.
    """

    features: Half
    flipped: npt.NDArray[np.bool_]
    views: int


@dataclass(frozen=True, kw_only=True)
class ViewConfig:
    """In which views images are kept.

    Attributes:
        views: of each image; the first is plain, each takes as much disk as the first.
        augment: how the other views are changed.
        seed: decides these changes.
    """

    views: int = 1
    augment: AugmentConfig = UNCHANGED
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            ValueError: if the views would all be alike, or changes are asked for and none is seen.
        """
        if self.views < 1:
            raise ValueError(f"views is {self.views}; use 1 or more")
        if (self.views > 1) != (self.augment != UNCHANGED):
            raise ValueError(
                f"views is {self.views} and augment is {self.augment}: the first view is plain, "
                "so changes need 2 views or more, and several views need changes"
            )

    def change(self, image: int, view: int, size: tuple[int, int]) -> Change:
        """Return what is done to an image of that size, by its number, for a view."""
        if view == 0:
            return Change()
        return draw_change(self.augment, size, seed=self.seed, epoch=view, image=image)


def cache_features(
    folder: Path,
    examples: Sequence[Example],
    encode: Callable[[Pixels], Tensor],
    encoder_id: str,
    *,
    prepare: Callable[[Image.Image], Pixels],
    config: ViewConfig = ViewConfig(),
    batch_size: int = 32,
    threads: int = 4,
) -> FeatureCache:
    """Return the features of images: those on disk if they are of just this, or new ones.

    They lie in a folder of their own, named by a hash of everything that they depend on; others
    are left alone. Who was interrupted goes on from where it was.

    Args:
        folder: local; made where missing.
        examples: the images.
        encode: turns pixels [b x h x w x 3], uint8, into features [b x positions x f].
        encoder_id: hash of the encoder's weights and configuration, ``prepare`` included.
        prepare: brings an image to the encoder's size, on any thread.
        config: in which views.
        batch_size: pictures that the encoder sees at once, about.
        threads: that read and decode.

    Raises:
        DataError: if an image cannot be read or decoded, or there is too little room on the disk.
        ValueError: if the features are not finite in float16.
    """
    place = folder / _key(examples, encoder_id, config, threads)
    rows = len(examples) * config.views
    if not (place / _FEATURES).exists():
        place.mkdir(parents=True, exist_ok=True)
        views = _Views(examples, prepare, config, threads)
        _compute(place, views, encode, max(1, batch_size // config.views))
    features = np.load(place / _FEATURES, mmap_mode="r")
    flipped = np.load(place / _FLIPPED)
    if features.dtype != np.float16 or len(features) != rows or flipped.shape != (rows,):
        raise DataError(f"the features in {place} are damaged; delete that folder and run again")
    return FeatureCache(features, flipped, config.views)


class _Views:
    """The pictures that are encoded."""

    def __init__(
        self,
        examples: Sequence[Example],
        prepare: Callable[[Image.Image], Pixels],
        config: ViewConfig,
        threads: int,
    ) -> None:
        self._examples, self._prepare, self.config = examples, prepare, config
        self._threads = threads

    def __len__(self) -> int:
        """How many images there are."""
        return len(self._examples)

    def of(self, image: int) -> Pixels:
        """Return all views of an image, [views x h x w x 3]."""
        picture = load_image(self._examples[image].uri)
        changes = (self.config.change(image, v, picture.size) for v in range(self.config.views))
        return np.stack([changed(picture, change, self._prepare) for change in changes])

    def batches(self, first: int, images: int) -> Iterator[Pixels]:
        """Yield all views of so many images at once, from number ``first`` on."""
        numbers = range(first, len(self))
        ahead = _BATCHES_AHEAD * images
        with closing(in_order(self.of, numbers, threads=self._threads, ahead=ahead)) as loaded:
            while batch := list(itertools.islice(loaded, images)):
                yield np.concatenate(batch)

    def flipped(self) -> npt.NDArray[np.bool_]:
        """Return which views are mirrored, which does not depend on the images' size."""
        views = itertools.product(range(len(self)), range(self.config.views))
        return np.array([self.config.change(image, view, (1, 1)).flipped for image, view in views])


def _key(examples: Sequence[Example], encoder_id: str, config: ViewConfig, threads: int) -> str:
    """Hash everything that features depend on."""
    digest = sha256(json.dumps([_FORMAT, encoder_id, asdict(config)], sort_keys=True).encode())
    uris = [example.uri for example in examples]
    with closing(in_order(version, uris, threads=threads, ahead=64 * threads)) as versions:
        for uri, found in zip(uris, versions, strict=True):
            digest.update(json.dumps([uri, found]).encode())
    return digest.hexdigest()[:24]


def _compute(place: Path, views: _Views, encode: Callable[[Pixels], Tensor], images: int) -> None:
    """Encode all views, so many images at once, and leave the whole in place or a part of it."""
    done = _images_done(place)
    if not done:
        (place / _DONE).unlink(missing_ok=True)
    array: Half | None = None
    saved = time.monotonic()
    with tqdm(
        total=len(views), initial=done, desc="encoding", unit=" images", disable=None
    ) as progress:
        for pixels in views.batches(done, images):
            features = _encoded(encode, pixels)
            if array is None:
                shape = (len(views) * views.config.views, *features.shape[1:])
                array = _opened(place, shape, anew=done == 0)
            start = done * views.config.views
            array[start : start + len(features)] = features
            encoded = len(features) // views.config.views
            done += encoded
            progress.update(encoded)
            if time.monotonic() - saved > _SAVE_EVERY_SECONDS:
                array.flush()  # type: ignore[attr-defined]
                _replace(place / _DONE, json.dumps(done).encode())
                saved = time.monotonic()
    del array
    np.save(place / _FLIPPED, views.flipped())
    os.replace(place / _PARTIAL, place / _FEATURES)
    (place / _DONE).unlink(missing_ok=True)


def _encoded(encode: Callable[[Pixels], Tensor], pixels: Pixels) -> Half:
    with torch.inference_mode():
        features: Half = encode(pixels).to("cpu", torch.float16).numpy()
    if features.ndim != 3 or len(features) != len(pixels):
        raise ValueError(
            f"the encoder made {features.shape} of {len(pixels)} pictures; it must make "
            "[b x positions x f]"
        )
    if not np.isfinite(features).all():
        raise ValueError(
            "the encoder's features are not finite in float16 (up to 65,504); train without the "
            "cache"
        )
    return features


def _opened(place: Path, shape: tuple[int, ...], *, anew: bool) -> Half:
    """Open the file that is being written, checked for room on the disk where it is new."""
    needed, free = 2 * int(np.prod(shape)), shutil.disk_usage(place).free
    if anew and needed > free:
        raise DataError(
            f"the features take {needed / 1e9:.1f} GB, and {place} has {free / 1e9:.1f} GB left; "
            "use fewer views, another folder, or train without the cache"
        )
    open_: Callable[..., Half] = np.lib.format.open_memmap
    return open_(place / _PARTIAL, "w+" if anew else "r+", np.float16, shape)


def _images_done(place: Path) -> int:
    """Return how many images an interrupted run had encoded."""
    if not ((place / _DONE).exists() and (place / _PARTIAL).exists()):
        return 0
    done = int(json.loads((place / _DONE).read_text()))
    logger.info("%s: going on after %d images", place, done)
    return done


def _replace(path: Path, data: bytes) -> None:
    new = path.with_suffix(".new")
    new.write_bytes(data)
    os.replace(new, path)
