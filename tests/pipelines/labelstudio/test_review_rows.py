"""What a task says of its captions: what was shown, what was meant, and what cannot be read."""

import re
from datetime import UTC, datetime
from typing import Any

import pytest

from pipelines.labelstudio.items import model_version
from pipelines.labelstudio.push import ReviewItem
from pipelines.labelstudio.review_rows import (
    ReviewedTask,
    ReviewReader,
    same_text,
    verdict_of,
)
from schemas.kinds import Verdict
from tests.pipelines.labelstudio.conftest import make_item

IMAGE = "ab" * 32
OURS, NEWER, THEIRS = "scenes@1/greedy", "scenes@2/greedy", "somebody/else"
MODELS = {OURS: ("scenes@1", "greedy"), NEWER: ("scenes@2", "greedy")}
NOON = "2026-11-21T12:00:00.000000Z"
LATER = "2026-11-21T13:00:00.000000Z"


def reader(**changes: Any) -> ReviewReader:
    settings: dict[str, Any] = {
        "controls": ("caption", "verdict"),
        "shown_version": OURS,
        "models": MODELS,
        "size_of": {IMAGE: (100, 50)}.get,
        "reviewers": {7: "ann@example.org"},
    }
    return ReviewReader(**(settings | changes))


def caption(*texts: str) -> dict[str, Any]:
    return {"from_name": "caption", "type": "textarea", "value": {"text": list(texts)}}


def verdict(*choices: str) -> dict[str, Any]:
    return {"from_name": "verdict", "type": "choices", "value": {"choices": list(choices)}}


def prediction(id_: int, version: str, text: str, made: str = NOON) -> dict[str, Any]:
    return {"id": id_, "model_version": version, "result": [caption(text)], "created_at": made}


def annotation(*result: dict[str, Any], **changes: Any) -> dict[str, Any]:
    values = {
        "id": 3,
        "result": list(result),
        "completed_by": 7,
        "lead_time": 2.5,
        "was_cancelled": False,
        "created_at": NOON,
        "updated_at": LATER,
        "draft_created_at": None,
        "parent_prediction": None,
    }
    return values | changes


def task(*annotations: dict[str, Any], **changes: Any) -> dict[str, Any]:
    values = {
        "id": 12,
        "created_at": NOON,
        "data": {"image_id": IMAGE, "caption": "a dog"},
        "annotations": list(annotations),
        "predictions": [prediction(1, OURS, "a dog")],
    }
    return values | changes


def read(*annotations: dict[str, Any], **changes: Any) -> ReviewedTask:
    return reader().read(task(*annotations, **changes))


class TestRow:
    def test_it_says_who_said_what_of_what_and_when(self):
        found = read(annotation(caption("a cat"), verdict("fix")))
        assert found.rows == (
            {
                "image_id": IMAGE,
                "task_id": 12,
                "reviewer": "ann@example.org",
                "seconds": 2.5,
                "reviewed_at": datetime(2026, 11, 21, 13, tzinfo=UTC),
                "model_id": "scenes@1",
                "decoding": "greedy",
                "shown_caption": "a dog",
                "labels": None,
                "boxes": None,
                "masks": None,
                "verdict": "edited",
                "caption": "a cat",
            },
        )
        assert (found.id, found.image_id, found.unknown, found.damaged) == (12, IMAGE, 0, ())

    @pytest.mark.parametrize(
        ("who", "reviewer"),
        [(7, "ann@example.org"), (8, "8"), (None, None), ({"id": 9, "email": "b@c"}, "b@c")],
    )
    def test_a_reviewer_is_an_address_else_a_number(self, who, reviewer):
        (row,) = read(annotation(caption("a dog"), completed_by=who)).rows
        assert row["reviewer"] == reviewer

    @pytest.mark.parametrize(
        ("lead_time", "seconds"),
        [(0, 0), (3.4e38, 3.4e38), (3.5e38, None), (1e300, None), (-5, None), (None, None)],
    )
    def test_a_time_that_cannot_be_is_none(self, lead_time: float | None, seconds: float | None):
        (row,) = read(annotation(caption("a dog"), lead_time=lead_time)).rows
        assert row["seconds"] == seconds

    def test_several_reviewers_are_kept_apart(self):
        one = annotation(caption("a dog"), verdict("accept"))
        other = annotation(caption("a dog"), verdict("reject"), id=4, completed_by=8)
        rows = read(one, other).rows
        assert [(row["reviewer"], row["verdict"]) for row in rows] == [
            ("ann@example.org", "accepted"),
            ("8", "rejected"),
        ]

    def test_a_skipped_one_leaves_nothing_and_is_not_looked_into(self):
        everything = ("caption", "verdict", "labels", "boxes", "masks")
        skipped = annotation({"from_name": "gone"}, was_cancelled=True, lead_time=None)
        (row,) = reader(controls=everything).read(task(skipped)).rows
        assert (row["verdict"], row["shown_caption"], row["seconds"]) == ("skipped", "a dog", None)
        assert not {"caption", "labels", "boxes", "masks"} & row.keys()

    def test_boxes_are_in_pixels_of_the_original(self):
        sides = {"x": 10, "y": 20, "width": 50, "height": 40, "rectanglelabels": ["dog"]}
        box = {"from_name": "boxes", "type": "rectanglelabels", "value": sides}
        both = reader(controls=("caption", "verdict", "boxes", "labels"))
        (row,) = both.read(task(annotation(caption("a dog"), verdict("accept"), box))).rows
        wanted = {"name": "dog", "x": 10, "y": 10, "width": 50, "height": 20, "probability": 1}
        assert row["boxes"] == [wanted]
        assert (row["labels"], row["masks"]) == ([], None)

    def test_other_controls_of_the_project_are_passed_over(self):
        comment = {"from_name": "comment", "type": "textarea", "value": {"text": ["why?"]}}
        relation = {"type": "relation", "from_id": "a", "to_id": "b"}
        wide = reader(controls=("caption", "verdict", "comment"))
        found = wide.read(task(annotation(caption("a dog"), verdict("accept"), comment, relation)))
        assert [row["verdict"] for row in found.rows] == ["accepted"]


