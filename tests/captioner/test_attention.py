"""Each kind against an independent reference: PyTorch's own, or plain numbers."""

import math
from typing import get_args

import pytest
import torch
from torch import nn
from torch.nn import functional

from captioner.attention import (
    AdditiveAttention,
    AttentionKind,
    DotAttention,
    MultiHeadAttention,
    ScaledDotAttention,
    attention_of_kind,
)

KINDS = get_args(AttentionKind)
IMAGES, QUERIES, POSITIONS, QUERY, VALUE, SIZE = 2, 3, 6, 5, 4, 8
MASKS = {
    "none": None,
    "of images": torch.tensor([[1, 1, 0, 1, 0, 1], [0, 0, 0, 0, 1, 1]]).bool(),
    "of queries": torch.tensor([[[1, 0, 0, 0, 0, 0], [1, 1, 1, 0, 0, 0], [1] * 6]] * 2).bool(),
}


def made(kind: str) -> nn.Module:
    torch.manual_seed(0)
    heads = 2 if kind == "multi_head" else 1
    return attention_of_kind(
        kind, query_size=QUERY, value_size=VALUE, attention_size=SIZE, heads=heads
    ).double()


def inputs() -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(1)
    query = torch.randn(IMAGES, QUERIES, QUERY, dtype=torch.double, requires_grad=True)
    memory = torch.randn(IMAGES, POSITIONS, VALUE, dtype=torch.double, requires_grad=True)
    return query, memory


def additive_by_hand(attention, query, memory, mask):
    """Score each position with plain numbers, one image and query at a time."""
    w_query, b_query = attention.query.weight.tolist(), attention.query.bias.tolist()
    w_key, w_score = attention.key.weight.tolist(), attention.score.weight[0].tolist()
    weights = torch.zeros(len(query), query.shape[1], memory.shape[1], dtype=torch.double)
    for b, t in [(b, t) for b in range(len(query)) for t in range(query.shape[1])]:
        scores = []
        for n in range(memory.shape[1]):
            score = 0.0
            for a in range(len(w_score)):
                asked = sum(w * x for w, x in zip(w_query[a], query[b, t].tolist(), strict=True))
                found = sum(w * x for w, x in zip(w_key[a], memory[b, n].tolist(), strict=True))
                score += w_score[a] * math.tanh(b_query[a] + asked + found)
            scores.append(math.exp(score) if mask is None or mask[b, t, n] else 0.0)
        weights[b, t] = torch.tensor([score / sum(scores) for score in scores])
    contexts = torch.einsum("btn,bnv->btv", weights, memory.detach())
    return contexts, weights


def per_query(mask):
    """Return a mask as [b x t x n]."""
    if mask is None or mask.ndim == 3:
        return mask
    return mask.unsqueeze(1).expand(-1, QUERIES, -1)


@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
class TestAgainstReferences:
    def test_additive_by_hand(self, mask):
        attention, (query, memory) = made("additive"), inputs()
        context, weights = attention(query, *attention.project(memory), mask)
        wanted, wanted_weights = additive_by_hand(attention, query, memory, per_query(mask))
        torch.testing.assert_close(context, wanted)
        torch.testing.assert_close(weights, wanted_weights)

    @pytest.mark.parametrize(("kind", "scale"), [("dot", 1.0), ("scaled_dot", None)])
    def test_dot_products_by_pytorch(self, mask, kind, scale):
        attention, (query, memory) = made(kind), inputs()
        context, _ = attention(query, *attention.project(memory), mask)
        gradients = torch.autograd.grad(context.square().sum(), (query, memory))
        wanted = functional.scaled_dot_product_attention(
            attention.query(query),
            attention.key(memory),
            memory,
            attn_mask=per_query(mask),
            scale=scale,
        )
        torch.testing.assert_close(context, wanted)
        torch.testing.assert_close(
            gradients, torch.autograd.grad(wanted.square().sum(), (query, memory))
        )

    def test_multi_head_by_pytorch(self, mask):
        torch.manual_seed(0)
        attention = MultiHeadAttention(
            query_size=SIZE, value_size=VALUE, attention_size=SIZE, heads=2, output_size=SIZE
        ).double()
        reference = nn.MultiheadAttention(
            SIZE, 2, kdim=VALUE, vdim=VALUE, batch_first=True, dtype=torch.double
        )
        copy_weights(attention, reference)
        _, memory = inputs()
        query = torch.randn(IMAGES, QUERIES, SIZE, dtype=torch.double, requires_grad=True)
        context, weights = attention(query, *attention.project(memory), mask)
        wanted = per_query(mask)
        hidden = None if wanted is None else ~wanted.repeat_interleave(2, 0)
        reference_context, reference_weights = reference(query, memory, memory, attn_mask=hidden)
        torch.testing.assert_close(context, reference_context)
        torch.testing.assert_close(weights, reference_weights)
        parts = (query, memory)
        torch.testing.assert_close(
            torch.autograd.grad(context.square().sum(), parts),
            torch.autograd.grad(reference_context.square().sum(), parts),
        )


