"""The engine against references that decode one image at a time and read the whole caption anew."""

import itertools
import math
from collections import Counter
from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor

from captioner.contract import DecodingConfig
from captioner.decoders import (
    LSTMDecoder,
    LSTMDecoderConfig,
    TransformerDecoder,
    TransformerDecoderConfig,
)
from captioner.decoding import Words, decode

START, END = 1, 2
WORDS = Words(START, END)


@dataclass
class ScriptState:
    scripts: Tensor  # (rows, steps): the token that each row says at each step
    step: int = 0
    attention: Tensor | None = None


@dataclass
class ScriptedDecoder:
    """Says what each image's memory holds, and notes how many rows each step had."""

    vocabulary: int = 9
    rows: list[int] = field(default_factory=list)
    read: list[list[int]] = field(default_factory=list)

    def start(self, memory):
        return ScriptState(memory[:, :, 0].long())

    def step(self, tokens, state):
        self.rows.append(len(tokens))
        self.read.append(tokens.tolist())
        logits = torch.zeros(len(tokens), self.vocabulary)
        logits[torch.arange(len(tokens)), state.scripts[:, state.step]] = 3.0
        return logits, ScriptState(state.scripts, state.step + 1)

    def select(self, state, rows):
        return ScriptState(state.scripts[rows], state.step)


@dataclass
class FixedState:
    attention: Tensor | None = None


@dataclass
class FixedDecoder:
    """The same logits at every step."""

    logits: tuple[float, ...]

    def start(self, memory):
        return FixedState()

    def step(self, tokens, state):
        return torch.tensor([self.logits] * len(tokens)), state

    def select(self, state, rows):
        return state


def scripts(*rows):
    return torch.tensor(rows, dtype=torch.float32).unsqueeze(2)


def lstm(seed: int = 2, vocabulary: int = 11) -> LSTMDecoder:
    torch.manual_seed(seed)
    config = LSTMDecoderConfig(
        vocabulary_size=vocabulary, embedding_size=8, hidden_size=16, attention_size=8, dropout=0.0
    )
    decoder = LSTMDecoder(config, feature_size=6).eval()
    for weights in decoder.parameters():  # Large weights, so that captions differ.
        torch.nn.init.normal_(weights, std=1.0)
    return decoder


def transformer(seed: int = 3, vocabulary: int = 11) -> TransformerDecoder:
    torch.manual_seed(seed)
    config = TransformerDecoderConfig(
        vocabulary_size=vocabulary, width=16, layers=2, heads=2, feedforward_size=32, dropout=0.0
    )
    decoder = TransformerDecoder(config, feature_size=6).eval()
    for weights in decoder.parameters():
        if weights.ndim > 1:
            torch.nn.init.normal_(weights, std=0.5)
    return decoder


DECODERS = {"lstm": lstm, "transformer": transformer}


def next_logprobs(decoder, image: Tensor, said: tuple[int, ...]) -> Tensor:
    """Read the whole caption again, by the way training goes."""
    with torch.inference_mode():
        logits, _ = decoder(image[None], torch.tensor([[START, *said]]))
    return logits[0, -1].log_softmax(0)


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


@pytest.mark.parametrize("make", DECODERS.values(), ids=DECODERS)
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


@pytest.mark.parametrize("make", DECODERS.values(), ids=DECODERS)
class TestBeams:
    @pytest.mark.parametrize("penalty", [0.0, 0.7, 1.0, 2.0])
    @pytest.mark.parametrize("size", [1, 2, 3, 5])
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

    def test_figures_belong_to_their_tokens(self, make):
        """Hypotheses change rows as they go: each step's figures and attention must follow."""
        decoder, memory = make(), torch.randn(6, 5, 6)
        config = DecodingConfig(strategy="beam", beam_size=4, max_length=9)
        for image, item in zip(memory, decode(decoder, memory, config, WORDS), strict=True):
            with torch.inference_mode():
                _, looked = decoder(image[None], torch.tensor([[START, *item.tokens[:-1]]]))
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


@pytest.mark.parametrize("strategy", ["greedy", "beam", "sample"])
@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
def test_what_is_no_distribution_is_an_error(strategy, wrong):
    """A caption that looks like any other would be worse."""
    broken = FixedDecoder((0.0, 0.0, 0.0, wrong))
    config = DecodingConfig(strategy=strategy)
    with pytest.raises(FloatingPointError, match="not a number.*use float32"):
        decode(broken, torch.zeros(1, 2, 3), config, WORDS, [0])


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
