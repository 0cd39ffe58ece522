"""Attention: a query looks at keys and brings back a mean of values, weighted by what fits."""

import torch
from torch import Tensor, nn


class AdditiveAttention(nn.Module):
    """Additive attention (Bahdanau): ``score = w' tanh(W_h h + W_v v)``.

    Keys do not depend on the query, so they are projected once an image (``project``).

    Shapes: b images, n positions, q the query's size, v the values' size, a the attention's size.
    """

    def __init__(self, *, query_size: int, value_size: int, attention_size: int) -> None:
        super().__init__()
        self.query = nn.Linear(query_size, attention_size)
        self.key = nn.Linear(value_size, attention_size, bias=False)
        self.score = nn.Linear(attention_size, 1, bias=False)

    def project(self, values: Tensor) -> Tensor:
        """Turn values [b x n x v] into keys [b x n x a]."""
        keys: Tensor = self.key(values)
        return keys

    def forward(
        self, query: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Look at the values.

        Args:
            query: [b x q].
            keys: what ``project`` made of the values, [b x n x a].
            values: [b x n x v].
            mask: [b x n], true where there is something to look at; None looks everywhere.

        Returns:
            The context [b x v] and the weights [b x n], which sum to 1 over the positions.
        """
        scores = self.score(torch.tanh(self.query(query).unsqueeze(1) + keys)).squeeze(2)  # (b, n)
        if mask is not None:
            scores = scores.masked_fill(~mask, float("-inf"))
        weights = scores.softmax(1)
        return torch.bmm(weights.unsqueeze(1), values).squeeze(1), weights
