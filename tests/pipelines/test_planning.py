"""What each rule queues, how rules combine, and what a plan says."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import beta

from captioner.confidence.guarantee import kept_for_guarantees
from pipelines.compact import compact
from pipelines.output import Output, OutputError
from pipelines.planning import ReviewPlan, ReviewRules, RulesError, plan_review
from pipelines.review_queue import review_items
from pipelines.review_rules import Guarantee
from tests.pipelines.helpers import rows
from tests.pipelines.planned import DECODING, MODEL, add, captions, reviews

GUARANTEE = Guarantee(0.95, 0.9)


@pytest.fixture
def output(tmp_path: Path) -> Output:
    return Output((tmp_path / "out").as_uri())


def plan(output: Output, **rules: Any) -> ReviewPlan:
    """Plan without an audit, unless one is asked for."""
    return plan_review(output, MODEL, DECODING, ReviewRules(**{"audit": 0, **rules}))


def numbers(rows: Iterable[dict[str, Any]]) -> list[int]:
    return [int(row["uri"][-10:-4]) for row in rows]


def queue(output: Output, reason: str | None = None) -> list[int]:
    """Return the numbers of the captions that are queued, in the queue's order."""
    found = [row for _, table in output.tables("review") for row in table.to_pylist()]
    return numbers(row for row in found if reason is None or reason in row["reasons"])


def accept(output: Output, images: Sequence[int], verdict: str = "accepted") -> None:
    add(output, "reviews", reviews([f"{one:064x}" for one in images], [verdict] * len(images)))


class TestThresholdAndBudget:
    def test_a_threshold_queues_what_is_below_it(self, output: Output):
        add(output, "captions", captions([0.5, 0.2, 0.9, 0.4999]))
        found = plan(output, review_below=0.5)
        assert queue(output) == [1, 3]
        assert (found.queued, found.deferred, found.audited) == (2, 0, 0)
        assert found.reasons == {"threshold": 2}
        assert [row["inclusion_probability"] for row in rows(output, "review")] == [None, None]

    def test_a_budget_is_exact_and_ties_go_by_uri(self, output: Output):
        add(output, "captions", captions([0.9, 0.5, 0.5, 0.5, 0.1]))
        assert plan(output, budget=3).reasons == {"budget": 3}
        assert queue(output) == [4, 1, 2]

    @pytest.mark.parametrize(
        ("count", "share", "queued"),
        [(100, 0.05, 5), (119, 0.05, 5), (100, 0.29, 29), (19, 0.05, 0)],
    )
    def test_a_share_is_rounded_down(self, output: Output, count: int, share: float, queued: int):
        add(output, "captions", captions(np.linspace(0, 1, count)))
        assert plan(output, budget=share).queued == queued

    def test_a_budget_above_the_data_set_is_refused_before_anything_is_written(
        self, output: Output
    ):
        add(output, "captions", captions([0.1, 0.2]))
        plan(output, review_below=0.15)
        before = output.current()
        with pytest.raises(RulesError, match="budget is 3, but there are only 2 captions"):
            plan(output, budget=3)
        assert output.current() == before
        assert plan(output, budget=2).queued == 2

    def test_the_queue_is_the_union_and_each_row_says_all_its_reasons(self, output: Output):
        add(output, "captions", captions(np.linspace(0, 1, 101)))
        found = plan(output, review_below=0.1, budget=5, audit=0.3)
        by_number = {n: row for n, row in zip(queue(output), _review(output), strict=True)}
        for number, row in by_number.items():
            expected = [
                *(["threshold"] if number < 10 else []),
                *(["budget"] if number < 5 else []),
                *(["audit"] if number in queue(output, "audit") else []),
            ]
            assert row["reasons"] == expected
            assert row["inclusion_probability"] == 0.3
        assert found.queued == len(by_number)
        assert found.queued < sum(found.reasons.values())

    def test_without_captions_there_is_nothing_to_plan(self, output: Output):
        assert plan(output, budget=5, guarantee=GUARANTEE, audit=0.1) == ReviewPlan()

    def test_other_models_queues_stay(self, output: Output):
        add(output, "captions", captions([0.1, 0.2]))
        add(output, "captions", captions([0.1, 0.2, 0.3], model_id="fake@2"))
        plan_review(output, "fake@2", DECODING, ReviewRules(review_below=0.25))
        plan(output, budget=1)
        plan(output, review_below=0.0)
        assert {row["model_id"] for row in rows(output, "review")} == {"fake@2"}
        assert len(rows(output, "review")) >= 2

    def test_a_confidence_that_is_no_number(self, output: Output):
        add(output, "captions", captions([0.1, float("nan")]))
        with pytest.raises(OutputError, match="1 captions whose confidence is not a number"):
            plan(output, review_below=0.5)

    def test_a_hash_that_is_none(self, output: Output):
        add(output, "captions", captions([0.1, 0.2], phash=["xyz", None]))
        with pytest.raises(OutputError, match="phash is 'xyz'"):
            plan(output, review_below=0.5)

    def test_confidences_of_several_heads_do_not_compare(self, output: Output):
        add(output, "captions", captions([0.1, 0.2], confidence_id=["aaaa", None]))
        (message,) = plan(output, review_below=0.5).messages
        assert "captioner rescore" in message


