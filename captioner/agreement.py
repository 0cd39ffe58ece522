"""How much the heads doubt what a caption names."""

import re
from collections.abc import Mapping
from functools import lru_cache

from captioner.heads.config import HeadsConfig


def heads_disagree(caption: str, likely: Mapping[str, float], config: HeadsConfig) -> float:
    """Return how unlikely the heads find what they doubt most of all that the caption names.

    That is 1 less the least of the probabilities of the classes that it names: 0 where the heads
    are sure of all, or it names none; 1 where they are sure that one is not there. It knows no
    threshold, so that the last digits of a probability change only its own.

    A class is named by its own name, whole words, in whatever case, also with an ``s`` or ``es``
    at its end; of names of several words that hold each other, the longest counts. What is no class
    of any head, or is said in other words or another language, is not held against the caption.

    Args:
        caption: the text.
        likely: probabilities of classes by their names, as ``Heads.likely`` tells; 0 of one that it
            does not hold.
        config: of the heads.
    """
    surest: dict[str, float] = {}
    for name, probability in likely.items():
        surest[_folded(name)] = max(probability, surest.get(_folded(name), 0.0))
    named = {_folded(match[1]) for match in _names(config).finditer(caption)}
    return 1.0 - min((surest.get(name, 0.0) for name in named), default=1.0)


def _classes(config: HeadsConfig) -> tuple[str, ...]:
    parts = (config.labels, config.boxes, config.masks)
    return tuple(sorted({name for part in parts if part is not None for name in part.classes}))


@lru_cache(maxsize=16)
def _names(config: HeadsConfig) -> re.Pattern[str]:
    """Match any of the names; the longest first, as the first that fits is taken."""
    longest_first = sorted(_classes(config), key=len, reverse=True)
    names = "|".join(r"\s+".join(map(re.escape, name.split())) for name in longest_first)
    return re.compile(rf"(?<!\w)({names})(?:e?s)?(?!\w)", re.IGNORECASE)


@lru_cache(maxsize=4096)
def _folded(name: str) -> str:
    return " ".join(name.casefold().split())
