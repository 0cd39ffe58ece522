"""Attention: a query looks at keys and brings back a mean of values, weighted by what fits.

Four kinds with one interface. What does not depend on the query is computed once an image, by
``project``; ``forward`` then answers any number of queries.

Shapes: b images, t queries of each, n positions, q the query's size, m the memory's, a that of the
space in which query and keys are compared, v that of the values.
"""

import math
from typing import Literal

import torch
from torch import Tensor, nn

AttentionKind = Literal["additive", "dot", "scaled_dot", "multi_head"]


class Attention(nn.Module):
    """What the four kinds share: keys from memory, scores, their softmax, a weighted mean.

    Each kind says how a query and a key are compared (``scores``).
    """

    def __init__(self, *, query_size: int, value_size: int, attention_size: int) -> None:
        super().__init__()
        self.query = nn.Linear(query_size, attention_size)
        self.key = nn.Linear(value_size, attention_size, bias=False)

    def project(self, memory: Tensor) -> tuple[Tensor, Tensor]:
        """Turn memory [b x n x m] into keys [b x n x a] and values [b x n x v]."""
        return self.key(memory), memory

    def scores(self, query: Tensor, keys: Tensor) -> Tensor:
        """Compare projected queries [b x t x a] with keys [b x n x a]: [b x t x n]."""
        raise NotImplementedError

    def forward(
        self, query: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Look at the values.

        Args:
            query: [b x t x q].
            keys: [b x n x a], of ``project``.
            values: [b x n x v], of ``project``.
            mask: true where there is something to look at, [b x n], or [b x t x n] where that
                depends on the query; None looks everywhere. Each query needs one position.

        Returns:
            The context [b x t x v] and the weights [b x t x n], which sum to 1 over the positions.
        """
        weights = _softmax(self.scores(self.query(query), keys), mask)
        return weights @ values, weights


def _softmax(scores: Tensor, mask: Tensor | None) -> Tensor:
    """Turn scores [b x ... x t x n] into weights; a mask is [b x n] or [b x t x n]."""
    if mask is not None:
        mask = mask if mask.ndim == 3 else mask.unsqueeze(1)
        mask = mask if scores.ndim == 3 else mask.unsqueeze(1)
        scores = scores.masked_fill(~mask, float("-inf"))
    return scores.softmax(-1)


class AdditiveAttention(Attention):
    """``score = w' tanh(W_h h + W_v v)`` (Bahdanau et al., 1409.0473, appendix A.1.2)."""

    def __init__(self, *, query_size: int, value_size: int, attention_size: int) -> None:
        super().__init__(
            query_size=query_size, value_size=value_size, attention_size=attention_size
        )
        self.score = nn.Linear(attention_size, 1, bias=False)

    def scores(self, query: Tensor, keys: Tensor) -> Tensor:
        """Compare projected queries [b x t x a] with keys [b x n x a]: [b x t x n]."""
        # tanh z = 2 sigmoid(2 z) - 1, which a processor computes several times as fast.
        compared = torch.add(2 * query.unsqueeze(2), keys.unsqueeze(1), alpha=2).sigmoid_()
        scores: Tensor = self.score(compared).squeeze(3)  # (b, t, n), from (b, t, n, a)
        return 2 * scores - self.score.weight.sum()


class DotAttention(Attention):
    """``score = (W_h h)' (W_v v)`` (Luong et al., 1508.04025, equation 8)."""

    def scores(self, query: Tensor, keys: Tensor) -> Tensor:
        """Compare projected queries [b x t x a] with keys [b x n x a]: [b x t x n]."""
        return query @ keys.transpose(1, 2)


class ScaledDotAttention(DotAttention):
    """``score = (W_h h)' (W_v v) / sqrt(a)`` (Vaswani et al., 1706.03762, equation 1)."""

    def scores(self, query: Tensor, keys: Tensor) -> Tensor:
        """Compare projected queries [b x t x a] with keys [b x n x a]: [b x t x n]."""
        return super().scores(query, keys) / math.sqrt(keys.shape[2])


class MultiHeadAttention(Attention):
    """Scaled dot attention in several subspaces at once (Vaswani et al., 1706.03762, 3.2.2).

    The weights that it returns are the mean of its heads'.
    """

    def __init__(
        self,
        *,
        query_size: int,
        value_size: int,
        attention_size: int,
        heads: int,
        output_size: int | None = None,
    ) -> None:
        """Make the layers.

        Args:
            query_size: numbers in a query.
            value_size: numbers in a position of the memory.
            attention_size: numbers of all heads together.
            heads: how many.
            output_size: numbers in a context; as many as in the memory if None.

        Raises:
            ValueError: if the heads cannot share ``attention_size`` evenly.
        """
        if heads < 1 or attention_size % heads:
            raise ValueError(
                f"attention_size ({attention_size}) must be divisible by heads ({heads})"
            )
        super().__init__(
            query_size=query_size, value_size=value_size, attention_size=attention_size
        )
        self.heads = heads
        self.value = nn.Linear(value_size, attention_size, bias=False)
        self.output = nn.Linear(attention_size, output_size or value_size)

    def project(self, memory: Tensor) -> tuple[Tensor, Tensor]:
        """Turn memory [b x n x m] into keys and values, both [b x n x a]."""
        return self.key(memory), self.value(memory)

    def forward(
        self, query: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Look at the values; as ``Attention.forward``, the context [b x t x output]."""
        queries, keys, values = map(self._split, (self.query(query), keys, values))
        scores = queries @ keys.transpose(2, 3) / math.sqrt(queries.shape[3])  # (b, heads, t, n)
        weights = _softmax(scores, mask)
        context = (weights @ values).transpose(1, 2).flatten(2)  # (b, t, a)
        return self.output(context), weights.mean(1)

    def _split(self, part: Tensor) -> Tensor:
        """[b x n x a] to [b x heads x n x a / heads]."""
        batch, count, size = part.shape
        return part.view(batch, count, self.heads, size // self.heads).transpose(1, 2)


_KINDS: dict[str, type[Attention]] = {
    "additive": AdditiveAttention,
    "dot": DotAttention,
    "scaled_dot": ScaledDotAttention,
}


def attention_of_kind(
    kind: AttentionKind,
    *,
    query_size: int,
    value_size: int,
    attention_size: int,
    heads: int = 1,
    output_size: int | None = None,
) -> Attention:
    """Make attention of a kind.

    ``heads`` and ``output_size`` matter to multi-head attention only; the context of the others
    is a mean of what they look at, as it is.
    """
    if kind == "multi_head":
        return MultiHeadAttention(
            query_size=query_size,
            value_size=value_size,
            attention_size=attention_size,
            heads=heads,
            output_size=output_size,
        )
    return _KINDS[kind](query_size=query_size, value_size=value_size, attention_size=attention_size)
