"""Sending captions to review: each image is one task, each model's caption one prediction.

Label Studio has no create-if-absent. So a push looks at what is there, as far as it does not
remember it from the last time, creates what is missing, and looks again: an answer that was lost,
a push that was killed or another pusher may have left something twice, and what nobody has touched
of that is removed. Where something has gone meanwhile, it goes through the captions once more.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from captioner.annotations import NO_CLASSES, ClassNames
from captioner.images import Limits
from pipelines.labelstudio.attention import AttentionPictures, Load
from pipelines.labelstudio.client import (
    Client,
    LabelStudioError,
    LabelStudioSettings,
    Token,
    read_token,
)
from pipelines.labelstudio.images import BY_DEFAULT
from pipelines.labelstudio.items import ReviewItem
from pipelines.labelstudio.ledger import LedgerFile
from pipelines.labelstudio.project import deletion_told, open_project
from pipelines.labelstudio.pushing import Pusher
from pipelines.output import Output

__all__ = [
    "LabelStudioError",
    "LabelStudioSettings",
    "PushReport",
    "ReviewItem",
    "Token",
    "push",
    "read_token",
]

ROUNDS = 5


@dataclass(frozen=True)
class PushReport:
    """What a push did.

    Attributes:
        items: how many items were given.
        tasks_created: images that had no task.
        tasks_found: images that had one already.
        predictions_created: captions that were not there.
        predictions_found: captions that were.
        failed: images that are not in the queue, since they cannot be shown or Label Studio does
            not take them: uri, and why.
        notes: what else the user should know, a sentence each.
    """

    items: int = 0
    tasks_created: int = 0
    tasks_found: int = 0
    predictions_created: int = 0
    predictions_found: int = 0
    failed: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()


def push(
    items: Iterable[ReviewItem],
    settings: LabelStudioSettings,
    on_progress: Callable[[int], None] | None = None,
    *,
    classes: ClassNames = NO_CLASSES,
    output: Output | None = None,
    load: Load | None = None,
    limits: Limits = BY_DEFAULT,
) -> PushReport:
    """Bring captions into the review queue; what is there already is left as it is.

    Memory is bounded by a batch, and about 0.4 kB for each task of the project.

    Args:
        items: the captions, in the order in which they are wanted there. They are gone through
            again where tasks have gone meanwhile: a list or the like, no iterator.
        settings: where the queue is.
        on_progress: called now and then with the number of items dealt with so far.
        classes: of labels, boxes and masks that are to be reviewed, too.
        output: where it is remembered what is there; the caller holds its lease. Without one all
            tasks of the project are looked at.
        load: returns the model that made the captions; called where the project shows where it
            looked, and there are tasks to make.
        limits: what an image may cost that is read for its preview, or for where the model looked.

    Returns:
        What was created and what was found.

    Raises:
        LabelStudioError: if it did not finish. Pushing again adds only what is missing.
        ModelLoadError: if the model is needed and cannot be loaded.
        OutputError: if another run has taken the output's lease over.
    """
    if iter(items) is items:
        raise TypeError("items can be gone through only once; give a list")
    if not any(True for _ in items):
        return PushReport()
    with Client(settings) as client:
        client.check()
        project = open_project(client, settings.project, classes)
        made = str(client.get(f"/api/projects/{project.id}")["created_at"])
        file = None if output is None else LedgerFile(output, client.url, project.id, made)
        meanwhile = "captions were pushed; push again, which makes it anew"
        with deletion_told(client, project.id, settings.project, meanwhile):
            attention = _attention(items, load, limits) if project.attention else None
            pusher = Pusher(client, project, settings, classes, file, limits, attention)
            return _pushed(pusher, items, on_progress)


def _attention(items: Iterable[ReviewItem], load: Load | None, limits: Limits) -> AttentionPictures:
    if load is None:
        raise LabelStudioError(
            "the project shows where the model looked, which only the model can tell; say which "
            "one made the captions, or push to a project without that"
        )
    return AttentionPictures(load, {(item.model_id, item.decoding) for item in items}, limits)


def _pushed(
    pusher: Pusher, items: Iterable[ReviewItem], on_progress: Callable[[int], None] | None
) -> PushReport:
    for _ in range(ROUNDS):
        if pusher.go_through(items, on_progress):
            break
    else:
        raise LabelStudioError(
            f"what was pushed had gone again {ROUNDS} times; is somebody deleting tasks or "
            "predictions of the project, or pushing to it, too? Push again when that has ended"
        )
    pusher.finish()
    return PushReport(
        pusher.items,
        pusher.tasks_created,
        pusher.tasks_found,
        pusher.predictions_created,
        pusher.predictions_found,
        tuple(pusher.failed.values()),
        tuple(pusher.notes),
    )
