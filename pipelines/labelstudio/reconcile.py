"""Holding the ledger against the server, and removing what is there twice.

What is new is above the highest number that is known, or was made after the newest task that is
known: SQLite gives the numbers of deleted tasks anew. What is gone shows in how many tasks there
are in a block of numbers, and how many of them have a prediction of a model version; a block that
differs is halved until it is small, and read.
"""

from dataclasses import dataclass

from pipelines.labelstudio.ledger import BLOCK, Ledger
from pipelines.labelstudio.tasks import Task, Tasks


@dataclass(frozen=True)
class Repeats:
    """What was there twice.

    Attributes:
        tasks: how many tasks were removed.
        predictions: how many predictions were removed.
        several: numbers of the tasks of each image that keeps several, since somebody has worked
            on them.
        twice: numbers of tasks that keep a prediction twice, likewise.
    """

    tasks: int
    predictions: int
    several: tuple[tuple[int, ...], ...]
    twice: tuple[int, ...]


def catch_up(ledger: Ledger, tasks: Tasks) -> None:
    """Read what was made since the ledger was last caught up."""
    if not ledger.newest:
        ledger.add(tasks.read())
        return
    ledger.add(tasks.read(since=ledger.newest))
    ledger.add(tasks.read(after=ledger.highest))


def verify(ledger: Ledger, tasks: Tasks, version: str | None = None) -> None:
    """Find out what of the ledger is not so any more, and read that anew.

    Args:
        ledger: caught up.
        tasks: of the project.
        version: look at the predictions of this model version; at tasks if None.
    """
    after = 0
    for block in ledger.blocks():
        _verify(ledger, tasks, after, block, version)
        after = block[-1]


def _verify(
    ledger: Ledger, tasks: Tasks, after: int, block: list[int], version: str | None
) -> None:
    upto = block[-1]
    known, there = ledger.count(block, version), tasks.count(after, upto, version)
    if known == there or (version is not None and known[0] == there[0]):
        return
    if len(block) <= BLOCK:
        ledger.replace(block, tasks.read(after, upto))
        return
    middle = len(block) // 2
    _verify(ledger, tasks, after, block[:middle], version)
    _verify(ledger, tasks, block[middle - 1], block[middle:], version)


def remove_repeats(ledger: Ledger, tasks: Tasks) -> Repeats:
    """Leave one task of those of an image, and one prediction of those of a model version.

    What somebody has worked on stays as it is, always.

    Args:
        ledger: verified; what is removed is forgotten.
        tasks: of the project.
    """
    several, surplus = ledger.several(), dict[int, str]()
    touched = _touched(tasks, [task for one in several for task in one])
    for of_image in several:
        worked_on = [task for task in of_image if task.id in touched]
        kept = max(worked_on or of_image, key=lambda task: len(task.versions))  # the first such
        surplus |= {t.id: t.image_id for t in of_image if t is not kept and t not in worked_on}
    stay = tasks.remove(surplus)
    for number in surplus.keys() - stay.keys():
        ledger.drop(number)
    left = [tuple(task.id for task in of_image) for of_image in ledger.several()]
    predictions, twice = _remove_predictions(ledger, tasks)
    return Repeats(len(surplus) - len(stay), predictions, tuple(left), tuple(twice))


def _remove_predictions(ledger: Ledger, tasks: Tasks) -> tuple[int, list[int]]:
    """Remove repeated predictions; return how many, and the tasks that have to keep theirs."""
    unsettled, removed, twice = ledger.unsettled(), 0, list[int]()
    touched = _touched(tasks, unsettled)
    for task in unsettled:
        repeated = tasks.repeated_predictions(task)
        if repeated and task.id in touched:
            twice.append(task.id)
            continue
        for number in repeated:
            tasks.remove_prediction(number)
        removed += len(repeated)
        ledger.settle(task)
    return removed, twice


def _touched(tasks: Tasks, asked: list[Task]) -> set[int]:
    found = tasks.worked_on([task.id for task in asked])
    return {number for number, (_, touched) in found.items() if touched}
