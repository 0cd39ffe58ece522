"""Scoring what the heads of a model find, on drawn scenes and on users' images."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict
from itertools import islice

from PIL import Image

from captioner.annotations import Annotations
from captioner.contract import Prepared
from captioner.evaluation.annotations import AnnotationScores, score_annotations
from captioner.evaluation.scenes import SAMPLERS, Combinations
from captioner.model import AttentionCaptioner
from captioner.scenes import render, truth
from captioner.training.annotated import of_classes
from captioner.training.images import in_order, load_decoded
from captioner.training.sources import DataError, Example, load_annotations

_LEAST = 0.01
"""Probability from which on findings are scored: mean average precision asks for unsure ones."""


def score_heads_on_scenes(
    captioner: AttentionCaptioner,
    first_seed: int,
    count: int,
    batch_size: int = 64,
    *,
    combinations: Combinations = "all",
) -> AnnotationScores:
    """Hold labels, boxes and masks of scenes against the truth, at the size of the picture.

    Of the truth what is of no class of the model's is left out.

    Args:
        captioner: of a model with heads.
        first_seed: of the first scene.
        count: how many scenes.
        batch_size: images through the model at once.
        combinations: which colours of which shapes the scenes may show.

    Raises:
        ValueError: if the model has no heads.
    """
    classes = captioner.classes
    scenes = list(SAMPLERS[combinations](first_seed, count))
    found = list(_find(captioner, (render(scene) for scene in scenes), batch_size))
    known = [of_classes(truth.annotations(scene), classes) for scene in scenes]
    return score_annotations(found, known, **asdict(classes))


def score_heads_on_examples(
    captioner: AttentionCaptioner,
    examples: Sequence[Example],
    *,
    batch_size: int = 32,
    threads: int = 4,
) -> AnnotationScores:
    """Hold labels, boxes and masks of users' images against theirs, of classes that the model has.

    Args:
        captioner: of a model with heads.
        examples: images; those of which nothing is known are left out.
        batch_size: images through the model at once.
        threads: that read and decode.

    Raises:
        DataError: if an image cannot be read or decoded, or there is nothing to score.
        ValueError: if the model has no heads.
    """
    classes = captioner.classes

    def load(example: Example) -> tuple[Prepared, Annotations]:
        image = load_decoded(example.uri)
        known = load_annotations(example, (image.height, image.width)) or Annotations()
        return captioner.prepare(image.image), of_classes(known, classes)

    found: list[Annotations] = []
    truth: list[Annotations] = []
    annotated = [example for example in examples if example.annotated]
    if not annotated:
        raise DataError("no image to score on has labels, boxes or masks; name data that has some")
    with closing(in_order(load, annotated, threads=threads, ahead=2 * batch_size)) as images:
        while batch := list(islice(images, batch_size)):
            found += captioner.find([prepared for prepared, _ in batch], _LEAST)
            truth += [known for _, known in batch]
    return score_annotations(found, truth, **asdict(classes))


def _find(
    captioner: AttentionCaptioner, images: Iterable[Image.Image], batch_size: int
) -> Iterator[Annotations]:
    """Yield what the heads find, sure or not, image by image."""
    left = iter(images)
    while batch := list(islice(left, batch_size)):
        yield from captioner.find([captioner.prepare(image) for image in batch], _LEAST)
