import json
import logging
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pytest

from captioner.annotations import Annotations, Box, Label, Mask
from captioner.training.sources import DataError, Example, audited_images, read_examples
from schemas.tables import CAPTIONS, COMPARISONS, REVIEW, REVIEWS
from tests.captioner.training.sources.store import DATA, by_name, write, write_table

SCHEMAS = {
    "captions": CAPTIONS,
    "review": REVIEW,
    "reviews": REVIEWS,
    "comparisons": COMPARISONS,
}
BLANK: dict[str, dict[str, Any]] = {
    "captions": {
        "uri_version": "v",
        "width": 1,
        "height": 1,
        "format": "JPEG",
        "num_bytes": 1,
        "caption": "by the machine",
        "confidence": 0.5,
        "confidence_kind": "uncalibrated",
        "run_id": "r",
        "created_at": datetime(2026, 1, 1, tzinfo=UTC),
    },
    "review": {"uri": "gs://bucket/x.jpg", "uri_version": "v", "confidence": 0.5, "run_id": "r"},
    "reviews": {},
    "comparisons": {
        "candidate_id": "c",
        "candidate_decoding": "d",
        "caption": "one",
        "candidate_caption": "two",
        "inclusion_probability": 0.1,
    },
}


def uri_of(number: int) -> str:
    return f"gs://bucket/{number}.jpg"


def at(day: int) -> datetime:
    return datetime(2026, 1, day, tzinfo=UTC)


def captioned(*numbers: int, **columns: Any) -> list[dict[str, Any]]:
    """Rows of captions, of the image ``i1`` at the uri 1, and so on."""
    return [{"image_id": f"i{n}", "uri": uri_of(n), **columns} for n in numbers]


def accepted(image: str, text: str = "right", **columns: Any) -> dict[str, Any]:
    return {"image_id": image, "verdict": "accepted", "shown_caption": text, **columns}


def edited(image: str, text: str, **columns: Any) -> dict[str, Any]:
    return {"image_id": image, "verdict": "edited", "caption": text, **columns}


def verdict(image: str, word: str, **columns: Any) -> dict[str, Any]:
    return {"image_id": image, "verdict": word, **columns}


def write_output(version: int = 1, **tables: list[dict[str, Any]]) -> None:
    """Write an output of those live rows; what a file that is not live says is of no account."""
    live = {}
    for name, rows in tables.items():
        blank = {"model_id": "m", "decoding": "d", **BLANK[name]}
        table = pa.Table.from_pylist([{**blank, **row} for row in rows], SCHEMAS[name])
        write_table(f"{name}/part-1.parquet", table)
        live[name] = [{"path": f"{name}/part-1.parquet", "rows": len(rows), "bytes": 1}]
    dead = {"model_id": "m", "decoding": "d", **accepted("i1", "replaced since")}
    write_table("reviews/part-0.parquet", pa.Table.from_pylist([dead], REVIEWS))
    write("current.json", json.dumps({"schema_version": version, "files": live}))


def captions(**options: Any) -> dict[str, tuple[str, ...]]:
    return by_name(read_examples(DATA, **options))


