"""How many captions of unseen scenes are true, and how much they say."""

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from statistics import fmean
from typing import Literal

import numpy as np
import numpy.typing as npt

from captioner.contract import Captioner
from captioner.scenes import (
    Scene,
    captions,
    judge,
    render,
    samples,
    samples_with,
    samples_without,
)
from captioner.scenes.grammar import Judgement

_RESAMPLES = 1000
_Figures = npt.NDArray[np.float64]

Combinations = Literal["all", "seen", "unseen"]
"""Of colour and shape: scenes as they come, without those held out of training, or naming such."""

SAMPLERS: Mapping[str, Callable[[int, int], Iterator[Scene]]] = {
    "all": samples,
    "seen": samples_without,
    "unseen": samples_with,
}
"""What draws such scenes, from a first seed and how many."""


@dataclass(frozen=True)
class SceneScores:
    """What a captioner scored.

    Attributes:
        scenes: how many.
        true_captions: share of the captions that are true in every fact they state.
        true_interval: the 95% interval of that, had other scenes been drawn.
        stated_facts: facts stated a caption, as a share of what the grammar's captions state.
        stated_interval: the 95% interval of that.
        images_per_second: preparing and captioning, in batches, without rendering.
        problems: what was wrong, the most frequent first.
    """

    scenes: int
    true_captions: float
    true_interval: tuple[float, float]
    stated_facts: float
    stated_interval: tuple[float, float]
    images_per_second: float
    problems: tuple[tuple[str, int], ...]


def score_on_scenes(
    captioner: Captioner,
    first_seed: int,
    count: int,
    batch_size: int = 64,
    *,
    combinations: Combinations = "all",
    language: str | None = None,
) -> SceneScores:
    """Caption scenes and hold each caption against its scene.

    Args:
        captioner: with the decoding that is scored, language included.
        first_seed: of the first scene; ``seen`` and ``unseen`` skip seeds of other scenes.
        count: how many scenes.
        batch_size: images through the model at once.
        combinations: which colours of which shapes the scenes may show.
        language: that captions must be in to be true; any by default.

    Raises:
        ValueError: if there is nothing to score.
    """
    if count < 1:
        raise ValueError(f"count is {count}; give at least 1")
    judged: list[Judgement] = []
    could_state: list[float] = []
    seconds = 0.0
    every = SAMPLERS[combinations](first_seed, count)
    while scenes := list(islice(every, batch_size)):
        images = [render(scene) for scene in scenes]
        began = time.perf_counter()
        said = captioner.caption([captioner.prepare(image) for image in images])
        seconds += time.perf_counter() - began
        judged += [
            judge(item.text, scene, language) for item, scene in zip(said, scenes, strict=True)
        ]
        could_state += [
            fmean(judge(text, scene).stated_facts for text in captions(scene)) for scene in scenes
        ]
    true = np.array([judgement.true for judgement in judged], np.float64)
    stated = np.array([judgement.stated_facts for judgement in judged], np.float64)
    intervals = _intervals(true, stated, np.array(could_state))
    problems = Counter(_kind(text) for judgement in judged for text in judgement.problems)
    return SceneScores(
        scenes=count,
        true_captions=float(true.mean()),
        true_interval=intervals[0],
        stated_facts=float(stated.sum() / sum(could_state)),
        stated_interval=intervals[1],
        images_per_second=count / seconds,
        problems=tuple(problems.most_common()),
    )


def _kind(problem: str) -> str:
    """``no large solid red circle`` becomes ``no such object``."""
    return "no such object" if problem.startswith("no ") else problem


def _intervals(
    true: _Figures, stated: _Figures, could_state: _Figures
) -> tuple[tuple[float, float], tuple[float, float]]:
    """Return the 95% intervals of both shares: percentiles of a bootstrap over scenes."""
    rng = np.random.default_rng(0)
    drawn = []
    for _ in range(_RESAMPLES):
        rows = rng.integers(len(true), size=len(true))
        drawn.append((true[rows].mean(), stated[rows].sum() / could_state[rows].sum()))
    (low, stated_low), (high, stated_high) = np.percentile(drawn, (2.5, 97.5), axis=0).tolist()
    return (low, high), (stated_low, stated_high)
