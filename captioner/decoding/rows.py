"""Greedy decoding and sampling: one caption an image, a row each."""

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from captioner.contract import DecodingConfig
from captioner.decoders import Decoder, State
from captioner.decoding.captions import Decoded, Words
from captioner.decoding.distribution import Distribution
from captioner.decoding.rules import allowed

Choice = Callable[[Tensor, int, list[int]], Tensor]
"""From log-probabilities [r x v], the step, and each row's image, to tokens [r]."""


def most_probable(logprobs: Tensor, step: int, images: list[int]) -> Tensor:
    """Choose the most probable token of each row."""
    return logprobs.argmax(1)


class Sampling:
    """Draws tokens, each image by random numbers of its own."""

    def __init__(self, config: DecodingConfig, seeds: Sequence[int]) -> None:
        self._config = config
        self._draws = np.stack(
            [np.random.default_rng((config.seed, seed)).random(config.max_length) for seed in seeds]
        )

    def __call__(self, logprobs: Tensor, step: int, images: list[int]) -> Tensor:
        """Draw a token of each row."""
        config = self._config
        # On the processor: some accelerators have no double precision, and little is to be done.
        scaled = logprobs.cpu() / config.temperature
        ordered, tokens = scaled.sort(dim=1, descending=True, stable=True)
        probabilities = ordered.softmax(1).double()
        if config.top_k:
            probabilities[:, config.top_k :] = 0
        if config.top_p < 1:
            before = probabilities.cumsum(1) - probabilities
            probabilities[before >= config.top_p * probabilities.sum(1, keepdim=True)] = 0
        cumulated = probabilities.cumsum(1)
        draws = torch.from_numpy(self._draws[images, step])
        place = torch.searchsorted(cumulated, (draws * cumulated[:, -1]).unsqueeze(1), right=True)
        # A draw next to 1 may be rounded past the last token that has a probability.
        last = (probabilities > 0).sum(1, keepdim=True) - 1
        chosen: Tensor = tokens.gather(1, place.minimum(last)).squeeze(1)
        return chosen.to(logprobs.device)


def one_a_row(
    decoder: Decoder[State],
    memory: Tensor,
    config: DecodingConfig,
    words: Words,
    choose: Choice,
    keep_outputs: bool,
) -> list[Decoded]:
    """Caption images; rows that are done leave the batch.

    Args:
        decoder: what gives the logits.
        memory: what the encoder saw, [b x positions x features].
        config: how tokens are chosen.
        words: the tokens that matter.
        choose: chooses a token of each row.
        keep_outputs: keep what each token was chosen by.
    """
    captions = [Decoded() for _ in range(len(memory))]
    rows = list(range(len(memory)))
    state = decoder.start(memory)
    tokens = torch.full((len(memory),), words.start, dtype=torch.long, device=memory.device)
    for step in range(config.max_length):
        logits, state = decoder.step(tokens, state)
        found = Distribution.of(logits)
        said = [captions[row].tokens for row in rows]
        tokens = choose(allowed(found.logprobs, said, config, words), step, rows)
        everyone = torch.arange(len(rows), device=tokens.device)
        figures = found.figures(everyone, tokens, words.end).tolist()
        chosen = tokens.tolist()
        looked = None if state.attention is None else state.attention.float().cpu()
        nothing = [None] * len(rows)
        told = (
            chosen,
            figures,
            nothing if looked is None else looked.unbind(),
            state.output.unbind() if keep_outputs and state.output is not None else nothing,
        )
        for row, *one in zip(rows, *told, strict=True):
            captions[row].add(*one)
        alive = [i for i, token in enumerate(chosen) if token != words.end]
        if not alive:
            break
        if len(alive) < len(rows):
            kept = torch.tensor(alive, device=memory.device)
            state, tokens = decoder.select(state, kept), tokens[kept]
            rows = [rows[i] for i in alive]
    for caption in captions:
        caption.n_best = [(caption.tokens, math.fsum(caption.logprobs))]
    return captions
