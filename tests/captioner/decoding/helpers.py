"""Decoders to drive, and a reference that reads the whole caption anew for each word."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor, nn

from captioner.decoders import (
    LanguageModelDecoderConfig,
    LSTMDecoder,
    LSTMDecoderConfig,
    TransformerDecoder,
    TransformerDecoderConfig,
    decoder_of,
)
from captioner.decoding import Words

START, END = 1, 2
WORDS = Words(START, END)


@dataclass
class ScriptState:
    scripts: Tensor  # (rows, steps): the token that each row says at each step
    step: int = 0
    attention: Tensor | None = None


@dataclass
class ScriptedDecoder:
    """Says what each image's memory holds, and notes how many rows each step had."""

    vocabulary: int = 9
    rows: list[int] = field(default_factory=list)
    read: list[list[int]] = field(default_factory=list)

    def start(self, memory):
        return ScriptState(memory[:, :, 0].long())

    def step(self, tokens, state):
        self.rows.append(len(tokens))
        self.read.append(tokens.tolist())
        logits = torch.zeros(len(tokens), self.vocabulary)
        logits[torch.arange(len(tokens)), state.scripts[:, state.step]] = 3.0
        return logits, ScriptState(state.scripts, state.step + 1)

    def select(self, state, rows):
        return ScriptState(state.scripts[rows], state.step)


@dataclass
class FixedState:
    attention: Tensor | None = None


@dataclass
class FixedDecoder:
    """The same logits at every step."""

    logits: tuple[float, ...]

    def start(self, memory):
        return FixedState()

    def step(self, tokens, state):
        return torch.tensor([self.logits] * len(tokens)), state

    def select(self, state, rows):
        return state


def scripts(*rows):
    return torch.tensor(rows, dtype=torch.float32).unsqueeze(2)


def lstm(seed: int = 2, vocabulary: int = 11) -> LSTMDecoder:
    torch.manual_seed(seed)
    config = LSTMDecoderConfig(
        vocabulary_size=vocabulary, embedding_size=8, hidden_size=16, attention_size=8, dropout=0.0
    )
    decoder = LSTMDecoder(config, feature_size=6).eval()
    for weights in decoder.parameters():  # Large weights, so that captions differ.
        torch.nn.init.normal_(weights, std=1.0)
    return decoder


def transformer(seed: int = 3, vocabulary: int = 11) -> TransformerDecoder:
    torch.manual_seed(seed)
    config = TransformerDecoderConfig(
        vocabulary_size=vocabulary, width=16, layers=2, heads=2, feedforward_size=32, dropout=0.0
    )
    decoder = TransformerDecoder(config, feature_size=6).eval()
    for weights in decoder.parameters():
        if weights.ndim > 1:
            torch.nn.init.normal_(weights, std=0.5)
    return decoder


def fused(name: str, fusion: str, vocabulary: int = 11) -> nn.Module:
    torch.manual_seed(10)
    config = {
        "lstm": partial(LSTMDecoderConfig, embedding_size=8, hidden_size=16, layers=2),
        "transformer": partial(
            TransformerDecoderConfig, width=16, layers=2, heads=2, feedforward_size=32
        ),
    }[name](vocabulary_size=vocabulary, dropout=0.0, fusion=fusion)
    decoder = decoder_of(config, feature_size=6).eval()
    for weights in decoder.parameters():
        if weights.ndim > 1:
            nn.init.normal_(weights, std=0.7)
    return decoder


def language_model(vocabulary: int = 11) -> nn.Module:
    torch.manual_seed(5)
    settings = {"model_type": "gpt2", "vocab_size": vocabulary, "add_cross_attention": True}
    settings |= {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 20}
    settings |= {"bos_token_id": START, "eos_token_id": END}
    config = LanguageModelDecoderConfig(vocabulary_size=vocabulary, settings=settings)
    decoder = decoder_of(config, feature_size=6).eval()
    for weights in decoder.parameters():
        if weights.ndim > 1:
            nn.init.normal_(weights, std=0.5)
    return decoder


DECODERS: dict[str, Callable[..., nn.Module]] = {"lstm": lstm, "transformer": transformer}
FUSED: dict[str, Callable[..., nn.Module]] = {
    f"{name}-{fusion}": partial(fused, name, fusion)
    for name in ("lstm", "transformer")
    for fusion in ("early", "late")
}
EVERY = {**DECODERS, **FUSED, "language_model": language_model}


def next_logprobs(decoder, image: Tensor, said: tuple[int, ...]) -> Tensor:
    """Read the whole caption again, by the way training goes."""
    with torch.inference_mode():
        logits, _ = decoder(image[None], torch.tensor([[START, *said]]))
    return logits[0, -1].log_softmax(0)
