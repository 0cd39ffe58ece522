"""The heads that a training asks for, as they suit data and encoder."""

from collections.abc import Collection

from captioner.annotations import ClassNames
from captioner.encoders import Encoder
from captioner.evaluation.annotations import BACKGROUND
from captioner.heads import ClassifierConfig, DetectorConfig, HeadsConfig, SegmenterConfig
from captioner.training.sources import DataError


def heads_config(
    tasks: Collection[str],
    classes: ClassNames,
    encoder: Encoder,
    *,
    gate: bool = True,
    mask_width: int | None = None,
) -> HeadsConfig | None:
    """Return the heads for some tasks, as they suit an encoder; None without tasks.

    Args:
        tasks: some of ``HEADS``.
        classes: of each.
        encoder: what they are put on.
        gate: whether features pass through learned maps of attention.
        mask_width: channels of the finest map of masks; the configuration's own if None.

    Raises:
        DataError: if there are no classes for a task.
    """
    if not tasks:
        return None
    for task in tasks:
        if not getattr(classes, task):
            raise DataError(
                f"the data has no {task} in any of its images; leave {task} out of the tasks, or "
                "name data that has some"
            )
    if BACKGROUND in classes.masks and "masks" in tasks:
        raise DataError(
            f"a class of masks is called {BACKGROUND!r}, as pixels of no class are; rename it, or "
            "leave it out"
        )
    # Small objects are told apart on a map that is finer than the grid.
    finer = min(1, len(encoder.finer))
    width = {} if mask_width is None else {"width": mask_width}
    return HeadsConfig(
        labels=ClassifierConfig(classes=classes.labels, attention="gate" if gate else "none")
        if "labels" in tasks
        else None,
        boxes=DetectorConfig(classes=classes.boxes, gate=gate, finer=finer)
        if "boxes" in tasks
        else None,
        masks=SegmenterConfig(classes=classes.masks, gate=gate, **width)
        if "masks" in tasks
        else None,
    )
