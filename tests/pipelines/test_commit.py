"""Publishing staged parts: one row for each image, whatever was staged twice or came late."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pytest

from pipelines import storage
from pipelines.commit import clear, commit, recover
from pipelines.output import Lease, Output, OutputError
from pipelines.parts import StagedPart, encode
from schemas.tables import CAPTIONS, FAILURES
from schemas.tally import Tally
from tests.pipelines.helpers import rows

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


@pytest.fixture
def output(tmp_path: Path) -> Output:
    return Output((tmp_path / "out").as_uri())


def stage(
    output: Output,
    table: str,
    *images: tuple[str, str, int],
    run_id: str = "run",
    replaced: str = "",
    refills: bool = False,
) -> StagedPart:
    """Stage a part with rows of (uri, version, minutes after noon)."""
    made = []
    for uri, version, minutes in images:
        row = dict.fromkeys(CAPTIONS.names if table == "captions" else FAILURES.names)
        row |= {
            "uri": uri,
            "uri_version": version,
            "model_id": "model",
            "decoding": "greedy",
            "run_id": run_id,
            "created_at": NOON + timedelta(minutes=minutes),
        }
        for name, default in _REQUIRED[table].items():
            row[name] = default
        made.append(row)
    schema = CAPTIONS if table == "captions" else FAILURES
    data = encode(pa.Table.from_pylist(made, schema=schema))
    part = StagedPart.named(run_id, table, len(made), frozenset(replaced.split()), data, refills)
    storage.write_bytes_atomically(output.path("staging", part.name), data)
    return part


_REQUIRED = {
    "captions": {
        "image_id": "i",
        "width": 1,
        "height": 1,
        "format": "PNG",
        "num_bytes": 1,
        "caption": "a caption",
        "confidence": 0.5,
        "confidence_kind": "uncalibrated",
    },
    "failures": {"stage": "read", "kind": "timeout", "message": "m", "attempt": 1},
}


def live(output: Output, table: str = "captions") -> list[tuple[str, str]]:
    return [(row["uri"], row["uri_version"]) for row in rows(output, table)]


def test_publishing_twice_changes_nothing(output: Output):
    part = stage(output, "captions", ("a", "1", 0), ("b", "1", 0))
    first = commit(output, [part])
    assert commit(output, [part]) == first
    clear(output, first)
    assert commit(output, [part]).captioned == Tally()
    assert live(output) == [("a", "1"), ("b", "1")]


def test_a_row_staged_twice_is_published_and_counted_once(output: Output):
    parts = [
        stage(output, "captions", ("a", "1", 0), ("b", "1", 0)),
        stage(output, "captions", ("b", "1", 5), ("c", "1", 0)),
    ]
    assert commit(output, parts).captioned.count == 3
    assert live(output) == [("a", "1"), ("b", "1"), ("c", "1")]


def test_the_newer_version_replaces_the_older(output: Output):
    clear(output, commit(output, [stage(output, "captions", ("a", "1", 0), ("b", "1", 0))]))
    old_file = output.current().of("captions")[0].path
    done = commit(output, [stage(output, "captions", ("a", "2", 9), replaced="captions")])
    assert storage.exists(output.path(old_file))  # for who reads it at this moment
    clear(output, done)
    assert live(output) == [("a", "2"), ("b", "1")]
    assert not storage.exists(output.path(old_file))


def test_a_failure_goes_when_its_image_is_captioned(output: Output):
    clear(output, commit(output, [stage(output, "failures", ("a", "1", 0), ("b", "1", 0))]))
    clear(output, commit(output, [stage(output, "captions", ("a", "1", 1), replaced="failures")]))
    assert live(output, "failures") == [("b", "1")]


def test_a_new_version_that_fails_keeps_the_caption_of_the_old_one(output: Output):
    clear(output, commit(output, [stage(output, "captions", ("a", "1", 0))]))
    clear(output, commit(output, [stage(output, "failures", ("a", "2", 1), replaced="captions")]))
    assert (live(output), live(output, "failures")) == ([("a", "1")], [("a", "2")])


@pytest.mark.parametrize("late_table", ["captions", "failures"])
def test_a_worker_that_outlived_its_run_changes_nothing(output: Output, late_table: str):
    """Its part comes after a later run has captioned the same image."""
    clear(output, commit(output, [stage(output, "captions", ("a", "2", 5))]))
    stage(output, late_table, ("a", "2", 6), run_id="late")
    stage(output, late_table, ("a", "1", 1), run_id="late")
    assert recover(output).captioned.count == 0
    assert (live(output), live(output, "failures")) == ([("a", "2")], [])
    assert storage.list_files(output.path("staging")) == []


class TestRefills:
    """Rows of the same version that were made to fill columns."""

    @pytest.fixture(autouse=True)
    def done(self, output: Output) -> None:
        clear(output, commit(output, [stage(output, "captions", ("a", "1", 0), ("b", "1", 0))]))

    def created(self, output: Output, table: str = "captions") -> list[tuple[str, int]]:
        return [(row["uri"], row["created_at"].minute) for row in rows(output, table)]

    def test_the_newer_row_stays_and_counts_the_same_when_it_is_tried_again(self, output: Output):
        part = stage(output, "captions", ("a", "1", 5), replaced="captions", refills=True)
        first, again = commit(output, [part]), commit(output, [part])
        assert first.captioned == again.captioned
        assert first.captioned.count == 1
        assert self.created(output) == [("a", 5), ("b", 0)]

    def test_a_crash_before_the_commit_loses_none(self, output: Output):
        stage(output, "captions", ("a", "1", 5), replaced="captions", refills=True)
        recover(output)
        assert self.created(output) == [("a", 5), ("b", 0)]

    def test_an_older_one_comes_too_late(self, output: Output):
        new = stage(output, "captions", ("a", "1", 5), replaced="captions", refills=True)
        clear(output, commit(output, [new]))
        stage(output, "captions", ("a", "1", 3), run_id="late", refills=True)
        assert recover(output).captioned.count == 0
        assert self.created(output) == [("a", 5), ("b", 0)]

    def test_a_failure_stays_beside_the_caption_until_one_is_newer(self, output: Output):
        failed = stage(output, "failures", ("a", "1", 5), replaced="captions", refills=True)
        first, again = commit(output, [failed]), commit(output, [failed])
        assert first.failed == again.failed
        assert first.failed.count == 1
        clear(output, first)
        both = ([("a", 0), ("b", 0)], [("a", 5)])
        assert (self.created(output), self.created(output, "failures")) == both
        other = stage(output, "captions", ("b", "1", 6), replaced="captions failures", refills=True)
        clear(output, commit(output, [other]))
        assert self.created(output, "failures") == [("a", 5)]
        new = stage(output, "captions", ("a", "1", 7), replaced="captions failures", refills=True)
        clear(output, commit(output, [new]))
        assert self.created(output) == [("a", 7), ("b", 6)]
        assert self.created(output, "failures") == []


def test_rows_of_other_models_stay(output: Output):
    clear(output, commit(output, [stage(output, "captions", ("a", "1", 0))]))
    table = pa.Table.from_pylist(
        [{**row, "model_id": "other"} for row in rows(output)], schema=CAPTIONS
    )
    data = encode(table)
    part = StagedPart.named("run", "captions", 1, frozenset({"captions"}), data)
    storage.write_bytes_atomically(output.path("staging", part.name), data)
    clear(output, commit(output, [part]))
    assert sorted(row["model_id"] for row in rows(output)) == ["model", "other"]


@pytest.mark.parametrize("replaced", ["", "captions"])
def test_a_commit_that_died_after_the_switch_counts_the_same_when_it_is_tried_again(
    output: Output, replaced: str
):
    clear(output, commit(output, [stage(output, "captions", ("a", "1", 0), ("z", "1", 0))]))
    parts = [
        stage(output, "captions", ("a", "2", 5), ("b", "1", 5), replaced=replaced),
        stage(output, "failures", ("c", "1", 5)),
    ]
    first = commit(output, parts)
    again = commit(output, parts)
    assert (again.captioned, again.failed) == (first.captioned, first.failed)
    assert (first.captioned.count, first.failed.count) == (2, 1)


def test_a_run_that_lost_its_lease_changes_nothing(output: Output):
    part = stage(output, "captions", ("a", "1", 0))
    with Lease(output, "other"), pytest.raises(OutputError, match="taken over by run other"):
        commit(Output(output.uri, "run"), [part])
    assert live(output) == []


def test_recovery_removes_files_of_ours_that_nobody_names(output: Output):
    clear(output, commit(output, [stage(output, "captions", ("a", "1", 0))]))
    stray = output.path("captions", f"part-{24 * '0'}.parquet")
    torn = output.path("captions", ".0123abcd.tmp")
    state = output.path("labelstudio", ".0123abcd.tmp")
    theirs = output.path("captions", "notes.txt")
    for uri in (stray, torn, state, theirs):
        storage.write_bytes_atomically(uri, b"half published")
    recover(output)
    assert not storage.exists(stray)
    assert not storage.exists(torn)
    assert not storage.exists(state)
    assert storage.exists(theirs)
    assert live(output) == [("a", "1")]
