"""Merging what was pulled: a task's rows are what it holds now, and nothing else changes."""

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from pipelines import reviews, storage
from pipelines.commit import recover
from pipelines.labelstudio.review_rows import ReviewedTask
from pipelines.output import Output
from pipelines.reviews import Changes, ImageSizes, PullState, ReviewUpdate
from tests.pipelines.helpers import rows
from tests.pipelines.planned import add, captions

NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)
MADE = NOON - timedelta(hours=1)
IMAGES = [f"{number:064x}" for number in range(10)]


@pytest.fixture
def output(tmp_path: Path) -> Output:
    return Output((tmp_path / "out").as_uri())


def row(task: int, verdict: str = "accepted", **changes: Any) -> dict[str, Any]:
    values = {
        "image_id": IMAGES[task % 10],
        "model_id": "m@1",
        "decoding": "d",
        "shown_caption": f"caption {task}",
        "verdict": verdict,
        "reviewer": "ann",
        "seconds": 2.345,
        "reviewed_at": NOON + timedelta(seconds=task),
        "boxes": [{"name": "dog", "probability": 1.0, "x": 0.1, "y": 2, "width": 3, "height": 4}],
        "task_id": task,
    }
    return values | changes


def read(task: int, *found: dict[str, Any], made: datetime = MADE, **more: Any) -> ReviewedTask:
    return ReviewedTask(task, made, IMAGES[task % 10], found, **more)


def merge(output: Output, *tasks: ReviewedTask, write: bool = True) -> Changes:
    merging = ReviewUpdate(output, write)
    for task in tasks:
        merging.replace([task])
    return merging.finish()


def there(output: Output) -> list[tuple[int, str, str]]:
    """Return the table's rows, read past what is tested."""
    found = rows(output, "reviews", "task_id", "reviewer", "verdict")
    return sorted((one["task_id"], one["reviewer"], one["verdict"]) for one in found)


def files(output: Output) -> dict[str, bytes]:
    folder = Path(output.uri.removeprefix("file://"))
    paths = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


