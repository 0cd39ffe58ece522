import numpy as np
import pytest
from scipy import integrate, stats

from captioner.evaluation.paired import (
    FEWEST,
    Better,
    compare,
    difference_interval,
    evidence,
    missing,
    share_interval,
)


def outcomes(won: int, lost: int, ties: int = 0) -> np.ndarray:
    return np.array([1] * won + [-1] * lost + [0] * ties, np.int8)


def walks(share: float, pairs: int, count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """How many pairs were won and lost at each look, one look a pair, [count x pairs]."""
    wins = np.cumsum(np.random.default_rng(seed).random((count, pairs)) < share, axis=1)
    return wins, np.arange(1, pairs + 1) - wins


def reached(share: float, most: int = 800) -> np.ndarray:
    """Whether so many won and so many lost refute a share, [won x lost]."""
    won, lost = np.ogrid[: most + 1, : most + 1]
    return evidence(won, lost, share) >= 40


class TestEvidence:
    @pytest.mark.parametrize(("won", "lost", "share"), [(0, 0, 0.5), (9, 3, 0.5), (30, 24, 0.4)])
    def test_is_the_mixture_that_it_is_said_to_be(self, won, lost, share):
        def ratio(other: float) -> float:
            likelihoods = (stats.binom.pmf(won, won + lost, at) for at in (other, share))
            return float(np.divide(*likelihoods)) / (1 - share)

        expected, _ = integrate.quad(ratio, share, 1)
        np.testing.assert_allclose(evidence(won, lost, share), expected, rtol=1e-6)

    def test_does_not_grow_where_there_is_nothing_to_be_found(self):
        """Exactly: one more answer, of which a share s wins, leaves what is expected no larger."""
        won, lost = np.meshgrid(np.arange(60), np.arange(60))
        for share in (0.3, 0.5, 0.7):
            expected = share * evidence(won + 1, lost, share)
            expected += (1 - share) * evidence(won, lost + 1, share)
            np.testing.assert_allclose(expected, evidence(won, lost, share), rtol=1e-9)
            assert (
                (share - 0.1) * evidence(won + 1, lost, share)
                + (1.1 - share) * evidence(won, lost + 1, share)
                < evidence(won, lost, share)
            ).all()

    def test_does_not_overflow(self):
        assert evidence(5000, 10) == np.inf
        assert evidence(10, 5000) < 1e-3

    def test_equals_are_called_unequal_in_one_of_twenty_walks_at_most(self):
        won, lost = walks(0.5, pairs=800, count=4000, seed=1)
        for called in ((reached(0.5)[won, lost]).any(axis=1), reached(0.5)[lost, won].any(axis=1)):
            assert stats.binomtest(int(called.sum()), 4000, 0.025, "greater").pvalue > 1e-3
        # A test for one look, looked at as often, calls a third of them.
        pairs = np.arange(1, 801)
        fewest = stats.binom.isf(0.025, pairs, 0.5) + 1
        assert ((won >= fewest) | (lost >= fewest)).any(axis=1).mean() > 0.3

    @pytest.mark.parametrize(("share", "pairs", "power"), [(0.6, 500, 0.9), (0.8, 60, 0.95)])
    def test_power(self, share, pairs, power):
        won, lost = walks(share, pairs, count=1000, seed=2)
        assert reached(0.5)[won, lost].any(axis=1).mean() > power
        assert reached(0.5)[lost, won].any(axis=1).mean() < 0.025


class TestShareInterval:
    def test_one_sided_answers(self):
        assert share_interval(0, 0) == (0.0, 1.0)
        assert share_interval(FEWEST - 1, 0)[0] < 0.5 < share_interval(FEWEST, 0)[0]
        assert share_interval(8, 0)[1] == 1.0
        low, high = share_interval(0, 8)
        np.testing.assert_allclose((1 - high, 1 - low), share_interval(8, 0))

    @pytest.mark.parametrize(("won", "lost"), [(3, 9), (41, 22), (300, 280), (2000, 1)])
    def test_ends_where_the_evidence_does_and_holds_the_interval_for_one_look(self, won, lost):
        low, high = share_interval(won, lost)
        np.testing.assert_allclose(evidence(won, lost, low), 40, rtol=1e-4)
        np.testing.assert_allclose(evidence(lost, won, 1 - high), 40, rtol=1e-4)
        once = stats.binomtest(won, won + lost).proportion_ci(0.95, "exact")
        assert low < once.low < won / (won + lost) < once.high < high

    def test_holds_the_truth_at_all_looks_at_once(self):
        won, lost = walks(0.7, pairs=300, count=3000, seed=3)
        outside = reached(0.7)[won, lost] | reached(0.3)[lost, won]
        missed = int(outside.any(axis=1).sum())
        assert stats.binomtest(missed, 3000, 0.05, "greater").pvalue > 1e-3

    @pytest.mark.parametrize(
        ("given", "said"),
        [
            ({"won": -1, "lost": 2}, "won is -1 and lost 2; use 0 or more"),
            ({"won": 1, "lost": 2, "level": 5}, "level is 5; use a number between 0 and 1"),
        ],
    )
    def test_what_is_wrong_is_said(self, given, said):
        with pytest.raises(ValueError, match=said):
            share_interval(**given)


class TestDifferenceInterval:
    def test_the_example_of_the_book(self):
        """Data of Cavo et al. (2012) in Fagerland, Lydersen and Laake, 2017, chapter 8.

        The values are those of the book's R package, contingencytables.
        """
        low, high = difference_interval(6, 16, 161)
        assert (round(low, 4), round(high, 4)) == (-0.1195, -0.0032)

    def test_stays_within_its_limits(self):
        assert difference_interval(3, 0, 3)[1] == 1.0
        assert difference_interval(0, 3, 3)[0] == -1.0

    @pytest.mark.parametrize(("won", "lost", "images"), [(0.12, 0.05, 200), (0.02, 0.02, 400)])
    def test_coverage(self, won, lost, images):
        rng = np.random.default_rng(4)
        drawn = rng.multinomial(images, [won, lost, 1 - won - lost], 2000)[:, :2]
        limits = [difference_interval(*pair, images) for pair in drawn.tolist()]
        held = np.mean([low <= won - lost <= high for low, high in limits])
        assert 0.935 < held < 0.985


class TestCompare:
    def test_better(self):
        found = compare(outcomes(20, 2, 8), same=70)
        assert found.verdict == Better.BETTER
        assert (found.images, found.same, found.waiting) == (100, 70, 0)
        assert (found.won, found.lost, found.missing) == (20, 2, 0)
        assert found.share == 20 / 22
        assert (found.share_low, found.share_high) == share_interval(20, 2)
        assert found.difference == pytest.approx(0.18)
        assert (found.difference_low, found.difference_high) == difference_interval(20, 2, 100)

    def test_worse(self):
        found = compare(outcomes(1, 12))
        assert found.verdict == Better.WORSE
        assert found.difference == pytest.approx(-11 / 13)

    def test_cannot_tell_yet(self):
        found = compare(outcomes(10, 6, 4), same=80, waiting=20)
        assert found.verdict == Better.CANNOT_TELL
        assert found.images == 120
        # Half of those that differ have an answer, so half of those that are the same count.
        assert found.difference == pytest.approx(4 / 60)
        assert found.missing is not None
        more = found.missing / 20
        assert evidence(10 * (1 + more), 6 * (1 + more)) == pytest.approx(40, rel=0.1)

    def test_nothing_to_compare(self):
        for answers, same, waiting in (([], 30, 0), ([], 0, 5), ([0, 0], 0, 0), ([], 0, 0)):
            found = compare(np.array(answers, np.int8), same=same, waiting=waiting)
            assert found.verdict == Better.CANNOT_TELL
            assert found.share is None
            assert (found.share_low, found.share_high) == (0.0, 1.0)
            assert found.missing is None
        assert compare(outcomes(0, 0), same=30).difference == 0.0
        assert compare(outcomes(0, 0), waiting=5).difference is None

    def test_a_random_part_of_the_answers_tells_of_all(self):
        """The truth: of 1,000 images 700 the same, 120 won, 60 lost, 120 neither."""
        rng = np.random.default_rng(5)
        everything = outcomes(120, 60, 120)
        found = [
            compare(rng.permutation(everything)[:150], same=700, waiting=150) for _ in range(400)
        ]
        estimates = [one.difference for one in found if one.difference is not None]
        assert np.mean(estimates) == pytest.approx(0.06, abs=0.002)
        held = [one.difference_low <= 0.06 <= one.difference_high for one in found]
        assert np.mean(held) > 0.95

    @pytest.mark.parametrize(
        ("given", "said"),
        [
            ({"outcomes": np.array([0, 2], np.int8)}, "outcomes holds 2; use 1, 0 and -1"),
            ({"outcomes": outcomes(1, 0), "same": -1}, "same is -1; use 0 or more"),
            ({"outcomes": outcomes(1, 0), "waiting": -2}, "waiting is -2; use 0 or more"),
        ],
    )
    def test_what_is_wrong_is_said(self, given, said):
        with pytest.raises(ValueError, match=said):
            compare(given.pop("outcomes"), **given)


class TestMissing:
    def test_what_it_says_is_what_it_takes(self):
        """At a share of 0.7, with neither winning in a quarter of the answers."""
        needed = missing(14, 6, 27)
        assert needed is not None
        won, lost = walks(0.7, pairs=1000, count=1000, seed=6)
        took = np.argmax(evidence(won, lost) >= 40, axis=1) + 1
        assert np.median(took) * 27 / 20 == pytest.approx(27 + needed, rel=0.25)

    def test_equals_never_differ(self):
        assert missing(5, 5, 10) is None
        assert missing(0, 0, 10) is None
        assert missing(100_001, 100_000, 200_001) is None
