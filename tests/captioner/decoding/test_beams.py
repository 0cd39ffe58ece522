"""Beam search against a reference that searches one image at a time, without state."""

import itertools
import math

import pytest
import torch
from torch import Tensor

from captioner.contract import DecodingConfig
from captioner.decoding import decode
from tests.captioner.decoding.helpers import (
    DECODERS,
    END,
    EVERY,
    START,
    WORDS,
    FixedDecoder,
    ScriptedDecoder,
    next_logprobs,
    scripts,
)


def plain_beam_search(decoder, image: Tensor, config: DecodingConfig):
    """Beam search of one image to the longest length, without state and without ending early."""
    size = config.beam_size
    alive: list[tuple[float, tuple[int, ...]]] = [(0.0, ())]
    done: list[tuple[float, tuple[int, ...]]] = []
    for _ in range(config.max_length):
        grown = []
        for total, said in alive:
            logprobs = next_logprobs(decoder, image, said).tolist()
            grown += [(total + value, (*said, token)) for token, value in enumerate(logprobs)]
        grown.sort(key=lambda pair: -pair[0])
        done += [pair for pair in grown[:size] if pair[1][-1] == END]
        alive = [pair for pair in grown if pair[1][-1] != END][:size]
    done += alive
    done.sort(key=lambda pair: -pair[0] / len(pair[1]) ** config.length_penalty)
    return done[:size]


SEARCHES = [
    pytest.param(make, size, penalty, id=f"{name}-{size}-{penalty}")
    for name, make in EVERY.items()
    for size in ((1, 2, 3, 5) if name in DECODERS else (2,))
    for penalty in ((0.0, 0.7, 1.0, 2.0) if name in DECODERS else (0.7,))
]


class TestBeams:
    @pytest.mark.parametrize(("make", "size", "penalty"), SEARCHES)
    def test_captions_equal_a_reference(self, make, size, penalty):
        decoder, memory = make(), torch.randn(12, 5, 6)
        config = DecodingConfig(
            strategy="beam", beam_size=size, length_penalty=penalty, max_length=8
        )
        found = decode(decoder, memory, config, WORDS)
        for image, item in zip(memory, found, strict=True):
            wanted = plain_beam_search(decoder, image, config)
            assert [tokens for tokens, _ in item.n_best] == [list(said) for _, said in wanted]
            totals = [total for total, _ in wanted]
            assert [total for _, total in item.n_best] == pytest.approx(totals, abs=1e-4)
            assert item.tokens == list(wanted[0][1])
            assert math.fsum(item.logprobs) == pytest.approx(totals[0], abs=1e-4)

    @pytest.mark.parametrize("make", DECODERS.values(), ids=DECODERS)
    def test_a_search_wide_enough_finds_the_best_caption_of_all(self, make):
        decoder, memory = make(vocabulary=4), torch.randn(6, 5, 6)
        config = DecodingConfig(strategy="beam", beam_size=64, length_penalty=0.0, max_length=4)
        found = decode(decoder, memory, config, WORDS)
        for image, item in zip(memory, found, strict=True):
            captions = [
                said
                for length in range(1, 5)
                for said in itertools.product(range(4), repeat=length)
                if END not in said[:-1] and (said[-1] == END or length == 4)
            ]
            worth = {
                said: sum(
                    next_logprobs(decoder, image, said[:at])[token].item()
                    for at, token in enumerate(said)
                )
                for said in captions
            }
            assert tuple(item.tokens) == max(worth, key=worth.__getitem__)

    @pytest.mark.parametrize("make", EVERY.values(), ids=EVERY)
    def test_figures_belong_to_their_tokens(self, make):
        """Hypotheses change rows as they go: each step's figures and attention must follow."""
        decoder, memory = make(), torch.randn(6, 5, 6)
        config = DecodingConfig(strategy="beam", beam_size=4, max_length=9)
        for image, item in zip(memory, decode(decoder, memory, config, WORDS), strict=True):
            with torch.inference_mode():
                _, looked = decoder(image[None], torch.tensor([[START, *item.tokens[:-1]]]))
            if looked is None:
                assert not item.attention
            else:
                torch.testing.assert_close(torch.stack(item.attention), looked[0])
            for at, token in enumerate(item.tokens):
                logprobs = next_logprobs(decoder, image, tuple(item.tokens[:at]))
                others = logprobs[torch.arange(len(logprobs)) != token]
                margin = logprobs[token].exp() - others.max().exp()
                assert item.logprobs[at] == pytest.approx(logprobs[token].item(), abs=1e-5)
                assert item.margins[at] == pytest.approx(margin.item(), abs=1e-5)
                entropy = -(logprobs.exp() * logprobs).sum().item()
                assert item.entropies[at] == pytest.approx(entropy, abs=1e-4)
            assert item.end_probability == pytest.approx(logprobs[END].exp().item(), abs=1e-5)

    @pytest.mark.parametrize("make", EVERY.values(), ids=EVERY)
    @pytest.mark.parametrize("strategy", ["beam", "sample", "greedy"])
    def test_a_caption_does_not_depend_on_its_batch(self, make, strategy):
        decoder, memory, seeds = make(), torch.randn(9, 5, 6), list(range(50, 59))
        config = DecodingConfig(strategy=strategy, max_length=9)
        together = decode(decoder, memory, config, WORDS, seeds)
        order = [5, 0, 8, 3, 1, 2, 7, 4, 6]
        shuffled = decode(decoder, memory[order], config, WORDS, [seeds[i] for i in order])
        for at, i in enumerate(order):
            (alone,) = decode(decoder, memory[i : i + 1], config, WORDS, seeds[i : i + 1])
            assert together[i].tokens == alone.tokens == shuffled[at].tokens
            assert together[i].logprobs == pytest.approx(alone.logprobs, abs=1e-5)


class TestBeamRows:
    def test_images_that_are_done_leave_the_batch(self):
        decoder = ScriptedDecoder(vocabulary=5)
        memory = scripts([END, 3, 3, 3, 3, 3], [4, 4, 4, 4, END, 3])
        config = DecodingConfig(strategy="beam", beam_size=1, length_penalty=0.0, max_length=6)
        found = decode(decoder, memory, config, WORDS)
        assert [item.tokens for item in found] == [[END], [4, 4, 4, 4, END]]
        assert decoder.rows == [2, 1, 1, 1, 1]

    def test_no_end_at_all_is_a_normal_case(self):
        """Models that never say the end token crashed other captioners."""
        never = FixedDecoder((0.0, 0.0, float("-inf"), 2.0, 1.0))
        config = DecodingConfig(strategy="beam", beam_size=3, max_length=5)
        (found,) = decode(never, torch.zeros(1, 2, 3), config, WORDS)
        assert found.tokens == [3] * 5
        assert len(found.n_best) == 3
        assert found.end_probability == 0
