"""The head that says what each pixel belongs to."""

from itertools import pairwise
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from captioner.encoders import Encoder
from captioner.encoders.base import Seen
from captioner.heads.config import SegmenterConfig
from captioner.heads.gate import gate_of
from captioner.heads.layers import as_map, check_grid, convolution, joined

IGNORED_PIXEL = 255
_WIDEST = 4
"""How many times as many channels as the finest map has one that is coarser, at most."""


class Segmented(NamedTuple):
    """What a segmenter says.

    Attributes:
        logits: of the background and of each class, [b x (1 + classes) x height x width].
        attention: what was let through, [b x positions]; None without the gate.
    """

    logits: Tensor
    attention: Tensor | None

    def anywhere(self) -> Tensor:
        """Return how likely each class is in the pixel where it is likeliest, [b x classes]."""
        # Image by image: the probabilities of a whole batch would take as much memory again.
        likeliest = [image.float().softmax(0)[1:].amax((1, 2)) for image in self.logits]
        return torch.stack(likeliest)


class AttentionSegmenter(nn.Module):
    """Gated features, made finer step by step and joined with maps that still show edges.

    As U-Net does (1505.04597), but by adding (1612.03144), which is cheaper. The maps are the
    encoder's finer ones; of an encoder without any, one that is made of the picture itself at half
    its size. Each cell of the last map says by itself what its pixels are.

    Raises:
        ValueError: if the encoder's positions are no grid.
    """

    def __init__(self, config: SegmenterConfig, encoder: Encoder) -> None:
        super().__init__()
        check_grid(encoder, "segmenter")
        self.config = config
        self.grid = encoder.grid
        size: int = encoder.config.image_size
        self.gate = gate_of(encoder.feature_size, config.gate)
        self.stem = None if encoder.finer else convolution(3, config.width, 2)
        levels = encoder.finer or ((config.width, (size + 1) // 2),)
        self.sides = _sides(encoder.grid[0], [side for _, side in levels[::-1]])
        widths = _widths(config.width, len(self.sides))
        at = dict(zip(self.sides, widths, strict=True))
        self.enter = nn.Conv2d(encoder.feature_size, widths[0], 1)
        self.joins = nn.ModuleList(nn.Conv2d(c, at[side], 1) for c, side in levels[::-1])
        self.steps = nn.ModuleList(convolution(*ends) for ends in pairwise((*widths, config.width)))
        scale = -(-size // levels[0][1])
        self.classes = nn.ConvTranspose2d(
            config.width, 1 + len(config.classes), scale, stride=scale
        )

    def forward(self, seen: Seen, images: Tensor) -> Segmented:
        """Segment pictures [b x 3 x height x width], from 0 to 1."""
        gated, attention = self.gate(seen.memory)
        finer = seen.finer if self.stem is None else (self.stem((images - 0.5) * 4),)
        features = self.enter(as_map(gated, self.grid))
        maps = {m.shape[3]: (join, m) for m, join in zip(finer[::-1], self.joins, strict=True)}
        for side, step in zip(self.sides, self.steps, strict=True):
            if side in maps:
                join, finer_map = maps[side]
                features = joined(features, join(finer_map))
            else:
                features = functional.interpolate(features, (side, side), mode="nearest")
            features = step(features)
        height, width = images.shape[2:]
        return Segmented(self.classes(features)[:, :, :height, :width], attention)


def _widths(last: int, count: int) -> list[int]:
    """Return the channels of so many maps, the coarsest first."""
    return [last * min(_WIDEST, 2**n) for n in reversed(range(count))]


def _sides(grid: int, levels: list[int]) -> list[int]:
    """Return the sides of the maps from the grid's on, twice as long each, up to each level's."""
    sides, side = [], grid
    for level in levels:
        while 2 * side < level:
            side *= 2
            sides.append(side)
        side = level
        sides.append(side)
    return sides


def mask_loss(logits: Tensor, masks: Tensor) -> Tensor:
    """Cross-entropy of each pixel, and one less the overlap of each class.

    Pixels of a class that covers a share a of the batch count as 1 / sqrt(a): where all count the
    same, it is the background that is learned, and one class after the other long after it. The
    overlap is that of 1606.04797, section 3, without its squares.

    Args:
        logits: [b x (1 + classes) x h x w].
        masks: the class of each pixel, 0 for the background, 255 where it is unknown, [b x h x w].

    Returns:
        The weighted mean over pixels, and that over the classes that the batch shows.
    """
    classes = logits.shape[1]
    known = masks != IGNORED_PIXEL
    there = masks.where(known, 0).unsqueeze(1)
    logprobs = logits.float().log_softmax(1)
    right = logprobs.gather(1, there).squeeze(1) * known
    # Counted, for a map of each class by itself would take gigabytes where there are hundreds.
    area = masks[known].bincount(minlength=classes)
    shown = area > 0
    weights = torch.where(shown, area.clamp_min(1).float().rsqrt(), 0)
    entropy = -(right * weights[there.squeeze(1)]).sum() / (weights * area).sum().clamp_min(1)
    # In float32 a sum of millions of pixels, one after the other, would stop growing.
    overlap = right.new_zeros(classes, dtype=torch.float64)
    chances = (right.exp() * known).flatten().double()
    overlap = overlap.index_add(0, there.flatten(), chances).float()
    said = (logprobs.exp() * known.unsqueeze(1)).sum((0, 2, 3))
    dice_loss = (1 - 2 * overlap / (said + area).clamp_min(1)) * shown
    return entropy + dice_loss.sum() / shown.sum().clamp_min(1)


@torch.no_grad()
def classes_at(
    logits: Tensor, x: npt.NDArray[np.float64], y: npt.NDArray[np.float64]
) -> npt.NDArray[np.uint8]:
    """Return the class of points: the greatest of the logits between the nearest four pixels.

    Args:
        logits: of one image, [classes x h x w].
        x: of each column of points, in pixels from the left edge, [width].
        y: of each row of points, in pixels from the upper edge, [height].

    Returns:
        [height x width], in Fortran's order.
    """
    logits = logits.float()
    height, width = logits.shape[1:]
    # Which is the greatest `max` tells, too, and many times as fast as `argmax`.
    cells = _cells(logits.max(0).indices.to(torch.uint8).cpu().numpy())
    left, above = (
        (places - 0.5).clip(0, side - 1).astype(np.int64)
        for places, side in ((x, width), (y, height))
    )
    found = cells.take(above, 0).T.copy().take(left, 0)
    # What is the greatest at all four corners is so in between. Nearly all points are such, and
    # to interpolate the others alone takes a tenth of the time.
    mixed = np.flatnonzero(found == _MIXED)
    for part in np.split(mixed, range(_POINTS, len(mixed), _POINTS)):
        column, row = np.divmod(part, len(y))
        places = np.stack([x[column] * (2 / width), y[row] * (2 / height)], 1) - 1
        grid = torch.from_numpy(places).to(logits.device, logits.dtype)[None, None]
        between = functional.grid_sample(
            logits[None], grid, padding_mode="border", align_corners=False
        )
        found.ravel()[part] = between[0, :, 0].max(0).indices.cpu().numpy()
    return found.T


_POINTS = 2**16
"""Points interpolated at a time: all of a large original would take gigabytes."""
_MIXED = IGNORED_PIXEL


def _cells(corner: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Return the class between each pixel and the next ones, or that it is mixed, [h x w]."""
    cells = corner.copy()
    cells[:, :-1][corner[:, :-1] != corner[:, 1:]] = _MIXED
    cells[:-1][cells[:-1] != cells[1:]] = _MIXED
    return cells
