"""Figures of scores, against scikit-learn and against counting one by one."""

import math
from itertools import permutations

import numpy as np
import pytest
from sklearn.metrics import brier_score_loss, roc_auc_score

from captioner.evaluation.selective import (
    Bin,
    augrc,
    aurc,
    auroc,
    brier,
    excess_aurc,
    expected_calibration_error,
    reliability,
    review_budget,
    risk_coverage,
    share_reviewed_for,
)


def drawn(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return distinct scores that tell something, and what is right."""
    rng = np.random.default_rng(seed)
    scores = rng.permutation(np.linspace(0.02, 0.98, count))
    return scores, rng.random(count) < scores


def mean_over_orders(scores, correct):
    """Return the risks at each coverage, averaged over all orders of tied rows."""
    risks = []
    for order in permutations(range(len(scores))):
        if all(scores[a] >= scores[b] for a, b in zip(order, order[1:], strict=False)):
            wrong = np.cumsum([not correct[row] for row in order])
            risks.append(wrong / np.arange(1, len(scores) + 1))
    return np.mean(risks, axis=0)


class TestAuroc:
    def test_it_is_scikit_learns(self):
        scores, correct = drawn(200)
        assert auroc(scores, correct) == pytest.approx(roc_auc_score(correct, scores))

    @pytest.mark.parametrize("value", [True, False])
    def test_one_class_has_none(self, value):
        assert math.isnan(auroc(np.array([0.1, 0.9]), np.array([value, value])))


class TestCalibration:
    def test_brier_is_scikit_learns(self):
        scores, correct = drawn(200)
        assert brier(scores, correct) == pytest.approx(brier_score_loss(correct, scores))

    def test_bins_are_of_equal_mass(self):
        scores, correct = drawn(100)
        bins = reliability(scores, correct, bins=15)
        assert sorted({item.count for item in bins}) == [6, 7]
        order = np.argsort(scores)
        first = order[: bins[0].count]
        assert bins[0].confidence == pytest.approx(scores[first].mean())
        assert bins[0].accuracy == pytest.approx(correct[first].mean())
        expected = sum(item.count * abs(item.confidence - item.accuracy) for item in bins) / 100
        assert expected_calibration_error(scores, correct) == pytest.approx(expected)

    def test_fewer_captions_than_bins(self):
        bins = reliability(np.array([0.9, 0.2]), np.array([True, False]))
        assert bins == [Bin(1, 0.2, 0.0), Bin(1, 0.9, 1.0)]

    def test_probabilities_that_are_true_have_little_error(self):
        rng = np.random.default_rng(1)
        probabilities = rng.random(60_000)
        correct = rng.random(60_000) < probabilities
        assert expected_calibration_error(probabilities, correct) < 0.01
        assert expected_calibration_error(probabilities**2, correct) > 0.1

    def test_what_is_no_probability_is_refused(self):
        with pytest.raises(ValueError, match=r"from -1.0 to 0.5; they must lie in \[0, 1\]"):
            brier(np.array([-1.0, 0.5]), np.array([True, False]))
        with pytest.raises(ValueError, match="bins is 0; give at least 1"):
            reliability(*drawn(9), bins=0)


class TestRisk:
    def test_ties_are_the_mean_over_all_orders(self):
        scores = np.array([0.9, 0.5, 0.5, 0.5, 0.1, 0.1])
        correct = np.array([True, False, True, True, False, True])
        coverage, risk = risk_coverage(scores, correct)
        assert coverage.tolist() == pytest.approx([1 / 6, 1 / 3, 1 / 2, 2 / 3, 5 / 6, 1])
        assert risk == pytest.approx(mean_over_orders(scores, correct))
        assert aurc(scores, correct) == pytest.approx(risk.mean())

    @pytest.mark.parametrize(
        "measure",
        [auroc, brier, expected_calibration_error, aurc, excess_aurc, augrc],
    )
    def test_the_order_of_rows_changes_nothing(self, measure):
        rng = np.random.default_rng(2)
        scores, correct = rng.integers(0, 4, 60) / 4, rng.random(60) < 0.6
        order = rng.permutation(60)
        assert measure(scores[order], correct[order]) == pytest.approx(measure(scores, correct))

    def test_excess_is_that_over_the_best_order(self):
        scores, correct = drawn(7, seed=3)
        assert 0 < correct.sum() < 7
        best = min(aurc(np.array(order, float), correct) for order in permutations(range(7)))
        assert excess_aurc(scores, correct) == pytest.approx(aurc(scores, correct) - best)
        assert excess_aurc(correct.astype(float), correct) == 0

    def test_augrc_is_the_papers_formula(self):
        for scores, correct in (drawn(80), (np.full(50, 0.5), np.arange(50) < 30)):
            accuracy = correct.mean()
            formula = (1 - roc_auc_score(correct, scores)) * accuracy * (1 - accuracy)
            assert augrc(scores, correct) == pytest.approx(formula + (1 - accuracy) ** 2 / 2)


class TestReview:
    def test_the_least_confident_are_put_right_first(self):
        scores = np.array([0.9, 0.1, 0.5, 0.7])
        correct = np.array([True, False, True, False])
        reviewed, final = review_budget(scores, correct)
        assert reviewed.tolist() == [0, 0.25, 0.5, 0.75, 1]
        assert final.tolist() == [0.5, 0.75, 0.75, 1, 1]
        assert share_reviewed_for(scores, correct, 0.5) == 0
        assert share_reviewed_for(scores, correct, 0.75) == 0.25
        assert share_reviewed_for(scores, correct, 0.76) == 0.75

    def test_of_scores_that_tell_nothing_the_share_is_that_of_any_order(self):
        correct = np.arange(1000) < 700
        assert share_reviewed_for(np.zeros(1000), correct, 0.95) == pytest.approx(5 / 6, abs=1e-3)

    def test_binormal_scores_are_as_simulated(self):
        """The issue's figure: of 70% right with AUROC 0.90, 39% are reviewed for 95%."""
        rng = np.random.default_rng(4)
        correct = rng.random(200_000) < 0.7
        scores = rng.normal(size=200_000) + 1.8124 * correct  # sqrt(2) * quantile of 0.9
        assert auroc(scores, correct) == pytest.approx(0.9, abs=0.005)
        assert share_reviewed_for(scores, correct, 0.95) == pytest.approx(0.39, abs=0.01)

    def test_an_accuracy_that_is_none_is_refused(self):
        with pytest.raises(ValueError, match=r"accuracy is 95; give a share from 0 to 1"):
            share_reviewed_for(*drawn(9), 95)


@pytest.mark.parametrize(
    ("scores", "correct", "message"),
    [
        ([], [], "no captions to measure"),
        ([0.5], [True, False], r"scores are of shape \(1,\), correct \(2,\)"),
        ([0.5, math.nan], [True, False], "1 of 2 scores are not finite"),
    ],
)
def test_rows_that_cannot_be_measured(scores, correct, message):
    with pytest.raises(ValueError, match=message):
        aurc(np.array(scores, float), np.array(correct, bool))


def test_labels_that_are_no_booleans_are_refused():
    with pytest.raises(ValueError, match="correct is of int64; give booleans"):
        auroc(np.array([0.5, 0.6]), np.array([1, 0]))