class TestVerdict:
    @pytest.mark.parametrize(
        ("choice", "left", "meant"),
        [
            ("accept", "a dog", Verdict.ACCEPTED),
            ("accept", " a dog\n", Verdict.ACCEPTED),
            ("accept", "a cat", Verdict.EDITED),  # It was not right as it was.
            ("accept", None, Verdict.ACCEPTED),
            ("accept", "", Verdict.REJECTED),
            ("fix", "a cat", Verdict.EDITED),
            ("fix", "a dog", Verdict.REJECTED),  # Wrong, and not put right.
            ("fix", None, Verdict.REJECTED),
            ("reject", "a cat", Verdict.REJECTED),
            ("reject", None, Verdict.REJECTED),
            (None, "a dog", Verdict.ACCEPTED),
            (None, "a cat", Verdict.EDITED),
            (None, " ", Verdict.REJECTED),
            (None, None, Verdict.REJECTED),
        ],
    )
    def test_of_choice_and_text(self, choice, left, meant):
        assert verdict_of(choice, "a dog", left) is meant

    def test_composed_and_separate_accents_are_the_same_text(self):
        assert same_text("caf\u00e9", "cafe\u0301 ")
        assert not same_text("cafe", "caf\u00e9")
        assert not same_text(None, None)

    def test_an_accepted_caption_is_what_was_shown_an_edited_one_what_was_left(self):
        shown = {"predictions": [prediction(1, OURS, " a cafe\u0301 ")]}
        (row,) = read(annotation(caption("a caf\u00e9"), verdict("accept")), **shown).rows
        assert (row["verdict"], row["caption"]) == ("accepted", " a cafe\u0301 ")
        (row,) = read(annotation(caption(" a cafe\u0301s\n"), verdict("fix")), **shown).rows
        assert (row["verdict"], row["caption"]) == ("edited", "a caf\u00e9s")

    def test_a_rejected_one_leaves_no_caption(self):
        (row,) = read(annotation(caption("a cat"), verdict("reject"))).rows
        assert (row["verdict"], row["caption"]) == ("rejected", None)


