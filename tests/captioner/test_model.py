from dataclasses import replace

import pytest
import torch

from captioner.contract import DecodingConfig, ModelLoadError
from captioner.decoders import LSTMDecoderConfig
from captioner.encoders import GridEncoderConfig
from captioner.model import AttentionCaptioner, CaptionModel, ModelConfig
from captioner.scenes import render, sample
from captioner.tokenizer import CaptionTokenizer


@pytest.fixture
def tokenizer() -> CaptionTokenizer:
    return CaptionTokenizer.train(["a red circle above a blue star", "two green squares"])


@pytest.fixture
def model(tokenizer) -> CaptionModel:
    torch.manual_seed(0)
    return CaptionModel(
        ModelConfig(
            name="tiny",
            encoder=GridEncoderConfig(image_size=32, widths=(4, 8), blocks=(0, 1)),
            decoder=LSTMDecoderConfig(
                vocabulary_size=len(tokenizer), embedding_size=8, hidden_size=8, attention_size=8
            ),
        )
    ).eval()


@pytest.mark.parametrize("name", ["my model", "a/b", "", "x" * 65, "Motiv\u00e9"])
def test_a_name_that_could_not_be_loaded_again(model, name):
    with pytest.raises(ValueError, match="use 1 to 64 letters"):
        replace(model.config, name=name)


class TestCaptionModel:
    def test_memory_stands_for_pixels(self, model):
        pixels = torch.randint(0, 256, (2, 32, 32, 3), dtype=torch.uint8)
        tokens = torch.randint(0, 9, (4, 5))
        with torch.inference_mode():
            read = model(pixels, tokens)
            again = model(None, tokens, model.encode(pixels))
        assert read.logits.shape == (4, 5, model.config.decoder.vocabulary_size)
        torch.testing.assert_close(again.logits, read.logits)

    def test_memory_may_be_of_half_precision(self, model):
        pixels = torch.randint(0, 256, (1, 32, 32, 3), dtype=torch.uint8)
        tokens = torch.randint(0, 9, (1, 5))
        with torch.inference_mode():
            half = model(None, tokens, model.encode(pixels).half())
            whole = model(pixels, tokens)
        assert half.logits.dtype == torch.float32
        torch.testing.assert_close(half.logits, whole.logits, rtol=0.02, atol=0.02)

    def test_nothing_to_read_is_an_error(self, model):
        with pytest.raises(ValueError, match="neither pixels nor memory"):
            model(None, torch.zeros(1, 2, dtype=torch.int64))


class TestAttentionCaptioner:
    @pytest.mark.parametrize("strategy", ["greedy", "beam", "sample"])
    def test_what_is_no_word_is_never_said(self, model, tokenizer, strategy):
        """However probable a model holds it: nobody wants to read `a <unknown> dog`."""
        with torch.no_grad():
            model.decoder.vocabulary.bias[tokenizer.unknown] = 50
            model.decoder.vocabulary.bias[tokenizer.pad] = 49
        captioner = AttentionCaptioner(
            model,
            tokenizer,
            model_id="tiny@0",
            decoding=DecodingConfig(strategy=strategy, max_length=8),
        )
        (caption,) = captioner.caption([captioner.prepare(render(sample(5)))])
        assert caption.tokens
        assert {"<unknown>", "<pad>"}.isdisjoint(caption.tokens)
        assert "<" not in caption.text

    def test_forbidden_words_that_it_cannot_say_are_counted(self, model, tokenizer, caplog):
        decoding = DecodingConfig(forbidden_words=("zebra", "red", " blue "))
        AttentionCaptioner(model, tokenizer, model_id="tiny@0", decoding=decoding)
        assert "1 of the 3 forbidden words are unknown" in caplog.text

    def test_a_language_that_it_does_not_know(self, model, tokenizer):
        with pytest.raises(ModelLoadError, match="tiny@0"):
            AttentionCaptioner(
                model, tokenizer, model_id="tiny@0", decoding=DecodingConfig(language="zh")
            )
