"""The attention captioner: an encoder, a decoder that attends to it, and the words."""

import hashlib
import logging
import math
import re
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor, nn

from captioner.agreement import heads_disagree
from captioner.annotations import Annotations, ClassNames
from captioner.contract import (
    EXTRAS,
    OF_BEAMS,
    Caption,
    DecodingConfig,
    Geometry,
    ModelLoadError,
    Prepared,
)
from captioner.decoders import DecoderConfig, decoder_of
from captioner.decoding import Decoded, Words, decode, evidence, features, rescore
from captioner.encoders import encoder_of
from captioner.encoders.base import Seen
from captioner.heads import HeadOutputs, Heads, HeadsConfig
from captioner.statistics import FeatureStatistics
from captioner.tokenizer import CaptionTokenizer
from captioner.verifier import Verifier

logger = logging.getLogger(__name__)

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")


def check_name(name: object) -> None:
    """Check the name of a model.

    Raises:
        ValueError: if it cannot be part of an id.
    """
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ValueError(f"name is {name!r}; use 1 to 64 letters, digits and the marks - _ .")


class EncoderConfig(Protocol):
    """What encoders' configurations have in common."""

    @property
    def image_size(self) -> int:
        """Side of the square picture, in pixels."""


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """What a model is built from.

    Attributes:
        name: first part of its id.
        encoder: one of ``captioner.encoders.ENCODERS``.
        decoder: one of ``captioner.decoders.DECODERS``.
        heads: what else it tells of a picture.
    """

    name: str
    encoder: EncoderConfig
    decoder: DecoderConfig
    heads: HeadsConfig | None = None

    def __post_init__(self) -> None:
        """Check the name.

        Raises:
            ValueError: if it cannot be part of an id.
        """
        check_name(self.name)


class Read(NamedTuple):
    """What a model makes of whole captions.

    Attributes:
        logits: [c x t x vocabulary].
        attention: where each step looked, [c x t x positions]; None without attention.
        memory: what the encoder saw, [b x positions x features].
        heads: what they say of the images; None without heads.
    """

    logits: Tensor
    attention: Tensor | None
    memory: Tensor
    heads: HeadOutputs | None = None


