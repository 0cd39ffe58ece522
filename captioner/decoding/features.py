"""What confidence may be computed from, as far as decoding alone can tell."""

import math
from collections.abc import Sequence
from itertools import pairwise
from statistics import fmean

import torch
from torch import Tensor

from captioner.decoding.captions import Decoded


def features(decoded: Decoded, end: int | None = None) -> dict[str, float]:
    """Return features named as in ``schemas.tables.FEATURES``; what is not known is left out.

    Args:
        decoded: what decoding found out about a caption.
        end: the end token, which is no word on which captions agree.
    """
    total, count = math.fsum(decoded.logprobs), len(decoded.logprobs)
    return {
        "logprob_mean": total / count,
        "logprob_min": min(decoded.logprobs),
        "logprob_sum": total,
        "num_tokens": float(count),
        "entropy_mean": math.fsum(decoded.entropies) / count,
        "entropy_max": max(decoded.entropies),
        "margin_min": min(decoded.margins),
        "eos_probability": decoded.end_probability,
        **_of_beams(decoded.n_best, end),
        **_of_attention(decoded.attention),
    }


def _of_beams(captions: Sequence[tuple[list[int], float]], end: int | None) -> dict[str, float]:
    if len(captions) < 2:
        return {}
    said = [[token for token in tokens if token != end] for tokens, _ in captions]
    return {
        "beam_gap": captions[0][1] - captions[1][1],
        "beam_agreement": fmean(agreement(said[0], other) for other in said[1:]),
    }


def agreement(one: Sequence[int], other: Sequence[int]) -> float:
    """Return on what share of their words two captions agree: ROUGE-L's F1 (Lin, 2004).

    Twice the length of the longest common subsequence, words in order with gaps, over the length
    of both: 1 for the same caption, 0 where no word is shared.
    """
    if not one and not other:
        return 1.0
    row = [0] * (len(other) + 1)
    for token in one:
        after = [0]
        for (diagonal, above), rival in zip(pairwise(row), other, strict=True):
            after.append(diagonal + 1 if token == rival else max(above, after[-1]))
        row = after
    return 2 * row[-1] / (len(one) + len(other))


def _of_attention(attention: Sequence[Tensor]) -> dict[str, float]:
    if not attention:
        return {}
    weights = torch.stack(list(attention))  # (tokens, positions)
    entropy = -torch.special.xlogy(weights, weights).sum(1).mean()
    return {"attention_entropy": float(entropy), "attention_coverage": coverage(weights)}


def coverage(weights: Tensor) -> float:
    """Return how evenly a caption looked over the picture, without a step at any attention.

    With w_i the mean of the weights of position i over tokens, and n positions, it is the mean
    over positions of min(n w_i, 1): what they got of their even share, no more than all of it.
    It is 1 where each got that, 1/n where one got everything, and 1 less the total variation
    distance of w to the even distribution.

    Args:
        weights: of each token's attention, [tokens x positions]; each row's sum is 1.
    """
    shares = weights.mean(0) * weights.shape[1]
    return float(shares.clamp(max=1).mean())
