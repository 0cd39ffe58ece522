"""Which tokens may come next."""

from collections.abc import Sequence

import torch
from torch import Tensor

from captioner.contract import DecodingConfig
from captioner.decoding.captions import Words
from captioner.decoding.distribution import NEVER, UNLIKELY


def allowed(
    logprobs: Tensor, said: Sequence[Sequence[int]], config: DecodingConfig, words: Words
) -> Tensor:
    """Return log-probabilities [r x v] with what may not follow ``said`` at minus infinity.

    A row to which everything is forbidden may end.
    """
    banned = [_banned(history, config, words) for history in said]
    if not words.never and not any(banned):
        return logprobs
    own_ends = logprobs[:, words.end].clamp_min(UNLIKELY)
    logprobs = logprobs.clone()
    logprobs[:, list(words.never)] = NEVER
    row = torch.tensor([i for i, tokens in enumerate(banned) for _ in tokens], dtype=torch.long)
    column = torch.tensor([token for tokens in banned for token in tokens], dtype=torch.long)
    logprobs[row.to(logprobs.device), column.to(logprobs.device)] = NEVER
    stuck = logprobs.amax(1) == NEVER
    logprobs[stuck, words.end] = own_ends[stuck]
    return logprobs


def _banned(said: Sequence[int], config: DecodingConfig, words: Words) -> set[int]:
    """Return the tokens that may not come next."""
    banned = {words.end} if len(said) < config.min_length else set[int]()
    for before, last in words.phrases:
        if list(said[-len(before) :]) == before:
            banned.add(last)
    n = config.no_repeat_ngram
    if n and len(said) >= n - 1:
        tail = list(said[len(said) - n + 1 :])
        banned.update(
            said[i + n - 1] for i in range(len(said) - n + 1) if list(said[i : i + n - 1]) == tail
        )
    return banned
