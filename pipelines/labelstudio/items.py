"""What is to be reviewed, and what a task and its predictions look like in Label Studio's words."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from captioner.annotations import Annotations, ClassNames
from pipelines.labelstudio import config
from pipelines.labelstudio.images import shown_size
from pipelines.labelstudio.regions import regions
from pipelines.labelstudio.unsure import unsure_words


@dataclass(frozen=True)
class ReviewItem:
    """A caption to review.

    Attributes:
        image_id: SHA-256 of the image's bytes: the task's key.
        uri: where the original image is.
        caption: the caption to show.
        confidence: how likely it is to be accepted, 0 to 1.
        confidence_kind: ``calibrated`` or ``uncalibrated``.
        model_id: the model that made it.
        decoding: the decoding config that it was made with.
        width: of the original, in pixels.
        height: likewise.
        annotations: labels, boxes and masks that were found.
        tokens: of the caption, if the model tells.
        token_logprobs: the natural log-probability of each.
    """

    image_id: str
    uri: str
    caption: str
    confidence: float
    confidence_kind: str
    model_id: str
    decoding: str
    width: int
    height: int
    annotations: Annotations = Annotations()
    tokens: tuple[str, ...] = ()
    token_logprobs: tuple[float, ...] = ()

    @property
    def model_version(self) -> str:
        """The name of the model and decoding config among a task's predictions."""
        return model_version(self.model_id, self.decoding)


def model_version(model_id: str, decoding: str) -> str:
    """Return the name that a model and decoding config have among a task's predictions."""
    return f"{model_id}/{decoding}".replace(",", "_")  # a server joins by commas


Wanted = dict[str, dict[str, ReviewItem]]
"""Items by image id and model version."""


def by_image(items: Iterable[ReviewItem]) -> Wanted:
    """Group items by image; of several with the same bytes and model, the first is taken."""
    wanted: Wanted = {}
    for item in items:
        wanted.setdefault(item.image_id, {}).setdefault(item.model_version, item)
    return wanted


def task_body(
    versions: dict[str, ReviewItem],
    address: str,
    preview: bool,
    classes: ClassNames,
    show_unsure_words: bool,
    attention: str | None = None,
) -> dict[str, Any]:
    """Write the task of an image, with its predictions, as Label Studio imports it.

    Args:
        versions: the captions of the image by model version, at least one.
        address: where the picture is that is shown.
        preview: whether that is an uploaded preview.
        classes: of the project's controls.
        show_unsure_words: whether the project shows the words that the model was unsure of.
        attention: where the picture of where the model looked is, if the project shows it.
    """
    first = next(iter(versions.values()))
    data = {"image": address, "image_id": first.image_id, "uri": first.uri}
    data["caption"] = first.caption
    if show_unsure_words:
        marked = unsure_words(first.tokens, first.token_logprobs, first.caption)
        data[config.UNSURE_WORDS] = marked
    if attention is not None:
        data[config.ATTENTION] = attention
    return {
        "data": {key: _text(value) for key, value in data.items()},
        "predictions": [prediction_body(item, preview, classes) for item in versions.values()],
    }


def prediction_body(item: ReviewItem, preview: bool, classes: ClassNames) -> dict[str, Any]:
    """Write a caption as a prediction as Label Studio imports it.

    Args:
        item: the caption, and what else was found.
        preview: whether its task shows an uploaded preview.
        classes: of the project's controls.
    """
    score = item.confidence if math.isfinite(item.confidence) else None
    original = (item.width, item.height)
    found = regions(
        item.annotations, classes, original, shown_size(*original) if preview else original
    )
    return config.prediction(_text(item.caption), score, item.model_version, found)


def _text(value: str) -> str:
    """Write out what JSON or the server's database has no place for: names that are not UTF-8."""
    return value.encode("utf-8", "backslashreplace").decode().replace("\0", "\\0")
