"""Rows of the tables, against their Parquet schemas."""

import io
from datetime import UTC, datetime

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from captioner.annotations import Annotations, Box, Label, Mask
from captioner.contract import Caption, DecodingConfig
from pipelines.config import AnnotateConfig
from pipelines.listing import ImageRef
from pipelines.records import Captioned, ImageFacts, annotations_of, caption_row
from schemas.tables import CAPTIONS

COLUMNS = ("labels", "boxes", "masks")
EVERYTHING = Annotations(
    labels=(Label("dog", 0.75), Label("lawn", 0.5)),
    boxes=(Box("dog", 1.5, 2.0, 3.0, 4.25, 0.5),),
    masks=(Mask("lawn", (10, 12), "04d3"),),
)
COLUMNS_OF_EVERYTHING = {
    "labels": [{"name": "dog", "probability": 0.75}, {"name": "lawn", "probability": 0.5}],
    "boxes": [
        {"name": "dog", "x": 1.5, "y": 2.0, "width": 3.0, "height": 4.25, "probability": 0.5}
    ],
    "masks": [{"name": "lawn", "size": [10, 12], "counts": "04d3"}],
}


def row_of(found: Annotations | None) -> dict:
    """Write a caption's row to Parquet, and read it back."""
    ref = ImageRef("file:///a.png", "etag:1")
    facts = ImageFacts(ref, "id", 100, 12, 10, "PNG", "0" * 16)
    features = {"heads_disagree": 1.0, "verifier_logit": -2.5} if found else {}
    caption = Caption(
        "a dog",
        ("a", "dog"),
        (-0.5, -0.25),
        features=features,
        verifier="0123456789ab" if found else None,
        annotations=found,
    )
    config = AnnotateConfig(
        output="memory://out",
        run_id="run",
        model="fake",
        model_id="fake@0",
        decoding=DecodingConfig(),
    )
    captioned = Captioned(facts, caption, 0.5, "mean", "mean@0", datetime.now(UTC))
    row = caption_row(captioned, config)
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist([row], schema=CAPTIONS), buffer)
    (written,) = pq.read_table(buffer).to_pylist()
    return written


class TestCaptionRow:
    def test_what_was_found_is_kept(self):
        row = row_of(EVERYTHING)
        assert {name: row[name] for name in COLUMNS} == COLUMNS_OF_EVERYTHING
        assert dict(row["features"])["heads_disagree"] == 1.0
        assert annotations_of(row) == EVERYTHING

    def test_what_the_verifier_said_is_kept_with_its_id(self):
        row = row_of(EVERYTHING)
        assert (row["verifier_id"], row["features"]["verifier_logit"]) == ("0123456789ab", -2.5)
        row = row_of(None)
        assert (row["verifier_id"], row["features"]["verifier_logit"]) == (None, None)

    def test_without_heads_all_is_unknown(self):
        row = row_of(None)
        assert [row[name] for name in COLUMNS] == [None, None, None]
        assert annotations_of(row) == Annotations()

    def test_nothing_found_is_an_empty_list(self):
        assert [row_of(Annotations((), (), ()))[name] for name in COLUMNS] == [[], [], []]

    @pytest.mark.parametrize("head", COLUMNS)
    def test_of_heads_that_a_model_lacks_nothing_is_known(self, head):
        row = row_of(Annotations(**{head: getattr(EVERYTHING, head)}))
        wanted = dict.fromkeys(COLUMNS) | {head: COLUMNS_OF_EVERYTHING[head]}
        assert {name: row[name] for name in COLUMNS} == wanted
