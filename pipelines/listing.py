"""Which images there are: folders, globs, list files and archives, on any store."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class ImageRef:
    """An image to caption, by reference.

    Attributes:
        uri: absolute, with protocol, unescaped.
        uri_version: what the store knows of the version: ``KIND:VALUE``; empty if unknown.
        num_bytes: size of the file, where the listing says.
        kind: set when listing found that the image cannot be had, a FailureKind: it counts as
            listed and becomes a failure row.
        message: why, when ``kind`` is set.
        attempt: 1 for the first attempt at this image.
        replaces: whether an earlier row of this image is to be replaced.
    """

    uri: str
    uri_version: str
    num_bytes: int | None = None
    kind: str | None = None
    message: str | None = None
    attempt: int = 1
    replaces: bool = False


@dataclass
class ListingCounts:
    """What a listing left out, filled while it runs.

    Attributes:
        ignored: files left out, by extension (``.txt``); hidden files and folders as ``hidden``.
        duplicates: images that an earlier input had listed already.
        not_matched: files that ``glob`` left out.
    """

    ignored: Counter[str] = field(default_factory=Counter)
    duplicates: int = 0
    not_matched: int = 0


class ListingError(Exception):
    """An input that cannot be listed: which, why, and what to do."""


def list_images(
    inputs: Sequence[str],
    glob: str | None = None,
    threads: int = 16,
    counts: ListingCounts | None = None,
) -> Iterator[ImageRef]:
    """List the images of all inputs, each once, as they are found."""
    raise NotImplementedError
