"""The LSTM decoder."""

from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor, nn

from captioner.attention import AttentionKind, attention_of_kind
from captioner.decoders.base import (
    Fusion,
    captions_an_image,
    check_choice,
    check_range,
    select_images,
)
from captioner.decoders.vocabulary import Vocabulary


@dataclass(frozen=True, kw_only=True)
class LSTMDecoderConfig:
    """An LSTM.

    Attributes:
        vocabulary_size: tokens that it may say.
        embedding_size: numbers for each word.
        hidden_size: numbers in the memory of each layer.
        layers: LSTMs, each reading the hidden state of the one below.
        attention: how query and keys are compared.
        attention_size: numbers in which they are compared.
        heads: of multi-head attention; the other kinds have one.
        dropout: share of the output features, and of what passes between layers, dropped in
            training.
        embedding_dropout: share of the numbers of the words read dropped in training.
        memory_dropout: share of the image's features dropped in training; with attention not of
            those that say where a position lies.
        tied: whether words are compared by what they are read as, with no weights of their own
            (1608.05859).
        fusion: where the image joins the words; early and late know no attention.
    """

    vocabulary_size: int
    embedding_size: int = 256
    hidden_size: int = 512
    layers: int = 1
    attention: AttentionKind = "additive"
    attention_size: int = 256
    heads: int = 1
    dropout: float = 0.4
    embedding_dropout: float = 0.2
    memory_dropout: float = 0.0
    tied: bool = False
    fusion: Fusion = "attention"

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            ValueError: if one is beyond all use, or they do not fit together.
        """
        check_range(self, "vocabulary_size", 4, 1_000_000)
        for name in ("embedding_size", "hidden_size", "attention_size"):
            check_range(self, name, 1, 8192)
        check_range(self, "layers", 1, 16)
        for name in ("dropout", "embedding_dropout", "memory_dropout"):
            check_range(self, name, 0, 0.95)
        check_choice(self, "fusion", Fusion)
        check_choice(self, "attention", AttentionKind)
        if self.fusion != "attention":
            self._check_no_attention()
        if self.attention != "multi_head" and self.heads != 1:
            raise ValueError(f"heads is {self.heads}, but {self.attention} attention has one")
        if self.heads < 1 or self.attention_size % self.heads:
            raise ValueError(
                f"attention_size ({self.attention_size}) must be divisible by heads ({self.heads})"
            )

    def _check_no_attention(self) -> None:
        defaults = {field.name: field.default for field in fields(self)}
        for name in ("attention", "attention_size"):
            if (value := getattr(self, name)) != defaults[name]:
                raise ValueError(
                    f"{name} is {value!r}, but with {self.fusion} fusion there is no attention; "
                    "leave it out"
                )


@dataclass(frozen=True)
class LSTMState:
    """What is remembered between two steps.

    Attributes:
        image: which image each row is of, [b].
        places: where each position lies, [b x n x p].
        keys: of the image, [b x n x a].
        values: of the image, [b x n x v].
        hidden: of each layer, [b x h].
        cell: of each layer, [b x h].
        attention: where the last step looked, [b x n].
        output: what the last word was chosen by, [b x e]; rows that are selected lose it.
    """

    image: Tensor
    places: Tensor
    keys: Tensor
    values: Tensor
    hidden: tuple[Tensor, ...]
    cell: tuple[Tensor, ...]
    attention: Tensor | None = None
    output: Tensor | None = None

    def select(self, rows: Tensor) -> "LSTMState":
        """Return the state of those rows, in that order."""
        parts = (self.places, self.keys, self.values)
        image, (places, keys, values) = select_images(self.image, parts, rows)
        return LSTMState(
            image,
            places,
            keys,
            values,
            tuple(layer[rows] for layer in self.hidden),
            tuple(layer[rows] for layer in self.cell),
            None if self.attention is None else self.attention[rows],
        )


class LSTMDecoder(nn.Module):
    """Show, Attend and Tell (1502.03044) with soft attention of any kind.

    The first state comes from the mean feature; at each step the LSTM reads the last word and
    the context, scaled by a gate beta; the next word comes from word, hidden state and context
    together (deep output). Unlike there, the last word is part of what attention is asked by:
    where several objects would fit, it tells which one the caption has chosen, and the hidden
    state has not read it yet. The last ``place_size`` features say where a position lies. The
    gate leaves those alone: it would close on them while things are named, and how things lie to
    each other, which is said later, would never be learned.
    """

    def __init__(
        self, config: LSTMDecoderConfig, *, feature_size: int, place_size: int = 0
    ) -> None:
        super().__init__()
        embedding, hidden = config.embedding_size, config.hidden_size
        self._seen_size = feature_size - place_size
        self.embedding = nn.Embedding(config.vocabulary_size, embedding)
        self.attention = attention_of_kind(
            config.attention,
            query_size=hidden + embedding,
            value_size=feature_size,
            attention_size=config.attention_size,
            heads=config.heads,
            output_size=self._seen_size,
        )
        self.first_hidden = nn.Linear(feature_size, config.layers * hidden)
        self.first_cell = nn.Linear(feature_size, config.layers * hidden)
        self.gate = nn.Linear(hidden, self._seen_size)
        self.cells = nn.ModuleList(
            nn.LSTMCell(hidden if layer else embedding + feature_size, hidden)
            for layer in range(config.layers)
        )
        self.output_hidden = nn.Linear(hidden, embedding)
        self.output_context = nn.Linear(feature_size, embedding, bias=False)
        self.dropout = nn.Dropout(config.dropout)
        self.embedding_dropout = nn.Dropout(config.embedding_dropout)
        self.memory_dropout = nn.Dropout(config.memory_dropout)
        self.vocabulary = Vocabulary(embedding, config.vocabulary_size, tied=config.tied)
        if config.tied:  # Words are compared by it, so that it must not be large.
            nn.init.normal_(self.embedding.weight, std=embedding**-0.5)

    def start(self, memory: Tensor) -> LSTMState:
        """Begin captions of the images of memory [b x n x f]."""
        seen, places = memory.tensor_split((self._seen_size,), 2)
        memory = torch.cat((self.memory_dropout(seen), places), 2)
        mean = memory.mean(1)
        count = len(self.cells)
        return LSTMState(
            torch.arange(len(memory), device=memory.device),
            places,
            *self.attention.project(memory),
            torch.tanh(self.first_hidden(mean)).chunk(count, 1),
            torch.tanh(self.first_cell(mean)).chunk(count, 1),
        )

    def step(self, tokens: Tensor, state: LSTMState) -> tuple[Tensor, LSTMState]:
        """Read the last tokens [b] and return logits [b x vocabulary] and the next state."""
        words = self.embedding_dropout(self.embedding(tokens))
        state, context, _ = self._advance(words, state)
        output = self._output(words, state.hidden[-1], context)
        return self._logits(output), replace(state, output=output)

    def select(self, state: LSTMState, rows: Tensor) -> LSTMState:
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
        words = self.embedding_dropout(self.embedding(tokens))  # (c, t, e)
        each = captions_an_image(memory, tokens)
        state = self.start(memory)
        state = replace(
            state,
            hidden=tuple(layer.repeat_interleave(each, 0) for layer in state.hidden),
            cell=tuple(layer.repeat_interleave(each, 0) for layer in state.cell),
        )
        hidden, contexts, looked = [], [], []
        for word in words.unbind(1):
            state, context, weights = self._advance(word, state)
            hidden.append(state.hidden[-1])
            contexts.append(context)
            looked.append(weights)
        outputs = self._output(words, torch.stack(hidden, 1), torch.stack(contexts, 1))
        return self._logits(outputs), torch.stack(looked, 1)

    def read_as(self, tokens: Tensor) -> Tensor:
        """Return what tokens [...] are read as, [... x e]."""
        words: Tensor = self.embedding(tokens)
        return words

    def _advance(self, words: Tensor, state: LSTMState) -> tuple[LSTMState, Tensor, Tensor]:
        """Read words [c x e]: the next state, the context [c x f], the attention [c x n].

        In training an image's captions ask it together, which needs no copies of its keys.
        """
        top = state.hidden[-1]
        query = torch.cat((top, words), 1)
        asked = query.view(len(state.keys), -1, query.shape[1])  # (b, c / b, q)
        found, weights = self.attention(asked, state.keys, state.values)
        where = (weights @ state.places).flatten(0, 1)
        found, weights = found.flatten(0, 1), weights.flatten(0, 1)
        seen = torch.sigmoid(self.gate(top)) * found[:, : self._seen_size]
        context = torch.cat((seen, where), 1)
        read = torch.cat((words, context), 1)
        hidden: list[Tensor] = []
        cell: list[Tensor] = []
        for layer, last in zip(self.cells, zip(state.hidden, state.cell, strict=True), strict=True):
            read = self.dropout(hidden[-1]) if hidden else read
            new_hidden, new_cell = layer(read, last)
            hidden.append(new_hidden)
            cell.append(new_cell)
        after = replace(state, hidden=tuple(hidden), cell=tuple(cell), attention=weights)
        return after, context, weights

    def _output(self, words: Tensor, hidden: Tensor, context: Tensor) -> Tensor:
        return torch.tanh(words + self.output_hidden(hidden) + self.output_context(context))

    def _logits(self, outputs: Tensor) -> Tensor:
        logits: Tensor = self.vocabulary(self.dropout(outputs), self.embedding.weight)
        return logits
