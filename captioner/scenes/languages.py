"""How languages put what a caption of the grammar says: English and Chinese."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from captioner.scenes.world import (
    COLOURS,
    MAX_OBJECTS,
    MIN_OBJECTS,
    SHAPES,
    SIZES,
    TEXTURES,
    Relation,
)

Attributes = tuple[str, str, str, str]

ATTRIBUTES: tuple[tuple[str, ...], ...] = (tuple(SIZES), TEXTURES, tuple(COLOURS), SHAPES)
"""The names of sizes, textures, colours and shapes: what is said of an object, in this order."""


@dataclass(frozen=True, kw_only=True)
class Language:
    """The words of a language and how they make a caption.

    Templates hold ``{first}``, ``{second}``, ``{relation}`` and ``{count}``.

    Attributes:
        between: what stands between words: a space, or nothing.
        words: of each attribute by its (English) name.
        numbers: words for zero and on.
        phrases: how a relation may be put.
        templates: captions of the two objects that are seen best, one of each.
        other_template: a caption of another pair.
        sentence: a regular expression with the templates' names in it: what is read as a caption.
    """

    between: str
    words: Mapping[str, str]
    numbers: tuple[str, ...]
    phrases: Mapping[Relation, tuple[str, ...]]
    templates: tuple[str, ...]
    other_template: str
    sentence: str

    def name(self, attributes: Attributes) -> str:
        """Name an object, without an article."""
        return self.between.join(self.words[attribute] for attribute in attributes)

    def normal(self, caption: str) -> str:
        """Write a caption as the grammar does: in lower case, with spaces where they belong."""
        return self.between.join(caption.lower().split())

    def read(self, caption: str) -> tuple[Attributes, Relation, Attributes, int | None] | None:
        """Read first object, relation, second object and count; None where it is no caption."""
        found = self._reader.fullmatch(self.normal(caption))
        if found is None:
            return None
        count = found["count"]
        return (
            self._attributes(found, "first"),
            next(key for key, phrases in self.phrases.items() if found["relation"] in phrases),
            self._attributes(found, "second"),
            None if count is None else self.numbers.index(count),
        )

    def _attributes(self, found: re.Match[str], which: str) -> Attributes:
        said = [found[f"{which}{number}"] for number in range(len(ATTRIBUTES))]
        size, texture, colour, shape = (
            next(name for name in names if self.words[name] == word)
            for names, word in zip(ATTRIBUTES, said, strict=True)
        )
        return size, texture, colour, shape

    @cached_property
    def _reader(self) -> re.Pattern[str]:
        phrases = [phrase for phrases in self.phrases.values() for phrase in phrases]
        parts = {
            "relation": _one_of("relation", phrases),
            "count": _one_of("count", self.numbers[MIN_OBJECTS : MAX_OBJECTS + 1]),
        }
        for which in ("first", "second"):
            parts[which] = self.between.join(
                _one_of(f"{which}{number}", [self.words[name] for name in names])
                for number, names in enumerate(ATTRIBUTES)
            )
        return re.compile(self.sentence.format(**parts))


def _one_of(name: str, words: Sequence[str]) -> str:
    longest_first = sorted(words, key=len, reverse=True)
    return f"(?P<{name}>{'|'.join(map(re.escape, longest_first))})"


ENGLISH = Language(
    between=" ",
    words={name: name for names in ATTRIBUTES for name in names},
    numbers=("zero", "one", "two", "three", "four", "five"),
    phrases={
        Relation.LEFT: ("to the left of", "left of"),
        Relation.RIGHT: ("to the right of", "right of"),
        Relation.ABOVE: ("above",),
        Relation.BELOW: ("below",),
        Relation.FRONT: ("in front of",),
        Relation.BEHIND: ("behind",),
    },
    templates=(
        "a {first} {relation} a {second}",
        "a {first} is {relation} a {second}",
        "a picture of a {first} {relation} a {second}",
        "{count} objects with a {first} {relation} a {second}",
    ),
    other_template="there is also a {first} {relation} a {second}",
    sentence=(
        "(?:there is also |a picture of |{count} objects with )?"
        "a {first} (?:is )?{relation} a {second}"
    ),
)

CHINESE = Language(
    between="",
    words={
        "small": "小的",
        "medium": "中等大小的",
        "large": "大的",
        "solid": "纯色",
        "striped": "条纹",
        "dotted": "波点",
        "red": "红色",
        "orange": "橙色",
        "yellow": "黄色",
        "green": "绿色",
        "cyan": "青色",
        "blue": "蓝色",
        "purple": "紫色",
        "pink": "粉色",
        "circle": "圆形",
        "square": "方形",
        "triangle": "三角形",
        "diamond": "菱形",
        "star": "星形",
        "cross": "十字形",
        "ring": "圆环",
        "crescent": "月牙形",
    },
    numbers=("零", "一", "两", "三", "四", "五"),
    phrases={
        Relation.LEFT: ("左边", "左侧"),
        Relation.RIGHT: ("右边", "右侧"),
        Relation.ABOVE: ("上方",),
        Relation.BELOW: ("下方",),
        Relation.FRONT: ("前面",),
        Relation.BEHIND: ("后面",),
    },
    templates=(
        "一个{first}在一个{second}的{relation}",
        "一个{first}位于一个{second}的{relation}",
        "图中有一个{first}在一个{second}的{relation}",
        "{count}个物体中有一个{first}在一个{second}的{relation}",
    ),
    other_template="还有一个{first}在一个{second}的{relation}",
    sentence="(?:还有|图中有|{count}个物体中有)?一个{first}(?:在|位于)一个{second}的{relation}",
)

LANGUAGES: Mapping[str, Language] = {"en": ENGLISH, "zh": CHINESE}
