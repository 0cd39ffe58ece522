"""What reviews come to, against scipy, published values, and counting by hand."""

import json
import math
from collections import Counter
from dataclasses import asdict
from itertools import combinations

import numpy as np
import pytest
from scipy.stats import binomtest

from captioner.evaluation import metrics
from captioner.evaluation.agreement import (
    Judgements,
    cider,
    confidence_bins,
    edit_distances,
    figures,
    krippendorff_alpha,
)

PUBLISHED = {  # Krippendorff (2011), section C: twelve units, four observers, values 1 to 5.
    "A": "1 2 3 3 2 1 4 1 2 . . .",
    "B": "1 2 3 3 2 2 4 1 2 5 . 3",
    "C": ". 3 3 3 2 3 4 2 2 5 1 .",
    "D": "1 2 3 3 2 4 4 1 2 5 1 .",
}


def judgements(*rows, no_cider=None, **columns) -> Judgements:
    """Return reviews of (caption, reviewer, verdict), each caption of an image of its own."""
    captions, reviewers, verdicts = zip(*rows, strict=True)
    unknown = np.full(len(rows), np.nan)
    return Judgements(
        **{
            "caption": np.array(captions),
            "image": np.array(captions),
            "reviewer": np.array(reviewers),
            "verdict": np.array(verdicts),
            "seconds": unknown,
            "characters": unknown,
            "words": unknown,
            "cider": unknown,
            **{name: np.array(values) for name, values in columns.items()},
        },
        no_cider=no_cider,
    )


class TestShares:
    def test_they_are_of_what_was_judged_and_of_all(self):
        verdicts = ["accepted"] * 6 + ["edited"] * 2 + ["rejected"] + ["skipped"] * 3
        found = figures(judgements(*((n, 0, verdict) for n, verdict in enumerate(verdicts))))
        assert (found.reviews, found.judged, found.images) == (12, 9, 9)
        shares = (found.accepted, found.edited, found.rejected, found.skipped)
        assert shares == pytest.approx((6 / 9, 2 / 9, 1 / 9, 3 / 12))

    @pytest.mark.parametrize(("right", "count"), [(0, 5), (7, 9), (40, 40), (123, 200)])
    def test_the_interval_is_wilsons(self, right: int, count: int):
        rows = [(n, 0, "accepted" if n < right else "rejected") for n in range(count)]
        found = figures(judgements(*rows))
        wanted = binomtest(right, count).proportion_ci(method="wilson")
        limits = (found.accepted_low, found.accepted_high)
        assert limits == pytest.approx((wanted.low, wanted.high), abs=1e-9)

    def test_reviews_of_one_image_make_it_no_narrower(self):
        one = figures(judgements(*((n, 0, "edited" if n % 4 else "accepted") for n in range(40))))
        rows = [(n, who, "edited" if n % 4 else "accepted") for n in range(40) for who in range(3)]
        three = figures(judgements(*rows))
        assert three.reviews == 3 * one.reviews
        for name in ("images", "accepted", "accepted_low", "accepted_high"):
            assert getattr(three, name) == getattr(one, name)

    def test_only_the_chosen_rows_count(self):
        said = judgements((0, 0, "accepted"), (1, 0, "edited"), seconds=[3.0, 9.0])
        found = figures(said, np.array([False, True]))
        assert (found.reviews, found.accepted, found.edited, found.seconds) == (1, 0.0, 1.0, 9.0)

    def test_seconds_are_the_median_of_those_that_are_known(self):
        rows = [(n, 0, "skipped" if n == 3 else "accepted") for n in range(5)]
        assert figures(judgements(*rows, seconds=[4, 90, np.nan, 6, 8])).seconds == 7


