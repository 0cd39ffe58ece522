"""What the decoding engine asks of a decoder."""

from typing import Literal, Protocol, Self, TypeVar, get_args

import torch
from torch import Tensor

Fusion = Literal["attention", "early", "late"]
"""Where the image joins the words (1708.02043): looked at anew for each word, read as if it were
the first word, or joined with what was read of the words."""


class DecoderState(Protocol):
    """What a decoder remembers between two steps, one row a caption."""

    @property
    def attention(self) -> Tensor | None:
        """Where the last step looked, [b x positions], each row summing to 1."""

    @property
    def output(self) -> Tensor | None:
        """What the last step's word was chosen by, [b x width]: the layer before the vocabulary."""

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

    def read_as(self, tokens: Tensor) -> Tensor:
        """Return what tokens [...] are read as, [... x width]."""


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


def captions_an_image(memory: Tensor, tokens: Tensor) -> int:
    """Return how many captions, [c x t] in all, each image of memory [b x n x f] has.

    Raises:
        ValueError: if the images cannot have equally many.
    """
    images, captions = len(memory), len(tokens)
    if not images or captions % images:
        raise ValueError(
            f"there are {captions} captions of {images} images; give each image equally many"
        )
    return captions // images


def start_captions(decoder: Decoder[State], memory: Tensor, tokens: Tensor) -> State:
    """Begin several captions of each image.

    What depends on the image alone is computed once an image.

    Args:
        decoder: what begins them.
        memory: what the encoder saw, [b x positions x features].
        tokens: of all captions, those of one image one after another, [c x t].

    Returns:
        A state of c rows.

    Raises:
        ValueError: if the images cannot have equally many.
    """
    each = captions_an_image(memory, tokens)
    state = decoder.start(memory)
    if each == 1:
        return state
    rows = torch.arange(len(memory), device=memory.device).repeat_interleave(each)
    return decoder.select(state, rows)


def check_range(config: object, name: str, least: float, most: float) -> None:
    """Check a value of a configuration.

    Raises:
        ValueError: if it is beyond all use.
    """
    value = getattr(config, name)
    if not least <= value <= most:
        raise ValueError(f"{name} is {value}; use {least} to {most}")


def check_choice(config: object, name: str, kind: object) -> None:
    """Check a value of a configuration that is one of few words.

    Args:
        config: the configuration.
        name: of the value.
        kind: the ``Literal`` of those words.

    Raises:
        ValueError: if it is another.
    """
    value, known = getattr(config, name), get_args(kind)
    if value not in known:
        raise ValueError(f"{name} is {value!r}; use one of {', '.join(known)}")
