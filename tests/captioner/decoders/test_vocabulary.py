"""Tied weights: words are compared by what they are read as."""

import pytest
import safetensors.torch
import torch
from torch.nn import functional

from captioner.decoders import LSTMDecoderConfig, TransformerDecoderConfig, decoder_of
from captioner.decoders.vocabulary import Vocabulary

CONFIGS = {
    f"{kind.__name__}-{fusion}": (kind, fusion)
    for kind in (LSTMDecoderConfig, TransformerDecoderConfig)
    for fusion in ("attention", "early", "late")
}


@pytest.mark.parametrize(("kind", "fusion"), CONFIGS.values(), ids=CONFIGS)
class TestDecoders:
    MEMORY = torch.randn(2, 5, 6, generator=torch.Generator().manual_seed(0))
    TOKENS = torch.tensor([[1, 4, 7], [1, 9, 3]])

    def made(self, kind, fusion, **changes):
        torch.manual_seed(0)
        return decoder_of(kind(vocabulary_size=11, fusion=fusion, **changes), feature_size=6).eval()

    def test_a_tied_one_says_a_word_by_what_it_reads_it_as(self, kind, fusion):
        decoder = self.made(kind, fusion, tied=True)
        (embedding,) = (w for name, w in decoder.named_parameters() if "embedding.weight" in name)
        before, _ = decoder(self.MEMORY, self.TOKENS)
        with torch.no_grad():
            embedding[5] *= 3  # Which no caption reads.
            decoder.vocabulary.bias.zero_()
        after, _ = decoder(self.MEMORY, self.TOKENS)
        said = before - self.bias(kind, fusion)
        torch.testing.assert_close(after[..., 5], 3 * said[..., 5], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(after[..., :5], said[..., :5])

    def bias(self, kind, fusion):
        return self.made(kind, fusion, tied=True).vocabulary.bias.detach()

    def test_a_tied_one_holds_the_weights_once(self, kind, fusion):
        tied, loose = (self.made(kind, fusion, tied=tied) for tied in (True, False))
        lost = loose.state_dict().keys() - tied.state_dict().keys()
        assert lost == {"vocabulary.weight"}
        data = safetensors.torch.save(tied.state_dict())
        torch.manual_seed(7)
        other = decoder_of(kind(vocabulary_size=11, fusion=fusion, tied=True), feature_size=6)
        other.eval().load_state_dict(safetensors.torch.load(data))
        torch.testing.assert_close(
            other(self.MEMORY, self.TOKENS)[0], tied(self.MEMORY, self.TOKENS)[0]
        )


def test_a_tied_lstm_is_sure_of_nothing_before_it_is_trained():
    torch.manual_seed(0)
    config = LSTMDecoderConfig(vocabulary_size=50, embedding_size=256, tied=True)
    logits, _ = decoder_of(config, feature_size=6)(torch.randn(2, 5, 6), torch.arange(8).view(2, 4))
    assert logits.std() < 1.5  # Words of length sqrt(256), as untied ones have, would make it 10.


def test_untied_it_is_a_linear_layer():
    layer = Vocabulary(4, 9)
    features, embedding = torch.randn(2, 3, 4), torch.randn(9, 4)
    wanted = functional.linear(features, layer.weight, layer.bias)
    torch.testing.assert_close(layer(features, embedding), wanted)
