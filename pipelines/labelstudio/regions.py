"""Labels, boxes and masks in Label Studio's words."""

from collections.abc import Iterator
from typing import Any
from xml.etree import ElementTree

import numpy as np
from label_studio_sdk.converter.brush import mask2rle
from PIL import Image

from captioner.annotations import Annotations, Box, ClassNames, Mask
from captioner.heads.targets import decoded

IMAGE = "image"
LABELS, BOXES, MASKS = "labels", "boxes", "masks"
TAGS = {LABELS: "Choices", BOXES: "RectangleLabels", MASKS: "BrushLabels"}
"""The control of each kind, which has the kind's name."""
OPTIONS = {LABELS: "Choice", BOXES: "Label", MASKS: "Label"}
"""What each control holds one of for each class."""

_TITLES = {LABELS: "What is in the image", BOXES: "Boxes", MASKS: "Masks"}
_SETTINGS = {
    LABELS: {"choice": "multiple", "layout": "inline"},
    BOXES: {"strokeWidth": "3", "opacity": "0.1"},
    MASKS: {"opacity": "0.5"},
}
_Size = tuple[int, int]


def controls(classes: ClassNames) -> Iterator[ElementTree.Element]:
    """Make a title and a control for each kind of which there are classes."""
    for kind, tag in TAGS.items():
        names: tuple[str, ...] = getattr(classes, kind)
        if names:
            yield ElementTree.Element("Header", value=_TITLES[kind], size="5")
            control = ElementTree.Element(tag, {"name": kind, "toName": IMAGE} | _SETTINGS[kind])
            for name in names:
                ElementTree.SubElement(control, OPTIONS[kind], value=name)
            yield control


def regions(
    found: Annotations, classes: ClassNames, original: _Size, shown: _Size
) -> list[dict[str, Any]]:
    """Write what was found as results of a prediction; of classes that the project has.

    Args:
        found: in pixels of the original.
        classes: of the project's controls.
        original: width and height of the image that was captioned.
        shown: width and height of the picture that reviewers see.
    """
    labels = [label.name for label in found.labels or () if label.name in classes.labels]
    results = [_result(LABELS, {"choices": labels})] if labels else []
    boxes = [box for box in found.boxes or () if box.name in classes.boxes]
    masks = [mask for mask in found.masks or () if mask.name in classes.masks]
    return [
        *results,
        *(_rectangle(box, n, original, shown) for n, box in enumerate(boxes)),
        *(_brush(mask, n, shown) for n, mask in enumerate(masks)),
    ]


def _result(kind: str, value: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {
        "from_name": kind,
        "to_name": IMAGE,
        "type": TAGS[kind].lower(),
        "value": value,
        **more,
    }


def _rectangle(box: Box, number: int, original: _Size, shown: _Size) -> dict[str, Any]:
    """Label Studio measures in percent of the sides."""
    width, height = original
    value = {
        "x": 100 * box.x / width,
        "y": 100 * box.y / height,
        "width": 100 * box.width / width,
        "height": 100 * box.height / height,
        "rotation": 0,
        "rectanglelabels": [box.name],
    }
    return _result(BOXES, value, score=box.probability, **_on_picture(f"box-{number}", shown))


def _brush(mask: Mask, number: int, shown: _Size) -> dict[str, Any]:
    """Its own run lengths must have as many pixels as the picture that is shown, or it garbles."""
    area = Image.fromarray(decoded(mask) * np.uint8(255)).resize(shown, Image.Resampling.NEAREST)
    value = {"format": "rle", "rle": mask2rle(np.asarray(area)), "brushlabels": [mask.name]}
    return _result(MASKS, value, **_on_picture(f"mask-{number}", shown))


def _on_picture(name: str, shown: _Size) -> dict[str, Any]:
    return {
        "id": name,
        "original_width": shown[0],
        "original_height": shown[1],
        "image_rotation": 0,
    }