class TestReviewUpdate:
    def test_new_reviews_are_added(self, output: Output):
        merged = merge(output, read(1, row(1), row(1, "edited", reviewer="bob")), read(2, row(2)))
        assert (dict(merged.added), merged.removed, merged.same) == (
            {"accepted": 2, "edited": 1},
            {},
            0,
        )
        assert there(output) == [
            (1, "ann", "accepted"),
            (1, "bob", "edited"),
            (2, "ann", "accepted"),
        ]

    def test_the_same_again_writes_nothing(self, output: Output):
        tasks = read(1, row(1)), read(2, row(2, boxes=None, seconds=None))
        merge(output, *tasks)
        before = files(output)
        merged = merge(output, *reversed(tasks))
        assert (merged.changed, merged.same) == (False, 2)
        assert files(output) == before

    def test_two_reviews_that_say_the_same_are_two(self, output: Output):
        merge(output, read(1, row(1), row(1)))
        assert merge(output, read(1, row(1), row(1))).same == 2
        assert merge(output, read(1, row(1))).removed == {"accepted": 1}
        assert len(there(output)) == 1

    def test_a_changed_review_stands_for_the_earlier_one(self, output: Output):
        merge(output, read(1, row(1)), read(2, row(2)))
        later = row(1, "rejected", reviewed_at=NOON + timedelta(days=1))
        merged = merge(output, read(1, later))
        assert (merged.added, merged.removed) == ({"rejected": 1}, {"accepted": 1})
        assert there(output) == [(1, "ann", "rejected"), (2, "ann", "accepted")]

    def test_a_withdrawn_review_goes_and_that_of_another_stays(self, output: Output):
        merge(output, read(1, row(1), row(1, reviewer="bob")), read(2, row(2)))
        merge(output, read(1, row(1, reviewer="bob")), read(2))
        assert there(output) == [(1, "bob", "accepted")]

    def test_the_last_one_goes_with_its_file(self, output: Output):
        merge(output, read(1, row(1)))
        merge(output, read(1))
        assert there(output) == []
        assert not [name for name in files(output) if name.startswith("reviews/")]

    def test_what_was_not_read_again_stays(self, output: Output):
        merge(output, read(1, row(1)), read(2, row(2)))
        merge(output, read(3, row(3)))
        assert [task for task, _, _ in there(output)] == [1, 2, 3]

    def test_a_task_of_the_same_number_with_another_image_is_another(self, output: Output):
        merge(output, read(1, row(1)))
        merge(output, ReviewedTask(1, MADE, IMAGES[5]))
        assert there(output) == [(1, "ann", "accepted")]

    def test_a_number_that_is_given_again_takes_no_review_away(self, output: Output):
        """All tasks were deleted and the same image pushed anew: its task has the old number."""
        merge(output, read(1, row(1)))
        merge(output, read(1, made=NOON + timedelta(hours=1)))
        again = row(1, "edited", reviewed_at=NOON + timedelta(hours=2))
        merge(output, read(1, again, made=NOON + timedelta(hours=1)))
        assert there(output) == [(1, "ann", "accepted"), (1, "ann", "edited")]

    def test_one_that_cannot_be_read_any_more_stays_as_it_was(self, output: Output):
        merge(output, read(1, row(1), row(1, reviewer="bob")))
        unread = frozenset({("ann", row(1)["reviewed_at"])})
        merge(output, read(1, unread=unread))
        assert there(output) == [(1, "ann", "accepted")]

    def test_one_that_was_changed_and_cannot_be_read_goes(self, output: Output):
        merge(output, read(1, row(1)))
        merge(output, read(1, unread=frozenset({("ann", NOON + timedelta(days=1))})))
        assert there(output) == []

    def test_one_that_was_moved_to_another_task_is_there_once(self, output: Output):
        """What *Remove Duplicated Tasks* does; the other task is gone then."""
        merge(output, read(1, row(1)), read(11, row(11)))
        merge(output, read(11, row(1, task_id=11), row(11)))
        assert [task for task, _, _ in there(output)] == [11, 11]

    def test_rows_without_a_task_stay(self, output: Output):
        add(output, "reviews", [row(1, task_id=None, reviewed_at=None)])
        merge(output, read(1, row(1)))
        assert len(rows(output, "reviews")) == 2

    def test_a_task_that_is_read_twice_counts_once(self, output: Output):
        merge(output, read(1, row(1)))
        merging = ReviewUpdate(output)
        merging.replace([read(1, row(1), row(1, reviewer="bob"))])
        merging.replace([read(1)])  # Its annotations were deleted between two pages.
        assert merging.finish().added == {"accepted": 1}
        assert len(there(output)) == 2

    def test_looking_only_says_what_would_change(self, output: Output):
        merge(output, read(1, row(1)), read(2, row(2)))
        before = files(output)
        merged = merge(output, read(1, row(1, "edited")), read(3, row(3)), write=False)
        assert (merged.added, merged.removed) == ({"edited": 1, "accepted": 1}, {"accepted": 1})
        assert files(output) == before

    def test_rows_fill_files_of_bounded_size(self, output: Output, monkeypatch):
        monkeypatch.setattr(reviews, "FILE_ROWS", 10)
        merging = ReviewUpdate(output)
        for start in range(0, 100, 5):
            merging.replace([read(task, row(task)) for task in range(start, start + 5)])
            assert sum(table.num_rows for table in merging._waiting) < 10
        merging.finish()
        assert [file.rows for file in output.current().of("reviews")] == [10] * 10
        assert [task for task, _, _ in there(output)] == list(range(100))