class TestVerdicts:
    def test_accepted_and_edited_are_truth_and_nothing_else(self):
        write_output(
            captions=captioned(1, 2, 3, 4, 5),
            reviews=[
                accepted("i1"),
                edited("i2", "by  hand"),
                verdict("i3", "rejected"),
                verdict("i4", "skipped"),
            ],
        )
        assert read_examples(DATA) == [
            Example(uri_of(1), ("right",), image_id="i1"),
            Example(uri_of(2), ("by hand",), image_id="i2"),
        ]

    def test_the_newest_of_a_reviewer_counts_whatever_was_shown(self):
        write_output(
            captions=captioned(1, 2, 3, 4),
            reviews=[
                edited("i1", "newer", reviewer="a", reviewed_at=at(3), model_id="n"),
                verdict("i1", "rejected", reviewer="a", reviewed_at=at(1)),
                accepted("i2", reviewer="a", reviewed_at=at(1)),
                verdict("i2", "rejected", reviewer="a", reviewed_at=at(2), decoding="e"),
                accepted("i3", reviewer="a", reviewed_at=at(1)),
                verdict("i3", "skipped", reviewer="a", reviewed_at=at(2)),
                accepted("i4", "first", reviewer="a", reviewed_at=at(1), task_id=1),
                accepted("i4", "second", reviewer="a", reviewed_at=at(1), task_id=2),
            ],
        )
        assert captions() == {"1.jpg": ("newer",), "3.jpg": ("right",), "4.jpg": ("second",)}

    def test_two_reviewers(self):
        write_output(
            captions=captioned(1, 2, 3, 4, 5),
            reviews=[
                accepted("i1", "a dog", reviewer="a", reviewed_at=at(1)),
                edited("i1", "a brown dog", reviewer="b", reviewed_at=at(2)),
                accepted("i2", "a dog", reviewer="a"),
                accepted("i2", "a dog", reviewer="b"),
                accepted("i3", "a dog", reviewer="a"),
                verdict("i3", "rejected", shown_caption="a dog", reviewer="b"),
                verdict("i4", "rejected", shown_caption="a dog", reviewer="a"),
                edited("i4", "a cat", shown_caption="a dog", reviewer="b"),
                accepted("i5", "a dog", reviewer="a"),
                verdict("i5", "rejected", shown_caption="other", reviewer="b", model_id="n"),
            ],
        )
        assert captions() == {
            "1.jpg": ("a dog", "a brown dog"),
            "2.jpg": ("a dog",),
            "4.jpg": ("a cat",),
            "5.jpg": ("a dog",),
        }

    def test_the_order_in_the_files_decides_nothing(self):
        reviews = [
            edited("i1", "first", reviewer="a", reviewed_at=at(1), task_id=1),
            edited("i1", "second", reviewer="a", reviewed_at=at(1), task_id=1),
            edited("i2", "by a", reviewer="a", reviewed_at=at(1), task_id=1),
            edited("i2", "by b", reviewer="b", reviewed_at=at(1), task_id=1),
            accepted("i3", reviewer="a"),
            verdict("i3", "rejected", reviewer="a"),
        ]
        for rows in (reviews, reviews[::-1]):
            write_output(captions=captioned(1, 2, 3), reviews=rows)
            assert captions() == {"1.jpg": ("second",), "2.jpg": ("by a", "by b")}

    def test_equal_bytes_are_one_image(self):
        copies = [{"image_id": "i1", "uri": uri_of(n), "caption": str(n)} for n in (9, 3, 5)]
        write_output(captions=[*copies, *captioned(2)], reviews=[accepted("i1")])
        assert read_examples(DATA) == [Example(uri_of(3), ("right",), image_id="i1")]

    def test_the_report_says_why(self, caplog):
        write_output(
            captions=[*captioned(1, 2, 3, 4, 5, 7), {"image_id": "i1", "uri": uri_of(8)}],
            review=[{"image_id": "i5", "reasons": ["budget", "audit"]}],
            reviews=[
                accepted("i1"),
                verdict("i2", "rejected"),
                verdict("i3", "skipped"),
                accepted("i4", "a dog", reviewer="a"),
                verdict("i4", "rejected", shown_caption="a dog", reviewer="b"),
                accepted("i5"),
                accepted("i6"),
                accepted("i7", ""),
            ],
        )
        with caplog.at_level(logging.INFO):
            assert list(captions(spare_audit=True)) == ["1.jpg"]
        assert (
            "1 reviewed images to go by, 1 copies of these under other names; 6 images that were "
            "reviewed are left out (1 rejected, 1 skipped, 1 accepted by one and rejected by "
            "another, 1 drawn for the audit, 1 without a text, 1 no longer captioned here)"
        ) in caplog.text


