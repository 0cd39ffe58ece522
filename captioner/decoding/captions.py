"""What decoding must know of words, and what it tells of captions."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

from torch import Tensor


@dataclass(frozen=True)
class Words:
    """The tokens that decoding must know of.

    Attributes:
        start: the one that every caption begins with; not part of what is returned.
        end: the one that ends a caption.
        forbidden: sequences of tokens that no caption may hold.
    """

    start: int
    end: int
    forbidden: tuple[tuple[int, ...], ...] = ()

    @cached_property
    def never(self) -> tuple[int, ...]:
        """The tokens that are forbidden by themselves."""
        return tuple(sequence[0] for sequence in self.forbidden if len(sequence) == 1)

    @cached_property
    def phrases(self) -> tuple[tuple[list[int], int], ...]:
        """Longer forbidden sequences: what comes before the last token, and that."""
        longer = (sequence for sequence in self.forbidden if len(sequence) > 1)
        return tuple((list(sequence[:-1]), sequence[-1]) for sequence in longer)


@dataclass
class Decoded:
    """What the engine found out about one caption, a value a token.

    Attributes:
        tokens: the tokens, the end token last where it was produced.
        logprobs: natural log-probability of each token.
        entropies: entropy of each token's distribution, in nats.
        margins: probability of each token less that of the best other one.
        attention: where each step looked, [positions]; empty for decoders that do not attend.
        outputs: what each token was chosen by, [width], where decoding kept it.
        end_probability: the probability of the end token at the last step.
        n_best: the captions that were found, tokens and log-probability, best first.
    """

    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    entropies: list[float] = field(default_factory=list)
    margins: list[float] = field(default_factory=list)
    attention: list[Tensor] = field(default_factory=list)
    outputs: list[Tensor] = field(default_factory=list)
    end_probability: float = 0.0
    n_best: list[tuple[list[int], float]] = field(default_factory=list)

    def add(
        self,
        token: int,
        figures: Sequence[float],
        looked: Tensor | None,
        output: Tensor | None = None,
    ) -> None:
        """Add a token.

        Args:
            token: its number.
            figures: as ``Distribution.figures``.
            looked: where that step looked, [positions].
            output: what the token was chosen by, [width].
        """
        logprob, entropy, margin, self.end_probability = figures
        self.tokens.append(token)
        self.logprobs.append(logprob)
        self.entropies.append(entropy)
        self.margins.append(margin)
        if looked is not None:
            self.attention.append(looked)
        if output is not None:
            self.outputs.append(output)
