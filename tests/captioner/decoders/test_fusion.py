"""Early and late fusion against PyTorch's own networks, which read all at once."""

from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from captioner.decoders import (
    EarlyDecoder,
    LateDecoder,
    LSTMDecoderConfig,
    TransformerDecoderConfig,
    decoder_of,
)
from captioner.decoders.transformer import sinusoids
from tests.captioner.test_attention import copy_weights

WIDTH, WORDS, FEATURES = 8, 11, 6
CONFIGS = {
    "lstm": partial(LSTMDecoderConfig, embedding_size=WIDTH, hidden_size=12),
    "transformer": partial(TransformerDecoderConfig, width=WIDTH, heads=2, feedforward_size=16),
}
CLASSES = {"early": EarlyDecoder, "late": LateDecoder}


def made(name: str, fusion: str, **changes: object) -> EarlyDecoder | LateDecoder:
    torch.manual_seed(1)
    values = {"vocabulary_size": WORDS, "layers": 2, "dropout": 0.0, "fusion": fusion, **changes}
    decoder = decoder_of(CONFIGS[name](**values), feature_size=FEATURES).eval()
    assert type(decoder) is CLASSES[fusion]
    for weights in decoder.parameters():
        nn.init.normal_(weights, std=0.5)
    return decoder


def inputs() -> tuple[Tensor, Tensor]:
    torch.manual_seed(3)
    return torch.randn(3, 5, FEATURES), torch.randint(WORDS, (3, 7))


def of_pytorch(decoder, name: str, words: Tensor) -> Tensor:
    """What PyTorch's networks make of all words [b x t x w] at once."""
    reader = decoder.reader
    if name == "lstm":
        return reader.output(reader.lstm(words)[0])
    layer = nn.TransformerEncoderLayer(
        WIDTH, 2, 16, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
    )
    theirs = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False).eval()
    for own, reference in zip(reader.layers, theirs.layers, strict=True):
        copy_weights(own.recall, reference.self_attn)
        reference.norm1.load_state_dict(own.norms[0].state_dict())
        reference.norm2.load_state_dict(own.norms[1].state_dict())
        reference.linear1.load_state_dict(own.widen.state_dict())
        reference.linear2.load_state_dict(own.narrow.state_dict())
    count = words.shape[1]
    words = words + sinusoids(0, count, words)
    return theirs(words, mask=nn.Transformer.generate_square_subsequent_mask(count))


def finished(decoder, name: str, read: Tensor) -> Tensor:
    features = read.tanh() if name == "lstm" else decoder.reader.norm(read)
    return functional.linear(features, decoder.vocabulary.weight, decoder.vocabulary.bias)


@pytest.mark.parametrize("name", CONFIGS)
class TestBoth:
    def test_early_reads_the_image_as_the_first_word(self, name):
        decoder, (memory, tokens) = made(name, "early"), inputs()
        seen = decoder.image(memory.mean(1))
        words = torch.cat((seen.unsqueeze(1), decoder.reader.embed(tokens)), 1)
        logits, attention = decoder(memory, tokens)
        wanted = finished(decoder, name, of_pytorch(decoder, name, words)[:, 1:])
        torch.testing.assert_close(logits, wanted, rtol=1e-4, atol=1e-5)
        assert attention is None

    def test_late_joins_the_image_to_what_was_read_without_it(self, name):
        decoder, (memory, tokens) = made(name, "late"), inputs()
        read = of_pytorch(decoder, name, decoder.reader.embed(tokens))
        logits, attention = decoder(memory, tokens)
        wanted = finished(decoder, name, read + decoder.image(memory.mean(1)).unsqueeze(1))
        torch.testing.assert_close(logits, wanted, rtol=1e-4, atol=1e-5)
        assert attention is None

    @pytest.mark.parametrize("fusion", CLASSES)
    def test_every_word_depends_on_the_image(self, name, fusion):
        decoder, (memory, tokens) = made(name, fusion), inputs()
        there, elsewhere = decoder(memory, tokens)[0], decoder(memory + 1, tokens)[0]
        assert ((there - elsewhere).abs().amax(2) > 1e-3).all()

    @pytest.mark.parametrize("fusion", CLASSES)
    def test_every_weight_learns(self, name, fusion):
        decoder, (memory, tokens) = made(name, fusion), inputs()
        decoder(memory, tokens)[0].square().sum().backward()
        for weight, values in decoder.named_parameters():
            assert values.grad.abs().max() > 0, weight

    @pytest.mark.parametrize("fusion", CLASSES)
    def test_steps_are_what_whole_captions_are(self, name, fusion):
        decoder, (memory, tokens) = made(name, fusion), inputs()
        logits, _ = decoder(memory, tokens)
        state = decoder.start(memory)
        for step, word in enumerate(tokens.unbind(1)):
            said, state = decoder.step(word, state)
            torch.testing.assert_close(said, logits[:, step])
            assert state.attention is None
        rows = torch.tensor([2, 0, 2])
        everything, _ = decoder.step(torch.tensor([4, 5, 6]), state)
        some, _ = decoder.step(torch.tensor([6, 4, 6]), decoder.select(state, rows))
        torch.testing.assert_close(some, everything[rows])


@pytest.mark.parametrize("fusion", CLASSES)
def test_half_precision_reads_too(fusion):
    decoder, (memory, tokens) = made("lstm", fusion), inputs()
    wanted, _ = decoder(memory, tokens)
    logits, _ = decoder.to(torch.bfloat16)(memory.to(torch.bfloat16), tokens)
    assert (logits - wanted).abs().max() < 0.1 * wanted.abs().max()


@pytest.mark.parametrize("changes", [{"attention": "dot"}, {"attention_size": 128}])
def test_what_only_attention_needs_is_refused(changes):
    (name,) = changes
    with pytest.raises(ValueError, match=f"^{name} is .* with late fusion there is no attention"):
        LSTMDecoderConfig(vocabulary_size=WORDS, fusion="late", **changes)


@pytest.mark.parametrize("kind", [LSTMDecoderConfig, TransformerDecoderConfig])
def test_another_fusion_is_refused(kind):
    with pytest.raises(ValueError, match="fusion is 'middle'; use one of attention, early, late"):
        kind(vocabulary_size=WORDS, fusion="middle")


def test_dropout_of_words_and_image_is_for_training():
    decoder, (memory, tokens) = made("lstm", "late", embedding_dropout=0.5), inputs()
    reader = decoder.reader
    assert torch.equal(reader.embed(tokens), reader.embed(tokens))
    reader.train()
    assert (reader.embed(tokens) == 0).float().mean() > 0.3
    decoder = made("lstm", "late", memory_dropout=0.5)
    assert torch.equal(decoder.start(memory).image, decoder.start(memory).image)
    decoder.train()
    assert not torch.equal(decoder.start(memory).image, decoder.start(memory).image)
