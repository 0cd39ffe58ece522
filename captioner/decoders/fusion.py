"""Decoders without attention: the image joins the words once, before them or after them.

Where to put the image (1703.09137, 1708.02043). What reads the words is a ``Reader``: a network
that may be an LSTM or a Transformer, and knows nothing of images.

Shapes: b images, c captions, t words, w numbers for each word, n positions, f features.
"""

from dataclasses import dataclass, replace

from torch import Tensor, nn

from captioner.decoders.base import start_captions
from captioner.decoders.vocabulary import Vocabulary

Past = tuple[Tensor, ...]
"""What a reader remembers, a row a caption, [c x ...] each."""


class Reader(nn.Module):
    """Reads words, one after another; what it is given may come from elsewhere too.

    Attributes:
        embedding: numbers for each word.
    """

    def __init__(self, vocabulary_size: int, width: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary_size, width)

    def embed(self, tokens: Tensor) -> Tensor:
        """Turn tokens [c x t] into what is read, [c x t x w]."""
        raise NotImplementedError

    def begin(self, like: Tensor) -> Past:
        """Return what it remembers before the first word; as many rows as ``like`` [c x ...]."""
        raise NotImplementedError

    def forward(self, words: Tensor, past: Past) -> tuple[Tensor, Past]:
        """Read [c x t x w]: what it makes of each, [c x t x w], and what it remembers."""
        raise NotImplementedError

    def finish(self, read: Tensor) -> Tensor:
        """Turn what was made of words, [c x t x w], into what is compared with the vocabulary."""
        raise NotImplementedError


@dataclass(frozen=True)
class FusedState:
    """What is remembered between two steps.

    Attributes:
        past: what the reader remembers.
        image: what joins all that was read, [c x w]; None where the image was read as a word.
        attention: always None.
        output: what the last word was chosen by, [c x w]; rows that are selected lose it.
    """

    past: Past
    image: Tensor | None = None
    attention: Tensor | None = None
    output: Tensor | None = None

    def select(self, rows: Tensor) -> "FusedState":
        """Return the state of those rows, in that order."""
        image = None if self.image is None else self.image[rows]
        return FusedState(tuple(part[rows] for part in self.past), image)


class FusedDecoder(nn.Module):
    """What early and late fusion share; each says how a caption starts.

    Args:
        reader: reads the words.
        vocabulary_size: tokens that it may say.
        feature_size: numbers in a position of the memory.
        memory_dropout: share of the image's features dropped in training.
        tied: whether words are compared by what they are read as.
    """

    def __init__(
        self,
        reader: Reader,
        *,
        vocabulary_size: int,
        feature_size: int,
        memory_dropout: float = 0.0,
        tied: bool = False,
    ) -> None:
        super().__init__()
        width = reader.embedding.embedding_dim
        self.reader = reader
        self.memory_dropout = nn.Dropout(memory_dropout)
        self.image = nn.Linear(feature_size, width)
        self.vocabulary = Vocabulary(width, vocabulary_size, tied=tied)

    def start(self, memory: Tensor) -> FusedState:
        """Begin captions of the images of memory [b x n x f]."""
        raise NotImplementedError

    def step(self, tokens: Tensor, state: FusedState) -> tuple[Tensor, FusedState]:
        """Read the last tokens [c] and return logits [c x vocabulary] and the next state."""
        read, state = self._read(tokens.unsqueeze(1), state)
        output = read[:, 0]
        return self._logits(output), replace(state, output=output)

    def select(self, state: FusedState, rows: Tensor) -> FusedState:
        """Keep those rows of a state, in that order; a row may be kept several times."""
        return state.select(rows)

    def forward(self, memory: Tensor, tokens: Tensor) -> tuple[Tensor, None]:
        """Read whole captions (teacher forcing).

        Args:
            memory: [b x n x f].
            tokens: of as many captions of each image, one image's after another's, [c x t].

        Returns:
            Logits [c x t x vocabulary], and None: it looks nowhere.

        Raises:
            ValueError: if c is not a multiple of b.
        """
        read, _ = self._read(tokens, start_captions(self, memory, tokens))
        return self._logits(read), None

    def read_as(self, tokens: Tensor) -> Tensor:
        """Return what tokens [...] are read as, [... x w]."""
        words: Tensor = self.reader.embedding(tokens)
        return words

    def _logits(self, read: Tensor) -> Tensor:
        logits: Tensor = self.vocabulary(read, self.reader.embedding.weight)
        return logits

    def _seen(self, memory: Tensor) -> Tensor:
        """Turn the mean feature of memory [b x n x f] into numbers like a word's, [b x w]."""
        seen: Tensor = self.image(self.memory_dropout(memory).mean(1))
        return seen

    def _read(self, tokens: Tensor, state: FusedState) -> tuple[Tensor, FusedState]:
        read, past = self.reader(self.reader.embed(tokens), state.past)
        if state.image is not None:
            read = read + state.image.unsqueeze(1)
        return self.reader.finish(read), FusedState(past, state.image)


class EarlyDecoder(FusedDecoder):
    """Reads the image as if it were the first word, and sees it no more (1411.4555)."""

    def start(self, memory: Tensor) -> FusedState:
        """Begin captions of the images of memory [b x n x f]."""
        _, past = self.reader(self._seen(memory).unsqueeze(1), self.reader.begin(memory))
        return FusedState(past)


class LateDecoder(FusedDecoder):
    """Reads the words without the image, which joins all that was read of them (1703.09137)."""

    def start(self, memory: Tensor) -> FusedState:
        """Begin captions of the images of memory [b x n x f]."""
        return FusedState(self.reader.begin(memory), self._seen(memory))
