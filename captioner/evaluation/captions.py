"""Captions of many images, to be scored."""

import itertools
from collections.abc import Sequence
from contextlib import closing

from captioner.contract import Caption, Captioner, Prepared
from captioner.training.images import in_order, load_image
from captioner.training.sources import Example


def caption_examples(
    captioner: Captioner, examples: Sequence[Example], *, batch_size: int = 32, threads: int = 4
) -> list[Caption]:
    """Caption images, which are read and decoded on threads meanwhile.

    Raises:
        DataError: if an image cannot be read or decoded.
    """

    def prepared(example: Example) -> Prepared:
        return captioner.prepare(load_image(example.uri))

    captions: list[Caption] = []
    with closing(in_order(prepared, examples, threads=threads, ahead=2 * batch_size)) as images:
        while batch := list(itertools.islice(images, batch_size)):
            captions += captioner.caption(batch)
    return captions
