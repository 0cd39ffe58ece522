from dataclasses import replace

import pytest
import torch
from PIL import Image

from captioner.contract import EXTRAS, DecodingConfig, Geometry, ModelLoadError
from captioner.decoders import LSTMDecoderConfig
from captioner.encoders import GridEncoderConfig
from captioner.heads import ClassifierConfig, DetectorConfig, HeadsConfig, SegmenterConfig
from captioner.model import AttentionCaptioner, CaptionModel, ModelConfig
from captioner.scenes import render, sample
from captioner.statistics import FeatureStatistics
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


@pytest.fixture(scope="module")
def statistics() -> FeatureStatistics:
    """Of images that a tiny encoder saw: 8 features, and 2 + 8 + 8 that say where."""
    memories = torch.rand(20, 64, 8, generator=torch.Generator().manual_seed(0))
    places = torch.rand(64, 18, generator=torch.Generator().manual_seed(1)).expand(20, -1, -1)
    return FeatureStatistics.fit([torch.cat((memories, places), 2)], 18)


class TestFeatures:
    @pytest.fixture
    def captioner(self, model, tokenizer, statistics) -> AttentionCaptioner:
        for weights in model.decoder.parameters():  # Large, so that the image matters.
            torch.nn.init.normal_(weights, std=0.7)
        return self.made(model, tokenizer, statistics, EXTRAS, strategy="sample", top_k=6)

    def made(self, model, tokenizer, statistics, extras, **decoding) -> AttentionCaptioner:
        return AttentionCaptioner(
            model,
            tokenizer,
            model_id="tiny@0",
            statistics=statistics,
            extras=extras,
            decoding=DecodingConfig(max_length=9, **decoding),
        )

    def images(self, captioner):
        return [captioner.prepare(render(sample(number))) for number in range(5)]

    def test_the_batch_makes_no_difference(self, captioner):
        images = self.images(captioner)
        together = captioner.caption(images)
        assert len({caption.text for caption in together}) > 2
        assert len({len(caption.tokens) for caption in together}) > 1
        for image, caption in zip(images, together, strict=True):
            (alone,) = captioner.caption([image])
            assert alone.tokens == caption.tokens
            assert {"feature_distance", *EXTRAS} < alone.features.keys()
            assert alone.features == pytest.approx(caption.features, abs=1e-5)

    def test_information_is_that_of_the_image_beside_the_mean_image(self, captioner, statistics):
        """By hand, a word after the other."""
        decoder, tokenizer = captioner.model.decoder, captioner.tokenizer
        (caption,) = captioner.caption(self.images(captioner)[:1])
        numbers = {tokenizer.word(number): number for number in range(len(tokenizer))}
        token = torch.tensor([tokenizer.start_of("")])
        without = 0.0
        with torch.inference_mode():
            state = decoder.start(statistics.memory[None])
            for said in caption.tokens:
                logits, state = decoder.step(token, state)
                token = torch.tensor([numbers[said]])
                without += logits.log_softmax(1)[0, token].item()
        information = sum(caption.token_logprobs) - without
        assert caption.features["image_information"] == pytest.approx(information, abs=1e-4)
        assert abs(information) > 1e-3

    @pytest.mark.parametrize("strategy", ["greedy", "beam", "sample"])
    def test_rescoring_finds_what_decoding_found(self, model, tokenizer, strategy):
        captioner = self.made(model, tokenizer, None, ["rescored_logprob_mean"], strategy=strategy)
        for caption in captioner.caption(self.images(captioner)):
            found = caption.features["rescored_logprob_mean"]
            assert found == pytest.approx(caption.features["logprob_mean"], abs=1e-5)

    def test_beams_are_compared(self, model, tokenizer, statistics):
        captioner = self.made(model, tokenizer, statistics, (), strategy="beam")
        for caption in captioner.caption(self.images(captioner)):
            (_, best), (_, second), *_ = caption.n_best
            assert caption.features["beam_gap"] == pytest.approx(best - second)
            assert 0 <= caption.features["beam_agreement"] <= 1

    def test_what_is_not_asked_for_is_left_out(self, model, tokenizer, statistics):
        image = self.images(self.made(model, tokenizer, None, ()))[:1]
        (plain,) = self.made(model, tokenizer, None, ()).caption(image)
        (known,) = self.made(model, tokenizer, statistics, ()).caption(image)
        assert known.features.keys() - plain.features.keys() == {"feature_distance"}
        assert {"beam_gap", *EXTRAS}.isdisjoint(known.features)

    def test_it_says_what_it_fills(self, captioner, model, tokenizer):
        assert captioner.fills == ("feature_distance", *EXTRAS)
        assert self.made(model, tokenizer, None, ()).fills == ()
        beam = self.made(model, tokenizer, None, (), strategy="beam")
        assert beam.fills == ("beam_gap", "beam_agreement")
        assert self.made(model, tokenizer, None, (), strategy="beam", beam_size=1).fills == ()

    @pytest.mark.parametrize(
        ("extras", "message"),
        [
            (["image_information"], "model tiny@0 has no statistics .* captioner statistics"),
            (["semantic_entropy"], "'semantic_entropy' cannot be asked for; use image_info"),
        ],
    )
    def test_what_it_cannot_compute_is_refused(self, model, tokenizer, extras, message):
        with pytest.raises(ModelLoadError, match=message):
            self.made(model, tokenizer, None, extras)


