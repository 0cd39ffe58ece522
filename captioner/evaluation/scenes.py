"""How many captions of unseen scenes are true, and how much they say."""

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from captioner.contract import Captioner
from captioner.scenes import captions, judge, render, samples
from captioner.scenes.grammar import Judgement


@dataclass(frozen=True)
class SceneScores:
    """What a captioner scored.

    Attributes:
        scenes: how many.
        true_captions: share of the captions that are true in every fact they state.
        stated_facts: facts stated a caption, as a share of what the grammar's captions state.
        images_per_second: preparing and captioning, in batches, without rendering.
        problems: what was wrong, the most frequent first.
    """

    scenes: int
    true_captions: float
    stated_facts: float
    images_per_second: float
    problems: tuple[tuple[str, int], ...]


def score_on_scenes(
    captioner: Captioner, first_seed: int, count: int, batch_size: int = 64
) -> SceneScores:
    """Caption the scenes of ``count`` seeds and hold each caption against its scene.

    Raises:
        ValueError: if there is nothing to score.
    """
    if count < 1:
        raise ValueError(f"count is {count}; give at least 1")
    judged: list[Judgement] = []
    could_state: list[int] = []
    seconds = 0.0
    for start in range(first_seed, first_seed + count, batch_size):
        size = min(batch_size, first_seed + count - start)
        scenes = list(samples(start, size))
        images = [render(scene) for scene in scenes]
        began = time.perf_counter()
        said = captioner.caption([captioner.prepare(image) for image in images])
        seconds += time.perf_counter() - began
        judged += [judge(item.text, scene) for item, scene in zip(said, scenes, strict=True)]
        could_state += [
            judge(text, scene).stated_facts for scene in scenes for text in captions(scene)
        ]
    stated = _mean([judgement.stated_facts for judgement in judged])
    problems = Counter(_kind(text) for judgement in judged for text in judgement.problems)
    return SceneScores(
        scenes=count,
        true_captions=_mean([judgement.true for judgement in judged]),
        stated_facts=stated / _mean(could_state),
        images_per_second=count / seconds,
        problems=tuple(problems.most_common()),
    )


def _kind(problem: str) -> str:
    """``no large solid red circle`` becomes ``no such object``."""
    return "no such object" if problem.startswith("no ") else problem


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
