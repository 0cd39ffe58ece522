"""What may not be said, whatever the strategy."""

from collections import Counter

import pytest
import torch

from captioner.contract import DecodingConfig
from captioner.decoding import Words, decode
from tests.captioner.decoding.helpers import END, START, WORDS, FixedDecoder


class TestRules:
    MEMORY = torch.zeros(1, 2, 3)

    @pytest.mark.parametrize("strategy", ["greedy", "beam", "sample"])
    def test_minimum_length(self, strategy):
        ends_at_once = FixedDecoder((0.0, 0.0, 9.0, 1.0, 0.5))
        config = DecodingConfig(strategy=strategy, min_length=3, max_length=9)
        (found,) = decode(ends_at_once, self.MEMORY, config, WORDS, [0])
        assert found.tokens[-1] == END
        assert len(found.tokens) == 4

    @pytest.mark.parametrize("strategy", ["greedy", "beam", "sample"])
    @pytest.mark.parametrize("n", [1, 2, 3])
    def test_no_sequence_comes_twice(self, strategy, n):
        repeats = FixedDecoder((0.1, 0.2, -3.0, 3.0, 2.5, 2.0))
        config = DecodingConfig(strategy=strategy, no_repeat_ngram=n, max_length=12)
        (found,) = decode(repeats, self.MEMORY, config, WORDS, [0])
        ngrams = [tuple(found.tokens[i : i + n]) for i in range(len(found.tokens) - n + 1)]
        assert len(set(ngrams)) == len(ngrams)
        free = DecodingConfig(strategy=strategy, max_length=12)
        (without,) = decode(repeats, self.MEMORY, free, WORDS, [0])
        assert max(Counter(without.tokens).values()) > 3

    @pytest.mark.parametrize("strategy", ["greedy", "beam", "sample"])
    def test_forbidden_words_and_phrases(self, strategy):
        likes = FixedDecoder((-9.0, -9.0, -2.0, 5.0, 3.0, 1.0))
        config = DecodingConfig(strategy=strategy, max_length=8)
        words = Words(START, END, forbidden=((3,), (4, 4), (5, 4, 5)))
        (found,) = decode(likes, self.MEMORY, config, words, [3])
        text = " ".join(map(str, found.tokens))
        assert found.tokens[0] in (4, 5)
        for phrase in ("3", "4 4", "5 4 5"):
            assert phrase not in text

    def test_figures_are_the_models_own_whatever_is_forbidden(self):
        likes = FixedDecoder((0.0, 0.0, 0.0, 5.0, 3.0))
        (found,) = decode(
            likes, self.MEMORY, DecodingConfig(max_length=1), Words(START, END, ((3,),))
        )
        own = torch.tensor(likes.logits).log_softmax(0)
        assert found.tokens == [4]
        assert found.logprobs == pytest.approx([own[4].item()])
        assert found.margins == pytest.approx([(own[4].exp() - own[3].exp()).item()])

    @pytest.mark.parametrize("strategy", ["greedy", "beam", "sample"])
    @pytest.mark.parametrize("end", [-9.0, float("-inf")])
    def test_where_everything_is_forbidden_a_caption_ends(self, strategy, end):
        likes = FixedDecoder((0.0, 0.0, end, 5.0))
        words = Words(START, END, ((0,), (1,), (3,)))
        config = DecodingConfig(strategy=strategy, min_length=2, max_length=5)
        (found,) = decode(likes, self.MEMORY, config, words, [0])
        assert found.tokens == [END]
