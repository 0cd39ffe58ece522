"""Sampling against the probabilities themselves."""

import math
from collections import Counter

import pytest
import torch

from captioner.contract import DecodingConfig
from captioner.decoding import decode
from tests.captioner.decoding.helpers import WORDS, FixedDecoder, lstm


class TestSampling:
    LOGITS = (0.0, 0.5, -9.0, 1.0, 2.0)

    def drawn(self, count: int = 4000, **changes: object) -> Counter[int]:
        config = DecodingConfig(strategy="sample", max_length=1, **changes)  # type: ignore[arg-type]
        memory = torch.zeros(count, 1, 1)
        found = decode(FixedDecoder(self.LOGITS), memory, config, WORDS, range(count))
        return Counter(item.tokens[0] for item in found)

    @pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
    def test_tokens_come_as_often_as_they_are_probable(self, temperature):
        wanted = (torch.tensor(self.LOGITS) / temperature).softmax(0)
        drawn = self.drawn(temperature=temperature)
        for token, share in enumerate(wanted.tolist()):
            spread = 4 * math.sqrt(share * (1 - share) / 4000)
            assert drawn[token] / 4000 == pytest.approx(share, abs=spread + 1e-9)

    def test_top_k_and_top_p_cut_the_tail(self):
        assert set(self.drawn(top_k=1)) == {4}
        assert set(self.drawn(top_k=2)) == {4, 3}
        # 4 has 0.56 of the probability, 3 has 0.21, 1 has 0.12, 0 has 0.08.
        assert set(self.drawn(top_p=0.5)) == {4}
        assert set(self.drawn(top_p=0.6)) == {4, 3}
        assert set(self.drawn(top_p=0.8)) == {4, 3, 1}

    def test_a_seed_repeats_and_another_does_not(self):
        decoder, memory = lstm(), torch.randn(20, 5, 6)

        def said(seed: int) -> list[list[int]]:
            config = DecodingConfig(strategy="sample", seed=seed, max_length=9)
            return [item.tokens for item in decode(decoder, memory, config, WORDS, range(20))]

        assert said(1) == said(1)
        assert said(1) != said(2)

    def test_without_a_seed_for_each_image_it_is_refused(self):
        with pytest.raises(ValueError, match="2 images but 1 seeds"):
            decode(lstm(), torch.zeros(2, 5, 6), DecodingConfig(strategy="sample"), WORDS, [1])
