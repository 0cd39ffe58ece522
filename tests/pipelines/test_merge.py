"""The final table: which caption an image gets, and what a merge leaves behind."""

import json
from collections import Counter
from datetime import timedelta
from pathlib import Path

import duckdb
import pandas as pd
import pyarrow as pa
import pyarrow.dataset
import pytest

from pipelines import storage
from pipelines.cli import main
from pipelines.commit import recover
from pipelines.compact import compact
from pipelines.local import opened
from pipelines.merge import Said, decide, merge
from pipelines.output import Output, OutputError, new_run_id
from schemas.kinds import Verdict
from schemas.tables import MERGED
from tests.pipelines.helpers import annotate, rows, write_images
from tests.pipelines.planned import DECODING, MODEL, NOON, add, captions, reviews

OURS, OTHER = (MODEL, DECODING), ("other@1", DECODING)
MINE = "a dog"


@pytest.fixture
def output(tmp_path: Path) -> Output:
    return Output((tmp_path / "out").as_uri())


def said(*reviews) -> list[Said]:
    """Return reviews, the oldest first: (verdict, shown text, new text, model)."""
    return [
        Said(number, model[0] if model else OURS, Verdict(verdict), shown, left)
        for number, (verdict, shown, left, *model) in enumerate(reviews)
    ]


def accepted(text, *model):
    return ("accepted", text, text, *model)


def edited(shown, left, *model):
    return ("edited", shown, left, *model)


def rejected(shown, *model):
    return ("rejected", shown, None, *model)


class TestDecide:
    @pytest.mark.parametrize(
        ("reviews", "source", "caption", "row"),
        [
            ([], "model", MINE, None),
            ([accepted(MINE)], "reviewer", MINE, 0),
            ([edited(MINE, "a cat")], "reviewer", "a cat", 0),
            ([rejected(MINE)], "rejected", None, 0),
            # Of several that speak for a text, the newest.
            ([edited(MINE, "a cat"), edited(MINE, "a cow")], "reviewer", "a cow", 1),
            ([edited(MINE, "a cat"), accepted(MINE)], "reviewer", MINE, 1),
            ([accepted(MINE), edited(MINE, "a cat")], "reviewer", "a cat", 1),
            ([accepted(MINE), accepted(MINE)], "reviewer", MINE, 1),
            # A person's caption beats an older rejection,
            ([rejected(MINE), accepted(MINE)], "reviewer", MINE, 1),
            ([rejected(MINE), edited(MINE, "a cat")], "reviewer", "a cat", 1),
            # and a newer one of another text, but not one of its own.
            ([edited(MINE, "a cat"), rejected(MINE)], "reviewer", "a cat", 0),
            ([accepted(MINE), rejected(MINE)], "rejected", None, 1),
            ([edited(MINE, "a cat"), rejected("a cat", OTHER)], "rejected", None, 0),
            ([accepted("a cow", OTHER), rejected("a cow", OTHER)], "model", MINE, None),
            # What falls gives way to what another person wrote before.
            (
                [accepted("a cow", OTHER), edited(MINE, "a cat"), rejected("a cat", OTHER)],
                *("reviewer", "a cow", 0),
            ),
            # To put a text right is to say that it was wrong.
            (
                [accepted(MINE), edited(MINE, "a cat"), rejected("a cat", OTHER)],
                *("rejected", None, 1),
            ),
            ([edited(MINE, "a cat"), edited("a cat", MINE, OTHER)], "reviewer", MINE, 1),
            # Other models' captions: what is right of them is right of the image,
            ([accepted("a cow", OTHER)], "reviewer", "a cow", 0),
            ([edited("a cow", "a cat", OTHER)], "reviewer", "a cat", 0),
            ([accepted(MINE, OTHER)], "reviewer", MINE, 0),
            # what is wrong of them is their own affair, unless ours says the same.
            ([rejected("a cow", OTHER)], "model", MINE, None),
            ([rejected(MINE, OTHER)], "rejected", None, 0),
            ([rejected(MINE), rejected("a cow", OTHER)], "rejected", None, 0),
            # What was shown need not be known: then it was this caption, of this model,
            ([("accepted", None, None)], "reviewer", MINE, 0),
            ([("rejected", None, None)], "rejected", None, 0),
            ([("edited", None, "a cat"), ("rejected", None, None)], "reviewer", "a cat", 0),
            # and of another nothing is known.
            ([("accepted", None, None, OTHER)], "model", MINE, None),
            ([("rejected", None, None, OTHER)], "model", MINE, None),
            # An edit that changes no word, say to boxes, accepts the words; one that left none
            # only rejects.
            ([edited(MINE, MINE)], "reviewer", MINE, 0),
            ([edited(MINE, "")], "rejected", None, 0),
            ([edited(MINE, None)], "rejected", None, 0),
        ],
    )
    def test_each_case(self, reviews, source, caption, row):
        found = decide(said(*reviews), MINE, OURS)
        assert (found.source, found.caption, found.row) == (source, caption, row)


