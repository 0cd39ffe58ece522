"""The captions of COCO (1504.00325): ``captions_train2017.json`` and what is made like it."""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from captioner.training.sources import files
from captioner.training.sources.examples import DataError
from schemas.uris import redact


def read(uri: str, images: str | None = None) -> Iterator[tuple[str, list[str]]]:
    """Read the captions of images.

    Args:
        uri: of the JSON file.
        images: the folder of the images. By itself, for ``annotations/captions_train2017.json``:
            the folder ``train2017`` beside the file's folder or in it, ``images`` and
            ``images/train2017`` beside it, or the file's own.

    Raises:
        DataError: if the file is something else, or its images are not found.
    """
    shown = redact(uri)
    content = read_content(uri, shown)
    places = find_images(content, uri, images, shown)
    yield from captions_of(content, places, shown)


def captions_of(
    content: dict[str, Any], places: Mapping[Any, str], shown: str
) -> Iterator[tuple[str, list[str]]]:
    """Read the captions of images whose uris are known by the images' ids."""
    captions: dict[str, list[str]] = {place: [] for place in places.values()}
    for note in content["annotations"]:
        if not isinstance(note, dict) or not isinstance(note.get("caption"), str):
            raise DataError(
                f"{shown} has an annotation without caption: {str(note)[:80]}; name the file "
                "whose name begins with captions_, not that of instances_"
            )
        if note.get("image_id") not in places:
            raise DataError(
                f"{shown} has a caption of image {note.get('image_id')!r}, which is not among "
                "its images"
            )
        captions[places[note["image_id"]]].append(note["caption"])
    yield from captions.items()


def find_images(
    content: dict[str, Any], uri: str, images: str | None, shown: str
) -> dict[Any, str]:
    """Return the uris of the images by their ids.

    Raises:
        DataError: if an image has no name, or one that leads elsewhere, or none are found.
    """
    file_names: dict[Any, str] = {}
    for image in content["images"]:
        if not isinstance(image, dict) or not isinstance(image.get("file_name"), str):
            raise DataError(f"{shown} has an image without file_name: {str(image)[:80]}")
        if not isinstance(image.get("id"), int | str | None):
            raise DataError(f"{shown} has an image with the id {str(image['id'])[:80]}")
        file_names[image.get("id")] = image["file_name"]
    folder = files.images_folder(images, _candidates(uri), list(file_names.values()), shown)
    return {key: files.inside(folder, name, shown) for key, name in file_names.items()}


def read_content(uri: str, shown: str) -> dict[str, Any]:
    """Read the JSON.

    Raises:
        DataError: if it is something else, or has no lists of images and annotations.
    """
    try:
        content: dict[str, Any] = json.loads(files.read(uri))
    except DataError:
        raise
    except (ValueError, RecursionError) as error:
        raise DataError(f"{shown} is not JSON: {error}") from error
    keys = list(content) if isinstance(content, dict) else []
    if not all(isinstance(content[key], list) for key in keys if key in ("images", "annotations")):
        raise DataError(f"{shown}: images and annotations must be lists, as in COCO")
    if not {"images", "annotations"} <= set(keys):
        found = ", ".join(keys[:8]) or f"a {type(content).__name__}"
        raise DataError(
            f"{shown} is no file of COCO's: it needs images and annotations, and has {found}"
        )
    return content


def _candidates(uri: str) -> tuple[str, ...]:
    folder = files.parent(uri)
    above = files.parent(folder)
    name = uri.partition("::")[0].rpartition("/")[2].removesuffix(".json")
    split = re.sub("^(captions|instances|panoptic)_", "", name)
    return (
        files.join(above, split),
        files.join(folder, split),
        files.join(above, f"images/{split}"),
        files.join(above, "images"),
        folder,
    )
