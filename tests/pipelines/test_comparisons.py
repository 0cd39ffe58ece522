from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from scipy.stats import binomtest

from pipelines import comparisons
from pipelines.comparisons import AuditedImage, Pair
from pipelines.labelstudio.comparing import Answer, Answers, Comparison
from pipelines.output import Output, OutputError
from pipelines.planning import ReviewRules, plan_review
from pipelines.review_queue import replace_queue
from schemas.kinds import Choice
from schemas.tables import REVIEW
from tests.pipelines.helpers import rows
from tests.pipelines.planned import DECODING, MODEL, add, captions

PAIR = Pair(MODEL, DECODING, "new@2", "ba9876543210")
NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


@pytest.fixture
def output(tmp_path: Path) -> Output:
    return Output((tmp_path / "out").as_uri())


def image(number: int, caption: str = "a dog") -> AuditedImage:
    return AuditedImage(f"{number:064x}", (f"file:///in/{number:06}.jpg",), caption, 0.25)


def said(choice: str, minutes: int = 0, reviewer: str = "a", task_id: int = 7) -> Answer:
    return Answer(choice, reviewer, NOON + timedelta(minutes=minutes), task_id)


class TestPair:
    def test_whose_caption_is_first_is_drawn_evenly_and_is_always_the_same(self):
        drawn = [PAIR.shown_first(image(number).image_id) for number in range(1000)]
        assert drawn == [PAIR.shown_first(image(number).image_id) for number in range(1000)]
        first = Counter(drawn)
        assert first.keys() == {Choice.CANDIDATE, Choice.PRESENT}
        assert binomtest(first[Choice.CANDIDATE], 1000).pvalue > 1e-3

    def test_it_is_drawn_anew_for_other_models(self):
        other = replace(PAIR, candidate_id="new@3")
        assert other.id != PAIR.id
        same = [PAIR.shown_first(str(n)) == other.shown_first(str(n)) for n in range(1000)]
        assert binomtest(sum(same), 1000).pvalue > 1e-3


class TestAudited:
    def test_each_image_is_drawn_by_its_first_uri_alone(self, output: Output):
        """Ten images; each has a second uri, which the audit draws for itself."""
        firsts = captions([0.5] * 10)
        copies = captions([0.5] * 10, uri=[f"file:///z/{n}.jpg" for n in range(10)])
        add(output, "captions", [*firsts, *copies])
        plan_review(output, MODEL, DECODING, ReviewRules(audit=0.5))
        drawn = {row["uri"] for row in rows(output, "review") if "audit" in row["reasons"]}
        found = comparisons.audited(output, MODEL, DECODING)
        assert {one.uris[0] for one in found} == {row["uri"] for row in firsts} & drawn
        assert drawn - {one.uris[0] for one in found}, "some copies were drawn, too"
        assert all(len(one.uris) == 2 for one in found)
        assert {one.inclusion_probability for one in found} == {0.5}
        assert [one.caption for one in found] == [
            f"caption {int(one.image_id, 16)}" for one in found
        ]

    def test_what_a_rule_queued_is_not_audited(self, output: Output):
        add(output, "captions", captions([0.1] * 20))
        plan_review(output, MODEL, DECODING, ReviewRules(review_below=0.5, audit=0.2))
        assert 0 < len(comparisons.audited(output, MODEL, DECODING)) < 20
        assert comparisons.audited(output, "other@1", DECODING) == []

    def test_a_draw_of_unknown_probability_is_refused(self, output: Output):
        add(output, "captions", captions([0.5] * 4))
        plan_review(output, MODEL, DECODING, ReviewRules(audit=1.0))
        (table,) = (part for _, part in output.tables("review"))
        unknown = table.set_column(
            table.schema.get_field_index("inclusion_probability"),
            REVIEW.field("inclusion_probability"),
            pa.nulls(table.num_rows, pa.float64()),
        )
        replace_queue(output, MODEL, DECODING, unknown)
        with pytest.raises(OutputError, match="has no inclusion_probability; plan the audit anew"):
            comparisons.audited(output, MODEL, DECODING)


class TestRows:
    def test_equal_captions_need_nobody(self):
        for text in ("a dog", " a dog\n"):
            row = comparisons.new_row(PAIR, image(1), text)
            assert (row["choice"], row["shown_first"]) == ("same", None)
        row = comparisons.new_row(PAIR, image(1), "a Dog")
        assert row["choice"] is None
        assert row["shown_first"] == PAIR.shown_first(image(1).image_id)

    def test_are_kept_apart_by_models(self, output: Output):
        other = replace(PAIR, candidate_id="new@3")
        mine = [comparisons.new_row(PAIR, image(n), "a cat") for n in (2, 1)]
        theirs = [comparisons.new_row(other, image(1), "a cow")]
        comparisons.replace(output, PAIR, mine)
        comparisons.replace(output, other, theirs)
        comparisons.replace(output, PAIR, mine[:1])
        assert comparisons.read(output, PAIR) == mine[:1]
        assert comparisons.read(output, other) == theirs
        files = list(Path(output.uri.removeprefix("file://"), "comparisons").iterdir())
        assert len(files) == 2

    def test_writing_the_same_again_changes_nothing(self, output: Output):
        mine = [comparisons.new_row(PAIR, image(n), "a cat") for n in (1, 2)]
        comparisons.replace(output, PAIR, mine)
        before = output.current()
        comparisons.replace(output, PAIR, mine[::-1])
        assert output.current() == before