def _review(output: Output) -> list[dict[str, Any]]:
    return [row for _, table in output.tables("review") for row in table.to_pylist()]


class TestNearDuplicates:
    def duplicates(self, confidences: Sequence[float]) -> list[dict[str, Any]]:
        """Captions of images that differ in two bits."""
        hashes = [f"{3 << 2 * number:016x}" for number in range(len(confidences))]
        return captions(confidences, phash=hashes)

    def test_the_least_confident_of_a_group_is_reviewed_and_others_are_deferred(
        self, output: Output
    ):
        add(output, "captions", self.duplicates([0.3, 0.2, 0.9]))
        add(output, "captions", captions([0.4], first=3))
        found = plan(output, review_below=0.5)
        assert (found.queued, found.deferred) == (2, 1)
        assert queue(output, "threshold") == [1, 3]
        assert queue(output, "deferred") == [0]
        assert {row["group_id"] for row in rows(output, "review")} == {f"{0:064x}", f"{3:064x}"}

    def test_a_budget_buys_groups(self, output: Output):
        add(output, "captions", self.duplicates([0.1, 0.2, 0.3]))
        add(output, "captions", captions([0.4, 0.5], first=3))
        found = plan(output, budget=2)
        assert queue(output, "budget") == [0, 3]
        assert queue(output, "deferred") == [1, 2]
        assert (found.queued, found.deferred) == (2, 2)
        assert "only 3 are left to review" in plan(output, budget=4).messages[0]

    def test_equal_bytes_are_one_item(self, output: Output):
        add(output, "captions", captions([0.2, 0.2], image_id=["b" * 64] * 2))
        plan(output, review_below=0.5)
        assert queue(output, "threshold") == [0]
        assert queue(output, "deferred") == [1]

    def test_the_audit_ignores_groups(self, output: Output):
        add(output, "captions", self.duplicates([0.3, 0.2, 0.9]))
        found = plan(output, review_below=0.5, audit=1.0)
        assert (found.queued, found.deferred, found.audited) == (3, 0, 3)
        assert [row["reasons"] for row in rows(output, "review")] == [
            ["audit"],
            ["threshold", "audit"],
            ["audit"],
        ]

    def test_once_one_was_reviewed_no_other_is_queued(self, output: Output):
        add(output, "captions", self.duplicates([0.3, 0.2, 0.1]))
        accept(output, [0])
        found = plan(output, review_below=0.5, budget=1)
        assert (found.queued, found.deferred) == (0, 2)


