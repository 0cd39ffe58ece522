"""Whether a caption names what the heads do not see."""

import re
from collections.abc import Iterable
from functools import lru_cache

from captioner.annotations import Annotations, Box, Label, Mask
from captioner.heads.config import HeadsConfig


def heads_disagree(caption: str, found: Annotations, config: HeadsConfig) -> float:
    """Return 1 where a caption names a class that no head sees, else 0.

    A class is named by its own name, whole words, in whatever case, also with an ``s`` or ``es``
    at its end; of names of several words that hold each other, the longest counts. What is no class
    of any head, or is said in other words or another language, is not held against the caption.

    Args:
        caption: the text.
        found: what the heads see in the image.
        config: of the heads; a class of several heads is seen if one of them sees it.
    """
    seen = {_folded(item.name) for item in _all(found)}
    named = {_folded(match[1]) for match in _names(_classes(config)).finditer(caption)}
    return float(not named <= seen)


def _all(found: Annotations) -> Iterable[Label | Box | Mask]:
    return [*(found.labels or ()), *(found.boxes or ()), *(found.masks or ())]


def _classes(config: HeadsConfig) -> tuple[str, ...]:
    parts = (config.labels, config.boxes, config.masks)
    return tuple(sorted({name for part in parts if part is not None for name in part.classes}))


@lru_cache(maxsize=16)
def _names(classes: tuple[str, ...]) -> re.Pattern[str]:
    """Match any of the names; the longest first, as the first that fits is taken."""
    longest_first = sorted(classes, key=len, reverse=True)
    names = "|".join(r"\s+".join(map(re.escape, name.split())) for name in longest_first)
    return re.compile(rf"(?<!\w)({names})(?:e?s)?(?!\w)", re.IGNORECASE)


def _folded(name: str) -> str:
    return " ".join(name.casefold().split())
