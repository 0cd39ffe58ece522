"""What may be said of a scene, and whether what was said is true.

A caption names two objects by size, texture, colour and shape, and how the first lies to the
second: ``a large striped red circle is to the left of a small solid blue square``. Some also
count: ``four objects with a large ...``. All but one speak of the two objects that are seen best;
that one begins with ``there is also`` and speaks of another pair, or where no other lies clearly to
each other, of the same two the other way round.
The grammar says only what holds by a clear margin; the judge asks only whether it holds.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations, permutations
from typing import TypeVar

import numpy as np

from captioner.scenes.world import (
    CLEARLY_BESIDE,
    CLEARLY_COVERED,
    COLOURS,
    MAX_OBJECTS,
    MIN_OBJECTS,
    SHAPES,
    SIZES,
    TEXTURES,
    Relation,
    Scene,
)

NUMBERS = ("zero", "one", "two", "three", "four", "five")
PHRASES: dict[Relation, tuple[str, ...]] = {
    Relation.LEFT: ("to the left of", "left of"),
    Relation.RIGHT: ("to the right of", "right of"),
    Relation.ABOVE: ("above",),
    Relation.BELOW: ("below",),
    Relation.FRONT: ("in front of",),
    Relation.BEHIND: ("behind",),
}
TEMPLATES = (
    "{first} {relation} {second}",
    "{first} is {relation} {second}",
    "a picture of {first} {relation} {second}",
    "{count} objects with {first} {relation} {second}",
)
OTHER_TEMPLATE = "there is also {first} {relation} {second}"
CAPTIONS_A_SCENE = len(TEMPLATES) + 1
"""One by each template of the two objects that are seen best, and one ``there is also``."""

_Option = TypeVar("_Option")

Attributes = tuple[str, str, str, str]


@dataclass(frozen=True)
class Facts:
    """What a caption states: two objects by their attributes, a relation, perhaps a count."""

    first: Attributes
    relation: Relation
    second: Attributes
    count: int | None = None

    def __len__(self) -> int:
        """How many facts: each attribute of each object, the relation, and the count."""
        return len(self.first) + len(self.second) + 1 + (self.count is not None)


@dataclass(frozen=True)
class Description:
    """A caption and the numbers of the two objects that it speaks of, in order."""

    text: str
    objects: tuple[int, int]


@dataclass(frozen=True)
class Judgement:
    """Whether a caption is true of a scene in all that it states.

    Attributes:
        true: every fact holds. A caption that cannot be parsed is false.
        stated_facts: how many facts it states, true or not.
        problems: what is wrong with it, in words.
    """

    true: bool
    stated_facts: int
    problems: tuple[str, ...] = ()


def captions(scene: Scene) -> list[str]:
    """Write ``CAPTIONS_A_SCENE`` captions, all true, the same ones for the same scene."""
    return [description.text for description in describe(scene)]


def describe(scene: Scene) -> list[Description]:
    """Write the captions of a scene, and tell which objects they speak of."""
    rng = np.random.default_rng((scene.seed, 2))
    pairs = _clear_pairs(scene)
    other = pairs[int(rng.integers(1, len(pairs)))] if len(pairs) > 1 else pairs[0][::-1]
    plan = [*((pairs[0], template) for template in TEMPLATES), (other, OTHER_TEMPLATE)]
    return [Description(_write(scene, pair, template, rng), pair) for pair, template in plan]


def parse(caption: str) -> Facts | None:
    """Read a caption of this grammar; None where it is not one."""
    found = _CAPTION.fullmatch(" ".join(caption.lower().split()))
    if found is None:
        return None
    count = found["count"]
    return Facts(
        first=(found["size1"], found["texture1"], found["colour1"], found["shape1"]),
        relation=_RELATIONS[found["relation"]],
        second=(found["size2"], found["texture2"], found["colour2"], found["shape2"]),
        count=None if count is None else NUMBERS.index(count),
    )


def judge(caption: str, scene: Scene) -> Judgement:
    """Hold a caption against the truth.

    Two different objects must have the attributes that it names and lie as it says.
    """
    facts = parse(caption)
    if facts is None:
        return Judgement(False, 0, ("not a sentence of the grammar",))
    objects = scene.objects
    problems = [
        f"no {' '.join(named)}"
        for named in (facts.first, facts.second)
        if all(thing.attributes != named for thing in objects)
    ]
    named_pairs = [
        (a, b)
        for a, b in permutations(range(len(objects)), 2)
        if objects[a].attributes == facts.first and objects[b].attributes == facts.second
    ]
    if not problems and not named_pairs:
        problems.append(f"only one {' '.join(facts.first)}")
    if named_pairs and not any(scene.holds(facts.relation, a, b) for a, b in named_pairs):
        problems.append(f"the first is not {facts.relation} of the second")
    if facts.count is not None and facts.count != len(objects):
        problems.append(f"{len(objects)} objects, not {facts.count}")
    return Judgement(not problems, len(facts), tuple(problems))


def _clear_pairs(scene: Scene) -> list[tuple[int, int]]:
    """Pairs of objects with a clear relation, those that are seen best first."""
    seen = [thing.visible_area for thing in scene.objects]
    order = sorted(range(len(seen)), key=lambda index: (-seen[index], index))
    return [pair for pair in combinations(order, 2) if _clear_relations(scene, *pair)]


def _clear_relations(scene: Scene, first: int, second: int) -> list[Relation]:
    """The relation along the axis that parts the two more, then the one in depth, if clear."""
    beside = max(
        (Relation.LEFT, Relation.RIGHT, Relation.ABOVE, Relation.BELOW),
        key=lambda relation: scene.strength(relation, first, second),
    )
    return [
        relation
        for relation, enough in (
            (beside, CLEARLY_BESIDE),
            (Relation.FRONT, CLEARLY_COVERED),
            (Relation.BEHIND, CLEARLY_COVERED),
        )
        if scene.strength(relation, first, second) >= enough
    ]


def _write(scene: Scene, pair: tuple[int, int], template: str, rng: np.random.Generator) -> str:
    first, second = pair
    relation = _choose(_clear_relations(scene, first, second), rng)
    return template.format(
        first="a " + " ".join(scene.objects[first].attributes),
        relation=_choose(PHRASES[relation], rng),
        second="a " + " ".join(scene.objects[second].attributes),
        count=NUMBERS[len(scene.objects)],
    )


def _choose(options: Sequence[_Option], rng: np.random.Generator) -> _Option:
    return options[int(rng.integers(len(options)))]


_RELATIONS = {phrase: relation for relation, phrases in PHRASES.items() for phrase in phrases}


def _one_of(name: str, words: Sequence[str]) -> str:
    longest_first = sorted(words, key=len, reverse=True)
    return f"(?P<{name}>{'|'.join(map(re.escape, longest_first))})"


def _named(number: int) -> str:
    attributes = (("size", SIZES), ("texture", TEXTURES), ("colour", COLOURS), ("shape", SHAPES))
    return "a " + " ".join(_one_of(f"{name}{number}", tuple(words)) for name, words in attributes)


_CAPTION = re.compile(
    rf"(?:there is also |a picture of |"
    rf"{_one_of('count', NUMBERS[MIN_OBJECTS : MAX_OBJECTS + 1])} objects with )?"
    rf"{_named(1)} (?:is )?{_one_of('relation', tuple(_RELATIONS))} {_named(2)}"
)
