"""The figures of a token: what the model's own distribution said of it."""

from dataclasses import dataclass

import torch
from torch import Tensor

NEVER = float("-inf")
UNLIKELY = -1e4
"""Stands for a log-probability of minus infinity where one is to be counted with."""


@dataclass
class Distribution:
    """What the model says of the next token, before any rule: r rows, v tokens.

    Attributes:
        logprobs: [r x v].
        entropies: in nats, [r].
        best: the highest log-probability and the second highest, [r x 2].
        most_probable: the token of the highest, [r].
    """

    logprobs: Tensor
    entropies: Tensor
    best: Tensor
    most_probable: Tensor

    @classmethod
    def of(cls, logits: Tensor) -> "Distribution":
        """Read logits [r x v], whatever their precision.

        Raises:
            FloatingPointError: if they are no distribution.
        """
        logprobs = logits.float().log_softmax(1)
        entropies = -(logprobs.exp() * logprobs.clamp_min(UNLIKELY)).sum(1)
        if entropies.isnan().any():
            raise FloatingPointError(
                "the model gave no probabilities (not a number); if it runs in half precision, "
                "use float32"
            )
        best, tokens = logprobs.topk(2, 1)
        return cls(logprobs, entropies, best, tokens[:, 0])

    def figures(self, rows: Tensor, tokens: Tensor, end: int) -> Tensor:
        """Return log-probability, entropy, margin and end probability, [n x 4].

        Args:
            rows: of the distribution, [n].
            tokens: chosen there, [n].
            end: the end token.
        """
        chosen = self.logprobs[rows, tokens]
        best, runner_up = self.best[rows].unbind(1)
        other = torch.where(tokens == self.most_probable[rows], runner_up, best)
        ends = self.logprobs[rows, end].exp()
        return torch.stack((chosen, self.entropies[rows], chosen.exp() - other.exp(), ends), 1)
