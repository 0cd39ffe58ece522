import pytest
import torch
from torch import nn

from captioner.decoders import TransformerDecoder, TransformerDecoderConfig
from captioner.decoders.transformer import sinusoids
from tests.captioner.test_attention import copy_weights

WIDTH = 16


def made(*, feature_size: int = 6, layers: int = 2) -> TransformerDecoder:
    torch.manual_seed(2)
    config = TransformerDecoderConfig(
        vocabulary_size=11, width=WIDTH, layers=layers, heads=2, feedforward_size=32, dropout=0.0
    )
    return TransformerDecoder(config, feature_size=feature_size).eval()


def test_it_is_the_transformer_of_pytorch():
    ours = made(feature_size=WIDTH)
    layer = nn.TransformerDecoderLayer(
        WIDTH, 2, 32, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
    )
    theirs = nn.TransformerDecoder(layer, 2, norm=nn.LayerNorm(WIDTH)).eval()
    for own, reference in zip(ours.layers, theirs.layers, strict=True):
        for norm in (*own.norms, ours.norm):
            nn.init.normal_(norm.weight, 1.0, 0.2)
        copy_weights(own.recall, reference.self_attn)
        copy_weights(own.look, reference.multihead_attn)
        for number, norm in enumerate(own.norms, 1):
            getattr(reference, f"norm{number}").load_state_dict(norm.state_dict())
        reference.linear1.load_state_dict(own.widen.state_dict())
        reference.linear2.load_state_dict(own.narrow.state_dict())
    theirs.norm.load_state_dict(ours.norm.state_dict())
    memory, tokens = torch.randn(3, 5, WIDTH), torch.randint(11, (3, 7))
    words = ours.embedding(tokens) * WIDTH**0.5 + sinusoids(0, 7, ours.embedding.weight)
    causal = nn.Transformer.generate_square_subsequent_mask(7)
    read = theirs(words, memory, tgt_mask=causal)
    wanted = ours.vocabulary(read, ours.embedding.weight)
    logits, attention = ours(memory, tokens)
    torch.testing.assert_close(logits, wanted, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(attention.sum(2), torch.ones(3, 7))


def test_steps_are_what_whole_captions_are():
    decoder, memory = made(), torch.randn(2, 5, 6)
    tokens = torch.tensor([[1, 4, 7, 2], [1, 9, 3, 3]])
    with torch.inference_mode():
        logits, looked = decoder(memory, tokens)
        state = decoder.start(memory)
        for step, word in enumerate(tokens.unbind(1)):
            said, state = decoder.step(word, state)
            torch.testing.assert_close(said, logits[:, step])
            torch.testing.assert_close(looked[:, step], state.attention)
    assert state.words[0][0].shape == (2, 4, WIDTH)


def test_no_word_sees_one_that_comes_after_it():
    decoder, memory = made(), torch.randn(1, 5, 6)
    one, other = torch.tensor([[1, 4, 7, 2]]), torch.tensor([[1, 4, 9, 9]])
    before, after = decoder(memory, one)[0], decoder(memory, other)[0]
    torch.testing.assert_close(before[:, :2], after[:, :2])
    assert (before[:, 2] - after[:, 2]).abs().max() > 1e-3


def test_the_order_of_words_matters():
    decoder, memory = made(), torch.randn(1, 5, 6)
    one, other = (decoder(memory, torch.tensor([t]))[0][:, -1] for t in ([4, 7, 1], [7, 4, 1]))
    assert (one - other).abs().max() > 1e-3


def test_selected_rows_go_on_as_they_would_have():
    decoder = made()
    state = decoder.start(torch.randn(4, 5, 6))
    _, state = decoder.step(torch.tensor([1, 1, 1, 1]), state)
    rows = torch.tensor([3, 1, 3])
    everything, after_all = decoder.step(torch.tensor([4, 5, 6, 7]), state)
    some, after_some = decoder.step(torch.tensor([7, 5, 7]), decoder.select(state, rows))
    torch.testing.assert_close(some, everything[rows])
    torch.testing.assert_close(after_some.attention, after_all.attention[rows])


def test_every_weight_learns():
    decoder = made()
    logits, looked = decoder(torch.randn(2, 5, 6), torch.tensor([[1, 4, 7], [1, 9, 3]]))
    (logits.square().sum() + looked.square().sum()).backward()
    for name, weights in decoder.named_parameters():
        assert weights.grad.abs().max() > 0, name


def test_positions_are_those_of_the_paper():
    found = sinusoids(2, 2, torch.empty(3, 4))
    angles = torch.tensor([[2.0, 2 / 100], [3.0, 3 / 100]])
    wanted = torch.stack((angles.sin(), angles.cos()), 2).flatten(1)
    torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layers": 0}, "layers is 0; use 1 to 64"),
        ({"width": 20, "heads": 3}, r"width \(20\) must be divisible by 2 x heads \(3\)"),
        ({"dropout": float("nan")}, "dropout is nan"),
    ],
)
def test_what_does_not_fit_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        TransformerDecoderConfig(**{"vocabulary_size": 11, **changes})
