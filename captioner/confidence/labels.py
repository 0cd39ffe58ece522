"""Captions of which it is known whether they are right."""

from dataclasses import dataclass, field
from itertools import islice

from captioner.contract import Captioner
from captioner.scenes import judge, render, samples
from captioner.scenes.degrade import degrade, draw_degradation


@dataclass(frozen=True)
class Labels:
    """What a confidence head is fitted on; all of one length.

    Attributes:
        rows: features of each caption, named as in ``schemas.tables.FEATURES``.
        correct: whether each is right.
        groups: the image of each.
    """

    rows: list[dict[str, float | None]] = field(default_factory=list)
    correct: list[bool] = field(default_factory=list)
    groups: list[str] = field(default_factory=list)

    def add(self, row: dict[str, float | None], correct: bool, group: str) -> None:
        """Add a caption."""
        self.rows.append(row)
        self.correct.append(correct)
        self.groups.append(group)


def label_scenes(captioner: Captioner, first_seed: int, count: int, batch_size: int = 32) -> Labels:
    """Caption drawn scenes, some of them degraded, and hold each caption against its scene.

    A caption is right if all that it states is true and it is in the language that was asked for.
    A quarter of the scenes is left as it is, the others are made noisy, blurred or partly hidden
    (see ``captioner.scenes.degrade``), so that there are wrong captions to learn from.

    Args:
        captioner: with the decoding that is to be calibrated.
        first_seed: of the first scene.
        count: how many scenes.
        batch_size: images through the model at once.
    """
    labels = Labels()
    language = captioner.decoding.language or None
    every = samples(first_seed, count)
    while scenes := list(islice(every, batch_size)):
        images = [
            degrade(render(scene), draw_degradation(scene.seed), scene.seed) for scene in scenes
        ]
        said = captioner.caption([captioner.prepare(image) for image in images])
        for caption, scene in zip(said, scenes, strict=True):
            true = judge(caption.text, scene, language).true
            labels.add(dict(caption.features), true, str(scene.seed))
    return labels
