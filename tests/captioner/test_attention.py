import math

import pytest
import torch

from captioner.attention import AdditiveAttention


@pytest.fixture
def attention() -> AdditiveAttention:
    torch.manual_seed(0)
    return AdditiveAttention(query_size=5, value_size=4, attention_size=3)


def by_hand(attention, query, values, mask=None):
    """Score each position with plain numbers, one image at a time."""
    w_query, b_query = attention.query.weight.tolist(), attention.query.bias.tolist()
    w_key, w_score = attention.key.weight.tolist(), attention.score.weight[0].tolist()
    contexts, weights = [], []
    for b in range(len(query)):
        scores = []
        for n in range(values.shape[1]):
            score = 0.0
            for a in range(len(w_score)):
                score += w_score[a] * math.tanh(
                    b_query[a]
                    + sum(w * x for w, x in zip(w_query[a], query[b].tolist(), strict=True))
                    + sum(w * x for w, x in zip(w_key[a], values[b, n].tolist(), strict=True))
                )
            scores.append(score if mask is None or mask[b, n] else -math.inf)
        total = sum(math.exp(score) for score in scores)
        weights.append([math.exp(score) / total for score in scores])
        contexts.append(
            [
                sum(w * values[b, n, v].item() for n, w in enumerate(weights[-1]))
                for v in range(values.shape[2])
            ]
        )
    return torch.tensor(contexts), torch.tensor(weights)


class TestAdditiveAttention:
    @pytest.mark.parametrize("masked", [False, True])
    def test_agrees_with_a_reference_by_hand(self, attention, masked):
        query, values = torch.randn(2, 5), torch.randn(2, 6, 4)
        mask = torch.tensor([[1, 1, 0, 1, 0, 1], [0, 0, 0, 0, 1, 1]]).bool() if masked else None
        context, weights = attention(query, attention.project(values), values, mask)
        wanted_context, wanted_weights = by_hand(attention, query, values, mask)
        torch.testing.assert_close(context, wanted_context)
        torch.testing.assert_close(weights, wanted_weights)

    def test_gradients_agree_with_finite_differences(self, attention):
        attention.double()
        query = torch.randn(2, 5, dtype=torch.double, requires_grad=True)
        values = torch.randn(2, 3, 4, dtype=torch.double, requires_grad=True)

        def attend(query, values):
            return attention(query, attention.project(values), values)

        assert torch.autograd.gradcheck(attend, (query, values))