def review(number, verdict, left=None, minute=0, **others):
    """Return a review of the caption of image ``number``."""
    (row,) = reviews([f"{number:064x}"], [verdict])
    text = f"caption {number}"
    row |= {"shown_caption": text, "caption": text if verdict == "accepted" else left}
    return row | {"reviewed_at": NOON + timedelta(minutes=minute), **others}


def merged(output: Output) -> list[dict]:
    with opened(output, new_run_id()):
        merge(Output(output.uri), MODEL, DECODING)
    return rows(output, "merged")


class TestTable:
    def test_a_row_for_each_uri_with_what_was_said_of_its_bytes(self, output: Output):
        names = [f"{n:064x}" for n in (0, 1, 2, 2, 3)]
        add(output, "captions", captions([0.1, 0.2, 0.3, 0.4, 0.5], image_id=names))
        add(output, "captions", captions([0.9] * 2, first=0, model_id="other@1"))
        said = [
            review(0, "accepted", reviewer="ann", minute=5),
            review(2, "edited", "a cat", reviewer="bob", minute=6, shown_caption="caption 2"),
            review(2, "skipped", reviewer="cy", minute=9),
            review(3, "rejected", shown_caption="caption 4", minute=7),
        ]
        add(output, "reviews", said)
        found = merged(output)
        assert [row["uri"] for row in found] == [f"file:///in/{n:06}.jpg" for n in range(5)]
        assert [(row["source"], row["caption"], row["verdict"]) for row in found] == [
            ("reviewer", "caption 0", "accepted"),
            ("model", "caption 1", None),
            ("reviewer", "a cat", "edited"),
            ("reviewer", "a cat", "edited"),
            ("rejected", None, "rejected"),
        ]
        assert [row["model_caption"] for row in found] == [f"caption {n}" for n in range(5)]
        assert [row["reviewer"] for row in found] == ["ann", None, "bob", "bob", None]
        minutes = [row["reviewed_at"] and row["reviewed_at"].minute for row in found]
        assert minutes == [5, None, 6, 6, 7]
        for row, caption in zip(found, rows(output), strict=False):
            for name in ("uri_version", "width", "confidence_kind", "created_at", "decoding"):
                assert row[name] == caption[name]

    def test_annotations_are_the_reviewers_where_the_review_has_them(self, output: Output):
        def boxes(name):
            sides = dict.fromkeys(("x", "y", "width", "height"), 1.0)
            return [{"name": name, "probability": None, **sides}]

        labels = [{"name": "dog", "probability": 0.5}]
        mask = [{"name": "dog", "size": [2, 2], "counts": "04"}]
        columns = {"labels": [labels] * 4, "boxes": [boxes("model")] * 4, "masks": [mask] * 4}
        add(output, "captions", captions([0.5] * 4, **columns))
        add(
            output,
            "reviews",
            [
                review(0, "accepted", boxes=boxes("ann"), labels=[]),
                review(1, "edited", "a cat", boxes=[]),
                review(2, "accepted", boxes=boxes("older"), minute=1),
                review(2, "accepted", minute=2),
                review(3, "skipped", boxes=boxes("nobody's")),
            ],
        )
        found = merged(output)
        assert [row["boxes"] for row in found] == [boxes("ann"), [], *[boxes("model")] * 2]
        assert [row["labels"] for row in found] == [[], labels, labels, labels]
        assert [row["masks"] for row in found] == [mask] * 4

    def test_reviews_of_one_moment_have_one_order(self, output: Output, tmp_path: Path):
        said = [review(0, "edited", text, reviewer=text[-1]) for text in ("cat a", "cat b")]
        found = []
        for number, order in enumerate((said, said[::-1])):
            other = Output((tmp_path / str(number)).as_uri())
            add(other, "captions", captions([0.5]))
            add(other, "reviews", order)
            found += merged(other)
        assert found[0] == found[1]

    def test_a_task_that_came_later_wins_at_the_same_moment(self, output: Output):
        add(output, "captions", captions([0.5]))
        said = [review(0, "accepted", task_id=30), review(0, "rejected", task_id=7)]
        add(output, "reviews", said)
        assert [row["source"] for row in merged(output)] == ["reviewer"]

    def test_another_verdict_is_refused(self, output: Output):
        add(output, "captions", captions([0.5]))
        add(output, "reviews", [review(0, "fine")])
        with pytest.raises(OutputError, match="verdict 'fine'; use one of accepted, edited"):
            merged(output)
        assert output.current().of("merged") == ()

    def test_it_is_read_without_our_code(self, output: Output, tmp_path: Path):
        add(output, "captions", captions([0.5] * 3))
        add(output, "captions", captions([0.5] * 2, first=3))
        add(output, "reviews", [review(1, "rejected"), review(4, "edited", "a cat")])
        merged(output)
        folder = tmp_path / "out" / "merged"
        table = pyarrow.dataset.dataset(folder, format="parquet").to_table()
        assert table.schema.equals(MERGED)
        assert table.schema.metadata[b"table"] == b"merged"
        frame = pd.read_parquet(folder)
        assert Counter(frame["source"]) == {"model": 3, "rejected": 1, "reviewer": 1}
        query = "select count(*), count(caption), any_value(reviewed_at) from read_parquet(?)"
        counts = duckdb.execute(query, [f"{folder}/*.parquet"]).fetchone()
        assert counts is not None
        assert counts[:2] == (5, 4)