class TestHeads:
    WIDTH, HEIGHT = 60, 40

    @pytest.fixture
    def captioner(self, model, tokenizer) -> AttentionCaptioner:
        """Captions of the model, and heads that are quick to see something."""
        heads = HeadsConfig(
            labels=ClassifierConfig(classes=("red", "blue", "squares"), threshold=0.4),
            boxes=DetectorConfig(classes=("circle", "star"), width=4, score_threshold=0.0, most=5),
            masks=SegmenterConfig(classes=("circle", "star"), width=4),
        )
        torch.manual_seed(1)
        more = CaptionModel(replace(model.config, heads=heads)).eval()
        more.load_state_dict(model.state_dict(), strict=False)
        return AttentionCaptioner(more, tokenizer, model_id="heads@0")

    def images(self, captioner):
        size = (self.WIDTH, self.HEIGHT)
        return [captioner.prepare(render(sample(number)).resize(size)) for number in range(4)]

    def test_what_they_find_is_in_pixels_of_the_original(self, captioner):
        images = self.images(captioner)
        square = [replace(item, geometry=Geometry(32, 32, 1.0, 1.0)) for item in images]
        across, down = self.WIDTH / 32, self.HEIGHT / 32
        pairs = zip(captioner.caption(images), captioner.caption(square), strict=True)
        for known, small in ((one.annotations, other.annotations) for one, other in pairs):
            assert known.labels == small.labels
            assert known.boxes
            for box, other in zip(known.boxes, small.boxes, strict=True):
                assert box.name == other.name
                assert (box.x, box.width) == pytest.approx((other.x * across, other.width * across))
                assert (box.y, box.height) == pytest.approx((other.y * down, other.height * down))
            assert {mask.size for mask in known.masks} <= {(self.HEIGHT, self.WIDTH)}
        assert any(caption.annotations.masks for caption in captioner.caption(images))

    def test_it_says_what_it_fills(self, captioner):
        assert captioner.fills == ("labels", "boxes", "masks")

    def test_find_says_the_same_without_captions(self, captioner):
        images = self.images(captioner)
        found = [caption.annotations for caption in captioner.caption(images)]
        assert captioner.find(images) == found
        assert captioner.find([]) == []

    def test_find_may_ask_for_surer_ones(self, captioner):
        (found,) = captioner.find(self.images(captioner)[:1], 1.0)
        assert found.labels == found.boxes == ()
        assert found.masks is not None

    def test_the_batch_makes_no_difference(self, captioner):
        images = self.images(captioner)
        together = captioner.caption(images)
        for image, caption in zip(images, together, strict=True):
            (alone,) = captioner.caption([image])
            assert alone.text == caption.text
            assert alone.features == pytest.approx(caption.features, abs=1e-4)
            one, other = alone.annotations, caption.annotations
            assert one.masks == other.masks
            for part in ("labels", "boxes"):
                for item, same in zip(getattr(one, part), getattr(other, part), strict=True):
                    wanted = vars(same)
                    assert item.name == wanted.pop("name")
                    given = {name: value for name, value in vars(item).items() if name != "name"}
                    assert given == pytest.approx(wanted, abs=1e-3)

    @pytest.mark.parametrize(("bias", "wanted"), [(50.0, 0.0), (-50.0, 1.0)])
    def test_captions_of_what_no_head_sees_are_told(self, captioner, tokenizer, bias, wanted):
        with torch.no_grad():
            captioner.model.heads.labels.classes.bias.fill_(bias)
            captioner.model.decoder.vocabulary.bias[tokenizer.encode(["blue"])[0][0]] = 50.0
        (caption,) = captioner.caption(self.images(captioner)[:1])
        assert "blue" in caption.text
        assert caption.features["heads_disagree"] == wanted

    def test_captions_are_those_of_the_model_without_heads(self, captioner, model, tokenizer):
        plain = AttentionCaptioner(model, tokenizer, model_id="tiny@0")
        images = self.images(captioner)
        for one, other in zip(captioner.caption(images), plain.caption(images), strict=True):
            assert one.text == other.text
            assert one.token_logprobs == pytest.approx(other.token_logprobs, abs=1e-6)
            assert one.features.keys() - other.features.keys() == {"heads_disagree"}
            assert other.annotations is None

    def test_a_model_without_heads_finds_nothing(self, model, tokenizer):
        captioner = AttentionCaptioner(model, tokenizer, model_id="tiny@0")
        image = captioner.prepare(Image.new("RGB", (8, 8)))
        with pytest.raises(ValueError, match="model tiny@0 has no heads; train one with --tasks"):
            captioner.find([image])
