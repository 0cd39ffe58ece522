"""Captions of which it is known whether they are right."""

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field

from torch import Tensor

from captioner.contract import Captioner
from captioner.model import AttentionCaptioner
from captioner.scenes import judge, render, sample
from captioner.scenes.degrade import degrade, draw_degradation


@dataclass(frozen=True)
class Labels:
    """What a confidence head is fitted on; all of one length.

    Attributes:
        rows: features of each caption, named as in ``schemas.tables.FEATURES``.
        correct: whether each is right.
        groups: the image of each.
        evidence: what was known of the words of each, for a verifier to learn from, [tokens x d];
            empty where it was not asked for.
    """

    rows: list[dict[str, float | None]] = field(default_factory=list)
    correct: list[bool] = field(default_factory=list)
    groups: list[str] = field(default_factory=list)
    evidence: list[Tensor] = field(default_factory=list)

    def add(self, row: dict[str, float | None], correct: bool, group: str) -> None:
        """Add a caption."""
        self.rows.append(row)
        self.correct.append(correct)
        self.groups.append(group)


def label_scenes(
    captioner: Captioner,
    first_seed: int,
    count: int,
    batch_size: int = 32,
    *,
    with_evidence: bool = False,
    leave_out: Callable[[str], bool] = lambda image: False,
) -> Labels:
    """Caption drawn scenes, some of them degraded, and hold each caption against its scene.

    A caption is right if all that it states is true and it is in the language that was asked for.
    A quarter of the scenes is left as it is, the others are made noisy, blurred or partly hidden
    (see ``captioner.scenes.degrade``), so that there are wrong captions to learn from.

    Args:
        captioner: with the decoding that is to be calibrated.
        first_seed: of the first scene.
        count: how many scenes.
        batch_size: images through the model at once.
        with_evidence: keep what was known of each word. The captioner has to be an
            ``AttentionCaptioner`` then.
        leave_out: says of a scene, by the name that it has in ``groups``, whether to take the next
            one in its place.
    """
    labels = Labels()
    language = captioner.decoding.language or None
    seeds = (seed for seed in itertools.count(first_seed) if not leave_out(str(seed)))
    every = map(sample, itertools.islice(seeds, count))
    while scenes := list(itertools.islice(every, batch_size)):
        images = [
            degrade(render(scene), draw_degradation(scene.seed), scene.seed) for scene in scenes
        ]
        batch = [captioner.prepare(image) for image in images]
        if with_evidence:
            assert isinstance(captioner, AttentionCaptioner)
            said, evidence = captioner.caption_with_evidence(batch)
            labels.evidence.extend(evidence)
        else:
            said = captioner.caption(batch)
        for caption, scene in zip(said, scenes, strict=True):
            true = judge(caption.text, scene, language).true
            labels.add(dict(caption.features), true, str(scene.seed))
    return labels
