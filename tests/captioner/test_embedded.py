"""The model that ships with the package."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from captioner.checkpoint import embedded_path, load
from captioner.contract import Captioner, DecodingConfig
from captioner.evaluation.scenes import score_on_scenes
from captioner.scenes import TEST, captions, judge, render, samples
from captioner.scenes.grammar import Judgement
from schemas.tables import FEATURES


@pytest.fixture(scope="module")
def captioner():
    return load(embedded_path(), device="cpu")


@pytest.fixture(scope="module")
def prepared(captioner):
    return [captioner.prepare(render(scene)) for scene in samples(TEST + 500, 21)]


def test_embedded_weights_are_under_ten_megabytes():
    size = sum(path.stat().st_size for path in Path(embedded_path()).iterdir())
    assert 10_000 < size < 10_000_000


@pytest.mark.parametrize("language", ["en", "zh"])
@pytest.mark.parametrize(("combinations", "least"), [("seen", 0.95), ("unseen", 0.85)])
def test_embedded_model_is_true_of_unseen_scenes(language, combinations, least):
    """benchmarks/RESULTS.md has the scores on 2,000."""
    captioner = load(embedded_path(), device="cpu", decoding=DecodingConfig(language=language))
    scores = score_on_scenes(captioner, TEST, 200, combinations=combinations, language=language)
    assert scores.true_captions >= least
    assert scores.stated_facts >= 0.8


def test_embedded_model_speaks_english_unless_asked(captioner, prepared):
    assert captioner.tokenizer.languages == ("en", "zh")
    assert all(caption.text.isascii() for caption in captioner.caption(prepared))
    chinese = load(embedded_path(), device="cpu", decoding=DecodingConfig(language="zh"))
    assert not any(caption.text.isascii() for caption in chinese.caption(prepared))


class TestCaption:
    def test_a_caption_depends_on_its_image_alone(self, captioner, prepared):
        alone = [captioner.caption([item])[0] for item in prepared]
        sevens = [
            caption for i in range(0, 21, 7) for caption in captioner.caption(prepared[i : i + 7])
        ]
        order = np.random.default_rng(0).permutation(21)
        shuffled = captioner.caption([prepared[i] for i in order])
        for together, indices in ((sevens, range(21)), (shuffled, order)):
            for caption, index in zip(together, indices, strict=True):
                assert caption.tokens == alone[index].tokens
                assert caption.token_logprobs == pytest.approx(
                    alone[index].token_logprobs, abs=1e-5
                )
                confidence = math.exp(caption.features["logprob_mean"])
                wanted = math.exp(alone[index].features["logprob_mean"])
                assert confidence == pytest.approx(wanted, abs=1e-5)
        assert len({caption.text for caption in alone}) > 15

    def test_everything_that_the_contract_asks_for(self, captioner, prepared):
        known: Captioner = captioner
        for caption in known.caption(prepared):
            assert caption.tokens[-1] == "<end>"
            assert caption.text == " ".join(caption.tokens[:-1])
            assert len(caption.tokens) == len(caption.token_logprobs) == len(caption.attention)
            assert caption.attention.dtype == np.float32
            assert caption.attention.shape[1:] == (6, 6)
            assert caption.attention.sum((1, 2)) == pytest.approx(1, abs=1e-5)
            assert caption.n_best == ((caption.text, pytest.approx(sum(caption.token_logprobs))),)
            features = caption.features
            assert set(features) <= {name for name, _ in FEATURES}
            assert features["num_tokens"] == len(caption.tokens)
            assert features["logprob_min"] == min(caption.token_logprobs)
            assert features["logprob_sum"] == pytest.approx(sum(caption.token_logprobs))
            assert features["eos_probability"] == pytest.approx(
                math.exp(caption.token_logprobs[-1])
            )
            assert 0 <= features["attention_entropy"] <= math.log(36)
            assert 0 < features["attention_coverage"] < 1
            assert 0 <= features["margin_min"] <= 1
            assert 0 <= features["entropy_mean"] <= features["entropy_max"]

    def test_a_caption_cut_short_has_no_end(self, prepared):
        short = load(embedded_path(), device="cpu", decoding=DecodingConfig(max_length=5))
        for caption in short.caption(prepared[:3]):
            assert len(caption.tokens) == 5
            assert "<end>" not in caption.tokens

    @pytest.mark.parametrize("precision", ["bfloat16", "float16"])
    def test_half_precision_says_nearly_the_same(self, captioner, prepared, precision):
        half = load(embedded_path(), device="cpu", decoding=DecodingConfig(precision=precision))
        pairs = zip(half.caption(prepared), captioner.caption(prepared), strict=True)
        assert sum(ours.text == theirs.text for ours, theirs in pairs) > 10
        assert half.model_id == captioner.model_id

    def test_any_image_gets_a_caption(self, captioner):
        rng = np.random.default_rng(0)
        photo = Image.fromarray(rng.integers(0, 256, (90, 333, 3), np.uint8))
        images = [photo, Image.new("L", (1, 1)), Image.new("RGB", (5000, 20), "red")]
        for caption in captioner.caption([captioner.prepare(image) for image in images]):
            assert caption.text

    def test_a_search_finds_captions_at_least_as_probable(self, captioner, prepared):
        decoding = DecodingConfig(strategy="beam", beam_size=4, length_penalty=0.0)
        search = load(embedded_path(), device="cpu", decoding=decoding)
        for found, greedy in zip(
            search.caption(prepared), captioner.caption(prepared), strict=True
        ):
            logprobs = [logprob for _, logprob in found.n_best]
            assert logprobs == sorted(logprobs, reverse=True)
            assert len({text for text, _ in found.n_best}) == 4
            assert found.n_best[0] == (
                found.text,
                pytest.approx(sum(found.token_logprobs), abs=1e-4),
            )
            assert logprobs[0] >= sum(greedy.token_logprobs) - 1e-4

    def test_samples_differ_by_seed_and_not_by_batch(self, prepared):
        def said(seed, batch):
            decoding = DecodingConfig(strategy="sample", seed=seed)
            captioner = load(embedded_path(), device="cpu", decoding=decoding)
            return [caption.text for caption in captioner.caption(batch)]

        once = said(1, prepared)
        assert said(1, prepared[::-1]) == once[::-1]
        assert said(2, prepared) != once

    def test_forbidden_words_are_not_said(self, prepared):
        decoding = DecodingConfig(forbidden_words=("large", "to the left of", "zebra"))
        captioner = load(embedded_path(), device="cpu", decoding=decoding)
        for caption in captioner.caption(prepared):
            assert "large" not in caption.text.split()
            assert "to the left of" not in caption.text

    def test_no_image_gives_no_caption(self, captioner):
        assert captioner.caption([]) == []

    def test_geometry_leads_from_the_original_to_the_model(self, captioner):
        prepared = captioner.prepare(Image.new("RGB", (300, 150)))
        geometry = prepared.geometry
        side, _ = captioner.image_size
        assert prepared.pixels.shape == (side, side, 3)
        assert (geometry.width, geometry.height) == (300, 150)
        assert (300 * geometry.scale_x, 150 * geometry.scale_y) == (side, side)

    def test_captioning_leaves_no_gradients_and_trains_nothing(self, captioner, prepared):
        before = {name: value.clone() for name, value in captioner.model.state_dict().items()}
        captioner.caption(prepared[:2])
        for name, value in captioner.model.state_dict().items():
            assert torch.equal(value, before[name]), name
        assert not captioner.model.training


class TestScore:
    class Fixed:
        """Says what it is told, one caption after another."""

        def __init__(self, said):
            self.said = iter(said)

        def prepare(self, image):
            return image

        def caption(self, batch):
            from captioner.contract import Caption

            return [Caption(next(self.said)) for _ in batch]

    def test_the_grammar_itself_scores_one(self):
        said = [captions(scene)[0] for scene in samples(TEST, 20)]
        scores = score_on_scenes(self.Fixed(said), TEST, 20, batch_size=7)
        assert scores.true_captions == 1
        assert scores.stated_facts == pytest.approx(9 / 9.2)
        assert scores.problems == ()

    def test_false_and_unreadable_captions_count(self):
        scenes = list(samples(TEST, 4))
        said = [captions(scene)[0] for scene in scenes]
        said[1] = "a dog"
        said[2] = said[3]
        wrong: Judgement = judge(said[2], scenes[2])
        assert not wrong.true
        scores = score_on_scenes(self.Fixed(said), TEST, 4)
        assert scores.true_captions == 0.5
        assert scores.stated_facts == pytest.approx(27 / 4 / 9.2)
        assert dict(scores.problems) == {"no such object": 2, "not a sentence of the grammar": 1}

    def test_nothing_to_score(self):
        with pytest.raises(ValueError, match="count is 0"):
            score_on_scenes(self.Fixed([]), TEST, 0)
