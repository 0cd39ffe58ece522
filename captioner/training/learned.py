"""Which reviewed images a model has learned from: a file in its folder, and a version of them.

Who compares models must know it: a model does better on what it has learned, so none is judged by
that. It is no part of the model's id.
"""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import fsspec

from captioner.contract import ModelLoadError
from captioner.training.sources import Example
from schemas.identity import config_id
from schemas.uris import redact

LEARNED = "reviews.json"
"""In a model's folder, and in that of its training."""

_MAX_BYTES = 1 << 30


@dataclass(frozen=True)
class Learned:
    """Reviewed images that a training has used.

    Attributes:
        version: short hash of the images, and of what people said of each.
        captions: how many there are.
        images: their ids, sorted, those that were scored on included: they chose the epoch.
    """

    version: str
    captions: int
    images: tuple[str, ...]

    def to_bytes(self) -> bytes:
        """Return the file's content."""
        return json.dumps(asdict(self), indent=0).encode() + b"\n"


def learned_from(examples: Iterable[Example], before: Learned | None = None) -> Learned | None:
    """Return what a training has used of reviews; None if nothing.

    Args:
        examples: all that is trained on or scored on.
        before: what the model that it starts from had used: that is in the weights for good.
    """
    said: dict[str, list[Any]] = {}
    for example in examples:
        if example.image_id is not None:
            known = example.annotations and asdict(example.annotations)
            said[example.image_id] = [sorted(example.captions), known]
    if not said:
        return before
    captions = sum(len(texts) for texts, _ in said.values())
    if before is None:
        return Learned(config_id(said), captions, tuple(sorted(said)))
    return Learned(
        config_id({"before": before.version, "images": said}),
        before.captions + captions,
        tuple(sorted({*before.images, *said})),
    )


def images_learned(folder: str) -> frozenset[str]:
    """Return the ids of the reviewed images that a model has learned from, as its folder says.

    Args:
        folder: of the model, on any store; one without the file has learned from none.

    Raises:
        ModelLoadError: if the file cannot be read.
    """
    learned = read_learned(folder)
    return frozenset() if learned is None else frozenset(learned.images)


def read_learned(folder: str) -> Learned | None:
    """Return what a model has used of reviews, as its folder says; None if nothing.

    Args:
        folder: of the model, on any store.

    Raises:
        ModelLoadError: if the file cannot be read.
    """
    try:
        with fsspec.open(f"{folder.rstrip('/')}/{LEARNED}", "rb") as file:
            known = json.loads(file.read(_MAX_BYTES))
        return Learned(str(known["version"]), int(known["captions"]), tuple(known["images"]))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, ImportError) as error:
        raise ModelLoadError(
            f"{LEARNED} of model {redact(folder)} cannot be read: {redact(repr(error))}; put back "
            "a copy of it"
        ) from error
