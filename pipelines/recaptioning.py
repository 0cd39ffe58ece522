"""Images of an output, read and captioned once more."""

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from typing import Protocol, TypeVar

from captioner.contract import Captioner, Prepared
from captioner.training.images import in_order
from pipelines.captioning import Said, in_halves
from pipelines.config import AnnotateConfig
from pipelines.decoding import read_and_decode
from pipelines.listing import ImageRef
from pipelines.records import Decoded, Failure
from schemas.kinds import FailureKind, Stage

_THREADS = 8


class Known(Protocol):
    """An image of an output."""

    @property
    def image_id(self) -> str:
        """The SHA-256 of its bytes."""

    @property
    def uris(self) -> tuple[str, ...]:
        """Where it is, all of equal bytes; one at least."""


Image = TypeVar("Image", bound=Known)


def caption_again(
    say: Callable[[list[Prepared]], Sequence[Said]],
    images: Sequence[Image],
    captioner: Captioner,
    config: AnnotateConfig,
) -> Iterator[tuple[Image, Said | Failure]]:
    """Have a model say something of images, a batch at a time; others are read meanwhile.

    Args:
        say: the model's; returns one item an image, in order.
        images: of which it is wanted.
        captioner: prepares them.
        config: how images are decoded, what they may cost, and how many make a batch.

    Yields:
        Each image once, not in order. One whose bytes nobody has any more is a failure.
    """

    def read(image: Image) -> tuple[Image, Decoded | Failure]:
        return image, _read(image, captioner, config)

    size = config.batch_size
    with closing(in_order(read, images, threads=_THREADS, ahead=2 * size)) as pending:
        while batch := list(itertools.islice(pending, size)):
            yield from ((image, item) for image, item in batch if isinstance(item, Failure))
            good = [(image, item) for image, item in batch if isinstance(item, Decoded)]
            if good:
                said = in_halves(say, [item for _, item in good])
                yield from zip((image for image, _ in good), said, strict=True)


def _read(image: Known, captioner: Captioner, config: AnnotateConfig) -> Decoded | Failure:
    """Read an image from the first of its places that still has its bytes."""
    for uri in image.uris:
        item = read_and_decode(ImageRef(uri, ""), captioner, config)
        if isinstance(item, Decoded):
            if item.facts.image_id == image.image_id:
                return item
            message = f"{uri} has changed since it was captioned"
            item = Failure(item.ref, Stage.READ, FailureKind.CHANGED, message)
    return item
