"""GPT-2 as decoder against the same GPT-2 driven by ``transformers`` itself."""

import sys
from pathlib import Path

import fsspec
import pytest
import safetensors.torch
import torch
import transformers
from torch import Tensor

from captioner.contract import ModelLoadError
from captioner.decoders import (
    LanguageModelDecoder,
    LanguageModelDecoderConfig,
    language_model_from_pretrained,
)

WORDS, FEATURES, WIDTH = 23, 6, 16
TINY = {"n_embd": WIDTH, "n_layer": 2, "n_head": 2, "n_positions": 12, "initializer_range": 0.3}
MARKS = {"bos_token_id": 1, "eos_token_id": 2}


def made(**changes: object) -> LanguageModelDecoder:
    torch.manual_seed(0)
    settings = {"model_type": "gpt2", "vocab_size": WORDS, "add_cross_attention": True}
    config = LanguageModelDecoderConfig(
        vocabulary_size=WORDS, settings={**settings, **TINY, **MARKS, **changes}
    )
    return LanguageModelDecoder(config, feature_size=FEATURES).eval()


def inputs() -> tuple[Tensor, Tensor]:
    torch.manual_seed(3)
    return torch.randn(3, 5, FEATURES), torch.randint(WORDS, (3, 7))


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a language model that has never seen an image."""
    torch.manual_seed(1)
    config = transformers.GPT2Config(vocab_size=WORDS - 4, **TINY, **MARKS)
    folder = tmp_path_factory.mktemp("gpt2")
    transformers.GPT2LMHeadModel(config).save_pretrained(folder)
    return folder


class TestDecoder:
    def test_whole_captions_are_what_the_library_makes_of_them(self):
        decoder, (memory, tokens) = made(), inputs()
        config = transformers.GPT2Config(**decoder.config.settings)
        config._attn_implementation = "eager"
        whole = transformers.GPT2LMHeadModel(config).eval()
        whole.transformer.load_state_dict(decoder.model.state_dict())
        wanted = whole(tokens, encoder_hidden_states=decoder.image(memory), output_attentions=True)
        logits, attention = decoder(memory, tokens)
        torch.testing.assert_close(logits, wanted.logits, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(attention, wanted.cross_attentions[-1].mean(1))

    def test_steps_are_what_whole_captions_are(self):
        decoder, (memory, tokens) = made(), inputs()
        logits, looked = decoder(memory, tokens)
        state = decoder.start(memory)
        for step, word in enumerate(tokens.unbind(1)):
            said, state = decoder.step(word, state)
            torch.testing.assert_close(said, logits[:, step], rtol=1e-4, atol=1e-4)
            torch.testing.assert_close(state.attention, looked[:, step])
        assert state.words[0][0].shape == (3, 2, 7, WIDTH // 2)

    def test_a_state_is_left_as_it_was(self):
        """The caches of the library grow in place."""
        decoder, (memory, _) = made(), inputs()
        _, state = decoder.step(torch.tensor([1, 1, 1]), decoder.start(memory))
        first, after = decoder.step(torch.tensor([4, 5, 6]), state)
        second, _ = decoder.step(torch.tensor([4, 5, 6]), state)
        assert torch.equal(first, second)
        assert after.words[0][0].shape[2] == 2
        rows = torch.tensor([2, 0, 2])
        some, _ = decoder.step(torch.tensor([6, 4, 6]), decoder.select(state, rows))
        torch.testing.assert_close(some, first[rows])

    def test_every_weight_learns(self):
        decoder, (memory, tokens) = made(), inputs()
        logits, looked = decoder(memory, tokens)
        (logits.square().sum() + looked.square().sum()).backward()
        for name, weights in decoder.named_parameters():
            assert weights.grad.abs().max() > 0, name

    def test_attention_sums_to_1_in_training_too(self):
        decoder, (memory, tokens) = made(attn_pdrop=0.5).train(), inputs()
        _, looked = decoder(memory, tokens)
        torch.testing.assert_close(looked.sum(2), torch.ones(3, 7))

    def test_a_caption_longer_than_it_reads_is_an_error(self):
        decoder, (memory, _) = made(), inputs()
        with pytest.raises(ValueError, match="13 tokens, but the language model reads 12"):
            decoder(memory, torch.ones(3, 13, dtype=torch.long))
        state, words = decoder.start(memory), torch.tensor([1, 1, 1])
        for _ in range(12):
            _, state = decoder.step(words, state)
        with pytest.raises(ValueError, match="13 tokens"):
            decoder.step(words, state)

    def test_it_is_built_of_its_weights_alone(self):
        """As checkpoints are read: nothing is made that the file does not hold."""
        decoder, (memory, tokens) = made(), inputs()
        data = safetensors.torch.save(decoder.state_dict())  # Which refuses what is held twice.
        with torch.device("meta"):
            other = LanguageModelDecoder(decoder.config, feature_size=FEATURES)
        other.load_state_dict(safetensors.torch.load(data), assign=True)
        torch.testing.assert_close(other.eval()(memory, tokens), decoder(memory, tokens))

    def test_half_precision_reads_too(self):
        decoder, (memory, tokens) = made(initializer_range=0.1), inputs()
        wanted, _ = decoder(memory, tokens)
        logits, _ = decoder.to(torch.bfloat16)(memory.to(torch.bfloat16), tokens)
        assert (logits - wanted).abs().max() < 0.1 * wanted.abs().max()


class TestPretrained:
    def test_it_speaks_as_it_did_where_it_looks_at_nothing(self, pretrained):
        torch.manual_seed(5)
        config, weights = language_model_from_pretrained(str(pretrained), WORDS)
        decoder = LanguageModelDecoder(config, feature_size=FEATURES).eval()
        missing = decoder.load_state_dict(weights, strict=False)
        assert not missing.unexpected_keys
        assert set(missing.missing_keys) == {"image.weight", "image.bias"}
        memory, tokens = inputs()
        tokens = tokens % (WORDS - 4)
        looking, _ = decoder(memory, tokens)
        for layer in decoder.model.h:
            torch.nn.init.zeros_(layer.crossattention.c_proj.weight)
        logits, _ = decoder(memory, tokens)
        own = transformers.GPT2LMHeadModel.from_pretrained(pretrained).eval()(tokens).logits
        torch.testing.assert_close(logits[..., : WORDS - 4], own, rtol=1e-4, atol=1e-4)
        assert (looking - logits).abs().max() > 0.01

    def test_new_words_begin_as_the_mean_of_the_others(self, pretrained):
        _, weights = language_model_from_pretrained(str(pretrained), WORDS)
        words = weights["model.wte.weight"]
        mean = words[:-4].mean(0).expand(4, -1)
        torch.testing.assert_close(words[-4:], mean, rtol=1e-2, atol=1e-2)

    def test_a_folder_on_a_store_is_the_same(self, pretrained):
        store = fsspec.filesystem("memory")
        store.put(f"{pretrained}/", "memory://language-model/", recursive=True)
        torch.manual_seed(0)
        here = language_model_from_pretrained(str(pretrained), WORDS)
        torch.manual_seed(0)
        there = language_model_from_pretrained("memory://language-model", WORDS)
        assert here[0] == there[0]
        torch.testing.assert_close(here[1], there[1])

    def test_settings_name_no_folder(self, pretrained):
        config, _ = language_model_from_pretrained(str(pretrained), WORDS)
        assert str(pretrained) not in str(config.settings)
        assert config.settings["n_embd"] == WIDTH

    def test_weights_that_are_no_safetensors_are_refused(self, pretrained, tmp_path):
        (tmp_path / "config.json").write_bytes((pretrained / "config.json").read_bytes())
        weights = transformers.GPT2LMHeadModel.from_pretrained(pretrained).state_dict()
        torch.save(weights, tmp_path / "pytorch_model.bin")
        with pytest.raises(ModelLoadError, match="no weights in safetensors.*convert them"):
            language_model_from_pretrained(str(tmp_path), WORDS)

    def test_weights_that_lack_something_are_refused(self, pretrained, tmp_path):
        (tmp_path / "config.json").write_bytes((pretrained / "config.json").read_bytes())
        weights = safetensors.torch.load_file(pretrained / "model.safetensors")
        lost = next(name for name in weights if name.endswith("h.1.mlp.c_fc.weight"))
        del weights[lost]
        safetensors.torch.save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
        with pytest.raises(ModelLoadError, match="lack 1 tensors, such as .*h.1.mlp.c_fc.weight"):
            language_model_from_pretrained(str(tmp_path), WORDS)

    def test_another_kind_is_refused(self, tmp_path):
        transformers.BertConfig(vocab_size=WORDS).save_pretrained(tmp_path)
        with pytest.raises(ModelLoadError, match="model_type is 'bert'; those known are gpt2"):
            language_model_from_pretrained(str(tmp_path), WORDS)

    def test_what_is_not_there_is_an_error(self, tmp_path):
        with pytest.raises(ModelLoadError, match="cannot be loaded"):
            language_model_from_pretrained(f"file://{tmp_path}/nothing", WORDS)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "llama"}, "model_type is 'llama'; those known are gpt2"),
        ({"vocab_size": 7}, "vocab_size is 7, not 23"),
        ({"add_cross_attention": False}, "add_cross_attention is False, not True"),
        ({"tie_word_embeddings": False}, "tie_word_embeddings is false"),
    ],
)
def test_settings_that_do_not_fit_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        made(**changes)


def test_settings_that_make_no_model_are_an_error():
    with pytest.raises(ModelLoadError, match="language model gpt2 cannot be built"):
        made(n_head=3)


def test_without_the_library_the_error_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ModelLoadError, match="pip install"):
        made()
