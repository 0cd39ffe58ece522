"""Outputs that were written before a column came: they go on as if it had been there, and null."""

from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from captioner.confidence.head import save_heads
from pipelines.cli import main
from pipelines.options import EXIT_DONE, EXIT_FAILED
from pipelines.output import Output
from pipelines.parts import encode, publish
from schemas.tables import CAPTIONS, REVIEWS
from tests.fakes import FakeCaptioner
from tests.pipelines.helpers import annotate, rows, write_images
from tests.pipelines.test_refill import LOGIT, head_with

VERIFIER = "0" * 12


def older(table: pa.Table) -> pa.Table:
    """Return captions as they were before verifiers were."""
    place = table.schema.get_field_index("features")
    features = [
        row and {k: v for k, v in row.items() if k != LOGIT}
        for row in table["features"].to_pylist()
    ]
    field = CAPTIONS.field("features")
    kind = pa.struct([part for part in field.type if part.name != LOGIT])
    column = pa.array(features, kind)
    return table.set_column(place, field.with_type(kind), column).drop_columns(["verifier_id"])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_images(tmp_path / "in", 6)
    return tmp_path / "in"


@pytest.fixture
def output(tmp_path: Path, folder: Path) -> Output:
    """An output of six captions, in two files, as an older version of the program wrote it."""
    output = Output((tmp_path / "out").as_uri())
    annotate(folder, output, part_rows=3)
    current = output.current()
    for file, table in output.tables("captions"):
        table = older(table)
        new = publish(output, "captions", encode(table), table.num_rows)
        current = current.replacing("captions", [file.path], [new])
    output.replace_current(current)
    for file in output.current().of("captions"):
        stored = pq.read_table(Path(output.path(file.path)[7:]))
        assert "verifier_id" not in stored.schema.names
        assert LOGIT not in [field.name for field in stored.schema.field("features").type]
    return output


def test_all_columns_and_some_are_read_as_null(output):
    for _, table in output.tables("captions"):
        assert table.schema.equals(CAPTIONS, check_metadata=True)
    for name in ("verifier_id", f"features.{LOGIT}"):
        for _, table in output.tables("captions", ["uri", name]):
            assert table.num_rows == 3
            assert table.column(1).null_count == 3
    assert [row["features"]["num_tokens"] for row in rows(output)] == [4.0] * 6
    verified = pc.field("verifier_id") == VERIFIER
    assert [part.num_rows for _, part in output.tables("captions", ["uri"], verified)] == [0, 0]


def test_a_field_of_a_struct_alone_is_read_as_null(output):
    (file, table), *_ = output.tables("captions")
    column = pa.array([None] * table.num_rows, pa.string())
    table = older(table).append_column(CAPTIONS.field("verifier_id"), column)
    new = publish(output, "captions", encode(table), table.num_rows)
    read = output.read_part(new.path, [f"features.{LOGIT}", "features.num_tokens"])
    assert read.to_pydict() == {LOGIT: [None] * 3, "num_tokens": [4.0] * 3}


def test_a_newer_file_keeps_a_column_that_is_not_known(output):
    ours = {"image_id": "a", "model_id": "fake@1", "decoding": "d", "verdict": "accepted"}
    table = pa.Table.from_pylist([dict.fromkeys(REVIEWS.names) | ours], schema=REVIEWS)
    table = table.append_column("mood", pa.array(["good"]))
    new = publish(output, "reviews", encode(table), 1)
    output.replace_current(output.current().replacing("reviews", [], [new]))
    assert [row["mood"] for row in rows(output, "reviews")] == ["good"]


def test_it_is_resumed_refilled_and_compacted(output, folder):
    before = [row["caption"] for row in rows(output)]
    write_images(folder, 2, first=6)
    fake = FakeCaptioner(fills=(LOGIT,), verifier=VERIFIER)
    counts = annotate(folder, output, fake, head=head_with(VERIFIER))["counts"]
    assert (counts["captioned"], counts["skipped"]) == (2, 6)
    assert main(["compact", output.uri]) == EXIT_DONE
    assert len(output.current().of("captions")) == 1
    assert [row["verifier_id"] for row in rows(output)] == [None] * 6 + [VERIFIER] * 2
    counts = annotate(folder, output, fake, head=head_with(VERIFIER), refill=(LOGIT,))["counts"]
    assert (counts["captioned"], counts["skipped"]) == (6, 2)
    assert [row["verifier_id"] for row in rows(output)] == [VERIFIER] * 8
    assert [row["caption"] for row in rows(output)][:6] == before


def test_rows_of_one_file_are_replaced(output, folder):
    """The rows of the file that stay are written anew, with the new column."""
    fake = FakeCaptioner(fills=(LOGIT,), verifier=VERIFIER)
    settings = {"head": head_with(VERIFIER), "refill": (LOGIT,)}
    annotate(folder, output, fake, change=lambda refs: refs[:1], **settings)
    assert [row["verifier_id"] for row in rows(output)] == [VERIFIER] + [None] * 5


def test_it_is_planned_and_rescored(output, tmp_path, capsys):
    assert main(["review", "plan", output.uri, "--audit", "50%"]) == EXIT_DONE
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text("{}")
    needs = head_with(VERIFIER)
    of_one = {"features": ("logprob_mean",), "means": (0.0,), "scales": (1.0,), "weights": (1.0,)}
    plain = replace(needs, verifier=None, **of_one)
    save_heads(str(model), [plain])
    assert main(["rescore", output.uri, "--model", str(model)]) == EXIT_DONE
    assert {row["confidence_id"] for row in rows(output)} == {plain.id}
    (model / "verifier-000000000000.safetensors").write_bytes(b"not read")
    save_heads(str(model), [needs])
    capsys.readouterr()
    assert main(["rescore", output.uri, "--model", str(model)]) == EXIT_FAILED
    assert f"6 captions have no {LOGIT} of verifier {VERIFIER}" in capsys.readouterr().err
