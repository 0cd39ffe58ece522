import json
import math
import random
import sys

import pytest
from pycocoevalcap.bleu.bleu import Bleu
from pycocoevalcap.cider.cider import Cider
from pycocoevalcap.rouge.rouge import Rouge

from captioner.evaluation.metrics import score

NAMES = ("bleu_1", "bleu_2", "bleu_3", "bleu_4", "rouge_l", "cider")


def made_up(images, seed=0):
    """Captions that are partly right, in lower case and without punctuation."""
    rng = random.Random(seed)
    known = "a the man dog cat rides red ball on in park with two of big small".split()

    def text():
        return " ".join(rng.choices(known, k=rng.randint(3, 12)))

    references = [[text() for _ in range(rng.randint(1, 5))] for _ in range(images)]
    captions = [rng.choice(texts) if rng.random() < 0.3 else text() for texts in references]
    return captions, references


def values(scores):
    return [getattr(scores, name).value for name in NAMES]


def by_the_library(captions, references):
    said = {number: [text] for number, text in enumerate(captions)}
    wanted = dict(enumerate(references))
    bleu, _ = Bleu(4).compute_score(wanted, said, verbose=0)
    return [*bleu, Rouge().compute_score(wanted, said)[0], Cider().compute_score(wanted, said)[0]]


class TestAgainstTheLibrary:
    @pytest.mark.parametrize("seed", range(3))
    def test_the_whole_is_what_it_says(self, seed):
        captions, references = made_up(60, seed)
        expected = by_the_library(captions, references)
        assert values(score(captions, references)) == pytest.approx(expected, rel=1e-9)

    def test_short_captions_are_punished(self):
        captions, references = made_up(60)
        short = [" ".join(caption.split()[:3]) for caption in captions]
        scores = score(short, references)
        assert values(scores) == pytest.approx(by_the_library(short, references), rel=1e-9)
        assert scores.bleu_1.value < score(captions, references).bleu_1.value

    def test_an_empty_caption_counts(self):
        captions, references = made_up(60)
        captions[7] = ""
        scores = score(captions, references)
        assert values(scores) == pytest.approx(by_the_library(captions, references), rel=1e-9)
        assert (scores.images, scores.empty) == (60, 1)


class TestByHand:
    def test_captions_that_are_references_are_perfect(self):
        references = [["a red dog runs far"], ["two cats", "two small cats sleep"]]
        scores = score(["a red dog runs far", "two small cats sleep"], references)
        assert values(scores)[:5] == pytest.approx([1, 1, 1, 1, 1])

    def test_nothing_right_is_nothing(self):
        assert values(score(["x y z w"], [["a b c d"]])) == pytest.approx([0] * 6, abs=1e-3)

    def test_only_empty_captions_are_nothing(self):
        assert values(score(["", "!"], [["a dog"], ["a cat"]])) == pytest.approx([0] * 6, abs=1e-3)

    def test_precision_length_and_subsequence(self):
        """3 of 4 words and 1 of 3 pairs are right; the reference has a word more."""
        scores = score(["the dog big runs"], [["the dog now runs fast"]])
        shorter = math.exp(1 - 5 / 4)
        assert scores.bleu_1.value == pytest.approx(shorter * 3 / 4)
        assert scores.bleu_2.value == pytest.approx(shorter * math.sqrt(3 / 4 * 1 / 3))
        precision, recall, beta = 3 / 4, 3 / 5, 1.2
        f = (1 + beta**2) * precision * recall / (recall + beta**2 * precision)
        assert scores.rouge_l.value == pytest.approx(f)

    def test_a_word_counts_no_oftener_than_in_a_reference(self):
        assert score(["the the the"], [["the dog"]]).bleu_1.value == pytest.approx(1 / 3)

    def test_chinese_is_compared_by_characters(self):
        scores = score(["一个大的圆形。"], [["一个小的圆形"]])
        assert scores.bleu_1.value == pytest.approx(5 / 6)
        assert scores.bleu_2.value == pytest.approx(math.sqrt(5 / 6 * 3 / 5))

    def test_capitals_and_punctuation_make_no_difference(self):
        plain = score(["a mans t shirt"], [["a man s t shirt"]])
        assert score(["A mans T-shirt."], [["a man's t-shirt!"]]) == plain


class TestInterval:
    def test_it_holds_the_value_and_shrinks_with_more_images(self):
        captions, references = made_up(1600)
        few, many = score(captions[:100], references[:100]), score(captions, references)
        for name in NAMES:
            narrow, wide = getattr(many, name), getattr(few, name)
            assert narrow.low < narrow.value < narrow.high
            assert wide.low < wide.value < wide.high
            share = (narrow.high - narrow.low) / (wide.high - wide.low)
            assert share == pytest.approx(1 / 4, rel=0.4), name  # 16 times as many images.

    def test_it_is_that_of_a_mean_where_the_score_is_one(self):
        captions, references = made_up(400)
        _, each = Rouge().compute_score(
            dict(enumerate(references)), {number: [text] for number, text in enumerate(captions)}
        )
        half = 1.96 * each.std() / math.sqrt(len(each))
        found = score(captions, references).rouge_l
        assert found.low == pytest.approx(found.value - half, abs=0.1 * half)
        assert found.high == pytest.approx(found.value + half, abs=0.1 * half)

    def test_the_same_captions_give_the_same_interval(self):
        captions, references = made_up(50)
        assert score(captions, references) == score(captions, references)


class TestShown:
    def test_as_json_and_as_a_table(self):
        captions, references = made_up(50)
        scores = score(captions, references)
        again = json.loads(json.dumps(scores.as_dict()))
        assert again["bleu_4"]["value"] == scores.bleu_4.value
        assert set(again) == {"images", "empty", *NAMES}
        first, *lines = scores.table().splitlines()
        assert first.startswith("50 images")
        titles = ["BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4", "ROUGE-L", "CIDEr"]
        assert [line.split()[0] for line in lines] == titles
        assert [line.split()[1] for line in lines] == [f"{100 * v:.1f}" for v in values(scores)]


class TestRefused:
    @pytest.mark.parametrize(
        ("captions", "references", "message"),
        [
            ([], [], "no captions"),
            (["a dog"], [["a dog"], ["a cat"]], "1 captions but references of 2 images"),
            (["a dog"], [[]], r"image 0 are \[\]"),
            (["a dog"], ["a dog"], "image 0 are 'a dog'; give a list"),
            (["a dog", "a cat"], [["a dog"], ["a cat", "..."]], "reference '...' of image 1 has"),
        ],
    )
    def test_what_cannot_be_scored(self, captions, references, message):
        with pytest.raises(ValueError, match=message):
            score(captions, references)

    def test_without_the_library_it_says_what_to_install(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "pycocoevalcap.bleu.bleu_scorer", None)
        with pytest.raises(ModuleNotFoundError, match=r"pip install 'captioner\[evaluation\]'"):
            score(["a dog"], [["a dog"]])
