"""Statistics of training images' features, for checkpoints: ``captioner.statistics`` says of what.

Shapes: b images, n positions, f features.
"""

import itertools
from collections.abc import Iterable, Iterator

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from captioner.checkpoint import load, put_statistics
from captioner.model import CaptionModel
from captioner.statistics import FeatureStatistics
from captioner.training.augment import Pixels

MOST_IMAGES = 4_096
"""How many training images suffice."""

_BATCH = 32


def add(path: str, images: Iterable[Image.Image], *, device: str = "auto") -> str:
    """Add statistics to a checkpoint, in place of those that it has; return its new model id.

    Args:
        path: the checkpoint's folder, local or on any file system that fsspec knows.
        images: that it was trained on, ``MOST_IMAGES`` of them or fewer.
        device: auto, or one by name.

    Raises:
        CheckpointError: if the checkpoint cannot be loaded.
        ValueError: if the images tell nothing.
    """
    captioner = load(path, device)
    pixels = (captioner.prepare(image).pixels for image in images)
    put_statistics(path, statistics_of(captioner.model, encoded(captioner.model, pixels)))
    return load(path, "cpu").model_id


def statistics_of(model: CaptionModel, memories: Iterable[Tensor]) -> FeatureStatistics:
    """Fit statistics to what a model's encoder saw of training images, [b x n x f] each time."""
    return FeatureStatistics.fit(memories, model.encoder.place_size)


@torch.inference_mode()
def encoded(model: CaptionModel, pixels: Iterable[Pixels]) -> Iterator[Tensor]:
    """Yield what a model's encoder sees of pictures, [b x n x f].

    Args:
        model: ready to caption.
        pixels: of one picture after another, [height x width x 3].
    """
    device, rest = next(model.parameters()).device, iter(pixels)
    while batch := list(itertools.islice(rest, _BATCH)):
        yield model.encode(torch.from_numpy(np.stack(batch)).to(device))


def evenly(count: int, most: int = MOST_IMAGES) -> list[int]:
    """Return the numbers of at most ``most`` of ``count`` images, spread evenly."""
    taken = min(count, most)
    return [number * count // taken for number in range(taken)]
