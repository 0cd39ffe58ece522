"""Greedy decoding against a reference that decodes one image at a time, without state."""

import pytest
import torch

from captioner.contract import DecodingConfig
from captioner.decoding import decode
from tests.captioner.decoding.helpers import (
    END,
    EVERY,
    START,
    WORDS,
    FixedDecoder,
    ScriptedDecoder,
    next_logprobs,
    scripts,
)


@pytest.mark.parametrize("make", EVERY.values(), ids=EVERY)
class TestGreedy:
    def test_tokens_equal_a_reference(self, make):
        decoder, memory = make(), torch.randn(24, 5, 6)
        found = decode(decoder, memory, DecodingConfig(max_length=15), WORDS)
        lengths = set()
        for image, item in zip(memory, found, strict=True):
            said, logprobs = [], []
            while len(said) < 15 and END not in said:
                best = next_logprobs(decoder, image, tuple(said)).max(0)
                said.append(int(best.indices))
                logprobs.append(best.values.item())
            assert item.tokens == said
            assert item.logprobs == pytest.approx(logprobs, abs=1e-5)
            assert item.n_best == [(said, pytest.approx(sum(logprobs), abs=1e-4))]
            lengths.add(len(said))
        assert len(lengths) > 2, "captions of one length would not show that rows leave"


class TestOneARow:
    def test_rows_that_are_done_leave_the_batch(self):
        decoder = ScriptedDecoder()
        memory = scripts([5, 6, END, 7], [END, 7, 7, 7], [8, 7, 6, END], [4, END, 7, 7])
        found = decode(decoder, memory, DecodingConfig(max_length=10), WORDS)
        assert [item.tokens for item in found] == [
            [5, 6, END],
            [END],
            [8, 7, 6, END],
            [4, END],
        ]
        assert decoder.rows == [4, 3, 2, 1]
        assert decoder.read == [[START] * 4, [5, 8, 4], [6, 7], [6]]

    def test_a_caption_without_end_stops_at_the_longest_length(self):
        memory = scripts([5, 6, 7, 8, 5, 6])
        (found,) = decode(ScriptedDecoder(), memory, DecodingConfig(max_length=4), WORDS)
        assert found.tokens == [5, 6, 7, 8]
        assert len(found.logprobs) == len(found.entropies) == len(found.margins) == 4
        assert found.end_probability < 0.1

    def test_figures_are_those_of_the_distribution(self):
        (found,) = decode(ScriptedDecoder(), scripts([5, END]), DecodingConfig(), WORDS)
        probabilities = torch.tensor([3.0] + [0.0] * 8).softmax(0)
        assert found.logprobs == pytest.approx([probabilities[0].log().item()] * 2)
        assert found.margins == pytest.approx([(probabilities[0] - probabilities[1]).item()] * 2)
        entropy = -(probabilities * probabilities.log()).sum().item()
        assert found.entropies == pytest.approx([entropy] * 2)
        assert found.end_probability == pytest.approx(probabilities[0].item())

    @pytest.mark.parametrize("strategy", ["greedy", "beam", "sample"])
    def test_nothing_gives_nothing(self, strategy):
        empty = torch.zeros(0, 3, 1)
        config = DecodingConfig(strategy=strategy)
        assert decode(ScriptedDecoder(), empty, config, WORDS) == []


@pytest.mark.parametrize("strategy", ["greedy", "beam", "sample"])
@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
def test_what_is_no_distribution_is_an_error(strategy, wrong):
    """A caption that looks like any other would be worse."""
    broken = FixedDecoder((0.0, 0.0, 0.0, wrong))
    config = DecodingConfig(strategy=strategy)
    with pytest.raises(FloatingPointError, match="not a number.*use float32"):
        decode(broken, torch.zeros(1, 2, 3), config, WORDS, [0])
