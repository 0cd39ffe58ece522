import dataclasses

import numpy as np
import pytest
from scipy import stats
from scipy.special import expit, logit

from captioner.confidence.quality import (
    Reviewed,
    by_confidence,
    by_group,
    estimate,
    labels_needed,
)
from captioner.confidence.sampling import wilson


def world(rng, count=5000, accuracy=0.7, auroc=0.9):
    """Binormal scores: calibrated confidence, and whether captions are right."""
    correct = rng.random(count) < accuracy
    apart = np.sqrt(2) * stats.norm.ppf(auroc)
    scores = rng.normal(size=count) + apart * correct
    return expit(logit(accuracy) + apart * scores - apart**2 / 2), correct


def audited(rng, confidence, correct, chances):
    """An audit of captions none of which is queued."""
    index = np.flatnonzero(rng.random(len(confidence)) < chances)
    everyone = np.ones(len(confidence), np.bool_)
    chances = np.broadcast_to(chances, confidence.shape)
    nothing_known = np.zeros(len(index), np.bool_)
    return Reviewed(confidence, everyone, index, correct[index], nothing_known, chances[index])


def small(**changes):
    """Six captions, the least sure two of them queued, with three labels."""
    values = {
        "confidence": np.array([0.1, 0.2, 0.5, 0.6, 0.7, 0.8]),
        "accepted": np.array([False, False, True, True, True, True]),
        "index": np.array([0, 1, 4]),
        "correct": np.array([False, True, True]),
        "known": np.array([True, True, False]),
        "inclusion_probability": np.array([np.nan, 0.25, 0.25]),
    }
    return Reviewed(**(values | changes))


class TestHolds:
    @pytest.mark.parametrize("accuracy", [0.7, 0.95])
    def test_intervals_hold_the_truth_as_often_as_they_say(self, accuracy):
        rng = np.random.default_rng(0)
        held, widths = [], []
        for _ in range(700):
            confidence, correct = world(rng, accuracy=accuracy)
            found = estimate(audited(rng, confidence, correct, 0.1))
            held.append(found.low <= correct.mean() <= found.high)
            simple = wilson(correct.mean(), 500 / 0.9)
            widths.append((found.high - found.low, simple[1] - simple[0]))
        # Of so many trials, the share lies within 2.5 of 95% in 997 of 1,000 cases.
        assert 0.925 <= np.mean(held) <= 0.975
        ours, simple = np.mean(widths, 0)
        assert (ours / simple) ** 2 < (0.6 if accuracy == 0.7 else 0.85)

    def test_confidence_that_is_no_probability_costs_little(self):
        rng = np.random.default_rng(2)
        held, widths = [], []
        for _ in range(300):
            confidence, correct = world(rng)
            found = estimate(audited(rng, confidence**0.2, correct, 0.06))
            held.append(found.low <= correct.mean() <= found.high)
            widths.append(found.high - found.low)
        assert 0.91 <= np.mean(held) <= 0.99
        low, high = wilson(0.7, 300 / 0.94)
        assert (np.mean(widths) / (high - low)) ** 2 < 0.62

    def test_captions_drawn_oftener_count_less(self):
        rng = np.random.default_rng(3)
        errors, held = [], []
        for _ in range(300):
            confidence, correct = world(rng)
            chances = np.where(correct & (rng.random(5000) < 0.5), 0.2, 0.05)
            found = estimate(audited(rng, confidence, correct, chances))
            errors.append(found.value - correct.mean())
            held.append(found.low <= correct.mean() <= found.high)
        assert abs(np.mean(errors)) < 0.005  # Unweighted, it would be 0.1 too high.
        assert 0.91 <= np.mean(held) <= 0.99

    def test_reviews_that_are_still_to_come_may_depend_on_confidence(self):
        rng = np.random.default_rng(4)
        errors, held = [], []
        for _ in range(300):
            confidence, correct = world(rng)
            accepted = confidence >= 0.3
            answered = rng.random(5000) < 0.2 + 0.8 * confidence
            drawn = rng.random(5000) < 0.1
            index = np.flatnonzero(answered & (~accepted | drawn))
            chances = np.full(len(index), 0.1)
            found = estimate(
                Reviewed(confidence, accepted, index, correct[index], ~drawn[index], chances)
            )
            if found.value is not None:
                errors.append(found.value - correct.mean())
            held.append(found.low <= correct.mean() <= found.high)
        assert len(errors) > 290
        assert abs(np.mean(errors)) < 0.004
        assert 0.91 <= np.mean(held) <= 0.99


