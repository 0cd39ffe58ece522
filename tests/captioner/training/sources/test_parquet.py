import json
from datetime import UTC, datetime

import pyarrow as pa
import pytest

from captioner.training.sources import DataError, Example, read_examples
from schemas.tables import CAPTIONS, REVIEWS
from tests.captioner.training.sources.store import DATA, by_name, write, write_table


def uri_of(number: int) -> str:
    return f"gs://bucket/{number}.jpg"


def caption_rows(*rows: dict) -> pa.Table:
    """Make a table of captions whose other columns hold just anything."""
    blank = {
        "uri_version": "v",
        "width": 1,
        "height": 1,
        "format": "JPEG",
        "num_bytes": 1,
        "confidence": 0.5,
        "confidence_kind": "uncalibrated",
        "model_id": "m",
        "decoding": "d",
        "run_id": "r",
        "created_at": datetime(2026, 1, 1, tzinfo=UTC),
    }
    return pa.Table.from_pylist([{**blank, **row} for row in rows], CAPTIONS)


def review_rows(*rows: dict) -> pa.Table:
    blank = {"model_id": "m", "decoding": "d"}
    return pa.Table.from_pylist([{**blank, **row} for row in rows], REVIEWS)


def write_output(captions: pa.Table, reviews: pa.Table | None = None, version: int = 1) -> None:
    dead = caption_rows({"image_id": "z", "uri": uri_of(0), "caption": "replaced since"})
    live = {"captions": [{"path": "captions/part-1.parquet", "rows": 1, "bytes": 1}]}
    write_table("captions/part-1.parquet", captions)
    write_table("captions/part-0.parquet", dead)
    if reviews is not None:
        live["reviews"] = [{"path": "reviews/part-1.parquet", "rows": 1, "bytes": 1}]
        write_table("reviews/part-1.parquet", reviews)
    write("current.json", json.dumps({"schema_version": version, "files": live}))


class TestOutput:
    def test_live_captions(self):
        write_output(
            caption_rows(
                {"image_id": "a", "uri": uri_of(1), "caption": "a dog"},
                {"image_id": "b", "uri": uri_of(2), "caption": "a cat"},
                {"image_id": "a", "uri": uri_of(1), "caption": "two dogs", "model_id": "n"},
            )
        )
        assert read_examples(DATA) == [
            Example(uri_of(1), ("a dog", "two dogs")),
            Example(uri_of(2), ("a cat",)),
        ]

    def test_reviews_win(self):
        numbers = range(1, 7)
        write_output(
            caption_rows(
                *(
                    {"image_id": f"i{n}", "uri": uri_of(n), "caption": f"machine {n}"}
                    for n in numbers
                ),
                {"image_id": "i2", "uri": uri_of(7), "caption": "machine 2"},
                {"image_id": "i2", "uri": uri_of(2), "caption": "other", "model_id": "n"},
            ),
            review_rows(
                {"image_id": "i1", "verdict": "accepted", "shown_caption": "machine 1"},
                {"image_id": "i2", "verdict": "edited", "caption": "by hand"},
                {"image_id": "i3", "verdict": "rejected"},
                {"image_id": "i4", "verdict": "skipped"},
                {"image_id": "i6", "verdict": "edited", "caption": "newer", "reviewed_at": at(2)},
                {"image_id": "i6", "verdict": "rejected", "reviewed_at": at(1)},
                {"image_id": "gone", "verdict": "accepted", "caption": "of no image"},
            ),
        )
        assert by_name(read_examples(DATA)) == {
            "1.jpg": ("machine 1",),
            "2.jpg": ("by hand",),
            "4.jpg": ("machine 4",),
            "5.jpg": ("machine 5",),
            "6.jpg": ("newer",),
            "7.jpg": ("by hand",),
        }

    def test_a_newer_version_is_refused(self):
        write_output(caption_rows({"image_id": "a", "uri": uri_of(1), "caption": "a"}), version=99)
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


def at(day: int) -> datetime:
    return datetime(2026, 1, day, tzinfo=UTC)


class TestParquet:
    def test_a_file_with_uris(self):
        rows = {"uri": [uri_of(1), uri_of(2)], "caption": ["a dog", None]}
        uri = write_table("x.parquet", pa.table(rows))
        assert read_examples(uri) == [Example(uri_of(1), ("a dog",))]

    def test_a_folder_with_file_names_and_lists(self):
        write_table("1.parquet", pa.table({"file_name": ["1.jpg"], "captions": [["a", "b"]]}))
        write_table("2.parquet", pa.table({"file_name": ["1.jpg"], "text": ["c"]}))
        assert read_examples(DATA) == [Example("memory:///data/1.jpg", ("a", "b", "c"))]

    @pytest.mark.parametrize(
        ("columns", "said"),
        [
            ({"image": [b""], "caption": ["a"]}, "has the columns image, caption; needed are uri"),
            ({"uri": ["1.jpg"], "caption": ["a"]}, "which is not absolute"),
            ({"uri": ["s3://u:p@b/1.jpg"], "caption": ["a"]}, "a user name or password"),
            ({"uri": [7], "caption": ["a"]}, "its uri 7 is not text"),
            ({"uri": [uri_of(1)], "caption": [7]}, "the caption '7' is not text"),
            ({"file_name": ["../1.jpg"], "caption": ["a"]}, "names the image '../1.jpg'"),
        ],
    )
    def test_what_is_wrong_is_said(self, columns, said):
        uri = write_table("x.parquet", pa.table(columns))
        with pytest.raises(DataError, match=said) as raised:
            read_examples(uri)
        assert "u:p" not in str(raised.value)

    def test_a_file_that_is_none(self):
        uri = write("x.parquet", b"PAR1 and no more")
        with pytest.raises(DataError, match="cannot be read as Parquet"):
            read_examples(uri)
