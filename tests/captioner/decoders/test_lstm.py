from typing import get_args

import pytest
import torch

from captioner.attention import AttentionKind
from captioner.decoders import LSTMDecoder, LSTMDecoderConfig

KINDS = get_args(AttentionKind)


def made(*, feature_size: int = 6, place_size: int = 0, **changes: object) -> LSTMDecoder:
    torch.manual_seed(2)
    values: dict[str, object] = {
        "vocabulary_size": 11,
        "embedding_size": 8,
        "hidden_size": 16,
        "attention_size": 8,
        "heads": 2 if changes.get("attention") == "multi_head" else 1,
        "dropout": 0.0,
        **changes,
    }
    config = LSTMDecoderConfig(**values)  # type: ignore[arg-type]
    decoder = LSTMDecoder(config, feature_size=feature_size, place_size=place_size).eval()
    for weights in decoder.parameters():  # Large weights, so that nothing is nearly the same.
        torch.nn.init.normal_(weights, std=1.0)
    return decoder


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("layers", [1, 3])
class TestEveryKind:
    def test_steps_are_what_whole_captions_are(self, kind, layers):
        decoder = made(attention=kind, layers=layers, place_size=2)
        memory, tokens = torch.randn(2, 5, 6), torch.tensor([[1, 4, 7], [1, 9, 3]])
        with torch.inference_mode():
            logits, looked = decoder(memory, tokens)
            state = decoder.start(memory)
            for step, word in enumerate(tokens.unbind(1)):
                said, state = decoder.step(word, state)
                torch.testing.assert_close(said, logits[:, step])
                torch.testing.assert_close(looked[:, step], state.attention)
        assert logits.shape == (2, 3, 11)
        assert looked.shape == (2, 3, 5)

    def test_selected_rows_go_on_as_they_would_have(self, kind, layers):
        decoder = made(attention=kind, layers=layers)
        state = decoder.start(torch.randn(4, 5, 6))
        _, state = decoder.step(torch.tensor([1, 1, 1, 1]), state)
        rows = torch.tensor([3, 1, 3])
        everything, after_all = decoder.step(torch.tensor([4, 5, 6, 7]), state)
        some, after_some = decoder.step(torch.tensor([7, 5, 7]), decoder.select(state, rows))
        torch.testing.assert_close(some, everything[rows])
        torch.testing.assert_close(after_some.attention, after_all.attention[rows])

    def test_every_weight_learns(self, kind, layers):
        decoder = made(attention=kind, layers=layers, place_size=2)
        logits, looked = decoder(torch.randn(2, 5, 6), torch.tensor([[1, 4, 7], [1, 9, 3]]))
        (logits.square().sum() + looked.square().sum()).backward()
        for name, weights in decoder.named_parameters():
            assert weights.grad.abs().max() > 0, name


def test_the_gate_scales_what_was_seen_and_leaves_where():
    decoder = made(place_size=2)
    read = []
    lstm = decoder.cells[0]
    lstm.register_forward_hook(lambda module, inputs, output: read.append(inputs[0]))
    memory = torch.randn(1, 5, 6)
    with torch.inference_mode():
        decoder.gate.bias.fill_(-1000.0)  # Shut.
        _, state = decoder.step(torch.tensor([1]), decoder.start(memory))
    context = read[0][0, 8:]  # After the word.
    assert context[:4].abs().max() < 1e-6
    torch.testing.assert_close(context[4:], (state.attention[0] @ memory[0])[4:])


def test_the_last_word_is_part_of_what_attention_is_asked_by():
    decoder = made()
    state = decoder.start(torch.randn(1, 5, 6))
    _, one = decoder.step(torch.tensor([4]), state)
    _, other = decoder.step(torch.tensor([5]), state)
    assert (one.attention - other.attention).abs().max() > 0.01


def test_the_first_state_comes_from_the_mean_feature():
    decoder, memory = made(layers=2), torch.randn(1, 5, 6)
    state, shuffled = decoder.start(memory), decoder.start(memory[:, [3, 1, 4, 0, 2]])
    for layer, other in zip(
        state.hidden + state.cell, shuffled.hidden + shuffled.cell, strict=True
    ):
        torch.testing.assert_close(layer, other)
    moved = decoder.start(memory + 1)
    assert (moved.hidden[1] - state.hidden[1]).abs().max() > 0.01


def test_dropout_of_words_and_image_is_for_training():
    memory, tokens = torch.randn(4, 5, 6), torch.tensor([[1]] * 4)
    for changes in ({"embedding_dropout": 0.5}, {"memory_dropout": 0.5}):
        decoder = made(**changes)
        first, second = decoder(memory, tokens)[0], decoder(memory, tokens)[0]
        torch.testing.assert_close(first, second)
        decoder.train()
        assert (decoder(memory, tokens)[0] - first).abs().max() > 0.01, changes


def test_where_a_position_lies_is_not_dropped():
    decoder = made(memory_dropout=0.5, place_size=2).train()
    state = decoder.start(torch.ones(20, 5, 6))
    assert set(state.values[:, :, :4].unique().tolist()) == {0.0, 2.0}
    assert (state.values[:, :, 4:] == 1).all()
    assert (state.places == 1).all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"vocabulary_size": 3}, "vocabulary_size is 3; use 4 to 1000000"),
        ({"layers": 0}, "layers is 0; use 1 to 16"),
        ({"dropout": 1.0}, "dropout is 1.0"),
        ({"attention": "hard"}, "attention is 'hard'; use one of additive, dot, scaled_dot, multi"),
        ({"heads": 2}, "heads is 2, but additive attention has one"),
        ({"attention": "multi_head", "heads": 3}, r"attention_size \(256\) must be divisible by"),
    ],
)
def test_what_does_not_fit_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        LSTMDecoderConfig(**{"vocabulary_size": 11, **changes})
