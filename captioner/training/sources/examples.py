"""An image and its captions, and how what a data set says of one image is joined."""

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

logger = logging.getLogger(__name__)


class DataError(ValueError):
    """Data that cannot be trained on: says what was looked for, what was found, what to do."""


@dataclass(frozen=True)
class Example:
    """An image and its captions.

    Attributes:
        uri: of the image: absolute, with protocol, unescaped.
        captions: at least one, each once, none of them empty.
    """

    uri: str
    captions: tuple[str, ...]


def join(rows: Iterable[tuple[str, Sequence[str]]], source: str) -> list[Example]:
    """Join the captions of each image, in the order in which they come.

    White space is made single blanks. Empty captions and images without any are left out and
    counted in the log.

    Args:
        rows: uris and captions; a uri may come again.
        source: what they were read from, as it may be shown.

    Raises:
        DataError: if no image has a caption.
    """
    captions: dict[str, dict[str, None]] = {}
    empty = 0
    for uri, texts in rows:
        said = captions.setdefault(uri, {})
        for text in texts:
            caption = " ".join(text.split())
            if caption:
                said[caption] = None
            else:
                empty += 1
    examples = [Example(uri, tuple(said)) for uri, said in captions.items() if said]
    if not examples:
        raise DataError(f"{source} has captions of none of its {len(captions):,} images")
    silent = len(captions) - len(examples)
    if empty or silent:
        logger.warning(
            "%s: left out %d empty captions and %d images without captions", source, empty, silent
        )
    return examples
