"""Certificates held against simulations with known truth, and against exact binomial bounds."""

import numpy as np
import numpy.typing as npt
import pytest
from scipy.stats import beta, norm

from captioner.confidence.guarantee import Certificate, accept_threshold

TRIALS = 300
Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]


def binormal(count: int, seed: int, auroc: float = 0.9) -> tuple[Floats, Bools]:
    """Draw captions of which 70% are correct, and scores that tell them so well."""
    rng = np.random.default_rng(seed)
    correct = rng.random(count) < 0.7
    return rng.normal(size=count) + correct * norm.ppf(auroc) * 2**0.5, correct


def certify(scores: Floats, labelled: Floats, correct: Bools, accuracy: float = 0.95):
    return accept_threshold(scores, labelled, correct, accuracy=accuracy, confidence=0.9)


def simulate(
    scores: Floats, correct: Bools, labels: int, accuracy: float
) -> tuple[list[float], float]:
    """Draw labels again and again; return the shares accepted and the share of broken promises."""
    shares, broken = [], 0
    for trial in range(TRIALS):
        drawn = np.random.default_rng(trial).choice(len(scores), labels, replace=False)
        found = certify(scores, scores[drawn], correct[drawn], accuracy)
        shares.append(found.share)
        if found.threshold is not None:
            broken += bool(correct[scores >= found.threshold].mean() < accuracy)
    return shares, broken / TRIALS


def largest_share(scores: Floats, correct: Bools, accuracy: float) -> float:
    """Return what may be accepted by one who knows the truth."""
    running = np.cumsum(correct[np.argsort(-scores)]) / np.arange(1, len(scores) + 1)
    return float((np.flatnonzero(running >= accuracy)[-1] + 1) / len(scores))


MOST_BROKEN = 0.1 + 3 * (0.1 * 0.9 / TRIALS) ** 0.5


def test_the_promise_holds_and_a_sensible_share_is_accepted():
    scores, correct = binormal(20_000, seed=1)
    shares, broken = simulate(scores, correct, labels=1000, accuracy=0.95)
    assert broken <= MOST_BROKEN
    assert np.mean(shares) >= 0.6 * largest_share(scores, correct, 0.95)


def test_the_sequence_begins_with_the_surest_whatever_the_labels_say():
    """MAPIE would turn it round here and accept all: a choice by the labels that it tests on."""
    scores = np.linspace(0, 1, 1000)
    found = certify(scores, scores, np.arange(1000) < 965)  # the surest are wrong
    assert found.threshold is None
    assert found.labels == 1000


def test_the_threshold_passes_the_exact_test():
    scores, correct = binormal(5000, seed=2)
    found = certify(scores, scores[:1500], correct[:1500])
    assert found.threshold in scores
    above = scores[:1500] >= found.threshold
    assert found.accepted_labels == above.sum()
    assert found.wrong_labels == (above & ~correct[:1500]).sum()
    assert found.share == (scores >= found.threshold).mean()
    highest = beta.ppf(0.9, found.wrong_labels + 1, found.accepted_labels - found.wrong_labels)
    assert highest <= 0.05
    assert f"{found.accepted_labels:,} labels there" in found.message


def test_scores_of_any_scale_give_the_same_set():
    scores, correct = binormal(3000, seed=3)
    scaled = np.exp(scores) * 100
    one = certify(scores, scores[:1000], correct[:1000])
    other = certify(scaled, scaled[:1000], correct[:1000])
    assert (one.share, one.wrong_labels) == (other.share, other.wrong_labels)


def test_where_all_labels_are_right_all_is_accepted():
    scores, _ = binormal(3000, seed=4)
    found = certify(scores, scores[:300], np.ones(300, bool))
    assert found.share == 1.0
    assert found.threshold == scores.min()


class TestNotCertified:
    def test_without_labels_it_says_how_many_could_do(self):
        """45 labels without an error: 0.95 ** 45 <= 0.1 < 0.95 ** 44."""
        found = certify(np.linspace(0, 1, 100), np.empty(0), np.empty(0, bool))
        assert found == Certificate(0.95, 0.9, labels=0, missing=45)
        assert "at least about 45 more are missing" in found.message
        assert "holds for one look at the labels, decided before" in found.message

    def test_too_few_labels(self):
        """20 labels without an error, of all captions: 25 more."""
        scores = np.linspace(0, 1, 1000)
        found = certify(scores, scores[::50], np.ones(20, bool))
        assert found.threshold is None
        assert found.share == 0.0
        assert found.missing == 25

    def test_labels_with_errors_are_missing_as_many_as_the_exact_bound_asks_for(self):
        """Three of 100 wrong, of captions of one score: the same rate must hold for longer."""
        found = certify(np.ones(1000), np.ones(100), np.arange(100) >= 3)
        assert found.threshold is None

        def highest(labels: int) -> float:
            wrong = np.ceil(0.03 * labels)
            return float(beta.ppf(0.9, wrong + 1, labels - wrong))

        assert found.missing
        assert highest(100 + found.missing) <= 0.05
        assert all(highest(labels) > 0.05 for labels in range(100, 90 + found.missing))

    def test_a_goal_out_of_reach(self):
        rng = np.random.default_rng(6)
        scores = rng.random(2000)
        found = certify(scores, scores[:1000], rng.random(1000) < 0.7)
        assert found.threshold is None
        assert found.missing is None
        assert "no number of labels helps" in found.message


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"accuracy": 1.0}, "accuracy is 1.0; use a number between 0 and 1"),
        ({"confidence": 0.0}, "confidence is 0.0; use"),
        ({"accuracy": float("nan")}, "accuracy is nan"),
        ({"scores": np.empty(0)}, "there are no scores"),
        ({"scores": np.array([0.1, np.nan])}, "1 of 2 scores are not finite"),
        ({"labelled_scores": np.array([np.inf])}, "1 of 1 labelled_scores are not finite"),
        ({"labelled_correct": np.array([True, True])}, r"shape \(1,\) and labelled_correct \(2,\)"),
    ],
)
def test_what_cannot_be_used_is_named(change: dict[str, object], said: str):
    given = {
        "scores": np.array([0.1, 0.2]),
        "labelled_scores": np.array([0.1]),
        "labelled_correct": np.array([True]),
        "accuracy": 0.9,
        "confidence": 0.9,
    }
    with pytest.raises(ValueError, match=said):
        accept_threshold(**(given | change))