class TestShown:
    """Which caption a reviewer saw."""

    def shown(
        self, annotation: dict[str, Any], *predictions: dict[str, Any], **changes: Any
    ) -> Any:
        found = reader(**changes).read(task(annotation, predictions=list(predictions)))
        assert len(found.rows) + found.unknown == 1
        return (found.rows[0]["model_id"], found.rows[0]["shown_caption"]) if found.rows else None

    def test_the_prediction_that_the_annotation_began_from(self):
        began = annotation(caption("x"), parent_prediction=2)
        both = prediction(1, OURS, "a dog"), prediction(2, NEWER, "a cat")
        assert self.shown(began, *both) == ("scenes@2", "a cat")

    def test_else_that_of_the_version_that_the_project_shows(self):
        both = prediction(1, OURS, "a dog"), prediction(2, NEWER, "a cat")
        assert self.shown(annotation(), *both, shown_version=NEWER) == ("scenes@2", "a cat")

    def test_else_the_one_with_the_text_that_the_task_was_made_with(self):
        both = prediction(1, NEWER, "a cat"), prediction(2, OURS, "a dog ")
        assert self.shown(annotation(), *both, shown_version="gone") == ("scenes@1", "a dog ")

    def test_else_the_only_one(self):
        only = prediction(1, NEWER, "a cat")
        assert self.shown(annotation(), only, shown_version="gone") == ("scenes@2", "a cat")
        other = prediction(2, THEIRS, "a cow")
        assert self.shown(annotation(), only, other, shown_version="") == ("scenes@2", "a cat")

    def test_of_two_that_both_may_be_meant_neither_is(self):
        both = prediction(1, NEWER, "a cat"), prediction(2, OURS, "a cow")
        assert self.shown(annotation(), *both, shown_version="gone") is None

    def test_none_that_came_after_the_review(self):
        """A newer model was pushed since, and is what the project shows now."""
        both = prediction(1, OURS, "a dog"), prediction(2, NEWER, "a cat", LATER)
        newer = {"shown_version": NEWER}
        assert self.shown(annotation(), *both, **newer) == ("scenes@1", "a dog")
        assert self.shown(annotation(), both[1], **newer) is None
        draft = annotation(created_at=LATER, draft_created_at=NOON)
        assert self.shown(draft, *both, **newer) == ("scenes@1", "a dog")

    def test_one_that_an_import_made_just_after_the_review(self):
        together = prediction(1, OURS, "a cow", "2026-11-21T12:00:05Z")
        assert self.shown(annotation(), together) == ("scenes@1", "a cow")

    def test_none_of_somebody_elses(self):
        began = annotation(parent_prediction=2)
        both = prediction(1, OURS, "a dog"), prediction(2, THEIRS, "a dog")
        assert self.shown(began, *both) is None
        assert self.shown(annotation(), both[1]) is None


class TestNotTaken:
    @pytest.mark.parametrize("image_id", [None, 5, "", "ab" * 31, "AB" * 32, "zz" * 32])
    def test_a_task_without_our_image_id(self, image_id):
        found = read(annotation(), annotation(), data={"image_id": image_id})
        assert (found.image_id, found.rows, found.unknown, found.damaged) == (None, (), 2, ())

    def test_a_task_without_a_prediction(self):
        found = read(annotation(caption("a dog"), verdict("accept")), predictions=[])
        assert (found.rows, found.unknown) == ((), 1)
        assert found.unread == {("ann@example.org", datetime(2026, 11, 21, 13, tzinfo=UTC))}

    @pytest.mark.parametrize(
        ("result", "message"),
        [
            ([caption("a", "b")], "'caption' holds 2 texts, not one; set maxSubmissions"),
            ([caption("a"), caption("b")], "'caption' holds 2 texts, not one"),
            ([{**caption("a"), "value": {"text": 5}}], "text of 'caption' is 5, not text"),
            ([{**caption("a"), "type": "rating"}], "'caption' holds a 'rating', not a 'textarea'"),
            ([verdict("perhaps")], r"'verdict' holds \['perhaps'\], not one of accept, fix, rej"),
            ([verdict("accept", "fix")], "'verdict' holds"),
            ([{**caption("a"), "from_name": "text"}], "made with the control 'text', which the"),
            ([{"value": {}}], "made with the control None, which the project does not have"),
            ("a dog", "its result is not a list"),
            ([5], "its result is not a list"),
            (None, "its result is not a list"),
        ],
    )
    def test_a_damaged_annotation_is_named_and_the_others_come(self, result, message):
        bad = annotation(result=result, id=99, completed_by=8)
        found = read(bad, annotation(caption("a dog"), verdict("accept")))
        assert [row["verdict"] for row in found.rows] == ["accepted"]
        assert found.unread == {("8", datetime(2026, 11, 21, 13, tzinfo=UTC))}
        (why,) = found.damaged
        assert why.startswith("task 12, annotation 99: ")
        assert re.search(message, why)

    def test_a_prediction_without_a_caption_shows_none(self):
        empty = {"id": 1, "model_version": OURS, "result": None, "created_at": NOON}
        found = read(annotation(caption("a dog"), parent_prediction=1), predictions=[empty])
        (why,) = found.damaged
        assert why.endswith("prediction 1, which it is of, holds no caption")


def test_a_model_version_is_what_a_push_writes():
    item: ReviewItem = make_item(1, model_id="a,b@1", decoding="2")
    assert model_version(item.model_id, item.decoding) == item.model_version == "a_b@1/2"