class TestEstimate:
    def test_one_line_is_that_of_least_squares(self):
        rng = np.random.default_rng(0)
        confidence, correct = world(rng)
        index = rng.choice(5000, 40, replace=False)
        assert 10 <= np.sum(~correct[index]) < 20  # Enough for one coefficient.
        everyone = np.ones(5000, np.bool_)
        found = estimate(
            Reviewed(
                *(confidence, everyone, index, correct[index]),
                np.zeros(40, np.bool_),
                np.full(40, 40 / 5000),
            )
        )
        slope, offset = np.polyfit(confidence[index], correct[index].astype(float), 1)
        assert found.method == "regression"
        assert found.value == pytest.approx(offset + slope * confidence.mean(), rel=1e-9)

    def test_without_regression_it_is_wilsons(self):
        index = np.arange(20)
        correct = index > 4
        found = estimate(
            Reviewed(
                *(np.full(10**6, 0.5), np.ones(10**6, np.bool_), index, correct),
                np.zeros(20, np.bool_),
                np.full(20, 2e-5),
            )
        )
        expected = stats.binomtest(15, 20).proportion_ci(method="wilson")
        assert found.method == "wilson"
        wanted = (0.75, expected.low, expected.high)
        assert (found.value, found.low, found.high) == pytest.approx(wanted, abs=1e-5)

    @pytest.mark.parametrize("right", [True, False])
    def test_labels_that_agree_leave_a_doubt(self, right):
        everyone, index = np.ones(1000, np.bool_), np.arange(50)
        found = estimate(
            Reviewed(
                *(np.full(1000, 0.9), everyone, index, np.full(50, right)),
                np.zeros(50, np.bool_),
                np.full(50, 0.05),
            )
        )
        assert found.value == right
        assert 0.06 < found.high - found.low < 0.08

    def test_a_confidence_that_fits_perfectly_leaves_a_doubt(self):
        correct = np.arange(1000) % 3 > 0
        found = estimate(
            Reviewed(
                correct.astype(float),
                np.ones(1000, np.bool_),
                np.arange(100),
                correct[:100],
                np.zeros(100, np.bool_),
                np.full(100, 0.1),
            )
        )
        assert found.method == "regression"
        assert found.value == pytest.approx(correct.mean())
        assert found.high - found.low > 0.04

    def test_what_is_queued_and_reviewed_is_known(self):
        reviewed = small()
        queued = estimate(reviewed, ~reviewed.accepted)
        assert (queued.value, queued.low, queued.high) == (0.5, 0.5, 0.5)
        assert (queued.method, queued.known) == ("known", 2)
        accepted, everything = estimate(reviewed, reviewed.accepted), estimate(reviewed)
        assert everything.value == pytest.approx((2 * 0.5 + 4 * accepted.value) / 6)
        assert everything.low == pytest.approx(everything.value - 4 / 6 * (1 - accepted.low))
        assert (everything.rows, everything.labels, everything.known) == (6, 3, 2)

    def test_a_label_counts_for_its_inclusion_probability(self):
        reviewed = small(
            index=np.array([2, 3]),
            correct=np.array([True, False]),
            known=np.zeros(2, np.bool_),
            inclusion_probability=np.array([0.1, 0.3]),
        )
        assert estimate(reviewed, reviewed.accepted).value == pytest.approx(0.75)

    def test_without_labels_nothing_is_known(self):
        found = estimate(small(), np.array([False, False, True, False, False, False]))
        assert (found.low, found.high, found.labels, found.method) == (0, 1, 0, "none")
        assert found.value is None


