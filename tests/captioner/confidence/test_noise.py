"""A caption is as probable in one batch as in another, where sums differ in their last digits."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch

from captioner.confidence.fitting import fit
from captioner.contract import DecodingConfig
from captioner.decoding import decode, features
from tests.captioner.decoding.helpers import END, WORDS, lstm

NOISE = 1e-6
"""Of each logit and each weight of attention, as a share of it: ten times that of float32."""
IMAGES, PLAIN = 1200, 100
"""How many images, and how many of them are alike everywhere, so that attention to them is even."""


@dataclass
class Noisy:
    """A decoder whose logits and attention are a little off, some up and some down."""

    decoder: torch.nn.Module
    random: torch.Generator

    def start(self, memory):
        return self.decoder.start(memory)

    def step(self, tokens, state):
        logits, state = self.decoder.step(tokens, state)
        return self._off(logits), replace(state, attention=self._off(state.attention))

    def select(self, state, rows):
        return self.decoder.select(state, rows)

    def _off(self, values):
        signs = torch.randint(0, 2, values.shape, generator=self.random) * 2 - 1
        return values * (1 + NOISE * signs)


@pytest.fixture(scope="module")
def rows():
    """The features of the same captions, without noise and with it."""
    exact = lstm()
    memory = torch.randn(IMAGES, 9, 6, generator=torch.Generator().manual_seed(0))
    memory[:PLAIN] = memory[:PLAIN, :1]
    without, with_noise = (
        decode(decoder, memory, DecodingConfig(max_length=8), WORDS)
        for decoder in (exact, Noisy(exact, torch.Generator().manual_seed(1)))
    )
    assert [one.tokens for one in without] == [one.tokens for one in with_noise]
    return [[features(one, END) for one in said] for said in (without, with_noise)]


@pytest.mark.parametrize("calibration", ["sigmoid", "isotonic"])
def test_noise_moves_no_probability(rows, calibration):
    sure = np.array([row["logprob_mean"] for row in rows[0]])
    chances = 1 / (1 + np.exp(-0.5 * (sure - sure.mean()) / sure.std() - 0.3))
    right = np.random.default_rng(1).random(IMAGES) < chances
    of = {"model_id": "tiny@0", "decoding": "greedy", "calibration": calibration}
    head = fit(rows[0], right, list(map(str, range(IMAGES))), **of).head
    assert "attention_coverage" in head.features
    without, with_noise = (
        head.probabilities(np.array([[row[name] for name in head.features] for row in said]))
        for said in rows
    )
    assert np.ptp(without) > 0.2
    assert 0 < np.abs(without - with_noise).max() < 1e-5
