"""What was known of each word, against the decoder itself."""

import pytest
import torch

from captioner.contract import DecodingConfig
from captioner.decoding import decode, evidence
from tests.captioner.decoding.helpers import DECODERS, EVERY, FUSED, WORDS, next_logprobs

STRATEGIES = {
    "greedy": DecodingConfig(max_length=8),
    "beam": DecodingConfig(strategy="beam", max_length=8),
    "sample": DecodingConfig(strategy="sample", max_length=8, seed=3),
}


def known(make, strategy: str = "greedy", images: int = 6):
    decoder, memory = make(), torch.randn(images, 5, 6)
    config, seeds = STRATEGIES[strategy], range(images)
    captions = decode(decoder, memory, config, WORDS, seeds, keep_outputs=True)
    return decoder, memory, captions, evidence(decoder, memory, captions)


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("make", EVERY.values(), ids=EVERY)
class TestEveryDecoder:
    @torch.inference_mode()
    def test_a_word_is_what_its_output_says(self, make, strategy):
        """The last layer, on what was kept, says what reading the caption anew says."""
        decoder, memory, captions, found = known(make, strategy)
        for image, caption, words in zip(memory, captions, found, strict=True):
            width = decoder.read_as(torch.tensor([0])).shape[1]
            logprobs = decoder._logits(words[:, :width]).log_softmax(1)
            for step, row in enumerate(logprobs):
                said = next_logprobs(decoder, image, tuple(caption.tokens[:step]))
                torch.testing.assert_close(row, said, rtol=0, atol=1e-4)

    @torch.inference_mode()
    def test_the_word_itself_and_how_probable_it_was(self, make, strategy):
        decoder, _, captions, found = known(make, strategy)
        for caption, words in zip(captions, found, strict=True):
            tokens = decoder.read_as(torch.tensor(caption.tokens))
            assert torch.equal(words[:, -2 - tokens.shape[1] : -2], tokens)
            assert words[:, -2].tolist() == pytest.approx(caption.logprobs, abs=1e-6)
            torch.testing.assert_close(words[:, -1], words[:, -2].exp())


@pytest.mark.parametrize("make", DECODERS.values(), ids=DECODERS)
@torch.inference_mode()
def test_what_attention_saw(make):
    decoder, memory, captions, found = known(make)
    width = decoder.read_as(torch.tensor([0])).shape[1]
    for image, caption, words in zip(memory, captions, found, strict=True):
        for weights, word in zip(caption.attention, words, strict=True):
            seen = sum(weight * position for weight, position in zip(weights, image, strict=True))
            torch.testing.assert_close(word[width:-width][:6], seen)


@pytest.mark.parametrize("make", FUSED.values(), ids=FUSED)
@torch.inference_mode()
def test_a_decoder_that_does_not_attend_saw_the_mean(make):
    decoder, memory, _, found = known(make)
    width = decoder.read_as(torch.tensor([0])).shape[1]
    for image, words in zip(memory, found, strict=True):
        assert torch.allclose(words[:, width : width + 6], image.mean(0))


@pytest.mark.parametrize("strategy", ["greedy", "beam"])
@pytest.mark.parametrize("make", EVERY.values(), ids=EVERY)
def test_the_batch_makes_no_difference(make, strategy):
    decoder, memory, _, together = known(make, strategy)
    for image, words in zip(memory, together, strict=True):
        config = STRATEGIES[strategy]
        (alone,) = evidence(
            decoder, image[None], decode(decoder, image[None], config, WORDS, keep_outputs=True)
        )
        torch.testing.assert_close(alone, words, rtol=0, atol=1e-5)


def test_nothing_is_kept_that_nobody_asked_for():
    decoder, memory = DECODERS["lstm"](), torch.randn(2, 5, 6)
    assert all(not one.outputs for one in decode(decoder, memory, DecodingConfig(), WORDS))


def test_no_captions():
    assert evidence(DECODERS["lstm"](), torch.randn(0, 5, 6), []) == []