class TestDeath:
    """A merge that dies at any write or removal, and is done again."""

    OLD = (read(1, row(1)), read(2, row(2)), read(3, row(3)))
    NEW = (read(1, row(1, "edited")), read(2), read(4, row(4)), read(5, row(5)))

    def run(self, output: Output, tasks: Iterable[ReviewedTask], until: datetime) -> None:
        merge(output, *tasks)
        PullState(output, "http://ls", 7).write(until)

    def test_it_ends_as_if_it_had_not_died(self, tmp_path: Path, monkeypatch):
        unbroken = Output((tmp_path / "unbroken").as_uri())
        self.run(unbroken, self.OLD, NOON)
        self.run(unbroken, self.NEW, NOON + timedelta(days=1))
        deaths = 0
        for count in range(20):
            output = Output((tmp_path / f"died-{count}").as_uri())
            self.run(output, self.OLD, NOON)
            with monkeypatch.context() as dying:
                _die_after(dying, count)
                try:
                    self.run(output, self.NEW, NOON + timedelta(days=1))
                except KeyboardInterrupt:
                    deaths += 1
            recover(output)  # As every writer does first.
            self.run(output, self.NEW, NOON + timedelta(days=1))
            assert there(output) == there(unbroken)
            kept = PullState(output, "http://ls", 7)
            assert kept.pulled_until() == NOON + timedelta(days=1)
            live = {file.path for file in output.current().of("reviews")}
            assert {name for name in files(output) if name.startswith("reviews/")} == live
        assert deaths >= 4  # New files, the switch, the state, what was replaced.


def _die_after(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    """Let the store die at the write or removal that comes after so many."""
    left = [count]

    def dying(do: Any) -> Any:
        def act(*args: Any) -> Any:
            left[0] -= 1
            if left[0] < 0:
                raise KeyboardInterrupt
            return do(*args)

        return act

    for name in ("write_bytes_atomically", "remove"):
        monkeypatch.setattr(storage, name, dying(getattr(storage, name)))


class TestImageSizes:
    def test_of_the_images_that_the_output_has(self, output: Output):
        sides = {"width": range(10, 15), "height": range(5)}
        add(output, "captions", captions([0.5] * 5, **sides))
        add(output, "captions", captions([0.5] * 5, first=5))
        sizes = ImageSizes(output)
        assert [sizes.of(image) for image in IMAGES[:6]] == [
            *zip(range(10, 15), range(5), strict=True),
            (8, 8),
        ]
        assert sizes.of("ff" * 32) is None

    def test_of_an_output_without_captions(self, output: Output):
        assert ImageSizes(output).of(IMAGES[0]) is None


class TestPullState:
    def test_it_is_kept_for_each_address_and_project(self, output: Output):
        state = PullState(output, "http://ls:8080/", 7)
        assert state.pulled_until() is None
        state.write(NOON)
        assert PullState(output, "http://ls:8080", 7).pulled_until() == NOON
        assert PullState(output, "http://ls:8080", 8).pulled_until() is None
        assert PullState(output, "http://ls", 7).pulled_until() is None

    def test_the_same_again_is_not_written(self, output: Output, monkeypatch):
        state = PullState(output, "http://ls", 7)
        state.write(NOON)
        monkeypatch.setattr(storage, "write_bytes_atomically", None)
        state.write(NOON)

    def test_what_others_keep_there_stays(self, output: Output):
        state = PullState(output, "http://ls", 7)
        storage.write_bytes_atomically(state.path, b'{"other": [1]}')
        assert state.pulled_until() is None
        state.write(NOON)
        assert b'"other"' in storage.read_fresh(state.path)
        assert state.pulled_until() == NOON

    @pytest.mark.parametrize(
        "content", [b"", b"[]", b'{"pulled_until": 5}', b'{"pulled_until": "x"}']
    )
    def test_a_damaged_one_lets_all_be_read_again(self, output: Output, content: bytes):
        state = PullState(output, "http://ls", 7)
        storage.write_bytes_atomically(state.path, content)
        assert state.pulled_until() is None
        state.write(NOON)
        assert state.pulled_until() == NOON
