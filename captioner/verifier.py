"""The verifier: how likely it is that every word of a caption is right.

A decoder's probabilities say how likely a word is to be said, which is low also where another one
would be as true. Its state and what it attended to tell more: a small network on them finds
statements that do not hold (2304.13734), and one that judges token by token verifies better than
one that sees the end alone (2110.14168). Nobody labels words, and none has to: with s(z_t) how
likely word t is to be right, a caption is right with the product of all s(z_t), and the label of
the whole caption teaches every word.

Shapes: c captions, t tokens, d figures of a token's evidence, h hidden units.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from captioner.tensor_files import tensors_from_bytes, tensors_to_bytes

_SUREST = -1e-9
"""The highest log-probability that all of a caption is right: beyond, its logit has no digits."""


@dataclass(frozen=True, eq=False)
class Verifier:
    """A network of one hidden layer on the evidence of each word; it computes in float32.

    Attributes:
        mean: of each figure; taken from it first, [d].
        scale: of each figure; it is divided by that, [d].
        hidden_weight: in float16, which halves the file and loses nothing, [h x d].
        hidden_bias: [h].
        word_weight: [h].
        word_bias: [1].
        images: hashes of the images whose labels it learned from, sorted, int32 [n].
    """

    mean: Tensor
    scale: Tensor
    hidden_weight: Tensor
    hidden_bias: Tensor
    word_weight: Tensor
    word_bias: Tensor
    images: Tensor

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            ValueError: if they do not fit together, or one is no number.
        """
        size, units = self.mean.numel(), self.hidden_bias.numel()
        wanted = {
            "mean": (torch.float32, (size,)),
            "scale": (torch.float32, (size,)),
            "hidden_weight": (torch.float16, (units, size)),
            "hidden_bias": (torch.float32, (units,)),
            "word_weight": (torch.float32, (units,)),
            "word_bias": (torch.float32, (1,)),
            "images": (torch.int32, (self.images.numel(),)),
        }
        for name, (dtype, shape) in wanted.items():
            value = getattr(self, name)
            if (value.dtype, tuple(value.shape)) != (dtype, shape):
                raise ValueError(
                    f"{name} is {value.dtype} {tuple(value.shape)}; use {dtype} {shape}"
                )
            if not value.isfinite().all():
                raise ValueError(f"{name} holds what is no number")
        if (self.scale <= 0).any():
            raise ValueError("scale holds a number that is not above 0")
        if (self.images.diff() <= 0).any():
            raise ValueError("images is not sorted, each once")

    @cached_property
    def id(self) -> str:
        """A hash of its content: the ``verifier_id`` column."""
        return hashlib.sha256(self.to_bytes()).hexdigest()[:12]

    def saw(self, image: str) -> bool:
        """Say whether it learned from labels of an image; it errs for few of a million others."""
        number = hash_of(image)
        place = int(torch.searchsorted(self.images, number))
        return place < len(self.images) and int(self.images[place]) == number

    @torch.inference_mode()
    def logits(self, evidence: Sequence[Tensor]) -> list[float]:
        """Return the logit of how likely all words of each caption are to be right.

        Args:
            evidence: of each caption, [t x d], on any device; computed there.
        """
        if not evidence:
            return []
        words = self._word_logits(torch.cat(list(evidence)).float()).cpu()
        each = torch.split(words, [len(one) for one in evidence])
        found = [functional.logsigmoid(one.double()).sum() for one in each]
        logits: list[float] = logit(torch.stack(found)).tolist()
        return logits

    def _word_logits(self, evidence: Tensor) -> Tensor:
        """Return z_t of each word: evidence [t x d] to [t]."""
        parts = self.mean, self.scale, self.hidden_weight, self.hidden_bias
        mean, scale, weight, bias = (part.to(evidence.device).float() for part in parts)
        hidden = functional.linear((evidence - mean) / scale, weight, bias).relu()
        return hidden @ self.word_weight.to(evidence.device) + self.word_bias.to(evidence.device)

    def to_bytes(self) -> bytes:
        """Return the content of a safetensors file."""
        return tensors_to_bytes(self)

    @classmethod
    def parse(cls, data: bytes) -> "Verifier":
        """Read what ``to_bytes`` wrote.

        Raises:
            ValueError: if it is something else.
        """
        return tensors_from_bytes(cls, data)


def logit(logprobs: Tensor) -> Tensor:
    """Turn log-probabilities into logits without loss, up to about 20."""
    bounded = logprobs.clamp(max=_SUREST)
    return bounded - torch.log(-torch.expm1(bounded))


def hash_of(image: str) -> int:
    """Return the number by which a verifier remembers an image, an int32."""
    digest = hashlib.sha256(image.encode()).digest()[:4]
    return int(np.frombuffer(digest, "<i4")[0])
