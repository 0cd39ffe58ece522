"""Learning verifiers: what they find, and that nothing flatters them."""

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from captioner.confidence.fitting import FitError
from captioner.confidence.verification import learn

SIZE = 12


def labelled(count: int, seed: int = 0):
    """Return evidence in which some words are wrong, labels of captions, and the wrong words.

    A wrong word differs in two of its figures, by little each; nothing tells which word it is.
    """
    rng = np.random.default_rng(seed)
    evidence, wrong = [], []
    for _ in range(count):
        words = rng.normal(size=(rng.integers(4, 10), SIZE))
        bad = rng.random(len(words)) < 0.12
        words[bad, :2] += 2.5
        evidence.append(torch.from_numpy(words).float())
        wrong.append(bad)
    correct = [not bad.any() for bad in wrong]
    return evidence, correct, [f"image-{number}" for number in range(count)], wrong


def by_chance(count: int):
    """Return evidence rich enough to be known by heart, and labels that it says nothing of."""
    rng = np.random.default_rng(3)
    evidence = [torch.from_numpy(rng.normal(size=(4, 300))).float() for _ in range(count)]
    return evidence, (rng.random(count) < 0.5).tolist(), [f"image-{n}" for n in range(count)]


@pytest.fixture(scope="module")
def learned():
    evidence, correct, images, _ = labelled(600)
    return learn(evidence, correct, images)


class TestLearn:
    def test_it_tells_right_captions_that_it_never_saw(self, learned):
        evidence, correct, _, _ = labelled(500, seed=1)
        assert roc_auc_score(correct, learned.verifier.logits(evidence)) > 0.93

    def test_it_finds_the_wrong_word_that_nobody_labelled(self, learned):
        evidence, _, _, wrong = labelled(200, seed=2)
        found = [
            bad[int(np.argmin([learned.verifier.logits([word[None]])[0] for word in words]))]
            for words, bad in zip(evidence, wrong, strict=True)
            if bad.any()
        ]
        assert len(found) > 80
        assert np.mean(found) > 0.9

    def test_what_is_said_of_unseen_captions_is_not_flattered(self):
        """Where labels are chance, only the verifier that learned them by heart knows them."""
        evidence, chance, images = by_chance(200)
        found = learn(evidence, chance, images)
        assert roc_auc_score(chance, found.verifier.logits(evidence)) > 0.9
        assert abs(roc_auc_score(chance, found.logits) - 0.5) < 0.1

    def test_captions_of_an_image_are_in_one_fold(self):
        """Each caption is there twice: its twin would tell its label."""
        evidence, chance, images = by_chance(100)
        found = learn(evidence * 2, chance * 2, images * 2)
        assert abs(roc_auc_score(chance * 2, found.logits) - 0.5) < 0.15

    def test_unseen_logits_are_in_the_order_of_the_captions(self, learned):
        _, correct, _, _ = labelled(600)
        assert roc_auc_score(correct, learned.logits) > 0.9

    def test_the_order_of_captions_changes_nothing(self):
        evidence, correct, images, _ = labelled(80)
        order = np.random.default_rng(0).permutation(80)
        shuffled = [[items[place] for place in order] for items in (evidence, correct, images)]
        one, other = learn(evidence, correct, images), learn(*shuffled)
        assert other.verifier.id == one.verifier.id
        assert other.logits.tolist() == one.logits[order].tolist()

    def test_the_same_seed_learns_the_same_and_leaves_other_draws_alone(self):
        evidence, correct, images, _ = labelled(80)
        torch.manual_seed(5)
        before = torch.random.get_rng_state()
        one = learn(evidence, correct, images)
        assert torch.equal(torch.random.get_rng_state(), before)
        assert learn(evidence, correct, images).verifier.id == one.verifier.id
        assert learn(evidence, correct, images, seed=1).verifier.id != one.verifier.id

    def test_it_remembers_the_images(self, learned):
        assert all(learned.verifier.saw(f"image-{number}") for number in range(600))
        assert not learned.verifier.saw("image-600")

    def test_evidence_that_never_varies_does_no_harm(self):
        evidence, correct, images, _ = labelled(80)
        still = [torch.cat((words, torch.full((len(words), 1), 7.0)), 1) for words in evidence]
        assert np.isfinite(learn(still, correct, images).logits).all()

    @pytest.mark.parametrize(
        ("count", "change", "message"),
        [
            (40, lambda correct: correct, "there are 40 labels; give at least 50"),
            (60, lambda correct: [True] * 60, "none of the 60 captions is wrong"),
            (60, lambda correct: [False] * 5 + [True] * 55, "only 5 images have a caption that"),
        ],
    )
    def test_labels_that_teach_nothing_are_refused(self, count, change, message):
        evidence, correct, images, _ = labelled(count)
        with pytest.raises(FitError, match=message):
            learn(evidence, change(correct), images)

    def test_evidence_that_is_no_number_is_named(self):
        evidence, correct, images, _ = labelled(80)
        evidence[7][2, 3] = torch.nan
        with pytest.raises(FitError, match="the words of image-7 is not all numbers"):
            learn(evidence, correct, images)