class TestLeastConfidentFirst:
    """A queue of 2,000 of 10,000 captions, reviewed in its order; the audit is reviewed."""

    def reviewed(self, rng, count, chance=0.02, auroc=0.9):
        confidence, correct = world(rng, count=10_000, auroc=auroc)
        order = np.argsort(confidence)
        accepted, drawn = np.ones(10_000, np.bool_), rng.random(10_000) < chance
        accepted[order[:2000]] = False
        done = drawn.copy()
        done[order[:count]] = True
        index = np.flatnonzero(done)
        known, chances = ~drawn[index], np.full(len(index), chance)
        return Reviewed(confidence, accepted, index, correct[index], known, chances), correct

    @pytest.mark.parametrize(
        ("chance", "auroc", "count"),
        [(0.02, 0.9, 160), (0.02, 0.95, 160), (0.1, 0.9, 160), (0.1, 0.9, 1000)],
    )
    def test_the_rest_of_the_queue_is_not_taken_to_be_like_its_first(self, chance, auroc, count):
        rng = np.random.default_rng(5)
        held, errors = [], []
        for _ in range(150):
            reviewed, correct = self.reviewed(rng, count, chance, auroc)
            for rows in (np.ones(10_000, np.bool_), ~reviewed.accepted):
                found, truth = estimate(reviewed, rows), correct[rows].mean()
                held.append(found.low <= truth <= found.high)
                if found.value is not None:
                    errors.append(found.value - truth)
        assert np.mean(held) > 0.92
        assert abs(np.mean(errors)) < 0.01
        assert len(errors) > 0.95 * len(held)

    def test_without_an_audited_one_there_is_a_bound_alone(self):
        reviewed, correct = self.reviewed(np.random.default_rng(0), 500)
        keep = reviewed.accepted[reviewed.index] | reviewed.known
        names = ("index", "correct", "known", "inclusion_probability")
        reviewed = dataclasses.replace(
            reviewed, **{name: getattr(reviewed, name)[keep] for name in names}
        )
        queued, everything = estimate(reviewed, ~reviewed.accepted), estimate(reviewed)
        right = reviewed.correct[reviewed.known].sum()
        assert (queued.value, queued.method) == (None, "none")
        assert queued.low == pytest.approx(right / 2000)
        assert queued.high == pytest.approx((right + 2000 - reviewed.known.sum()) / 2000)
        assert (everything.value, everything.method) == (None, "none")
        accepted = estimate(reviewed, reviewed.accepted)
        assert everything.low == pytest.approx(0.2 * queued.low + 0.8 * accepted.low)
        assert everything.high == pytest.approx(0.2 * queued.high + 0.8 * accepted.high)
        assert everything.low <= correct.mean() <= everything.high

    def test_labels_of_the_least_sure_half_say_nothing_of_the_other(self):
        rng = np.random.default_rng(0)
        confidence, correct = world(rng)
        reviewed = audited(rng, confidence, correct, 0.1)
        keep = confidence[reviewed.index] < np.median(confidence)
        names = ("index", "correct", "known", "inclusion_probability")
        found = estimate(
            dataclasses.replace(reviewed, **{name: getattr(reviewed, name)[keep] for name in names})
        )
        assert found.value is None
        assert found.low <= correct.mean() <= found.high
        assert found.high - found.low > 0.5