class TestAudit:
    def output(self) -> None:
        write_output(
            captions=[*captioned(1, 2, 3, 4), {"image_id": "i2", "uri": uri_of(9)}],
            review=[
                {"image_id": "i1", "reasons": ["budget"], "inclusion_probability": 0.1},
                {"image_id": "i2", "reasons": ["budget", "audit"], "model_id": "other"},
            ],
            comparisons=[{"image_id": "i3"}],
            reviews=[accepted(f"i{n}") for n in (1, 2, 3, 4)],
        )

    def test_is_spared_with_all_its_copies(self):
        """The queue's other rows have the audit's probability, too; that is no draw."""
        self.output()
        assert captions(spare_audit=True).keys() == {"1.jpg", "4.jpg"}
        assert captions().keys() == {"1.jpg", "2.jpg", "3.jpg", "4.jpg"}

    def test_its_images(self):
        self.output()
        assert audited_images(DATA) == {"i2", "i3"}
        assert audited_images(f"{DATA}/current.json") == {"i2", "i3"}
        assert audited_images("memory://elsewhere") == frozenset()

    def test_nothing_else_was_reviewed(self):
        write_output(
            captions=captioned(1),
            review=[{"image_id": "i1", "reasons": ["audit"]}],
            reviews=[accepted("i1")],
        )
        wrong = (
            "reviewed images are left out: 1 drawn for the audit. Have more captions reviewed, of "
            "images that are not drawn for the audit;"
        )
        with pytest.raises(DataError, match=wrong):
            captions(spare_audit=True)

    def test_nothing_is_captioned_any_more(self):
        write_output(
            review=[{"image_id": "i1", "reasons": ["audit"]}],
            reviews=[accepted("i1"), accepted("i2")],
        )
        wrong = "left out: 1 drawn for the audit, 1 no longer captioned here"
        with pytest.raises(DataError, match=wrong):
            captions(spare_audit=True)

    def test_a_damaged_hash_is_an_error_that_names_the_output(self):
        write_output(
            captions=captioned(1, 2, phash="0123"),
            review=[{"image_id": "i1", "reasons": ["audit"]}],
            reviews=[accepted("i2")],
        )
        wrong = "told in memory:///data/captions: phash is '0123'; .* put back what captioner annot"
        with pytest.raises(DataError, match=wrong):
            captions(spare_audit=True)
        assert captions().keys() == {"2.jpg"}

    def test_near_duplicates_of_audited_images_are_spared_too(self, caplog):
        audited, near, nearer = "f" * 16, "f" * 15 + "0", "f" * 14 + "00"
        hashes = [near, nearer, audited, "0" * 16, None]
        rows = [row | {"phash": one} for row, one in zip(captioned(*range(5)), hashes, strict=True)]
        write_output(
            captions=rows,
            review=[{"image_id": "i2", "reasons": ["audit"]}],
            reviews=[accepted(f"i{number}") for number in (0, 1, 3, 4)],
        )
        with caplog.at_level(logging.INFO):
            assert list(captions(spare_audit=True)) == ["3.jpg", "4.jpg"]
        assert "2 nearly the same as one drawn for the audit" in caplog.text
        assert len(captions()) == 4


class TestAnnotations:
    BOX = {"name": "dog", "probability": 0.4, "x": 1, "y": 2, "width": 3, "height": 4}
    MASK = {"name": "dog", "size": [6, 8], "counts": "abc"}

    def test_what_reviewers_left_is_truth(self):
        write_output(
            captions=captioned(1, 2, 3),
            reviews=[
                edited(
                    "i1",
                    "a dog",
                    labels=[{"name": "dog", "probability": 0.3}],
                    boxes=[self.BOX],
                    masks=[self.MASK],
                ),
                accepted("i2", boxes=[]),
                accepted("i3"),
            ],
        )
        assert [example.annotations for example in read_examples(DATA, annotated=True)] == [
            Annotations((Label("dog"),), (Box("dog", 1, 2, 3, 4),), (Mask("dog", (6, 8), "abc"),)),
            Annotations(boxes=()),
            None,
        ]
        assert not any(example.annotated for example in read_examples(DATA))

    def test_of_two_reviewers_the_newer_one_counts(self):
        other = {**self.BOX, "x": 2}
        write_output(
            captions=captioned(1),
            reviews=[
                accepted("i1", reviewer="a", reviewed_at=at(2), boxes=[other]),
                accepted("i1", reviewer="b", reviewed_at=at(1), boxes=[self.BOX], labels=[]),
                verdict("i1", "rejected", reviewer="c", reviewed_at=at(3), boxes=[]),
            ],
        )
        (example,) = read_examples(DATA, annotated=True)
        assert example.annotations == Annotations((), (Box("dog", 2, 2, 3, 4),))


class TestErrors:
    def test_no_reviews(self):
        write_output(captions=captioned(1))
        with pytest.raises(DataError, match="it has no reviews. Bring reviews in with captioner"):
            read_examples(DATA)

    def test_all_rejected(self):
        write_output(captions=captioned(1), reviews=[verdict("i1", "rejected")])
        with pytest.raises(DataError, match="all reviewed images are left out: 1 rejected"):
            read_examples(DATA)

    def test_a_newer_version_is_refused(self):
        write_output(version=99, captions=captioned(1))
        with pytest.raises(DataError, match="schema version 99, newer than 1"):
            read_examples(DATA)

    @pytest.mark.parametrize("content", ["{", "[]", '{"schema_version": 1, "files": [1]}'])
    def test_another_current_json_is_refused(self, content):
        write("current.json", content)
        with pytest.raises(DataError, match="is not what `captioner annotate` writes"):
            read_examples(DATA)

    def test_live_files_lie_in_the_output(self):
        files = {"captions": [{"path": "../other/part.parquet"}]}
        write("current.json", json.dumps({"schema_version": 1, "files": files}))
        with pytest.raises(DataError, match="'../other/part.parquet'"):
            read_examples(DATA)
