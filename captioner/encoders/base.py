"""What every encoder gives, and where its positions lie."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn


class Seen(NamedTuple):
    """What an encoder made of pictures.

    Attributes:
        memory: [b x positions x features].
        finer: maps finer than the grid, as ``Encoder.finer`` says, each [b x channels x h x w].
    """

    memory: Tensor
    finer: tuple[Tensor, ...]


class Encoder(nn.Module):
    """Pictures [b x 3 x height x width], from 0 to 1, to memory [b x positions x features].

    Attributes:
        config: what it was built from.
        grid: height and width of the maps of attention.
        feature_size: numbers a position.
        place_size: how many of those, the last ones, say where the position lies.
        finer: channels and side of the square maps that ``see`` hands out, the finest first.
    """

    config: Any
    grid: tuple[int, int]
    feature_size: int
    place_size: int
    finer: tuple[tuple[int, int], ...] = ()

    def see(self, images: Tensor) -> Seen:
        """Encode pictures, and hand out finer maps that were made on the way."""
        return Seen(self(images), ())

    def layers(self) -> Sequence[nn.Module]:
        """What can be frozen or trained apart, from the picture upwards."""
        raise NotImplementedError

    def maps(self, attention: Tensor, places: Tensor) -> Tensor:
        """Lay attention out over the picture.

        Args:
            attention: of each word to each position of one image, [t x positions].
            places: where those positions lie, [positions x place_size].

        Returns:
            [t x grid height x grid width].
        """
        return attention.reshape(-1, *self.grid)


def positions(height: int, width: int) -> Tensor:
    """Say where each position of a grid lies, [positions x (2 + height + width)].

    The first two are x and y from -2 to 2, so that an attended mean of them is the place that was
    looked at; then come row and column, one number for each. They are handed to the decoder as
    they are: what it says of left and right has little else to go by.
    """
    rows = torch.eye(height).repeat_interleave(width, 0)
    columns = torch.eye(width).repeat(height, 1)
    # Once transformers has loaded a model, linspace may not heed the default device any more.
    y, x = torch.meshgrid(
        torch.linspace(-2, 2, height, device=rows.device),
        torch.linspace(-2, 2, width, device=rows.device),
        indexing="ij",
    )
    return torch.cat((x.reshape(-1, 1), y.reshape(-1, 1), rows, columns), 1)


def with_positions(features: Tensor, position: Tensor) -> Tensor:
    """Append to features [b x n x f] where each position lies, [n x p]."""
    return torch.cat((features, position.to(features.dtype).expand(len(features), -1, -1)), 2)