class TestParts:
    def test_bins_of_confidence(self):
        rng = np.random.default_rng(0)
        confidence, correct = world(rng)
        bins = by_confidence(audited(rng, confidence, correct, 0.2))
        assert [one.rows for _, _, one in bins] == [1000] * 5
        assert sum(one.labels for _, _, one in bins) == pytest.approx(1000, abs=100)
        lows, highs, found = zip(*bins, strict=True)
        assert lows[1:] == highs[:-1]
        assert (lows[0], highs[-1]) == (confidence.min(), confidence.max())
        assert [one.value for one in found] == sorted(one.value for one in found)

    def test_captions_of_one_confidence_are_one_bin(self):
        reviewed = small(confidence=np.full(6, 0.5))
        ((low, high, found),) = by_confidence(reviewed)
        assert (low, high, found.rows) == (0.5, 0.5, 6)

    def test_groups_the_largest_first(self):
        names = ["b", "a", "c", "a", "c", "a"]
        found = by_group(small(), names, most=2)
        assert [(name, one.rows) for name, one in found.items()] == [("a", 3), ("c", 2)]
        assert found["c"] == estimate(small(), np.array([name == "c" for name in names]))


class TestLabelsNeeded:
    def test_so_many_bring_the_width(self):
        rng = np.random.default_rng(0)
        confidence, correct = world(rng, count=20_000)
        accepted = confidence >= 0.3

        def judged(index):
            chances = np.full(len(index), 0.02)
            known = ~accepted[index]
            return estimate(Reviewed(confidence, accepted, index, correct[index], known, chances))

        widths = []
        for _ in range(30):  # Of one draw, the width is 5% off: few labels say little of it.
            first = np.flatnonzero(~accepted | (rng.random(20_000) < 0.02))
            others = np.setdiff1d(np.flatnonzero(accepted), first)
            needed = labels_needed(judged(first), 0.03)
            after = judged(np.union1d(first, rng.choice(others, needed, replace=False)))
            widths.append(after.high - after.low)
            assert judged(first).high - judged(first).low > 0.045
        assert np.mean(widths) == pytest.approx(0.03, rel=0.04)

    def test_none_where_it_is_narrow_enough(self):
        found = estimate(small())
        assert found.high - found.low < 0.8
        assert labels_needed(found, 0.8) == 0

    def test_never_more_than_there_are(self):
        found = estimate(small())
        assert labels_needed(found, 1e-6) == 3
        none = estimate(
            small(
                index=np.array([], int),
                correct=np.array([], bool),
                known=np.array([], bool),
                inclusion_probability=np.array([]),
            )
        )
        assert labels_needed(none, 1e-6) == 6

    @pytest.mark.parametrize("width", [0.0, 1.0, float("nan")])
    def test_no_width(self, width):
        with pytest.raises(ValueError, match=f"width is {width}; give a number between 0 and 1"):
            labels_needed(estimate(small()), width)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"confidence": np.array([0.5, np.nan, 2, 0, 0, 0])}, "of 2 captions is outside .* nan"),
        ({"accepted": np.array([True])}, r"accepted of \(1,\)"),
        ({"correct": np.array([True])}, r"correct is of shape \(1,\)"),
        ({"known": np.array([True])}, r"known is of shape \(1,\)"),
        ({"index": np.array([0, 1, 6])}, "index reaches beyond the 6 captions"),
        ({"index": np.array([0, 4, 4])}, "index names a caption twice"),
        ({"inclusion_probability": np.zeros(3)}, "inclusion_probability of an audited .* is 0.0"),
        ({"inclusion_probability": np.full(3, np.nan)}, "Leave out accepted captions that no"),
    ],
)
def test_what_does_not_fit_is_named(changes, message):
    with pytest.raises(ValueError, match=message):
        small(**changes)


def test_no_rows():
    with pytest.raises(ValueError, match="holds 0 captions"):
        estimate(small(), np.zeros(6, np.bool_))
    with pytest.raises(ValueError, match=r"shape \(2,\)"):
        estimate(small(), np.ones(2, np.bool_))


def test_estimates_are_plain_numbers():
    """They are written as JSON."""
    kinds = {type(value) for value in dataclasses.asdict(estimate(small())).values()}
    assert kinds == {float, int, str}


@pytest.mark.parametrize(("right", "labels"), [(0, 5), (3, 10), (99, 100)])
def test_wilson_is_that_of_scipy(right, labels):
    expected = stats.binomtest(right, labels).proportion_ci(method="wilson")
    assert wilson(right / labels, labels) == pytest.approx((expected.low, expected.high))
