"""Words that are read wrong on purpose, so that the picture is looked at."""

import torch
from torch import Tensor


def noisy(tokens: Tensor, share: float) -> Tensor:
    """Put other captions' words, from the same place in them, in the place of some.

    A decoder that reads only true words learns from them what cannot follow, and may go by that
    against what it sees: a red ring is then never one, if there was none in training. This is the
    noise of 1703.02573, with words of the same place for words of any: they are more alike.

    Args:
        tokens: read by teacher forcing, start first, [c x t]; the start stays.
        share: of the words that are drawn anew, from the captions at hand; what a shorter one has
            there is padding, which tells nothing.
    """
    if not share:
        return tokens
    count, length = tokens.shape
    others = torch.randint(count, (count, length), device=tokens.device)
    changed = torch.rand(count, length, device=tokens.device) < share
    changed[:, 0] = False
    return torch.where(changed, tokens.gather(0, others), tokens)