class TestReviewed:
    @pytest.mark.parametrize("verdict", ["accepted", "rejected", "skipped"])
    def test_what_was_reviewed_is_not_queued_again_and_costs_nothing(
        self, output: Output, verdict: str
    ):
        add(output, "captions", captions(np.linspace(0, 1, 11)))
        accept(output, [0, 2], verdict)
        assert plan(output, budget=3).queued == 3
        assert queue(output) == [1, 3, 4]
        plan(output, review_below=0.35)
        assert queue(output) == [1, 3]

    def test_audited_captions_stay_audited(self, output: Output):
        add(output, "captions", captions(np.linspace(0, 1, 50)))
        plan(output, audit=0.2)
        drawn = queue(output)
        accept(output, drawn[:-2])
        accept(output, drawn[-2:-1], "skipped")
        found = plan(output, audit=0.2)
        assert queue(output, "audit") == drawn
        assert (found.queued, found.audited, found.reasons) == (2, len(drawn), {"audit": 2})
        assert numbers({"uri": item.uri} for item in review_items(output)) == drawn[-2:]

    def test_reviews_of_another_models_captions_do_not_count(self, output: Output):
        add(output, "captions", captions([0.1]))
        add(output, "reviews", reviews([f"{0:064x}"], ["accepted"], model_id="fake@2"))
        assert plan(output, budget=1).queued == 1


