"""The Transformer decoder."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain

import torch
from torch import Tensor, nn
from torch.nn import functional

from captioner.attention import MultiHeadAttention
from captioner.decoders.base import (
    Fusion,
    check_choice,
    check_range,
    select_images,
    start_captions,
)
from captioner.decoders.vocabulary import Vocabulary

KeysValues = tuple[Tensor, Tensor]


@dataclass(frozen=True, kw_only=True)
class TransformerDecoderConfig:
    """Layers of self-attention, attention to the image, and a feed-forward network.

    Attributes:
        vocabulary_size: tokens that it may say.
        width: numbers for each word, all the way up.
        layers: how many.
        heads: of both kinds of attention.
        feedforward_size: numbers inside the feed-forward network.
        dropout: share dropped, in training, of what each part adds.
        tied: whether words are compared by what they are read as, with no weights of their own
            (1608.05859).
        fusion: where the image joins the words; early and late know no attention to it.
    """

    vocabulary_size: int
    width: int = 256
    layers: int = 3
    heads: int = 4
    feedforward_size: int = 1024
    dropout: float = 0.1
    tied: bool = False
    fusion: Fusion = "attention"

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            ValueError: if one is beyond all use, or they do not fit together.
        """
        check_range(self, "vocabulary_size", 4, 1_000_000)
        for name in ("width", "heads", "feedforward_size"):
            check_range(self, name, 1, 65_536)
        check_range(self, "layers", 1, 64)
        check_range(self, "dropout", 0, 0.95)
        check_choice(self, "fusion", Fusion)
        if self.width % (2 * self.heads):
            raise ValueError(f"width ({self.width}) must be divisible by 2 x heads ({self.heads})")


@dataclass(frozen=True)
class TransformerState:
    """What is remembered between two steps; w is the width, t the words so far.

    Attributes:
        image: which image each row is of, [b].
        seen: keys and values of the image, [b x n x w] both, for each layer.
        words: keys and values of the words read so far, [b x t x w] both, for each layer.
        attention: where the last layer looked, [b x n].
        output: what the last word was chosen by, [b x w]; rows that are selected lose it.
    """

    image: Tensor
    seen: tuple[KeysValues, ...]
    words: tuple[KeysValues, ...]
    attention: Tensor | None = None
    output: Tensor | None = None

    def select(self, rows: Tensor) -> "TransformerState":
        """Return the state of those rows, in that order."""
        image, seen = select_images(self.image, tuple(chain.from_iterable(self.seen)), rows)
        return TransformerState(
            image,
            tuple(zip(seen[::2], seen[1::2], strict=True)),
            tuple((keys[rows], values[rows]) for keys, values in self.words),
            None if self.attention is None else self.attention[rows],
        )


