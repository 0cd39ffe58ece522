"""What the decoding engine asks of a decoder."""

from typing import Protocol, Self, TypeVar

import torch
from torch import Tensor


class DecoderState(Protocol):
    """What a decoder remembers between two steps, one row a caption."""

    @property
    def attention(self) -> Tensor | None:
        """Where the last step looked, [b x positions], each row summing to 1."""

    def select(self, rows: Tensor) -> Self:
        """Return the state of those rows, in that order."""


State = TypeVar("State", bound=DecoderState)


class Decoder(Protocol[State]):
    """What the decoding engine drives."""

    def start(self, memory: Tensor) -> State:
        """Begin captions of the images that the encoder turned into [b x positions x features]."""

    def step(self, tokens: Tensor, state: State) -> tuple[Tensor, State]:
        """Read the last tokens [b] and return logits [b x vocabulary] and the next state."""

    def select(self, state: State, rows: Tensor) -> State:
        """Keep those rows of a state, in that order; a row may be kept several times."""


def select_images(
    image: Tensor, parts: tuple[Tensor, ...], rows: Tensor
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Select what rows of one image have in common, copied only where a row changes image.

    In a beam search rows change places at each step, but seldom the image.

    Args:
        image: the image of each row, [b].
        parts: the same for all rows of an image, [b x ...] each.
        rows: which to keep, [r].

    Returns:
        The image of each kept row, [r], and its parts, [r x ...].
    """
    kept = image[rows]
    return kept, parts if torch.equal(kept, image) else tuple(part[rows] for part in parts)


def check_range(config: object, name: str, least: float, most: float) -> None:
    """Check a value of a configuration.

    Raises:
        ValueError: if it is beyond all use.
    """
    value = getattr(config, name)
    if not least <= value <= most:
        raise ValueError(f"{name} is {value}; use {least} to {most}")