def written(output: Output) -> dict[str, tuple[int, bytes]]:
    """Return all files of an output on a disk: when they were written, and what they hold."""
    root = Path(output.uri.removeprefix("file://"))
    files = [path for path in root.rglob("*") if path.is_file()]
    return {str(path): (path.stat().st_mtime_ns, path.read_bytes()) for path in files}


def on_disk(output: Output) -> set[str]:
    names = [file.uri.rpartition("/")[2] for file in storage.list_files(output.path("merged"))]
    return {f"merged/{name}" for name in names}


def live(output: Output) -> set[str]:
    return {file.path for file in output.current().of("merged")}


class TestFiles:
    @pytest.fixture(autouse=True)
    def captioned(self, output: Output) -> None:
        for first in (0, 4, 8):
            add(output, "captions", captions([0.5] * 4, first=first))
        add(output, "reviews", [review(0, "accepted"), review(5, "rejected")])

    def test_a_second_merge_changes_no_file(self, output: Output):
        first = merged(output)
        before = written(output)
        assert merged(output) == first
        assert written(output) == before

    def test_only_files_with_something_new_are_written_again(self, output: Output):
        merged(output)
        before = live(output)
        assert before == on_disk(output)
        assert len(before) == 3
        add(output, "reviews", [review(9, "edited", "a cat")])
        found = merged(output)
        assert [row["caption"] for row in found if row["source"] != "model"] == [
            *("caption 0", None, "a cat"),
        ]
        assert len(live(output) & before) == 2
        assert live(output) == on_disk(output)

    def test_the_table_of_another_model_replaces_it(self, output: Output):
        merged(output)
        add(output, "captions", captions([0.5] * 2, model_id="other@1"))
        with opened(output, new_run_id()):
            done = merge(output, "other@1", DECODING)
        assert {row["model_id"] for row in rows(output, "merged")} == {"other@1"}
        assert (done.sources, done.files) == ({"reviewer": 1, "model": 1}, 1)
        assert done.elsewhere == 1
        assert live(output) == on_disk(output)

    def test_captions_that_go_leave_no_empty_file(self, output: Output):
        merged(output)
        current = output.current()
        gone = current.of("captions")[0]
        output.replace_current(current.replacing("captions", [gone.path], []))
        assert len(merged(output)) == 8
        assert len(live(output)) == 2
        assert live(output) == on_disk(output)

    @pytest.mark.parametrize("crash_at", range(1, 7))
    def test_a_crash_at_any_write_leaves_the_old_table_or_the_new(
        self, output: Output, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, crash_at: int
    ):
        """The store dies at the n-th write or removal of a merge that replaces two of three."""
        old = merged(output)
        add(output, "reviews", [review(1, "edited", "a cat"), review(9, "rejected")])
        unbroken = Output((tmp_path / "unbroken").as_uri())
        for table in ("captions", "reviews"):
            add(unbroken, table, rows(output, table))
        new = merged(unbroken)
        assert new != old
        calls = iter(range(1, 1_000))

        class Crash(Exception):
            pass

        def dying(function):
            def call(uri, *args):
                if "lease" not in uri and next(calls) >= crash_at:
                    raise Crash
                return function(uri, *args)

            return call

        with monkeypatch.context() as patch:
            for name in ("write_bytes_atomically", "remove"):
                patch.setattr(storage, name, dying(getattr(storage, name)))
            if crash_at <= 5:  # two files, the switch, two removals
                with pytest.raises(Crash):
                    merged(output)
            else:
                merged(output)
        assert rows(output, "merged") == (old if crash_at <= 3 else new)
        assert live(output) <= on_disk(output)
        assert merged(output) == new
        assert live(output) == on_disk(output)

    def test_a_run_that_lost_its_lease_changes_nothing(self, output: Output):
        with opened(output, "other"), pytest.raises(OutputError, match="taken over by run other"):
            merge(Output(output.uri, "late"), MODEL, DECODING)
        assert rows(output, "merged") == []