class TestAudit:
    def test_it_is_a_uniform_sample_of_all(self, output: Output):
        add(output, "captions", captions(np.linspace(0, 1, 4000)))
        drawn = np.array(queue_of(output, audit=0.2))
        assert 700 < len(drawn) < 900
        assert np.abs(np.bincount(drawn // 1000) - 200).max() < 60

    def test_a_larger_share_adds_to_a_smaller_one(self, output: Output):
        add(output, "captions", captions(np.linspace(0, 1, 500)))
        assert set(queue_of(output, audit=0.1)) < set(queue_of(output, audit=0.2))
        assert len(queue_of(output, audit=1.0)) == 500

    def test_another_seed_draws_others(self, output: Output):
        add(output, "captions", captions(np.linspace(0, 1, 500)))
        assert queue_of(output, audit=0.1) != queue_of(output, audit=0.1, seed=1)

    def test_what_was_drawn_stays_as_data_grow_and_come_in_another_order(
        self, output: Output, tmp_path: Path
    ):
        some = captions(np.linspace(0, 1, 300))
        more = captions(np.linspace(0, 1, 300), first=300)
        add(output, "captions", some)
        before = queue_of(output, audit=0.1)
        add(output, "captions", more)
        grown = queue_of(output, audit=0.1)
        assert {number for number in grown if number < 300} == set(before)
        other = Output((tmp_path / "other").as_uri())
        for part in (more[::-2], some, more[-2::-2]):
            add(other, "captions", part)
        plan(other, audit=0.1)
        assert [file.path for file in other.current().of("review")] == [
            file.path for file in output.current().of("review")
        ]

    def test_merged_files_give_the_same_bytes(self, output: Output):
        for first in (0, 20, 40):
            add(output, "captions", captions(np.linspace(0, 1, 20), first=first))
        plan(output, budget=30, audit=0.5)
        before = output.current().of("review")
        compact(output, 10**6)
        assert len(output.current().of("captions")) == 1
        plan(output, budget=30, audit=0.5)
        assert output.current().of("review") == before


def queue_of(output: Output, **rules: Any) -> list[int]:
    plan(output, **rules)
    return queue(output)


def certify(images: Iterable[int]) -> list[int]:
    """Return those whose labels may certify: the others may fit the confidence."""
    return [one for one in images if kept_for_guarantees(f"{one:064x}")]


class TestGuarantee:
    """Of 3,000 captions those above 0.4 are right, but for one in a hundred."""

    @pytest.fixture
    def correct(self, output: Output) -> Any:
        confidence = np.linspace(0, 1, 3000)
        add(output, "captions", captions(confidence))
        return (confidence > 0.4) & (np.arange(3000) % 100 > 0)

    def review(self, output: Output, correct: Any, images: Sequence[int]) -> None:
        accept(output, [one for one in images if correct[one]])
        accept(output, [one for one in images if not correct[one]], "edited")

    def test_without_labels_all_is_reviewed_and_it_says_what_is_missing(self, output, correct):
        found = plan(output, guarantee=GUARANTEE, audit=0.1)
        assert found.queued == found.reasons["guarantee"] == 3000
        assert found.certificate.threshold is None
        assert found.certificate.missing == 45
        certifying = len(certify(queue_of(output, audit=0.1)))
        assert f"{certifying} audited captions that are to certify have no" in found.messages[0]

    def test_what_is_below_the_certified_threshold_is_queued(self, output, correct):
        audited = queue_of(output, audit=0.3)
        self.review(output, correct, audited)
        found = plan(output, guarantee=GUARANTEE, audit=0.3)
        certifying = certify(audited)
        assert 0.4 * len(audited) < len(certifying) < 0.6 * len(audited)
        assert found.certificate.labels == len(certifying)
        assert not found.messages
        threshold = found.certificate.threshold
        assert 0.35 < threshold < 0.6
        confidence = np.linspace(0, 1, 3000).astype(np.float32)
        assert sorted(queue(output, "guarantee")) == [
            one for one in np.flatnonzero(confidence < threshold) if one not in set(audited)
        ]
        inside = [one for one in certifying if confidence[one] >= threshold]
        wrong = sum(not correct[one] for one in inside)
        assert found.certificate.wrong_labels == wrong
        assert beta.ppf(0.9, wrong + 1, len(inside) - wrong) <= 0.05

    def test_only_the_audit_can_support_it(self, output, correct):
        """Reviews of what somebody chose would have it that all is right."""
        audited = set(queue_of(output, audit=0.1))
        accept(output, [one for one in range(1500) if one not in audited])
        found = plan(output, guarantee=GUARANTEE, audit=0.1)
        assert found.certificate.labels == 0

    def test_the_newest_verdict_counts_and_skipped_ones_say_nothing(self, output, correct):
        audited = queue_of(output, audit=0.2)
        names = [f"{one:064x}" for one in audited]
        self.review(output, correct, audited)
        before = plan(output, guarantee=GUARANTEE, audit=0.2).certificate
        add(output, "reviews", reviews(names, ["skipped"] * len(names), day=1))
        assert plan(output, guarantee=GUARANTEE, audit=0.2).certificate == before
        add(output, "reviews", reviews(names, ["rejected"] * len(names), day=2))
        after = plan(output, guarantee=GUARANTEE, audit=0.2)
        assert after.certificate.missing is None
        assert "no number of labels helps" in after.as_dict()["certificate"]["message"]


class TestGuaranteeOfDistinctImages:
    def test_copies_of_one_image_are_one_label(self, output: Output):
        """Half of 400 rows are one right image, drawn a hundred times."""
        images = [f"{number:064x}" for number in range(400)]
        placeholder = next(f"{number:064x}" for number in range(500, 600) if certify([number]))
        images[1::2] = [placeholder] * 200
        add(output, "captions", captions(np.linspace(0.5, 1, 400), image_id=images))
        add(output, "reviews", reviews([placeholder], ["accepted"]))
        found = plan(output, guarantee=Guarantee(0.9, 0.9), audit=0.5)
        assert found.certificate.labels <= 1
        assert found.certificate.threshold is None

    def test_an_image_counts_if_the_audit_drew_its_first_row(self, output: Output):
        numbers = [one for one in range(400) if certify([one])][:100]
        images = [f"{one:064x}" for one in numbers]
        # The second row of each image comes later by uri, and is the less sure.
        add(output, "captions", captions(np.linspace(0.5, 1, 100), image_id=images))
        add(output, "captions", captions(np.linspace(0, 0.4, 100), 100, image_id=images))
        drawn = queue_of(output, audit=0.5)
        first = [one for one in drawn if one < 100]
        assert 0 < len(first) < len({one % 100 for one in drawn})
        add(output, "reviews", reviews(images, ["accepted"] * 100))
        found = plan(output, guarantee=Guarantee(0.9, 0.9), audit=0.5)
        assert found.certificate.labels == found.certificate.accepted_labels == len(first)
        assert found.certificate.threshold == 0.5
        assert found.certificate.share == 1
        assert "of distinct images" in found.certificate.message
