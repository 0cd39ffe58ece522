"""From a configuration to its decoder."""

from collections.abc import Callable
from typing import Any

from captioner.decoders.fusion import EarlyDecoder, FusedDecoder, LateDecoder
from captioner.decoders.language_model import LanguageModelDecoder, LanguageModelDecoderConfig
from captioner.decoders.lstm import LSTMDecoder, LSTMDecoderConfig
from captioner.decoders.readers import LSTMReader, TransformerReader
from captioner.decoders.transformer import TransformerDecoder, TransformerDecoderConfig

DecoderConfig = LSTMDecoderConfig | TransformerDecoderConfig | LanguageModelDecoderConfig
CaptionDecoder = LSTMDecoder | TransformerDecoder | FusedDecoder | LanguageModelDecoder

_FUSED: dict[str, type[FusedDecoder]] = {"early": EarlyDecoder, "late": LateDecoder}


def decoder_of(config: DecoderConfig, *, feature_size: int, place_size: int = 0) -> CaptionDecoder:
    """Build the decoder of a configuration, with weights of no worth yet.

    Args:
        config: of any decoder.
        feature_size: numbers in a position of the memory.
        place_size: how many of them, the last ones, say where the position lies.

    Raises:
        ModelLoadError: if its library is missing, or makes no decoder of it.
        TypeError: if it is no decoder's.
    """
    for known, make in DECODERS.values():
        if type(config) is known:
            return make(config, feature_size, place_size)
    raise TypeError(f"{type(config).__name__} is the configuration of no decoder")


def _lstm(config: LSTMDecoderConfig, feature_size: int, place_size: int) -> CaptionDecoder:
    if config.fusion == "attention":
        return LSTMDecoder(config, feature_size=feature_size, place_size=place_size)
    return _FUSED[config.fusion](
        LSTMReader(config),
        vocabulary_size=config.vocabulary_size,
        feature_size=feature_size,
        memory_dropout=config.memory_dropout,
        tied=config.tied,
    )


def _transformer(
    config: TransformerDecoderConfig, feature_size: int, place_size: int
) -> CaptionDecoder:
    if config.fusion == "attention":
        return TransformerDecoder(config, feature_size=feature_size)
    return _FUSED[config.fusion](
        TransformerReader(config),
        vocabulary_size=config.vocabulary_size,
        feature_size=feature_size,
        tied=config.tied,
    )


def _language_model(
    config: LanguageModelDecoderConfig, feature_size: int, place_size: int
) -> CaptionDecoder:
    return LanguageModelDecoder(config, feature_size=feature_size)


DECODERS: dict[str, tuple[type[Any], Callable[[Any, int, int], CaptionDecoder]]] = {
    "lstm": (LSTMDecoderConfig, _lstm),
    "transformer": (TransformerDecoderConfig, _transformer),
    "language_model": (LanguageModelDecoderConfig, _language_model),
}
"""By the name that checkpoints give it: what a decoder is built from, and what builds it of the
configuration, feature_size and place_size."""
