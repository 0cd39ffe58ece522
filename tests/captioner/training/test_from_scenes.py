"""Training on drawn scenes, as a whole."""

import numpy as np
import pytest
import torch

from captioner.contract import DecodingConfig, ModelLoadError
from captioner.decoders import LSTMDecoderConfig
from captioner.encoders import GridEncoderConfig
from captioner.model import AttentionCaptioner, CaptionModel, ModelConfig, prepare
from captioner.scenes import TRAINING, VALIDATION, render, samples
from captioner.scenes.combinations import shows_held_out
from captioner.training import from_scenes
from captioner.training.batch import Batches
from captioner.training.config import TrainingConfig
from captioner.training.from_scenes import SceneMaterial
from captioner.training.scenes import SceneBatch, scene_tokenizer


@pytest.fixture(scope="module")
def material() -> SceneMaterial:
    with pytest.MonkeyPatch.context() as patch:
        few = lambda first, languages: scene_tokenizer(first, 100, languages)  # noqa: E731
        patch.setattr(from_scenes, "scene_tokenizer", few)
        config = TrainingConfig(batch_size=16, label_smoothing=0.0)
        return SceneMaterial(48, config, languages=("en", "zh"), validation=4, workers=1)


def tiny_model(material) -> CaptionModel:
    torch.manual_seed(0)
    return CaptionModel(
        ModelConfig(
            name="tiny",
            encoder=GridEncoderConfig(image_size=32, widths=(8, 16, 16), blocks=(0, 0, 1)),
            decoder=LSTMDecoderConfig(
                vocabulary_size=len(material.tokenizer),
                embedding_size=16,
                hidden_size=48,
                attention_size=16,
                dropout=0.1,
                embedding_dropout=0.0,
            ),
        )
    )


@pytest.fixture(scope="module")
def data(material) -> Batches:
    return material.epochs(tiny_model(material))(0)


@pytest.fixture(scope="module")
def model(material, data) -> CaptionModel:
    """Trained just long enough to know what language it speaks."""
    made = tiny_model(material)
    objective = material.objective(made)
    optimizer = torch.optim.Adam([*made.parameters(), *objective.parameters()], 1e-2)
    for epoch in range(20):
        for batch in data.batches(epoch):
            loss = sum(objective(made(batch.pixels, batch.tokens[:, :-1]), batch).values())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return made


def speaking(material, model, language) -> AttentionCaptioner:
    decoding = DecodingConfig(language=language)
    return AttentionCaptioner(model, material.tokenizer, model_id="tiny@1", decoding=decoding)


class TestLanguage:
    @pytest.mark.parametrize(("language", "chinese"), [("", False), ("en", False), ("zh", True)])
    def test_a_model_says_the_language_that_is_asked_for(self, material, model, language, chinese):
        captioner = speaking(material, model, language)
        images = [captioner.prepare(render(scene)) for scene in samples(VALIDATION, 4)]
        for caption in captioner.caption(images):
            assert caption.text
            letters = caption.text.replace(" ", "")
            assert all(("\u4e00" <= letter) == chinese for letter in letters), caption.text

    def test_one_that_it_does_not_know_is_refused(self, material, model):
        message = "model tiny@1: language is 'fr'; use one of: en, zh"
        with pytest.raises(ModelLoadError, match=message):
            speaking(material, model, "fr")


class TestSceneMaterial:
    def test_each_language_is_scored_by_itself(self, material, model, monkeypatch):
        asked = []
        score = from_scenes.score_on_scenes

        def spied(captioner, first, count, **options):
            asked.append((captioner.decoding.language, first, count, options))
            return score(captioner, first, count, **options)

        monkeypatch.setattr(from_scenes, "score_on_scenes", spied)
        scores = material.validate(speaking(material, model, ""))
        assert asked == [
            (language, VALIDATION, 4, {"combinations": "seen", "language": language})
            for language in ("en", "zh")
        ]
        each = [scores[f"true_captions_{language}"] for language in ("en", "zh")]
        assert scores["true_captions"] == pytest.approx(sum(each) / 2)
        assert scores["stated_facts"] > 0, "some sentences can be read"

    def test_its_card_tells_what_it_was_never_shown(self, material):
        assert material.facts["languages"] == "en, zh"
        assert "red ring" in material.facts["never shown"]

    def test_statistics_are_of_the_first_scenes_that_it_is_shown(
        self, material, data, model, monkeypatch
    ):
        monkeypatch.setattr(from_scenes, "MOST_IMAGES", 6)
        monkeypatch.setattr(from_scenes, "render_scenes", None)  # They are drawn already.
        scenes = [scene for scene in samples(TRAINING, 20) if not shows_held_out(scene)][:6]
        pixels = np.stack([prepare(render(scene), 32).pixels for scene in scenes])
        model.eval()
        (found,) = material.memories(model)
        with torch.inference_mode():
            torch.testing.assert_close(found, model.encode(torch.from_numpy(pixels)))

    def test_words_that_relate_weigh_more(self, material, data, model):
        batch = next(iter(data.batches(0)))
        assert isinstance(batch, SceneBatch)
        objective = material.objective(model)
        with torch.inference_mode():
            read = model(batch.pixels, batch.tokens[:, :-1])
            losses = objective(read, batch)
        chosen = read.logits.log_softmax(2).gather(2, batch.tokens[:, 1:, None])[:, :, 0]
        weights = torch.where(batch.relating, 5.0, 1.0)[:, 1:]
        weights = weights * (batch.tokens[:, 1:] != material.tokenizer.pad)
        by_hand = -(weights * chosen).sum() / weights.sum()
        torch.testing.assert_close(losses["captions"], by_hand)