class TestEdits:
    @pytest.mark.parametrize(
        ("shown", "edited", "characters", "by_words"),
        [
            ("a dog", "a cat", 3 / 5, 1 / 2),
            ("a dog", "a big dog", 4 / 9, 1 / 3),
            ("A dog.", "a dog", 2 / 6, 0),
            ("a dog", "a dog", 0, 0),
            ("", "a dog", 1, 1),
            ("一只狗", "一只猫", 1 / 3, 1 / 3),
            ("a b c d", "d c b a", 4 / 7, 1),
        ],
    )
    def test_by_hand(self, shown: str, edited: str, characters: float, by_words: float):
        found = edit_distances([shown], [edited])
        assert [float(one[0]) for one in found] == pytest.approx([characters, by_words])

    def test_characters_are_levenshteins(self):
        rng = np.random.default_rng(0)
        texts = ["".join(rng.choice([*"ab c"], size=rng.integers(1, 12))) for _ in range(60)]
        found, _ = edit_distances(texts[:30], texts[30:])
        wanted = [
            levenshtein(one, other) / max(len(one), len(other))
            for one, other in zip(texts[:30], texts[30:], strict=True)
        ]
        assert found.tolist() == pytest.approx(wanted)

    def test_cider_has_the_mean_of_the_scores_that_papers_report(self):
        shown = ["a red cube", "two blue balls left of a cone", "a big green cone", "no thing"]
        edited = ["a red cube", "two blue balls right of a cone", "a big Green cone.", "a red ball"]
        each = cider(shown, edited)
        assert each.mean() == pytest.approx(
            metrics.score(shown, [[text] for text in edited]).cider.value
        )
        assert each[2] == pytest.approx(10)
        assert each[1] < each[2]
        assert each[3] == 0

    def test_cider_of_one_is_refused(self):
        with pytest.raises(ValueError, match="two edited captions at least, and there are 1"):
            cider(["a dog"], ["a cat"])

    def test_means_are_of_edited_captions(self):
        unknown = np.nan
        said = judgements(
            *((0, 0, "edited"), (1, 0, "edited"), (2, 0, "accepted")),
            characters=[0.1, 0.3, unknown],
            words=[0.5, 1.0, unknown],
            cider=[2.0, 3.0, unknown],
        )
        found = figures(said)
        assert found.edits == 2
        assert (found.characters, found.words, found.cider) == pytest.approx((0.2, 0.75, 2.5))


def levenshtein(one: str, other: str) -> int:
    row = list(range(len(other) + 1))
    for number, letter in enumerate(one, 1):
        before, row = row, [number]
        for place, its in enumerate(other):
            row.append(min(before[place] + (letter != its), before[place + 1] + 1, row[-1] + 1))
    return row[-1]


class TestReviewers:
    def test_alpha_is_the_published_one(self):
        rows = [
            (unit, coder, value)
            for coder, values in enumerate(PUBLISHED.values())
            for unit, value in enumerate(values.split())
            if value != "."
        ]
        found = krippendorff_alpha(*(np.array(column) for column in zip(*rows, strict=True)))
        assert found == pytest.approx(0.743, abs=5e-4)

    def test_alpha_is_that_of_the_definition(self):
        """One less observed over expected disagreement, over pairs of values."""
        rng = np.random.default_rng(0)
        verdicts = np.array(["accepted", "edited", "rejected"])
        truth = rng.choice(verdicts, 80)
        rows = [
            (unit, coder, truth[unit] if rng.random() < 0.7 else rng.choice(verdicts))
            for unit in range(80)
            for coder in range(rng.integers(1, 5))
        ]
        found = figures(judgements(*rows))
        values = [[said for unit, _, said in rows if unit == wanted] for wanted in range(80)]
        values = [unit for unit in values if len(unit) > 1]
        everyone = Counter(value for unit in values for value in unit)
        total = everyone.total()
        observed = sum(
            2 * sum(a != b for a, b in combinations(unit, 2)) / (len(unit) - 1) for unit in values
        )
        expected = sum(
            everyone[a] * everyone[b] / (total - 1) for a in everyone for b in everyone if a != b
        )
        assert found.alpha == pytest.approx(1 - observed / expected)
        assert 0.3 < found.alpha < 0.8
        same = [np.mean([a == b for a, b in combinations(unit, 2)]) for unit in values]
        assert found.same_verdict == pytest.approx(np.mean(same))
        assert found.compared == len(values)

    def test_skipping_is_no_verdict(self):
        rows = [(0, 0, "accepted"), (0, 1, "accepted"), (1, 0, "edited"), (1, 1, "edited")]
        skips = [(0, 2, "skipped"), (1, 2, "skipped"), (2, 0, "accepted"), (2, 1, "skipped")]
        found = figures(judgements(*rows, *skips))
        assert (found.compared, found.same_verdict, found.alpha) == (2, 1, 1)

    def test_of_captions_of_one_image_each_is_compared_for_itself(self):
        said = judgements((0, 0, "accepted"), (1, 1, "edited"), image=[5, 5])
        found = figures(said)
        assert (found.images, found.compared) == (1, 0)


