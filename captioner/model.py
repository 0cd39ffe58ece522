"""The attention captioner: an encoder, a decoder that attends to it, and the words."""

import hashlib
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor, nn

from captioner.contract import Caption, DecodingConfig, Geometry, Prepared
from captioner.decoders import (
    LSTMDecoder,
    LSTMDecoderConfig,
    TransformerDecoder,
    TransformerDecoderConfig,
)
from captioner.decoding import Decoded, Words, decode
from captioner.encoders import GridEncoder, GridEncoderConfig
from captioner.tokenizer import WordTokenizer

logger = logging.getLogger(__name__)

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """What a model is built from."""

    name: str
    encoder: GridEncoderConfig
    decoder: LSTMDecoderConfig | TransformerDecoderConfig


class CaptionModel(nn.Module):
    """The network: pictures and words to logits."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = GridEncoder(config.encoder)
        self.decoder = _decoder(config.decoder, self.encoder)

    def encode(self, pixels: Tensor) -> Tensor:
        """Turn pixels [b x height x width x 3], uint8, into memory [b x positions x features]."""
        images = pixels.permute(0, 3, 1, 2)  # In memory this stays channels last.
        memory: Tensor = self.encoder(images.to(self.encoder.position.dtype) / 255)
        return memory

    def forward(self, pixels: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Read whole captions [b x t]: logits [b x t x vocabulary], attention [b x t x n]."""
        logits, attention = self.decoder(self.encode(pixels), tokens)
        return logits, attention


def _decoder(
    config: LSTMDecoderConfig | TransformerDecoderConfig, encoder: GridEncoder
) -> LSTMDecoder | TransformerDecoder:
    if isinstance(config, LSTMDecoderConfig):
        return LSTMDecoder(config, feature_size=encoder.feature_size, place_size=encoder.place_size)
    return TransformerDecoder(config, feature_size=encoder.feature_size)


def prepare(image: Image.Image, size: int) -> Prepared:
    """Bring an image to a square of ``size`` pixels, antialiased; its sides' ratio is not kept."""
    width, height = image.size
    small = image.convert("RGB").resize((size, size), Image.Resampling.BILINEAR)
    return Prepared(np.array(small), Geometry(width, height, size / width, size / height))


class AttentionCaptioner:
    """A trained model with its words and a way to decode: fits the ``Captioner`` contract."""

    def __init__(
        self,
        model: CaptionModel,
        tokenizer: WordTokenizer,
        *,
        model_id: str,
        decoding: DecodingConfig | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        self._model_id = model_id
        self._decoding = decoding or DecodingConfig()
        self._device = torch.device(device)
        self.tokenizer = tokenizer
        forbidden = tokenizer.sequences(self._decoding.forbidden_words)
        if len(forbidden) < len(self._decoding.forbidden_words):
            logger.warning(
                "%d of the %d forbidden words are unknown to model %s: it cannot say them anyway",
                len(self._decoding.forbidden_words) - len(forbidden),
                len(self._decoding.forbidden_words),
                model_id,
            )
        self._words = Words(tokenizer.start, tokenizer.end, forbidden)
        self.model = model.to(self._device, _DTYPES[self._decoding.precision])
        self.model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.model.eval()

    @property
    def model_id(self) -> str:
        """Name and hash of weights, configuration and words, wherever they are kept or run."""
        return self._model_id

    @property
    def decoding(self) -> DecodingConfig:
        """How captions are made from the model's probabilities."""
        return self._decoding

    @property
    def device(self) -> torch.device:
        """Where it runs."""
        return self._device

    @property
    def image_size(self) -> tuple[int, int]:
        """Width and height that ``prepare`` brings images to."""
        side = self.model.config.encoder.image_size
        return side, side

    def prepare(self, image: Image.Image) -> Prepared:
        """Bring an image to the model's size, on any thread."""
        return prepare(image, self.model.config.encoder.image_size)

    @torch.inference_mode()
    def caption(self, batch: Sequence[Prepared]) -> list[Caption]:
        """Caption a batch; each caption depends on its own image alone."""
        if not batch:
            return []
        pixels = torch.from_numpy(np.stack([item.pixels for item in batch])).to(self._device)
        sampling = self._decoding.strategy == "sample"
        seeds = [_seed(item.pixels) for item in batch] if sampling else []
        decoder: Any = self.model.decoder  # Which of them makes no difference here.
        decoded = decode(decoder, self.model.encode(pixels), self._decoding, self._words, seeds)
        return [self._finish(item) for item in decoded]

    def _finish(self, decoded: Decoded) -> Caption:
        tokens = self._spelt(decoded.tokens)
        attention = torch.stack(decoded.attention).view(-1, *self.model.encoder.grid).numpy()
        return Caption(
            text=self.tokenizer.text(tokens),
            tokens=tokens,
            token_logprobs=tuple(decoded.logprobs),
            n_best=tuple(
                (self.tokenizer.text(self._spelt(other)), logprob)
                for other, logprob in decoded.n_best
            ),
            attention=attention,
            features=features(decoded),
        )

    def _spelt(self, numbers: Sequence[int]) -> tuple[str, ...]:
        return tuple(self.tokenizer.word(number) for number in numbers)


def _seed(pixels: npt.NDArray[np.uint8]) -> int:
    """Return a number of an image's own, whatever batch it is in."""
    return int.from_bytes(hashlib.sha256(pixels.tobytes()).digest()[:8], "little")


def features(decoded: Decoded) -> dict[str, float]:
    """What confidence may be computed from, named as in ``schemas.tables.FEATURES``."""
    total, count = math.fsum(decoded.logprobs), len(decoded.logprobs)
    found = {
        "logprob_mean": total / count,
        "logprob_min": min(decoded.logprobs),
        "logprob_sum": total,
        "num_tokens": float(count),
        "entropy_mean": math.fsum(decoded.entropies) / count,
        "entropy_max": max(decoded.entropies),
        "margin_min": min(decoded.margins),
        "eos_probability": decoded.end_probability,
    }
    if decoded.attention:
        weights = torch.stack(decoded.attention)  # (tokens, positions)
        entropy = -torch.special.xlogy(weights, weights).sum(1).mean()
        # Each position's even share of all the attention is tokens / positions.
        covered = weights.sum(0) >= weights.shape[0] / weights.shape[1]
        found["attention_entropy"] = float(entropy)
        found["attention_coverage"] = float(covered.float().mean())
    return found
