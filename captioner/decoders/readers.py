"""Networks that read words and know nothing of images, for early and late fusion."""

from collections.abc import Sequence

from torch import Tensor, nn

from captioner.decoders.fusion import Past, Reader
from captioner.decoders.lstm import LSTMDecoderConfig
from captioner.decoders.transformer import (
    TransformerDecoderConfig,
    WordLayer,
    sees_before,
    sinusoids,
)


class LSTMReader(Reader):
    """An LSTM; what it remembers is hidden state and cell, [c x layers x h]."""

    def __init__(self, config: LSTMDecoderConfig) -> None:
        width = config.embedding_size
        super().__init__(config.vocabulary_size, width)
        self.embedding_dropout = nn.Dropout(config.embedding_dropout)
        self.lstm = nn.LSTM(
            width,
            config.hidden_size,
            config.layers,
            batch_first=True,
            dropout=config.dropout if config.layers > 1 else 0.0,
        )
        self.output = nn.Linear(config.hidden_size, width)
        self.dropout = nn.Dropout(config.dropout)
        if config.tied:  # Words are compared by it, so that it must not be large.
            nn.init.normal_(self.embedding.weight, std=width**-0.5)

    def embed(self, tokens: Tensor) -> Tensor:
        """Turn tokens [c x t] into what is read, [c x t x w]."""
        words: Tensor = self.embedding_dropout(self.embedding(tokens))
        return words

    def begin(self, like: Tensor) -> Past:
        """Return what it remembers before the first word; as many rows as ``like`` [c x ...]."""
        nothing = like.new_zeros(len(like), self.lstm.num_layers, self.lstm.hidden_size)
        return nothing, nothing

    def forward(self, words: Tensor, past: Past) -> tuple[Tensor, Past]:
        """Read [c x t x w]: what it makes of each, [c x t x w], and what it remembers."""
        # The LSTM wants layers first.
        hidden, cell = (part.transpose(0, 1).contiguous() for part in past)
        read, (hidden, cell) = self.lstm(words, (hidden, cell))
        return self.output(read), (hidden.transpose(0, 1), cell.transpose(0, 1))

    def finish(self, read: Tensor) -> Tensor:
        """Turn what was made of words, [c x t x w], into what is compared with the vocabulary."""
        finished: Tensor = self.dropout(read.tanh())
        return finished


class TransformerReader(Reader):
    """Layers of self-attention; what it remembers is each layer's keys and values, [c x t x w]."""

    def __init__(self, config: TransformerDecoderConfig) -> None:
        super().__init__(config.vocabulary_size, config.width)
        layers = [WordLayer(config) for _ in range(config.layers)]
        self.layers: Sequence[WordLayer] = nn.ModuleList(layers)  # type: ignore[assignment]
        self.norm = nn.LayerNorm(config.width)
        self.dropout = nn.Dropout(config.dropout)
        nn.init.normal_(self.embedding.weight, std=config.width**-0.5)

    def embed(self, tokens: Tensor) -> Tensor:
        """Turn tokens [c x t] into what is read, [c x t x w]."""
        words: Tensor = self.embedding(tokens) * self.embedding.embedding_dim**0.5
        return words

    def begin(self, like: Tensor) -> Past:
        """Return what it remembers before the first word; as many rows as ``like`` [c x ...]."""
        nothing = like.new_empty(len(like), 0, self.embedding.embedding_dim)
        return (nothing, nothing) * len(self.layers)

    def forward(self, words: Tensor, past: Past) -> tuple[Tensor, Past]:
        """Read [c x t x w]: what it makes of each, [c x t x w], and what it remembers."""
        before = past[0].shape[1]
        sees = sees_before(before, words)
        words = self.dropout(words + sinusoids(before, words.shape[1], words))
        read: list[Tensor] = []
        for layer, keys, values in zip(self.layers, past[::2], past[1::2], strict=True):
            words, known = layer.recalled(words, (keys, values), sees)
            words = layer.thought(words)
            read.extend(known)
        return words, tuple(read)

    def finish(self, read: Tensor) -> Tensor:
        """Turn what was made of words, [c x t x w], into what is compared with the vocabulary."""
        finished: Tensor = self.norm(read)
        return finished