def copy_weights(ours: MultiHeadAttention, theirs: nn.MultiheadAttention) -> None:
    """Give PyTorch's attention our weights; it has biases of keys and values, we have none."""
    with torch.no_grad():
        if theirs.in_proj_weight is not None:
            theirs.in_proj_weight.copy_(
                torch.cat((ours.query.weight, ours.key.weight, ours.value.weight))
            )
        else:
            theirs.q_proj_weight.copy_(ours.query.weight)
            theirs.k_proj_weight.copy_(ours.key.weight)
            theirs.v_proj_weight.copy_(ours.value.weight)
        theirs.in_proj_bias.zero_()
        theirs.in_proj_bias[: len(ours.query.bias)] = ours.query.bias
        theirs.out_proj.weight.copy_(ours.output.weight)
        theirs.out_proj.bias.copy_(ours.output.bias)


@pytest.mark.parametrize("kind", KINDS)
class TestEveryKind:
    def test_gradients_agree_with_finite_differences(self, kind):
        attention, (query, memory) = made(kind), inputs()

        def attend(query, memory):
            return attention(query, *attention.project(memory), MASKS["of images"])

        assert torch.autograd.gradcheck(attend, (query, memory))

    def test_weights_are_a_distribution_over_what_is_not_masked(self, kind):
        attention, (query, memory) = made(kind), inputs()
        mask = MASKS["of images"]
        _, weights = attention(query, *attention.project(memory), mask)
        torch.testing.assert_close(weights.sum(2), torch.ones(IMAGES, QUERIES).double())
        assert weights[~per_query(mask)].abs().max() == 0
        assert weights[per_query(mask)].min() > 0

    def test_a_query_is_answered_alone(self, kind):
        attention, (query, memory) = made(kind), inputs()
        projected = attention.project(memory)
        together, _ = attention(query, *projected)
        for step in range(QUERIES):
            alone, _ = attention(query[:, step : step + 1], *projected)
            torch.testing.assert_close(alone[:, 0], together[:, step])

    def test_what_fits_the_query_is_looked_at(self, kind):
        """Trained to point at one position by its first feature, it does."""
        torch.manual_seed(0)
        attention = made(kind).float()
        optimizer = torch.optim.Adam(attention.parameters(), lr=0.02)
        for _ in range(200):
            memory, wanted = torch.randn(64, POSITIONS, VALUE), torch.randint(POSITIONS, (64,))
            memory[:, :, 0] = functional.one_hot(wanted, POSITIONS) * 2.0
            _, weights = attention(torch.ones(64, 1, QUERY), *attention.project(memory))
            loss = functional.nll_loss(weights[:, 0].log(), wanted)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        assert loss.item() < 0.7 * math.log(POSITIONS)


def test_kinds_differ_in_what_they_say_they_differ_in():
    classes = (AdditiveAttention, DotAttention, ScaledDotAttention, MultiHeadAttention)
    for kind, wanted in zip(KINDS, classes, strict=True):
        assert type(made(kind)) is wanted


def test_heads_that_cannot_share_are_refused():
    with pytest.raises(ValueError, match=r"attention_size \(8\) must be divisible by heads \(3\)"):
        attention_of_kind("multi_head", query_size=4, value_size=4, attention_size=8, heads=3)
