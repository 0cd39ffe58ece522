"""Decoders: from what the encoder saw, one word after another."""

from captioner.decoders.base import Decoder, DecoderState, State
from captioner.decoders.lstm import LSTMDecoder, LSTMDecoderConfig, LSTMState
from captioner.decoders.transformer import (
    TransformerDecoder,
    TransformerDecoderConfig,
    TransformerState,
)

__all__ = [
    "Decoder",
    "DecoderState",
    "LSTMDecoder",
    "LSTMDecoderConfig",
    "LSTMState",
    "State",
    "TransformerDecoder",
    "TransformerDecoderConfig",
    "TransformerState",
]
