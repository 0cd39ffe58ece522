"""Decoders: from what the encoder saw, one word after another."""

from dataclasses import dataclass, replace
from typing import Protocol, Self, TypeVar

import torch
from torch import Tensor, nn

from captioner.attention import AdditiveAttention


class DecoderState(Protocol):
    """What a decoder remembers between two steps, one row a caption."""

    @property
    def attention(self) -> Tensor | None:
        """Where the last step looked, [b x positions], each row summing to 1."""

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
        """Keep those rows of a state, in that order."""


@dataclass(frozen=True, kw_only=True)
class LSTMDecoderConfig:
    """An LSTM with additive attention.

    Attributes:
        vocabulary_size: tokens that it may say.
        embedding_size: numbers for each word.
        hidden_size: numbers in its memory.
        attention_size: numbers in which query and keys are compared.
        dropout: share of the output features dropped in training.
    """

    vocabulary_size: int
    embedding_size: int = 96
    hidden_size: int = 256
    attention_size: int = 128
    dropout: float = 0.1

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            ValueError: if one is beyond all use.
        """
        if not 4 <= self.vocabulary_size <= 1_000_000:
            raise ValueError(f"vocabulary_size is {self.vocabulary_size}; use 4 to 1000000")
        for name in ("embedding_size", "hidden_size", "attention_size"):
            if not 1 <= (value := getattr(self, name)) <= 8192:
                raise ValueError(f"{name} is {value}; use 1 to 8192")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout is {self.dropout}; use 0 to less than 1")


@dataclass(frozen=True)
class LSTMState:
    """Memory [b x n x f], keys [b x n x a], hidden and cell [b x h], attention [b x n]."""

    memory: Tensor
    keys: Tensor
    hidden: Tensor
    cell: Tensor
    attention: Tensor | None = None

    def select(self, rows: Tensor) -> "LSTMState":
        """Return the state of those rows, in that order."""
        return LSTMState(
            self.memory[rows],
            self.keys[rows],
            self.hidden[rows],
            self.cell[rows],
            None if self.attention is None else self.attention[rows],
        )


class LSTMDecoder(nn.Module):
    """Show, Attend and Tell (1502.03044) with soft attention.

    The first state comes from the mean feature; at each step the LSTM reads the last word and
    the context, scaled by a gate beta; the next word comes from word, hidden state and context
    together (deep output). Unlike there, the last word is part of what attention is asked by:
    where several objects would fit, it tells which one the caption has chosen, and the hidden
    state has not read it yet. The last ``place_size`` features say where a position lies. The gate
    leaves those alone: it would close on them while things are named, and how things lie to each
    other, which is said later, would never be learned.
    """

    def __init__(
        self, config: LSTMDecoderConfig, *, feature_size: int, place_size: int = 0
    ) -> None:
        super().__init__()
        embedding, hidden = config.embedding_size, config.hidden_size
        self.embedding = nn.Embedding(config.vocabulary_size, embedding)
        self.attention = AdditiveAttention(
            query_size=hidden + embedding,
            value_size=feature_size,
            attention_size=config.attention_size,
        )
        self.first_hidden = nn.Linear(feature_size, hidden)
        self.first_cell = nn.Linear(feature_size, hidden)
        self.gate = nn.Linear(hidden, feature_size - place_size)
        self.cells = nn.ModuleList([nn.LSTMCell(embedding + feature_size, hidden)])
        self.output_hidden = nn.Linear(hidden, embedding)
        self.output_context = nn.Linear(feature_size, embedding, bias=False)
        self.dropout = nn.Dropout(config.dropout)
        self.vocabulary = nn.Linear(embedding, config.vocabulary_size)

    def start(self, memory: Tensor) -> LSTMState:
        """Begin captions of the images of memory [b x n x f]."""
        mean = memory.mean(1)
        return LSTMState(
            memory,
            self.attention.project(memory),
            torch.tanh(self.first_hidden(mean)),
            torch.tanh(self.first_cell(mean)),
        )

    def step(self, tokens: Tensor, state: LSTMState) -> tuple[Tensor, LSTMState]:
        """Read the last tokens [b] and return logits [b x vocabulary] and the next state."""
        words = self.embedding(tokens)
        state, context, _ = self._advance(words, state)
        return self._logits(words, state.hidden, context), state

    def select(self, state: LSTMState, rows: Tensor) -> LSTMState:
        """Keep those rows of a state, in that order."""
        return state.select(rows)

    def forward(self, memory: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Read whole captions [b x t] (teacher forcing).

        Returns:
            Logits [b x t x vocabulary], and where each step looked, [b x t x positions].
        """
        words = self.embedding(tokens)  # (b, t, e)
        state = self.start(memory)
        hidden, contexts, looked = [], [], []
        for word in words.unbind(1):
            state, context, weights = self._advance(word, state)
            hidden.append(state.hidden)
            contexts.append(context)
            looked.append(weights)
        logits = self._logits(words, torch.stack(hidden, 1), torch.stack(contexts, 1))
        return logits, torch.stack(looked, 1)

    def _advance(self, words: Tensor, state: LSTMState) -> tuple[LSTMState, Tensor, Tensor]:
        query = torch.cat((state.hidden, words), 1)
        context, weights = self.attention(query, state.keys, state.memory)
        gate = torch.sigmoid(self.gate(state.hidden))
        seen, place = context.split((gate.shape[1], context.shape[1] - gate.shape[1]), 1)
        context = torch.cat((gate * seen, place), 1)
        hidden, cell = self.cells[0](torch.cat((words, context), 1), (state.hidden, state.cell))
        return replace(state, hidden=hidden, cell=cell, attention=weights), context, weights

    def _logits(self, words: Tensor, hidden: Tensor, context: Tensor) -> Tensor:
        output = torch.tanh(words + self.output_hidden(hidden) + self.output_context(context))
        logits: Tensor = self.vocabulary(self.dropout(output))
        return logits
