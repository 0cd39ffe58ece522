"""Colours and shapes that are kept apart in training, to see whether a model brings them together.

A model that has seen red objects and rings, but no red ring, names one only if it takes colour and
shape by themselves.
"""

from collections.abc import Iterator
from itertools import count as numbers
from itertools import islice

from captioner.scenes.grammar import named_first
from captioner.scenes.sampler import sample
from captioner.scenes.world import Scene

HELD_OUT = (("red", "ring"), ("yellow", "star"), ("blue", "triangle"), ("pink", "cross"))
"""Pairs of colour and shape; each colour and each shape comes in seven other pairs, or in eight."""


def shows_held_out(scene: Scene) -> bool:
    """Whether any object of a scene is of a pair that is held out."""
    return any((thing.colour, thing.shape) in HELD_OUT for thing in scene.objects)


def names_held_out(scene: Scene) -> bool:
    """Whether one of the two objects that captions speak of first is of such a pair."""
    things = [scene.objects[index] for index in named_first(scene)]
    return any((thing.colour, thing.shape) in HELD_OUT for thing in things)


def samples_without(first_seed: int, count: int) -> Iterator[Scene]:
    """Make ``count`` scenes that show no pair that is held out, skipping seeds that do."""
    scenes = (sample(seed) for seed in numbers(first_seed))
    return islice((scene for scene in scenes if not shows_held_out(scene)), count)


def samples_with(first_seed: int, count: int) -> Iterator[Scene]:
    """Make ``count`` scenes whose captions name a pair that is held out, skipping other seeds."""
    scenes = (sample(seed) for seed in numbers(first_seed))
    return islice((scene for scene in scenes if names_held_out(scene)), count)