class TestOtherCommands:
    def test_an_output_written_before_there_was_such_a_table(self, output: Output):
        add(output, "captions", captions([0.5] * 2))
        path = output.path("current.json")
        content = json.loads(storage.read_fresh(path))
        content["files"] |= dict.fromkeys(("failures", "review", "reviews"), [])
        assert "merged" not in content["files"]
        storage.write_bytes_atomically(path, json.dumps(content).encode())
        assert output.current().of("merged") == ()
        assert len(merged(output)) == 2

    def test_recovery_clears_what_a_killed_merge_left_and_nothing_else(self, output: Output):
        add(output, "captions", captions([0.5] * 2))
        before = merged(output)
        stray = output.path("merged", f"part-{24 * '0'}.parquet")
        torn = output.path("merged", ".0123abcd.tmp")
        theirs = output.path("merged", "notes.txt")
        for uri in (stray, torn, theirs):
            storage.write_bytes_atomically(uri, b"half published")
        recover(output)
        assert [storage.exists(uri) for uri in (stray, torn, theirs)] == [False, False, True]
        assert rows(output, "merged") == before

    def test_later_captions_and_compaction_keep_it(self, output: Output, tmp_path: Path):
        folder = tmp_path / "in"
        write_images(folder, 8)
        annotate(folder, output, part_rows=4)
        first = main(["review", "merge", output.uri])
        before = rows(output, "merged")
        write_images(folder, 4, first=8)
        annotate(folder, output)
        assert (first, len(before)) == (0, 8)
        assert rows(output, "merged") == before
        assert compact(output, 10_000_000) == (5, 3)
        assert rows(output, "merged") == before
        assert main(["review", "merge", output.uri]) == 0
        assert len(rows(output, "merged")) == 12
        assert len(live(output)) == 1
        assert live(output) == on_disk(output)


