"""What the pipeline knows of a captioner: everything that captions fits this protocol."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt
from PIL import Image

from schemas.identity import config_id

EMBEDDED = "embedded"
"""The name of the small model that comes with the package."""

PRECISIONS = ("float32", "bfloat16", "float16")


@dataclass(frozen=True, kw_only=True)
class DecodingConfig:
    """Everything besides image and model that may change a caption (promise 5).

    Attributes:
        strategy: how tokens are chosen; ``greedy`` takes the most probable one.
        max_length: most tokens in a caption, the end-of-sequence token included.
        precision: what was asked for, never what the device made of it.
        draft: decode JPEG at a reduced scale, which is quicker and changes pixels a little.
    """

    strategy: str = "greedy"
    max_length: int = 60
    precision: str = "float32"
    draft: bool = False

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            ValueError: if a value is not one that can be used.
        """
        if self.strategy != "greedy":
            raise ValueError(f"strategy is {self.strategy!r}; use 'greedy'")
        if self.precision not in PRECISIONS:
            raise ValueError(f"precision is {self.precision!r}; use one of {', '.join(PRECISIONS)}")
        if not 1 <= self.max_length <= 1024:
            raise ValueError(f"max_length is {self.max_length}; use 1 to 1024")

    @property
    def id(self) -> str:
        """A short hash: the ``decoding`` column."""
        return config_id(asdict(self))


@dataclass(frozen=True)
class Geometry:
    """The way from a point of the original (after EXIF orientation) to the model's pixels.

    ``model_x = original_x * scale_x + offset_x``, and likewise for y.
    """

    width: int
    height: int
    scale_x: float
    scale_y: float
    offset_x: float = 0.0
    offset_y: float = 0.0


@dataclass(frozen=True)
class Prepared:
    """An image at the model's size: pixels (H, W, 3) uint8, and the way back to the original."""

    pixels: npt.NDArray[np.uint8]
    geometry: Geometry


@dataclass(frozen=True)
class Caption:
    """A caption and what confidence needs.

    Attributes:
        text: the caption.
        tokens: the tokens, ``<end>`` last where it was produced.
        token_logprobs: natural log-probability of each token, as long as ``tokens``.
        n_best: the best captions with their log-probabilities, best first.
        attention: weights (len(tokens), grid height, grid width), each summing to 1, or None.
        features: named as in ``schemas.tables.FEATURES``; what is not known is left out.
    """

    text: str
    tokens: tuple[str, ...] = ()
    token_logprobs: tuple[float, ...] = ()
    n_best: tuple[tuple[str, float], ...] = ()
    attention: npt.NDArray[np.float32] | None = None
    features: dict[str, float] = field(default_factory=dict)


class Captioner(Protocol):
    """Captions images. One object serves a process; ``prepare`` must be safe on many threads."""

    @property
    def model_id(self) -> str:
        """Hash of weights and configuration, whatever folder or device they are on."""

    @property
    def decoding(self) -> DecodingConfig:
        """How captions are made from the model's probabilities."""

    @property
    def image_size(self) -> tuple[int, int]:
        """Width and height that ``prepare`` brings images to, at most; draft decoding uses it."""

    def prepare(self, image: Image.Image) -> Prepared:
        """Bring an RGB image to the model's size; runs on decoding threads, without the GPU."""

    def caption(self, batch: Sequence[Prepared]) -> list[Caption]:
        """Caption a batch; one caption an image, in order."""


class ModelLoadError(Exception):
    """A model that cannot be loaded: says which, why, and what to do."""
