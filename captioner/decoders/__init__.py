"""Decoders: from what the encoder saw, one word after another."""

from captioner.decoders.base import Decoder, DecoderState, State
from captioner.decoders.factory import DECODERS, CaptionDecoder, DecoderConfig, decoder_of
from captioner.decoders.fusion import EarlyDecoder, LateDecoder
from captioner.decoders.language_model import LanguageModelDecoder, LanguageModelDecoderConfig
from captioner.decoders.lstm import LSTMDecoder, LSTMDecoderConfig, LSTMState
from captioner.decoders.pretrained import language_model_from_pretrained
from captioner.decoders.transformer import (
    TransformerDecoder,
    TransformerDecoderConfig,
    TransformerState,
)

__all__ = [
    "DECODERS",
    "CaptionDecoder",
    "Decoder",
    "DecoderConfig",
    "DecoderState",
    "EarlyDecoder",
    "LSTMDecoder",
    "LSTMDecoderConfig",
    "LSTMState",
    "LanguageModelDecoder",
    "LanguageModelDecoderConfig",
    "LateDecoder",
    "State",
    "TransformerDecoder",
    "TransformerDecoderConfig",
    "TransformerState",
    "decoder_of",
    "language_model_from_pretrained",
]