class TestCommand:
    def test_it_says_what_there_is_and_where(self, output: Output, tmp_path: Path, capsys):
        add(output, "captions", captions([0.5] * 1200))
        said = [review(0, "accepted"), review(1, "edited", "a cat"), review(2, "rejected")]
        add(output, "reviews", [*said, review(5000, "accepted"), review(6000, "skipped")])
        assert main(["review", "merge", output.uri]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert lines[0] == f"{MODEL} {DECODING}"
        assert lines[1] == "merged: 1,200 rows"
        assert [line.split()[:2] for line in lines[2:5]] == [
            *(["reviewer", "2"], ["model", "1,197"], ["rejected", "1"]),
        ]
        assert lines[5] == "1 reviewed images have no caption of this model here; not used"
        assert lines[6] == f"in {tmp_path}/out/merged, files: 1, named in current.json"
        assert "pulled later" in lines[7]
        assert "another merge" in lines[7]

    def test_several_models_have_to_be_chosen_from(self, output: Output, capsys):
        add(output, "captions", captions([0.5]))
        add(output, "captions", captions([0.5], model_id="other@1"))
        assert main(["review", "merge", output.uri]) == 2
        assert "choose by --model_id: --model_id fake@1 --decoding" in capsys.readouterr().err
        assert main(["review", "merge", output.uri, "--model_id", "other@1"]) == 0
        assert {row["model_id"] for row in rows(output, "merged")} == {"other@1"}

    def test_no_captions(self, tmp_path: Path, capsys):
        assert main(["review", "merge", str(tmp_path / "nothing")]) == 2
        assert "holds no captions; run captioner annotate first" in capsys.readouterr().err
        assert not (tmp_path / "nothing").exists()

    @pytest.mark.parametrize(
        "command", [["review", "merge"], ["review", "agreement"], ["annotate", "--output"]]
    )
    def test_a_file_is_no_output(self, tmp_path: Path, capsys, command: list[str]):
        (tmp_path / "file").write_text("mine")
        more = ["--input", str(tmp_path)] if command[0] == "annotate" else []
        assert main([*command, str(tmp_path / "file"), *more]) == 2
        assert f"{str(tmp_path / 'file')!r} is a file, not a folder" in capsys.readouterr().err
        assert (tmp_path / "file").read_text() == "mine"

    def test_a_damaged_file_is_named(self, output: Output, capsys):
        add(output, "captions", captions([0.5]))
        add(output, "reviews", [review(0, "accepted")])
        path = output.path(output.current().of("reviews")[0].path)
        storage.write_bytes_atomically(path, b"torn")
        assert main(["review", "merge", output.uri]) == 1
        error = capsys.readouterr().err
        assert f"{path} is damaged" in error
        assert "Put back a copy of it, or choose another output." in error
        assert "--output" not in error


def test_the_tables_columns_that_are_never_null():
    required = {field.name for field in MERGED if not field.nullable}
    assert required >= {"image_id", "uri", "source", "model_caption", "model_id", "decoding"}
    assert pa.types.is_timestamp(MERGED.field("reviewed_at").type)
    assert MERGED.field("caption").nullable
