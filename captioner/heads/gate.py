"""Attention of heads: which positions count, as a map that one can look at."""

import torch
from torch import Tensor, nn

from captioner.attention import attention_of_kind


class Gate(nn.Module):
    """Lets each position through by a share of its own, whatever the others do.

    A 1 x 1 convolution, which over positions in a row is a linear layer, and a sigmoid.
    """

    def __init__(self, feature_size: int) -> None:
        super().__init__()
        self.score = nn.Linear(feature_size, 1)

    def forward(self, memory: Tensor) -> tuple[Tensor, Tensor]:
        """Weigh memory [b x n x f]: return it, and the shares [b x n] from 0 to 1."""
        shares = self.score(memory).sigmoid()  # (b, n, 1)
        return memory * shares, shares.squeeze(2)


class OpenGate(nn.Module):
    """Lets everything through, and has no map: what a gate is measured against."""

    def forward(self, memory: Tensor) -> tuple[Tensor, None]:
        """Return memory [b x n x f] as it is."""
        return memory, None


def gate_of(feature_size: int, gate: bool) -> nn.Module:
    """Make a gate, or what stands in its place."""
    return Gate(feature_size) if gate else OpenGate()


class GatePooling(nn.Module):
    """A mean of the positions, each counting as much as its gate is open."""

    def __init__(self, feature_size: int) -> None:
        super().__init__()
        self.gate = Gate(feature_size)

    def forward(self, memory: Tensor) -> tuple[Tensor, Tensor]:
        """Pool memory [b x n x f] to [b x f]; the map is [b x n], from 0 to 1 each."""
        gated, shares = self.gate(memory)
        # A sigmoid in half precision may be 0 everywhere.
        least = torch.finfo(torch.float16).tiny
        return gated.sum(1) / shares.sum(1, keepdim=True).clamp_min(least), shares


class QueryPooling(nn.Module):
    """A mean of the positions, weighted by how well they fit a learned query (1810.00825, 3.2)."""

    def __init__(self, feature_size: int, attention_size: int) -> None:
        super().__init__()
        self.attention = attention_of_kind(
            "scaled_dot",
            query_size=attention_size,
            value_size=feature_size,
            attention_size=attention_size,
        )
        self.query = nn.Parameter(torch.empty(1, 1, attention_size))
        nn.init.trunc_normal_(self.query, std=0.02)

    def forward(self, memory: Tensor) -> tuple[Tensor, Tensor]:
        """Pool memory [b x n x f] to [b x f]; the map [b x n] sums to 1."""
        query = self.query.expand(len(memory), -1, -1)
        context, weights = self.attention(query, *self.attention.project(memory))
        return context.squeeze(1), weights.squeeze(1)


class MeanPooling(nn.Module):
    """The plain mean of the positions, without a map."""

    def forward(self, memory: Tensor) -> tuple[Tensor, None]:
        """Pool memory [b x n x f] to [b x f]."""
        return memory.mean(1), None
