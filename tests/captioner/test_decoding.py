from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor

from captioner.decoders import LSTMDecoder, LSTMDecoderConfig
from captioner.decoding import greedy

START, END = 1, 2


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


def scripts(*rows):
    return torch.tensor(rows, dtype=torch.float32).unsqueeze(2)


class TestGreedy:
    def test_rows_that_are_done_leave_the_batch(self):
        decoder = ScriptedDecoder()
        memory = scripts([5, 6, END, 7], [END, 7, 7, 7], [8, 7, 6, END], [4, END, 7, 7])
        found = greedy(decoder, memory, start=START, end=END, max_length=10)
        assert [item.tokens for item in found] == [
            [5, 6, END],
            [END],
            [8, 7, 6, END],
            [4, END],
        ]
        assert decoder.rows == [4, 3, 2, 1]
        assert decoder.read == [[START] * 4, [5, 8, 4], [6, 7], [6]]

    def test_a_caption_without_end_stops_at_the_longest_length(self):
        found = greedy(
            ScriptedDecoder(), scripts([5, 6, 7, 8, 5, 6]), start=START, end=END, max_length=4
        )
        assert found[0].tokens == [5, 6, 7, 8]
        assert len(found[0].logprobs) == len(found[0].entropies) == len(found[0].margins) == 4
        assert found[0].end_probability < 0.1

    def test_figures_are_those_of_the_distribution(self):
        found = greedy(ScriptedDecoder(), scripts([5, END]), start=START, end=END, max_length=5)[0]
        probabilities = torch.tensor([3.0] + [0.0] * 8).softmax(0)
        assert found.logprobs == pytest.approx([probabilities[0].log().item()] * 2)
        assert found.margins == pytest.approx([(probabilities[0] - probabilities[1]).item()] * 2)
        entropy = -(probabilities * probabilities.log()).sum().item()
        assert found.entropies == pytest.approx([entropy] * 2)
        assert found.end_probability == pytest.approx(probabilities[0].item())

    def test_nothing_gives_nothing(self):
        empty = torch.zeros(0, 3, 1)
        assert greedy(ScriptedDecoder(), empty, start=START, end=END, max_length=5) == []


class TestLSTMDecoder:
    @pytest.fixture
    def decoder(self) -> LSTMDecoder:
        torch.manual_seed(2)
        config = LSTMDecoderConfig(
            vocabulary_size=11, embedding_size=8, hidden_size=16, attention_size=8, dropout=0.0
        )
        decoder = LSTMDecoder(config, feature_size=6).eval()
        for weights in decoder.parameters():  # Large weights, so that captions differ.
            torch.nn.init.normal_(weights, std=1.0)
        return decoder

    def test_greedy_tokens_equal_a_reference_one_image_at_a_time(self, decoder):
        memory = torch.randn(12, 5, 6)
        found = greedy(decoder, memory, start=START, end=END, max_length=15)
        lengths = set()
        for image, item in zip(memory, found, strict=True):
            tokens, logprobs = [START], []
            with torch.inference_mode():
                while len(tokens) < 16 and tokens[-1] != END:
                    # The whole caption is read again at each step, by the way training goes.
                    logits, _ = decoder(image[None], torch.tensor([tokens]))
                    logits = logits[0, -1].log_softmax(0)
                    tokens.append(int(logits.argmax()))
                    logprobs.append(logits.max().item())
            assert item.tokens == tokens[1:]
            assert item.logprobs == pytest.approx(logprobs, abs=1e-5)
            lengths.add(len(tokens))
        assert len(lengths) > 2, "captions of one length would not show that rows leave"

    def test_the_gate_scales_what_was_seen_and_leaves_where(self):
        torch.manual_seed(0)
        config = LSTMDecoderConfig(vocabulary_size=11, embedding_size=8, hidden_size=16)
        decoder = LSTMDecoder(config, feature_size=6, place_size=2).eval()
        read = []
        lstm = decoder.cells[0]
        lstm.register_forward_hook(lambda module, inputs, output: read.append(inputs[0]))
        memory = torch.randn(1, 5, 6)
        with torch.inference_mode():
            decoder.gate.bias.fill_(-100.0)  # Shut.
            _, state = decoder.step(torch.tensor([1]), decoder.start(memory))
        context = read[0][0, 8:]  # After the word.
        assert context[:4].abs().max() < 1e-6
        torch.testing.assert_close(context[4:], (state.attention[0] @ memory[0])[4:])

    def test_the_last_word_is_part_of_what_attention_is_asked_by(self, decoder):
        state = decoder.start(torch.randn(1, 5, 6))
        _, one = decoder.step(torch.tensor([4]), state)
        _, other = decoder.step(torch.tensor([5]), state)
        assert (one.attention - other.attention).abs().max() > 0.01

    def test_whole_captions_are_looked_at_as_steps_are(self, decoder):
        memory, tokens = torch.randn(2, 5, 6), torch.tensor([[1, 4, 7], [1, 9, 3]])
        with torch.inference_mode():
            _, looked = decoder(memory, tokens)
            state = decoder.start(memory)
            for step, word in enumerate(tokens.unbind(1)):
                _, state = decoder.step(word, state)
                torch.testing.assert_close(looked[:, step], state.attention)
        assert looked.shape == (2, 3, 5)

    def test_selected_rows_go_on_as_they_would_have(self, decoder):
        state = decoder.start(torch.randn(4, 5, 6))
        _, state = decoder.step(torch.tensor([1, 1, 1, 1]), state)
        rows = torch.tensor([3, 1])
        everything, after_all = decoder.step(torch.tensor([4, 5, 6, 7]), state)
        some, after_some = decoder.step(torch.tensor([7, 5]), decoder.select(state, rows))
        torch.testing.assert_close(some, everything[rows])
        torch.testing.assert_close(after_some.attention, after_all.attention[rows])