class CaptionModel(nn.Module):
    """The network: pictures and words to logits, pictures alone to labels, boxes and masks.

    Raises:
        ValueError: if a head does not suit the encoder.
    """

    heads: Heads | None

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = encoder_of(config.encoder)
        self.decoder = decoder_of(
            config.decoder,
            feature_size=self.encoder.feature_size,
            place_size=self.encoder.place_size,
        )
        self.heads = None if config.heads is None else Heads(config.heads, self.encoder)

    def encode(self, pixels: Tensor) -> Tensor:
        """Turn pixels [b x height x width x 3], uint8, into memory [b x positions x features]."""
        memory: Tensor = self.encoder(self._images(pixels))
        return memory

    def look(
        self, pixels: Tensor, *, encoder_rests: bool = False
    ) -> tuple[Seen, HeadOutputs | None]:
        """Encode pixels as ``encode`` does, and have the heads, if any, say what is seen.

        Args:
            pixels: [b x height x width x 3], uint8.
            encoder_rests: spend nothing on the encoder's gradients.
        """
        images = self._images(pixels)
        with torch.no_grad() if encoder_rests else nullcontext():
            seen = self.encoder.see(images)
        return seen, None if self.heads is None else self.heads(seen, images)

    def _images(self, pixels: Tensor) -> Tensor:
        images = pixels.permute(0, 3, 1, 2)  # In memory this stays channels last.
        return images.to(next(self.parameters()).dtype) / 255

    def forward(
        self, pixels: Tensor | None, tokens: Tensor, memory: Tensor | None = None
    ) -> "Read":
        """Read whole captions, several an image where there are more of them than images.

        Args:
            pixels: of the images, [b x height x width x 3], uint8; None where memory is given.
            tokens: of the captions, those of one image following each other, [c x t].
            memory: of the images, where the encoder was run before, [b x positions x features].
        """
        if memory is None:
            if pixels is None:
                raise ValueError("neither pixels nor memory is given; give one of them")
            memory = self.encode(pixels)
        memory = memory.to(next(self.parameters()).dtype)  # On disk it is kept in half precision.
        logits, attention = self.decoder(memory, tokens)
        return Read(logits, attention, memory)


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
        tokenizer: CaptionTokenizer,
        *,
        model_id: str,
        decoding: DecodingConfig | None = None,
        device: torch.device | str = "cpu",
        statistics: FeatureStatistics | None = None,
        extras: Sequence[str] = (),
        verifier: Verifier | None = None,
    ) -> None:
        """Make a model ready to caption.

        Args:
            model: what was trained.
            tokenizer: its words.
            model_id: name and hash.
            decoding: how captions are made; greedy by default.
            device: where it runs.
            statistics: of the features of training images; without them it cannot tell how far
                an image is from those.
            extras: features, of ``EXTRAS``, that are to be computed besides those that cost little.
            verifier: for ``verifier_logit``; learned from captions that were made in this way.

        Raises:
            ModelLoadError: if it does not know the language that is asked for, or cannot compute
                a feature.
        """
        self._model_id = model_id
        self._statistics = statistics
        self._extras = self._checked(extras)
        self._verifier = verifier
        self._decoding = decoding or DecodingConfig()
        self._device = torch.device(device)
        self.tokenizer = tokenizer
        try:
            start = tokenizer.start_of(self._decoding.language)
        except ValueError as error:
            raise ModelLoadError(f"model {model_id}: {error}") from error
        self._words = Words(start, tokenizer.end, self._forbidden())
        longest = getattr(model.decoder, "longest", None)
        if longest is not None and self._decoding.max_length > longest:
            raise ModelLoadError(
                f"max_length is {self._decoding.max_length}, but model {model_id} writes at most "
                f"{longest} tokens; give --max_length {longest} or less"
            )
        self.model = model.to(self._device, _DTYPES[self._decoding.precision])
        self.model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.model.eval()
        self._check_fits(verifier)

    def _check_fits(self, verifier: Verifier | None) -> None:
        if verifier is None:
            return
        word = self.model.decoder.read_as(torch.zeros(1, dtype=torch.long, device=self._device))
        size = 2 * word.shape[1] + self.model.encoder.feature_size + 2
        if len(verifier.mean) != size:
            raise ModelLoadError(
                f"verifier {verifier.id} judges words by {len(verifier.mean)} figures, but model "
                f"{self._model_id} knows {size} of each; learn it anew: captioner calibrate "
                "--verifier"
            )

    def _checked(self, extras: Sequence[str]) -> tuple[str, ...]:
        for name in extras:
            if name not in EXTRAS:
                raise ModelLoadError(f"{name!r} cannot be asked for; use {' or '.join(EXTRAS)}")
        if "image_information" in extras and self._statistics is None:
            raise ModelLoadError(
                f"model {self._model_id} has no statistics of its training images, which "
                "image_information needs; add them with captioner statistics, or leave it out"
            )
        return tuple(name for name in EXTRAS if name in extras)

    def _forbidden(self) -> tuple[tuple[int, ...], ...]:
        """Return what no caption may hold: what is no word, and what was asked for."""
        asked = self._decoding.forbidden_words
        found = [self.tokenizer.sequences([word]) for word in asked]
        unknown = [word for word, numbers in zip(asked, found, strict=True) if not numbers]
        if unknown:
            logger.warning(
                "%d of the %d forbidden words are unknown to model %s: it cannot say them anyway",
                *(len(unknown), len(asked), self._model_id),
            )
        no_words = tuple((number,) for number in self.tokenizer.unspeakable)
        return (*no_words, *(numbers for word in found for numbers in word))

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
    def classes(self) -> ClassNames:
        """What its heads may find; nothing of a head that it lacks."""
        heads = self.model.config.heads
        parts = () if heads is None else (heads.labels, heads.boxes, heads.masks)
        return ClassNames(*(() if part is None else part.classes for part in parts))

    @property
    def verifier_id(self) -> str | None:
        """The id of the verifier that judges its captions, if there is one."""
        return None if self._verifier is None else self._verifier.id

    @property
    def fills(self) -> tuple[str, ...]:
        """Columns and features that it fills in every row, of those that not all models fill.

        Those of ``OF_BEAMS`` it fills where its search found more than one caption.
        """
        found = [name for name, classes in vars(self.classes).items() if classes]
        if self._decoding.strategy == "beam" and self._decoding.beam_size > 1:
            found.extend(OF_BEAMS)
        if self._statistics is not None:
            found.append("feature_distance")
        if self._verifier is not None:
            found.append("verifier_logit")
        return (*found, *self._extras)

    @property
    def image_size(self) -> tuple[int, int]:
        """Width and height that ``prepare`` brings images to."""
        side = self.model.config.encoder.image_size
        return side, side

    def prepare(self, image: Image.Image) -> Prepared:
        """Bring an image to the model's size, on any thread."""
        return prepare(image, self.model.config.encoder.image_size)

    def caption(self, batch: Sequence[Prepared]) -> list[Caption]:
        """Caption a batch; each caption depends on its own image alone."""
        return self._captioned(batch, keep_outputs=self._verifier is not None)[0]

    def caption_with_evidence(
        self, batch: Sequence[Prepared]
    ) -> tuple[list[Caption], list[Tensor]]:
        """Caption a batch, and tell what was known of each word, for a verifier to learn from.

        Returns:
            The captions, and of each ``captioner.decoding.evidence``, [tokens x d], in float16 on
            the processor: there may be thousands to keep.
        """
        captions, decoded, memory = self._captioned(batch, keep_outputs=True)
        found = evidence(self.model.decoder, memory, decoded)
        most = torch.finfo(torch.float16).max
        return captions, [one.clamp(-most, most).half().cpu() for one in found]

    @torch.inference_mode()
    def _captioned(
        self, batch: Sequence[Prepared], *, keep_outputs: bool
    ) -> tuple[list[Caption], list[Decoded], Tensor]:
        if not batch:
            return [], [], torch.empty(0)
        pixels = torch.from_numpy(np.stack([item.pixels for item in batch])).to(self._device)
        sampling = self._decoding.strategy == "sample"
        seeds = [_seed(item.pixels) for item in batch] if sampling else []
        decoder: Any = self.model.decoder  # Which of them makes no difference here.
        (memory, _), said = self.model.look(pixels)
        decoded = decode(
            decoder, memory, self._decoding, self._words, seeds, keep_outputs=keep_outputs
        )
        places = memory[:, :, -self.model.encoder.place_size :].float().cpu()
        found = self._found(said, [item.geometry for item in batch])
        likely = self._likely(said, len(batch))
        told = self._told(memory, decoded)
        columns = (decoded, places, found, likely, told)
        captions = [self._finish(*item) for item in zip(*columns, strict=True)]
        return captions, decoded, memory

    @torch.inference_mode()
    def find(
        self, batch: Sequence[Prepared], score_threshold: float | None = None
    ) -> list[Annotations]:
        """Have the heads alone say what is seen, without captions.

        Args:
            batch: images.
            score_threshold: least probability of labels and boxes; what the model was told if None.

        Raises:
            ValueError: if the model has no heads.
        """
        if self.model.heads is None:
            raise ValueError(f"model {self.model_id} has no heads; train one with --tasks")
        if not batch:
            return []
        pixels = torch.from_numpy(np.stack([item.pixels for item in batch])).to(self._device)
        _, said = self.model.look(pixels)
        assert said is not None
        geometries = [item.geometry for item in batch]
        return self.model.heads.annotations(said, geometries, score_threshold=score_threshold)

    @torch.inference_mode()
    def head_attention(self, item: Prepared) -> dict[str, npt.NDArray[np.float32]]:
        """Tell where each head looks in an image, by its name; without a gate it does not tell.

        Returns:
            Maps [grid height x grid width]: what a gate lets through, or a query's weights.
        """
        pixels = torch.from_numpy(item.pixels[None]).to(self._device)
        (memory, _), said = self.model.look(pixels)
        places = memory[0, :, -self.model.encoder.place_size :].float().cpu()
        maps = {}
        for name, head in (said or HeadOutputs())._asdict().items():
            if head is not None and head.attention is not None:
                looked = head.attention.float().cpu()
                maps[name] = self.model.encoder.maps(looked, places)[0].numpy()
        return maps

    def _found(
        self, said: HeadOutputs | None, geometries: Sequence[Geometry]
    ) -> Sequence[Annotations | None]:
        if said is None or self.model.heads is None:
            return [None] * len(geometries)
        return self.model.heads.annotations(said, geometries)

    def _likely(self, said: HeadOutputs | None, count: int) -> Sequence[dict[str, float]]:
        if said is None or self.model.heads is None:
            return [{}] * count
        return self.model.heads.likely(said)

    def _told(self, memory: Tensor, decoded: Sequence[Decoded]) -> list[dict[str, float]]:
        """Return the features for which a caption's own figures are not enough."""
        told: dict[str, Sequence[float]] = {}
        captions = [caption.tokens for caption in decoded]
        if self._statistics is not None:
            told["feature_distance"] = self._statistics.distance(memory).tolist()
        if self._verifier is not None:
            known = evidence(self.model.decoder, memory, decoded)
            told["verifier_logit"] = self._verifier.logits(known)
        if "image_information" in self._extras and self._statistics is not None:
            mean = self._statistics.memory.to(memory.device, memory.dtype).unsqueeze(0)
            without = rescore(self.model.decoder, mean, captions, self._words)
            given = [math.fsum(caption.logprobs) for caption in decoded]
            told["image_information"] = [a - b for a, b in zip(given, without, strict=True)]
        if "rescored_logprob_mean" in self._extras:
            totals = rescore(self.model.decoder, memory, captions, self._words)
            told["rescored_logprob_mean"] = [
                total / len(caption) for total, caption in zip(totals, captions, strict=True)
            ]
        return [
            {name: values[row] for name, values in told.items()} for row in range(len(captions))
        ]

    def _finish(
        self,
        decoded: Decoded,
        places: Tensor,
        found: Annotations | None,
        likely: dict[str, float],
        told: dict[str, float],
    ) -> Caption:
        tokens = self._spelt(decoded.tokens)
        text = self.tokenizer.text(tokens)
        attention = None
        if decoded.attention:
            attention = self.model.encoder.maps(torch.stack(decoded.attention), places).numpy()
        return Caption(
            text=text,
            tokens=tokens,
            token_logprobs=tuple(decoded.logprobs),
            n_best=tuple(
                (self.tokenizer.text(self._spelt(other)), logprob)
                for other, logprob in decoded.n_best
            ),
            attention=attention,
            features=features(decoded, self._words.end) | told | self._agreement(text, likely),
            verifier=self.verifier_id,
            annotations=found,
        )

    def _agreement(self, text: str, likely: dict[str, float]) -> dict[str, float]:
        heads = self.model.config.heads
        return {} if heads is None else {"heads_disagree": heads_disagree(text, likely, heads)}

    def _spelt(self, numbers: Sequence[int]) -> tuple[str, ...]:
        return tuple(self.tokenizer.word(number) for number in numbers)


def _seed(pixels: npt.NDArray[np.uint8]) -> int:
    """Return a number of an image's own, whatever batch it is in."""
    return int.from_bytes(hashlib.sha256(pixels.tobytes()).digest()[:8], "little")
