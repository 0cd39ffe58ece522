"""The captions of Flickr8k and what is made like it: ``Flickr8k.token.txt``, ``captions.txt``."""

import re
from collections.abc import Iterator

from captioner.training.sources import files
from captioner.training.sources.examples import DataError
from captioner.training.sources.metadata import read_table
from schemas.uris import redact

TOKEN_LINE = re.compile(r"([^\t]+)#\d+\t(.*)")
"""``1000268201_693b08cb0e.jpg#0``, a tab, and the caption."""

IMAGE_FOLDERS = ("Images", "images", "Flicker8k_Dataset", "Flickr8k_Dataset")
"""Beside the captions; the misspelt one is the original's."""


def read_tokens(uri: str, images: str | None = None) -> Iterator[tuple[str, list[str]]]:
    """Read lines of ``NAME#NUMBER``, a tab, and a caption.

    Args:
        uri: of the file.
        images: the folder of the images; by itself one of ``IMAGE_FOLDERS`` beside the file, or
            the file's own.

    Raises:
        DataError: if a line is something else, or the images are not found.
    """
    shown, rows = redact(uri), []
    for number, line in enumerate(files.read_text(uri).split("\n"), 1):
        if not line.strip():
            continue
        found = TOKEN_LINE.fullmatch(line.rstrip("\r"))
        if not found:
            raise DataError(f"{shown}, line {number}, is not NAME#NUMBER, a tab and a caption")
        rows.append((found[1], found[2]))
    names = list(dict.fromkeys(name for name, _ in rows))
    folder = files.images_folder(images, _candidates(uri), names, shown)
    for name, caption in rows:
        yield files.inside(folder, name, shown), [caption]


def read_captions(uri: str, images: str | None = None) -> Iterator[tuple[str, list[str]]]:
    """Read a table of comma-separated values with the columns ``image`` and ``caption``.

    Args:
        uri: of the file.
        images: as for `read_tokens`.

    Raises:
        DataError: if it is no such table, or the images are not found.
    """
    rows = list(read_table(uri, "image", ("caption",)))
    names = [name for _, name, _ in rows]
    folder = files.images_folder(images, _candidates(uri), names, redact(uri))
    for where, name, caption in rows:
        yield files.inside(folder, name, where), [caption]


def _candidates(uri: str) -> tuple[str, ...]:
    folder = files.parent(uri)
    return (*(files.join(folder, name) for name in IMAGE_FOLDERS), folder)
