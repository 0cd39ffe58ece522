"""Whole captions read at once, against what decoding said of them."""

import pytest
import torch

from captioner.contract import DecodingConfig
from captioner.decoding import decode, rescore
from tests.captioner.decoding.helpers import EVERY, WORDS, next_logprobs


@pytest.mark.parametrize("make", EVERY.values(), ids=EVERY)
class TestRescore:
    def test_it_says_what_decoding_said(self, make):
        decoder, memory = make(), torch.randn(6, 5, 6)
        found = decode(decoder, memory, DecodingConfig(max_length=8), WORDS)
        # Cut to different lengths, so that they are padded.
        captions = [item.tokens[: 1 + cut] for cut, item in enumerate(found)]
        said = [sum(item.logprobs[: 1 + cut]) for cut, item in enumerate(found)]
        totals = rescore(decoder, memory, captions, WORDS)
        assert totals == pytest.approx(said, abs=1e-4)
        alone = [
            rescore(decoder, image[None], [caption], WORDS)[0]
            for image, caption in zip(memory, captions, strict=True)
        ]
        assert totals == pytest.approx(alone, abs=1e-5)

    def test_one_image_for_all_captions(self, make):
        decoder, memory = make(), torch.randn(1, 5, 6)
        captions = [[4, 3, 2], [5], [3, 3, 7, 8]]
        wanted = [
            sum(
                next_logprobs(decoder, memory[0], tuple(caption[:i]))[token].item()
                for i, token in enumerate(caption)
            )
            for caption in captions
        ]
        assert rescore(decoder, memory, captions, WORDS) == pytest.approx(wanted, abs=1e-4)
