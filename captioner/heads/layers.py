"""What detector and segmenter are both made of."""

from torch import Tensor, nn
from torch.nn import functional

from captioner.encoders import Encoder, RegionEncoder


def check_grid(encoder: Encoder, head: str) -> None:
    """Check that an encoder's positions are a grid.

    Raises:
        ValueError: if they are boxes.
    """
    if isinstance(encoder, RegionEncoder):
        raise ValueError(
            f"a {head} needs an encoder whose positions are a grid, and those of "
            f"{type(encoder).__name__} are boxes; use another encoder, or a classifier"
        )


def as_map(memory: Tensor, grid: tuple[int, int]) -> Tensor:
    """Turn memory [b x n x f] into a map [b x f x h x w]."""
    return memory.transpose(1, 2).reshape(len(memory), -1, *grid)


def joined(coarse: Tensor, finer: Tensor) -> Tensor:
    """Bring a coarse map [b x c x h x w] to the size of a finer one, and add it."""
    return functional.interpolate(coarse, finer.shape[2:], mode="nearest").add_(finer)


def convolution(before: int, after: int, stride: int = 1) -> nn.Sequential:
    """Make a 3 x 3 convolution with batch norm and ReLU."""
    return nn.Sequential(
        nn.Conv2d(before, after, 3, stride=stride, padding=1, bias=False),
        nn.BatchNorm2d(after),
        nn.ReLU(inplace=True),
    )
