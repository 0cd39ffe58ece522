"""What may be said of a scene, and whether what was said is true.

A caption names two objects by size, texture, colour and shape, and how the first lies to the
second: ``a large striped red circle is to the left of a small solid blue square``. Some also
count: ``four objects with a large ...``. All but one speak of the two objects that are seen best;
that one begins with ``there is also`` and speaks of another pair, or where no other lies clearly to
each other, of the same two the other way round. Each language says the same of the same scene.
The grammar says only what holds by a clear margin; the judge asks only whether it holds.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations, permutations
from typing import TypeVar

import numpy as np

from captioner.scenes.languages import ENGLISH, LANGUAGES, Attributes, Language
from captioner.scenes.world import CLEARLY_BESIDE, CLEARLY_COVERED, Relation, Scene

PHRASES = ENGLISH.phrases
"""How English says each relation."""
CAPTIONS_A_SCENE = len(ENGLISH.templates) + 1
"""One by each template of the two objects that are seen best, and one ``there is also``."""

_Option = TypeVar("_Option")


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
    """A caption and the two objects that it speaks of, in order.

    Attributes:
        text: the caption.
        objects: their numbers.
        spans: where the text names them: from and to which character, articles left out.
        relation: where it says how they lie to each other, likewise.
    """

    text: str
    objects: tuple[int, int]
    spans: tuple[tuple[int, int], tuple[int, int]]
    relation: tuple[int, int]


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


def captions(scene: Scene, language: str = "en") -> list[str]:
    """Write ``CAPTIONS_A_SCENE`` captions, all true, the same ones for the same scene.

    Raises:
        ValueError: if the grammar does not know the language.
    """
    return [description.text for description in describe(scene, language)]


def describe(scene: Scene, language: str = "en") -> list[Description]:
    """Write the captions of a scene, and tell which objects they speak of.

    Raises:
        ValueError: if the grammar does not know the language.
    """
    if language not in LANGUAGES:
        raise ValueError(f"language is {language!r}; use one of: {', '.join(LANGUAGES)}")
    tongue = LANGUAGES[language]
    rng = np.random.default_rng((scene.seed, 2))
    pairs = _clear_pairs(scene)
    other = pairs[int(rng.integers(1, len(pairs)))] if len(pairs) > 1 else pairs[0][::-1]
    plan = [
        *((pairs[0], template) for template in tongue.templates),
        (other, tongue.other_template),
    ]
    return [_write(scene, pair, tongue, template, rng) for pair, template in plan]


def named_first(scene: Scene) -> tuple[int, int]:
    """Return the two objects that are seen best, which all captions but one speak of."""
    return _clear_pairs(scene)[0]


def parse(caption: str, language: str | None = None) -> Facts | None:
    """Read a caption of this grammar, in any of its languages or in one; None if it is not one."""
    for tongue in LANGUAGES.values() if language is None else (LANGUAGES[language],):
        if (said := tongue.read(caption)) is not None:
            first, relation, second, count = said
            return Facts(first, relation, second, count)
    return None


def judge(caption: str, scene: Scene, language: str | None = None) -> Judgement:
    """Hold a caption against the truth.

    Two different objects must have the attributes that it names and lie as it says.

    Args:
        caption: what was said.
        scene: the truth.
        language: that it must be in; any by default.
    """
    facts = parse(caption, language)
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


def _write(
    scene: Scene,
    pair: tuple[int, int],
    language: Language,
    template: str,
    rng: np.random.Generator,
) -> Description:
    phrases = language.phrases[_choose(_clear_relations(scene, *pair), rng)]
    phrase = _choose(phrases, rng)
    first, second = (language.name(scene.objects[index].attributes) for index in pair)
    text = template.format(
        first=first,
        relation=phrase,
        second=second,
        count=language.numbers[len(scene.objects)],
    )
    start = text.index(first)
    end = start + len(first)
    second_start = text.index(second, end)  # The two may go by the same name.
    phrase_start = text.index(phrase, end)
    return Description(
        text,
        pair,
        ((start, end), (second_start, second_start + len(second))),
        (phrase_start, phrase_start + len(phrase)),
    )


def _choose(options: Sequence[_Option], rng: np.random.Generator) -> _Option:
    return options[int(rng.integers(len(options)))]
