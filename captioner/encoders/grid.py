"""The small convolutional encoder of the embedded model."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional

from captioner.encoders.base import Encoder, Seen, positions, with_positions


@dataclass(frozen=True, kw_only=True)
class GridEncoderConfig:
    """A small convolutional network: each stage halves the sides, then refines.

    Attributes:
        image_size: side of the square picture, in pixels.
        widths: channels of each stage.
        blocks: residual blocks of each stage.
    """

    image_size: int = 96
    widths: tuple[int, ...] = (32, 48, 96, 192)
    blocks: tuple[int, ...] = (1, 1, 2, 1)

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            ValueError: if they do not fit together, or are beyond all use.
        """
        if not 1 <= len(self.widths) <= 8 or len(self.blocks) != len(self.widths):
            raise ValueError(
                f"widths {self.widths} and blocks {self.blocks} differ in length; give 1 to 8 each"
            )
        if not all(1 <= width <= 4096 for width in self.widths):
            raise ValueError(f"widths is {self.widths}; use 1 to 4096 channels")
        if not all(0 <= count <= 64 for count in self.blocks):
            raise ValueError(f"blocks is {self.blocks}; use 0 to 64 a stage")
        stride = 2 ** len(self.widths)
        if not stride <= self.image_size <= 2048 or self.image_size % stride:
            raise ValueError(f"image_size is {self.image_size}; use a multiple of {stride} to 2048")

    @property
    def grid(self) -> tuple[int, int]:
        """Height and width of the grid."""
        side = self.image_size // 2 ** len(self.widths)
        return side, side


class GridEncoder(Encoder):
    """A picture [b x 3 x size x size], from 0 to 1, to features [b x positions x f].

    Each position's features are what the last stage saw there and where it lies.
    """

    def __init__(self, config: GridEncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.grid = config.grid
        position = positions(*config.grid)
        self.place_size = position.shape[1]
        self.feature_size = config.widths[-1] + self.place_size
        widths = config.widths[:-1]
        self.finer = tuple((w, config.image_size >> n) for n, w in enumerate(widths, 1))
        stages: list[nn.Module] = []
        before = 3
        for width, count in zip(config.widths, config.blocks, strict=True):
            stages.append(_convolution(before, width, stride=2))
            stages.append(nn.ReLU(inplace=True))
            stages.extend(ResidualBlock(width) for _ in range(count))
            before = width
        self.stages = nn.Sequential(*stages)
        self.register_buffer("position", position)

    position: Tensor

    def forward(self, images: Tensor) -> Tensor:
        """Encode pictures."""
        return self.see(images).memory

    def see(self, images: Tensor) -> Seen:
        """Encode pictures; the finer maps are what comes out of each stage before the last."""
        features, before = (images - 0.5) * 4, []
        for layer in self.stages:
            if isinstance(layer, nn.Sequential):  # A convolution: the next stage begins.
                before.append(features)
            features = layer(features)  # (b, width, h, w)
        memory = with_positions(features.flatten(2).transpose(1, 2), self.position)
        return Seen(memory, tuple(before[1:]))

    def layers(self) -> Sequence[nn.Module]:
        """Convolutions and residual blocks."""
        return [layer for layer in self.stages if not isinstance(layer, nn.ReLU)]


class ResidualBlock(nn.Module):
    """Two convolutions, added to what came in."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = _convolution(width, width)
        self.second = _convolution(width, width)

    def forward(self, features: Tensor) -> Tensor:
        """Refine features [b x width x h x w]."""
        refined = self.second(functional.relu(self.first(features)))
        return functional.relu(features + refined)


def _convolution(before: int, after: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(before, after, 3, stride=stride, padding=1, bias=False), nn.BatchNorm2d(after)
    )