class TestWhatCannotBeHad:
    def test_it_is_none_and_says_why(self):
        found = figures(judgements((0, 0, "skipped"), (1, 0, "skipped")))
        assert set(found.missing) == {
            *("accepted", "edited", "rejected", "characters", "words", "cider", "seconds"),
            *("same_verdict", "alpha"),
        }
        assert all(getattr(found, name) is None for name in found.missing)
        assert found.missing["accepted"] == "every review was skipped"
        assert found.missing["words"] == found.missing["cider"] == "no caption was edited"
        assert found.missing["alpha"] == "no caption has two reviewers who judged it"
        assert (found.accepted_low, found.accepted_high, found.skipped) == (None, None, 1.0)
        json.dumps(asdict(found), allow_nan=False)

    def test_one_verdict_alone_has_no_alpha(self):
        found = figures(judgements((0, 0, "accepted"), (0, 1, "accepted")))
        assert (found.compared, found.same_verdict, found.alpha) == (1, 1.0, None)
        assert "all those reviewers gave one verdict" in found.missing["alpha"]

    def test_why_there_is_no_cider(self):
        found = figures(
            judgements((0, 0, "edited"), characters=[0.5], words=[0.5], no_cider="not installed")
        )
        assert (found.characters, found.cider) == (0.5, None)
        assert found.missing["cider"] == "not installed"

    def test_what_can_be_had_is_not_named(self):
        rows = [(0, 0, "accepted"), (0, 1, "edited"), (1, 0, "edited"), (1, 1, "edited")]
        known = [math.nan, 0.5, 0.5, 0.5]
        found = figures(
            judgements(*rows, characters=known, words=known, cider=known, seconds=[1.0] * 4)
        )
        assert found.missing == {}
        assert None not in asdict(found).values()


class TestBins:
    def test_they_hold_about_as_many(self):
        confidence = np.random.default_rng(0).permutation(np.linspace(0, 1, 103))
        bins = confidence_bins(confidence)
        assert len(bins) == 5
        assert {int(rows.sum()) for _, _, rows in bins} <= {20, 21}
        assert np.sum([rows for _, _, rows in bins], axis=0).tolist() == [1] * 103
        assert [least for least, _, _ in bins[1:]] == [most for _, most, _ in bins[:-1]]
        for least, most, rows in bins[1:]:
            assert least < confidence[rows].min()
            assert confidence[rows].max() == most

    def test_equal_ones_stay_together(self):
        ((least, most, rows),) = confidence_bins(np.array([0.5, 0.5, 0.5]))
        assert (least, most, rows.tolist()) == (0.5, 0.5, [True] * 3)

    def test_unknown_is_in_none(self):
        bins = confidence_bins(np.array([np.nan, 0.2, 0.9]))
        assert [rows.tolist() for _, _, rows in bins] == [
            [False, True, False],
            [False, False, True],
        ]
        assert confidence_bins(np.array([np.nan])) == []


class TestRefuses:
    def test_columns_of_several_lengths(self):
        with pytest.raises(ValueError, match=r"seconds is of shape \(2,\).* give \[n\] of all"):
            judgements((0, 0, "accepted"), seconds=[1.0, 2.0])

    def test_another_verdict(self):
        with pytest.raises(ValueError, match="verdict is 'fine'; use one of accepted, edited"):
            judgements((0, 0, "accepted"), (1, 0, "fine"))

    def test_two_reviews_of_one_caption_by_one(self):
        with pytest.raises(ValueError, match="a reviewer has two reviews of a caption"):
            judgements((0, 0, "accepted"), (0, 0, "edited"))

    @pytest.mark.parametrize("rows", [[False, False], [True]])
    def test_no_rows(self, rows):
        said = judgements((0, 0, "accepted"), (1, 0, "edited"))
        with pytest.raises(ValueError, match="choose at least one of the 2"):
            figures(said, np.array(rows))
