"""Which images are trained on, and which are scored on."""

import hashlib
import json
import logging
from collections.abc import Collection, Sequence
from dataclasses import asdict, replace

import numpy as np

from captioner.tokenizer import words
from captioner.training.options import TrainingOptions
from captioner.training.sources import (
    DataError,
    Example,
    join_annotations,
    read_examples,
    splits_of,
)
from captioner.training.start import Start

logger = logging.getLogger(__name__)

_HELD_BACK, _MOST_HELD_BACK = 0.05, 1000


def split(options: TrainingOptions, start: Start | None) -> tuple[list[Example], list[Example]]:
    """Return what to train on, and what to score on.

    Args:
        options: of the training.
        start: the model to start from, if there is one.

    Raises:
        DataError: if there is too little of one, or an image would be in both.
        ValueError: if options do not fit together.
    """
    splits = splits_of(options.data)
    training = _read(options, splits.get("train", options.data))
    elsewhere = options.validation or splits.get("validation")
    if elsewhere is not None:
        validation = _read_validation(options, elsewhere)
        known = {example.uri for example in training}
        both = [example.uri for example in validation if example.uri in known]
        if both:
            raise DataError(
                f"{len(both)} images are to be trained on and scored on, such as {both[0]}; "
                "take them out of one of the two"
            )
    elif options.validation_annotations is not None:
        raise ValueError(
            "validation_annotations are given, but images to score on are held back from the "
            "data; name their validation, too"
        )
    else:
        learned = start.learned.images if start is not None and start.learned else ()
        training, validation = hold_back(training, options.config.seed, frozenset(learned))
    return training, _with_words(validation)


def _read(options: TrainingOptions, data: str) -> list[Example]:
    """Read what is to be learned from, annotations included where there are tasks."""
    annotated = bool(options.tasks)
    examples = read_examples(data, options.images, annotated=annotated, spare_audit=True)
    if options.annotations is not None:
        others = read_examples(options.annotations, options.images, annotated=True)
        examples = join_annotations(examples, others)
    return examples


def _read_validation(options: TrainingOptions, data: str) -> list[Example]:
    examples = _read_near(data, options.images, annotated=bool(options.tasks))
    if options.validation_annotations is not None:
        others = _read_near(options.validation_annotations, options.images, annotated=True)
        examples = join_annotations(examples, others)
    return examples


def _read_near(data: str, images: str | None, *, annotated: bool) -> list[Example]:
    """Read it with images at their usual place, or else where the others lie."""
    try:
        return read_examples(data, annotated=annotated, spare_audit=True)
    except DataError:
        if images is None:
            raise
        return read_examples(data, images, annotated=annotated, spare_audit=True)


def hold_back(
    examples: Sequence[Example], seed: int, learned: Collection[str]
) -> tuple[list[Example], list[Example]]:
    """Hold some back, of those that the model to start from has not learned from if there are.

    Args:
        examples: two at least.
        seed: of the choice.
        learned: ids of the images that the model to start from has learned from.

    Returns:
        What is left to train on, and what is held back.

    Raises:
        DataError: if there is one alone.
    """
    if len(examples) < 2:
        raise DataError("there is one image; give at least two: one is held back to score on")
    count = min(_MOST_HELD_BACK, max(1, round(_HELD_BACK * len(examples))))
    order = np.random.default_rng(seed).permutation(len(examples)).tolist()
    order.sort(key=lambda number: examples[number].image_id in learned)
    # One of those with captions at least: without any nothing can be scored.
    first = next((number for number in order if examples[number].captions), order[0])
    held = set(sorted(order, key=lambda number: number != first)[:count])
    logger.info("%d of %d images are held back to score on", count, len(examples))
    if known := sum(examples[number].image_id in learned for number in held):
        logger.warning(
            "the model to start from has learned from %d of these: scores are too good", known
        )
    return (
        [example for number, example in enumerate(examples) if number not in held],
        [example for number, example in enumerate(examples) if number in held],
    )


def _with_words(examples: Sequence[Example]) -> list[Example]:
    """Leave out captions without a word: nothing can be held against them."""
    spoken = [
        replace(example, captions=tuple(filter(words, example.captions))) for example in examples
    ]
    kept = [example for example in spoken if example.captions or example.annotated]
    if not any(example.captions for example in kept):
        raise DataError("no image to score on has a caption with a word in it")
    return kept


def hash_of(examples: Sequence[Example]) -> str:
    """Return a hash of examples: images by their uris, captions and annotations."""
    digest = hashlib.sha256()
    for example in examples:
        about: list[object] = [example.uri, example.captions]
        if example.annotated:
            about += [example.annotations and asdict(example.annotations)]
            about += [example.mask_file and asdict(example.mask_file)]
        digest.update(json.dumps(about).encode())
    return digest.hexdigest()[:16]
