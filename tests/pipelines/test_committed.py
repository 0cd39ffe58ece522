"""What an output's live tables say of reviews: which of them is the newest."""

import itertools
from pathlib import Path

import pyarrow.compute as pc
import pytest

from pipelines.committed import newest_verdicts
from pipelines.merge import merge
from pipelines.output import Output
from tests.pipelines.helpers import rows
from tests.pipelines.planned import DECODING, MODEL, add, captions, reviews

IMAGE = f"{0:064x}"


def verdict(output: Output) -> bool | None:
    """Return the newest verdict of the image, as plans and estimates take it."""
    return newest_verdicts(output, pc.field("model_id") == MODEL)[IMAGE]


@pytest.mark.parametrize("order", itertools.permutations(range(3)))
def test_of_one_moment_one_counts_in_whatever_order_files_hold_them(
    tmp_path: Path, order: tuple[int, ...]
) -> None:
    """And it is the one that the final table goes by."""
    said = reviews([IMAGE] * 3, ["rejected", "accepted", "skipped"])
    said[0] |= {"reviewer": "ann", "shown_caption": "caption 0"}
    said[1] |= {"reviewer": "bob", "shown_caption": "caption 0"}
    output = Output(tmp_path.as_uri())
    add(output, "captions", captions([0.5]))
    for number in order:
        add(output, "reviews", said[number : number + 1])
    assert verdict(output) is True
    merge(output, MODEL, DECODING)
    (row,) = rows(output, "merged")
    assert (row["source"], row["reviewer"]) == ("reviewer", "bob")


def test_a_review_without_a_time_is_older_than_any(tmp_path: Path) -> None:
    said = reviews([IMAGE] * 2, ["accepted", "rejected"])
    said[1] |= {"reviewed_at": None, "task_id": 9}
    output = Output(tmp_path.as_uri())
    add(output, "reviews", said)
    assert verdict(output) is True


@pytest.mark.parametrize(("tasks", "right"), [((3, 2), True), ((2, 3), False)])
def test_of_one_moment_the_higher_task_is_newer(
    tmp_path: Path, tasks: tuple[int, int], right: bool
) -> None:
    said = reviews([IMAGE] * 2, ["accepted", "rejected"])
    for row, task in zip(said, tasks, strict=True):
        row["task_id"] = task
    output = Output(tmp_path.as_uri())
    add(output, "reviews", said)
    assert verdict(output) is right