class TestAnswers:
    def test_mean_whose_caption_was_where(self):
        """Whatever the order, who says that the candidate's text is better means the candidate."""
        asked = [comparisons.new_row(PAIR, image(n), "a cat") for n in range(40)]
        shown = {
            one.image_id: one
            for one in comparisons_of(asked)  # as people see them
        }
        answers = {}
        for row in asked[:30]:
            one = shown[row["image_id"]]
            answers[row["image_id"]] = [said("first" if one.first == "a cat" else "second")]
        after = comparisons.answered(asked, Answers({i: 7 for i in shown}, answers))
        assert Counter(row["choice"] for row in after) == {"candidate": 30, None: 10}
        assert {row["task_id"] for row in after} == {7}
        assert (comparisons.outcomes(after) == 1).all()
        reversed_ = {
            i: [said("second" if a[0].choice == "first" else "first")] for i, a in answers.items()
        }
        after = comparisons.answered(asked, Answers({i: 7 for i in shown}, reversed_))
        assert comparisons.outcomes(after).tolist() == [-1] * 30

    def test_neither_is_better(self):
        asked = [comparisons.new_row(PAIR, image(n), "a cat") for n in (1, 2)]
        ids = [row["image_id"] for row in asked]
        given = {ids[0]: [said("both right")], ids[1]: [said("both wrong")]}
        after = comparisons.answered(asked, Answers(dict.fromkeys(ids, 7), given))
        assert [row["choice"] for row in after] == ["both_right", "both_wrong"]
        assert comparisons.outcomes(after).tolist() == [0, 0]

    def test_the_newest_of_several_counts_and_all_are_kept(self):
        row = comparisons.new_row(PAIR, image(1), "a cat")
        given = [said("both wrong", 0, "a"), said("both right", 5, "b")]
        after = comparisons.answered([row], Answers({row["image_id"]: 7}, {row["image_id"]: given}))
        assert [(one["choice"], one["reviewer"]) for one in after] == [
            ("both_wrong", "a"),
            ("both_right", "b"),
        ]
        assert comparisons.newest(after)[row["image_id"]]["reviewer"] == "b"
        assert len(comparisons.outcomes(after)) == 1

    def test_one_that_was_taken_back_is_none(self):
        row = comparisons.new_row(PAIR, image(1), "a cat")
        tasks = {row["image_id"]: 7}
        after = comparisons.answered([row], Answers(tasks, {row["image_id"]: [said("first")]}))
        (back,) = comparisons.answered(after, Answers(tasks, {}))
        assert (back["choice"], back["reviewer"], back["compared_at"]) == (None, None, None)
        assert back["task_id"] == 7

    def test_of_a_task_that_cannot_be_read_what_was_said_stays(self, output: Output):
        asked = [comparisons.new_row(PAIR, image(n), "a cat") for n in (1, 2)]
        ids = [row["image_id"] for row in asked]
        tasks = {ids[0]: 7, ids[1]: 8}
        before = comparisons.answered(asked, Answers(tasks, {ids[0]: [said("both right")]}))
        after = comparisons.answered(before, Answers(tasks, {}, failing=(7, 8)))
        assert after == before
        assert [(row["choice"], row["task_id"]) for row in after] == [("both_right", 7), (None, 8)]

    def test_of_a_deleted_task_what_was_said_stays_and_the_rest_is_asked_anew(self, output: Output):
        add(output, "captions", captions([0.5] * 3))
        asked = [comparisons.new_row(PAIR, image(n), "a cat") for n in (1, 2)]
        ids = [row["image_id"] for row in asked]
        first = Answers(dict.fromkeys(ids, 7), {ids[0]: [said("both right")]})
        after = comparisons.answered(asked, first)
        assert comparisons.to_ask(output, after) == []
        after = comparisons.answered(after, Answers({}, {}))
        assert [row["choice"] for row in after] == ["both_right", None]
        (again,) = comparisons.to_ask(output, after)
        assert (again.image_id, again.uri) == (ids[1], "file:///in/000002.jpg")
        assert {again.first, again.second} == {"a dog", "a cat"}

    def test_equal_captions_are_never_asked(self, output: Output):
        row = comparisons.new_row(PAIR, image(1), "a dog")
        assert comparisons.to_ask(output, [row]) == []
        assert comparisons.answered([row], Answers({}, {})) == [row]
        assert comparisons.outcomes([row]).tolist() == np.array([], np.int8).tolist()


def comparisons_of(asked: list[comparisons.Row]) -> list[Comparison]:
    """What people see, put together past the code that is tested."""
    return [
        Comparison(
            row["image_id"],
            "file:///x.jpg",
            *(
                (row["candidate_caption"], row["caption"])
                if row["shown_first"] == "candidate"
                else (row["caption"], row["candidate_caption"])
            ),
        )
        for row in asked
    ]
