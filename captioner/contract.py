"""What the pipeline knows of a captioner: everything that captions fits this protocol."""

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt
from PIL import Image

from captioner.annotations import Annotations, ClassNames
from schemas.identity import config_id

EMBEDDED = "embedded"
"""The name of the small model that comes with the package."""

PRECISIONS = ("float32", "bfloat16", "float16")
STRATEGIES = ("greedy", "beam", "sample")
EXTRAS = ("image_information", "rescored_logprob_mean")
"""Features that cost a pass of the decoder each, and are computed only where they are asked for."""
OF_BEAMS = ("beam_gap", "beam_agreement")
"""Features that compare the captions of a search; a search that found only one has none."""
LANGUAGE_NAME = re.compile("[A-Za-z]{2,8}(-[A-Za-z0-9]{1,8}){0,3}")
"""What a language is called: ``zh``, or ``zh-Hans``."""


@dataclass(frozen=True, kw_only=True)
class DecodingConfig:
    """Everything besides image and model that may change a caption (promise 5).

    Attributes:
        strategy: how tokens are chosen; ``greedy`` takes the most probable one, ``beam`` searches
            for the most probable caption, ``sample`` draws by probability.
        max_length: most tokens in a caption, the end-of-sequence token included.
        min_length: least tokens before the end-of-sequence token; fewer where the other rules
            leave nothing to say.
        beam_size: captions that a search follows at once.
        length_penalty: a search divides log-probabilities by ``length ** length_penalty``; 0
            prefers short captions, 1 takes the mean of a token (1609.08144 lies between).
        temperature: of sampling; logits are divided by it, so that less is safer.
        top_k: sampling draws from so many of the most probable tokens; 0 from all.
        top_p: sampling draws from the fewest tokens that have this share of the probability
            (1904.09751).
        seed: of sampling; each image draws numbers of its own, by its pixels.
        no_repeat_ngram: no sequence of so many tokens comes twice; 0 allows all.
        forbidden_words: words, or phrases, that no caption may hold; kept in order, each once.
        language: of the captions, one that the model knows; empty for the model's first.
        precision: what was asked for, never what the device made of it.
        draft: decode JPEG at a reduced scale, which is quicker and changes pixels a little.
    """

    strategy: str = "greedy"
    max_length: int = 60
    min_length: int = 0
    beam_size: int = 3
    length_penalty: float = 0.7
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0
    no_repeat_ngram: int = 0
    forbidden_words: tuple[str, ...] = ()
    language: str = ""
    precision: str = "float32"
    draft: bool = False

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            ValueError: if a value is not one that can be used.
        """
        for name, known in (("strategy", STRATEGIES), ("precision", PRECISIONS)):
            if (value := getattr(self, name)) not in known:
                raise ValueError(f"{name} is {value!r}; use one of {', '.join(known)}")
        for name, (least, most) in _RANGES.items():
            value, kind = getattr(self, name), type(least)
            if not isinstance(value, int | kind) or not least <= value <= most:
                raise ValueError(f"{name} is {value!r}; use {least} to {most}")
            object.__setattr__(self, name, kind(value))
        words = self.forbidden_words
        if isinstance(words, str) or not all(isinstance(w, str) and w.strip() for w in words):
            raise ValueError(f"forbidden_words is {words!r}; use several words, none of them empty")
        object.__setattr__(self, "forbidden_words", tuple(sorted(set(words))))
        if self.language and not LANGUAGE_NAME.fullmatch(self.language):
            raise ValueError(
                f"language is {self.language!r}; use a short name such as zh or zh-Hans"
            )
        if self.min_length >= self.max_length:
            raise ValueError(
                f"min_length ({self.min_length}) must be less than max_length ({self.max_length})"
            )

    @property
    def id(self) -> str:
        """A short hash: the ``decoding`` column.

        What the strategy does not look at, or is as it would be by itself, is left out: it changes
        no caption, so it changes no id, and neither does an option that is added later. So a
        default, once released, must stay what it is.
        """
        unused = {name for strategy in OF_STRATEGY for name in OF_STRATEGY[strategy]}
        unused -= set(OF_STRATEGY.get(self.strategy, ()))
        default = DecodingConfig()
        return config_id(
            {
                name: value
                for name, value in asdict(self).items()
                if name not in unused and value != getattr(default, name)
            }
        )


OF_STRATEGY = {
    "beam": ("beam_size", "length_penalty"),
    "sample": ("temperature", "top_k", "top_p", "seed"),
}
"""What only one strategy looks at."""
_RANGES: dict[str, tuple[float, float]] = {
    "max_length": (1, 1024),
    "min_length": (0, 1023),
    "beam_size": (1, 64),
    "length_penalty": (0.0, 5.0),
    "temperature": (0.01, 100.0),
    "top_k": (0, 1_000_000),
    "top_p": (0.01, 1.0),
    "seed": (0, 2**32),
    "no_repeat_ngram": (0, 64),
}


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
        verifier: id of the verifier that ``verifier_logit`` among them is of, if there is one.
        annotations: labels, boxes and masks that were found; None of a model without heads.
    """

    text: str
    tokens: tuple[str, ...] = ()
    token_logprobs: tuple[float, ...] = ()
    n_best: tuple[tuple[str, float], ...] = ()
    attention: npt.NDArray[np.float32] | None = None
    features: dict[str, float] = field(default_factory=dict)
    verifier: str | None = None
    annotations: Annotations | None = None


class Captioner(Protocol):
    """Captions images. One object serves a process; ``prepare`` must be safe on many threads."""

    @property
    def model_id(self) -> str:
        """Hash of weights and configuration, whatever folder or device they are on."""

    @property
    def decoding(self) -> DecodingConfig:
        """How captions are made from the model's probabilities."""

    @property
    def classes(self) -> ClassNames:
        """What labels, boxes and masks it may find besides captions; none without heads."""

    @property
    def fills(self) -> tuple[str, ...]:
        """Columns and features that it fills in every row, of those that not all models fill.

        Those of ``OF_BEAMS`` it fills where its search found more than one caption.
        """

    @property
    def image_size(self) -> tuple[int, int]:
        """Width and height that ``prepare`` brings images to, at most; draft decoding uses it."""

    def prepare(self, image: Image.Image) -> Prepared:
        """Bring an RGB image to the model's size; runs on decoding threads, without the GPU."""

    def caption(self, batch: Sequence[Prepared]) -> list[Caption]:
        """Caption a batch; one caption an image, in order."""


class ModelLoadError(Exception):
    """A model that cannot be loaded: says which, why, and what to do."""