class TransformerDecoder(nn.Module):
    """Attention Is All You Need (1706.03762), with the norm before each part (2002.04745).

    The keys and values of the image are computed once, those of each word once as it is read.
    The attention that it tells of is the last layer's, a mean of its heads.
    """

    def __init__(self, config: TransformerDecoderConfig, *, feature_size: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(config.vocabulary_size, config.width)
        self.dropout = nn.Dropout(config.dropout)
        layers = [_Layer(config, feature_size) for _ in range(config.layers)]
        self.layers: Sequence[_Layer] = nn.ModuleList(layers)  # type: ignore[assignment]
        self.norm = nn.LayerNorm(config.width)
        self.vocabulary = Vocabulary(config.width, config.vocabulary_size, tied=config.tied)
        nn.init.normal_(self.embedding.weight, std=config.width**-0.5)

    def start(self, memory: Tensor) -> TransformerState:
        """Begin captions of the images of memory [b x n x f]."""
        nothing = memory.new_empty(len(memory), 0, self.embedding.embedding_dim)
        return TransformerState(
            torch.arange(len(memory), device=memory.device),
            tuple(layer.look.project(memory) for layer in self.layers),
            ((nothing, nothing),) * len(self.layers),
        )

    def step(self, tokens: Tensor, state: TransformerState) -> tuple[Tensor, TransformerState]:
        """Read the last tokens [b] and return logits [b x vocabulary] and the next state."""
        read, attention, words = self._read(tokens.unsqueeze(1), state)
        output = read[:, 0]
        after = replace(state, words=words, attention=attention[:, 0], output=output)
        return self._logits(output), after

    def select(self, state: TransformerState, rows: Tensor) -> TransformerState:
        """Keep those rows of a state, in that order; a row may be kept several times."""
        return state.select(rows)

    def forward(self, memory: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Read whole captions (teacher forcing).

        Args:
            memory: [b x positions x f].
            tokens: of as many captions of each image, one image's after another's, [c x t].

        Returns:
            Logits [c x t x vocabulary], and where each step looked, [c x t x positions].

        Raises:
            ValueError: if c is not a multiple of b.
        """
        read, attention, _ = self._read(tokens, start_captions(self, memory, tokens))
        return self._logits(read), attention

    def read_as(self, tokens: Tensor) -> Tensor:
        """Return what tokens [...] are read as, [... x w]."""
        words: Tensor = self.embedding(tokens)
        return words

    def _logits(self, read: Tensor) -> Tensor:
        logits: Tensor = self.vocabulary(read, self.embedding.weight)
        return logits

    def _read(
        self, tokens: Tensor, state: TransformerState
    ) -> tuple[Tensor, Tensor, tuple[KeysValues, ...]]:
        """Read tokens [b x t] after those of a state, each seeing none that come after it."""
        before, count = state.words[0][0].shape[1], tokens.shape[1]
        words = self.embedding(tokens) * self.embedding.embedding_dim**0.5
        words = self.dropout(words + sinusoids(before, count, words))
        sees = sees_before(before, words)
        read = []
        for layer, seen, past in zip(self.layers, state.seen, state.words, strict=True):
            words, known = layer.recalled(words, past, sees)
            words, attention = layer.looked(words, seen)
            words = layer.thought(words)
            read.append(known)
        return self.norm(words), attention, tuple(read)


class WordLayer(nn.Module):
    """Self-attention and feed-forward; each adds to what came in."""

    def __init__(self, config: TransformerDecoderConfig, norms: int = 2) -> None:
        super().__init__()
        width = config.width
        self.recall = MultiHeadAttention(
            query_size=width, value_size=width, attention_size=width, heads=config.heads
        )
        self.widen = nn.Linear(width, config.feedforward_size)
        self.narrow = nn.Linear(config.feedforward_size, width)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(norms))
        self.dropout = nn.Dropout(config.dropout)

    def recalled(self, words: Tensor, past: KeysValues, sees: Tensor) -> tuple[Tensor, KeysValues]:
        """Add what words [c x t x w] find in those before; keys and values of all of them."""
        normed = self.norms[0](words)
        keys, values = (
            torch.cat((old, new), 1)
            for old, new in zip(past, self.recall.project(normed), strict=True)
        )
        return words + self.dropout(self.recall(normed, keys, values, sees)[0]), (keys, values)

    def thought(self, words: Tensor) -> Tensor:
        """Add what the feed-forward network makes of words [c x t x w]."""
        inner = functional.gelu(self.widen(self.norms[-1](words)))
        after: Tensor = words + self.dropout(self.narrow(inner))
        return after


class _Layer(WordLayer):
    """Between the two, attention to the image."""

    def __init__(self, config: TransformerDecoderConfig, feature_size: int) -> None:
        super().__init__(config, norms=3)
        self.look = MultiHeadAttention(
            query_size=config.width,
            value_size=feature_size,
            attention_size=config.width,
            heads=config.heads,
            output_size=config.width,
        )

    def looked(self, words: Tensor, image: KeysValues) -> tuple[Tensor, Tensor]:
        """Add what words [c x t x w] find in the image; where they look, [c x t x n]."""
        seen, attention = self.look(self.norms[1](words), *image)
        return words + self.dropout(seen), attention


def sees_before(before: int, words: Tensor) -> Tensor:
    """Say which words see which: those before and themselves, [c x t x before + t].

    Args:
        before: how many come before all of them.
        words: [c x t x w].
    """
    rows, count, _ = words.shape
    sees = torch.ones(count, before + count, dtype=torch.bool, device=words.device)
    return sees.tril(before).expand(rows, -1, -1)


def sinusoids(first: int, count: int, like: Tensor) -> Tensor:
    """Say which positions words have, [count x width] (1706.03762, section 3.5).

    Args:
        first: position of the first of them.
        count: how many.
        like: a tensor [... x width], for width, device and type.
    """
    width = like.shape[-1]
    places = torch.arange(first, first + count, device=like.device, dtype=torch.float32)
    steps = torch.arange(0, width, 2, device=like.device, dtype=torch.float32)
    angles = places.unsqueeze(1) * torch.exp(steps * (-math.log(10_000.0) / width))
    return torch.stack((angles.sin(), angles.cos()), 2).flatten(1).to(like.dtype)
