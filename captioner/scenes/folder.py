"""Scenes as a folder of images, in the layout that Hugging Face calls ImageFolder."""

import io
import json
from collections.abc import Iterator
from itertools import islice

import fsspec

from captioner.scenes.grammar import captions
from captioner.scenes.languages import LANGUAGES
from captioner.scenes.renderer import IMAGE_SIZE, render
from captioner.scenes.sampler import sample
from captioner.scenes.world import Scene

METADATA = "metadata.jsonl"
MAX_SCENES = 1_000_000
_FIRST_SEED = 1_000_000_000
"""Far from the scenes that models are trained and tested on."""
_FILES_AT_ONCE = 64


def write_folder(
    output: str, *, count: int, seed: int = 0, image_size: int = IMAGE_SIZE, language: str = "en"
) -> None:
    """Write images with their captions and the whole truth about them.

    ``metadata.jsonl``, written last, has a line an image: ``file_name``, ``captions`` and
    ``scene``. The same arguments give the same bytes; another seed gives other scenes, none of
    which the embedded model was trained on.

    Args:
        output: the folder, local or on any file system that fsspec knows; made where missing.
        count: how many scenes.
        seed: which scenes.
        image_size: side of the square images, in pixels.
        language: of the captions: ``en`` or ``zh``.

    Raises:
        ValueError: if an argument is out of range.
        FileExistsError: if the folder holds scenes already.
    """
    for name, value, least, most in (
        ("count", count, 1, MAX_SCENES),
        ("seed", seed, 0, 1_000_000),
        ("image_size", image_size, 32, 4096),
    ):
        if not least <= value <= most:
            raise ValueError(f"{name} is {value}; use {least} to {most}")
    if language not in LANGUAGES:
        raise ValueError(f"language is {language!r}; use one of: {', '.join(LANGUAGES)}")
    fs, folder = fsspec.core.url_to_fs(output)
    folder = folder.rstrip("/")
    if fs.exists(f"{folder}/{METADATA}"):
        raise FileExistsError(f"{output} holds a {METADATA} already; name another folder")
    fs.makedirs(folder, exist_ok=True)
    first = _FIRST_SEED + seed * MAX_SCENES
    numbers = iter(range(count))
    lines: list[str] = []
    while files := dict(
        _images(islice(numbers, _FILES_AT_ONCE), first, image_size, language, lines)
    ):
        fs.pipe({f"{folder}/{name}": data for name, data in files.items()})
    fs.pipe_file(f"{folder}/{METADATA}", "".join(lines).encode())


def _images(
    numbers: Iterator[int], first_seed: int, image_size: int, language: str, lines: list[str]
) -> Iterator[tuple[str, bytes]]:
    """Yield names and bytes, and append each image's line."""
    for number in numbers:
        scene = sample(first_seed + number)
        name = f"scene-{number:06d}.jpg"
        lines.append(_line(name, scene, language))
        buffer = io.BytesIO()
        render(scene, image_size).save(buffer, "JPEG", quality=92)
        yield name, buffer.getvalue()


def _line(name: str, scene: Scene, language: str) -> str:
    row = {"file_name": name, "captions": captions(scene, language), "scene": scene.as_dict()}
    return json.dumps(row, ensure_ascii=False, separators=(",", ":")) + "\n"
