"""A small Vision Transformer (2010.11929) that begins with convolutions, trained from nothing."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from captioner.encoders.base import Encoder, Seen, positions, with_positions

Stem = Literal["convolutions", "patches"]

_MOST_HALVINGS = 4


@dataclass(frozen=True, kw_only=True)
class ViTEncoderConfig:
    """A Vision Transformer whose layers normalise first.

    Attributes:
        image_size: side of the square picture, in pixels.
        patch_size: side of the square that becomes one position, in pixels.
        stem: how it becomes one: by ``convolutions`` that halve the sides while they can, which
            learn several times as fast (2106.14881), or as in the paper, by one matrix.
        width: features of a position.
        layers: how many.
        heads: of attention, in each layer.
        feedforward_size: inner size of each layer's feed-forward network.
        dropout: share of values dropped in training; without a GPU it halves the speed.
    """

    image_size: int = 96
    patch_size: int = 16
    stem: Stem = "convolutions"
    width: int = 192
    layers: int = 6
    heads: int = 4
    feedforward_size: int = 768
    dropout: float = 0.0

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            ValueError: if they do not fit together, or are beyond all use.
        """
        if not 1 <= self.patch_size <= 256:
            raise ValueError(f"patch_size is {self.patch_size}; use 1 to 256 pixels")
        if not self.patch_size <= self.image_size <= 2048 or self.image_size % self.patch_size:
            raise ValueError(
                f"image_size is {self.image_size}; use a multiple of {self.patch_size} to 2048"
            )
        if self.image_size // self.patch_size > 64:
            raise ValueError(
                f"patch_size is {self.patch_size}, which makes more than 64 x 64 positions of a "
                f"picture of {self.image_size}; use larger patches"
            )
        if self.stem not in get_args(Stem):
            raise ValueError(f"stem is {self.stem!r}; use one of {', '.join(get_args(Stem))}")
        if not 1 <= self.heads <= self.width <= 4096 or self.width % self.heads:
            raise ValueError(
                f"width is {self.width}; use a multiple of the {self.heads} heads, to 4096"
            )
        if not 1 <= self.layers <= 64:
            raise ValueError(f"layers is {self.layers}; use 1 to 64")
        if not 1 <= self.feedforward_size <= 1 << 14:
            raise ValueError(f"feedforward_size is {self.feedforward_size}; use 1 to {1 << 14}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout is {self.dropout}; use 0 to less than 1")


class ViTEncoder(Encoder):
    """A picture [b x 3 x size x size], from 0 to 1, to features [b x positions x f].

    There is no class token: the decoder reads the patches.
    """

    def __init__(self, config: ViTEncoderConfig) -> None:
        super().__init__()
        self.config = config
        side = config.image_size // config.patch_size
        self.grid = side, side
        position = positions(*self.grid)
        self.place_size = position.shape[1]
        self.feature_size = config.width + self.place_size
        self.learned = nn.Parameter(torch.empty(1, side * side, config.width))
        nn.init.trunc_normal_(self.learned, std=0.02)
        widths = _stem_widths(config)
        maps = [(w, config.image_size >> n) for n, w in enumerate(widths, 1)]
        self.finer = tuple(found for found in maps if found[1] > side)
        self.stem = nn.ModuleList(_halving(*ends) for ends in pairwise((3, *widths)))
        patch = config.patch_size >> len(widths)
        self.patches = nn.Conv2d((3, *widths)[-1], config.width, patch, stride=patch)
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(_block(config) for _ in range(config.layers))
        self.norm = nn.LayerNorm(config.width)
        self.register_buffer("position", position)

    position: Tensor

    def forward(self, images: Tensor) -> Tensor:
        """Encode pictures."""
        return self.see(images).memory

    def see(self, images: Tensor) -> Seen:
        """Encode pictures; the finer maps are what the stem's convolutions make."""
        picture, finer = (images - 0.5) * 4, []
        for halve in self.stem:
            picture = halve(picture)
            finer.append(picture)
        patches = self.patches(picture).flatten(2).transpose(1, 2)  # (b, n, width)
        features = self.dropout(patches + self.learned)
        with _attention_kernel(images):
            for block in self.blocks:
                features = block(features)
        return Seen(
            with_positions(self.norm(features), self.position), tuple(finer[: len(self.finer)])
        )

    def layers(self) -> Sequence[nn.Module]:
        """The stem, the embedding of patches, and the blocks."""
        return [*self.stem, self.patches, *self.blocks]


def _stem_widths(config: ViTEncoderConfig) -> list[int]:
    """Return the channels of the convolutions that halve the sides; none for plain patches."""
    if config.stem == "patches":
        return []
    halvings = (config.patch_size & -config.patch_size).bit_length() - 1
    return [max(1, config.width * 2**n // 8) for n in range(min(halvings, _MOST_HALVINGS))]


def _halving(before: int, after: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(before, after, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(after),
        nn.ReLU(inplace=True),
    )


def _attention_kernel(images: Tensor) -> AbstractContextManager[None]:
    """On a CPU in half precision the fused kernel's gradients take up to twice as long."""
    slow = images.device.type == "cpu" and torch.is_autocast_enabled("cpu")
    return sdpa_kernel(SDPBackend.MATH) if slow else nullcontext()


def _block(config: ViTEncoderConfig) -> nn.TransformerEncoderLayer:
    return nn.TransformerEncoderLayer(
        config.width,
        config.heads,
        config.feedforward_size,
        config.dropout,
        activation="gelu",
        batch_first=True,
        norm_first=True,
    )
