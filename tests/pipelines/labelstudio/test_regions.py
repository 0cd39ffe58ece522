"""Labels, boxes and masks as Label Studio is told of them."""

from xml.etree import ElementTree

import numpy as np
import pytest
from label_studio_sdk.converter.brush import decode_rle
from pycocotools import mask as coco

from captioner.annotations import Annotations, Box, ClassNames, Label, Mask
from pipelines.labelstudio import config
from pipelines.labelstudio.images import shown_size
from pipelines.labelstudio.regions import regions

CLASSES = ClassNames(("red", "a & b"), ("dog", "cat"), ("grass",))


def mask_of(pixels: np.ndarray, name: str = "grass") -> Mask:
    encoded = coco.encode(np.asfortranarray(pixels, np.uint8))
    return Mask(name, pixels.shape, encoded["counts"].decode())


class TestConfig:
    def test_without_classes_it_is_that_of_captions(self):
        assert config.label_config(ClassNames()) == config.LABEL_CONFIG

    def test_with_classes_it_has_a_control_of_each_kind(self):
        made = config.label_config(CLASSES)
        config.validate(made)
        root = ElementTree.fromstring(made)
        for tag, option, names in (
            ("Choices[@name='labels']", "Choice", CLASSES.labels),
            ("RectangleLabels[@name='boxes']", "Label", CLASSES.boxes),
            ("BrushLabels[@name='masks']", "Label", CLASSES.masks),
        ):
            control = root.find(f".//{tag}")
            assert tuple(item.get("value") for item in control.findall(option)) == names
            assert control.get("toName") == "image"

    def test_a_kind_without_classes_has_no_control(self):
        made = config.label_config(ClassNames(boxes=("dog",)))
        assert "RectangleLabels" in made
        assert "BrushLabels" not in made
        assert 'name="labels"' not in made

    def test_it_differs_from_itself_in_nothing(self):
        assert config.differences(config.label_config(CLASSES), CLASSES) == []
        assert config.differences(config.label_config(CLASSES)) == []

    @pytest.mark.parametrize(
        ("there", "wanted", "difference"),
        [
            (ClassNames(), ClassNames(boxes=("dog",)), "there is no RectangleLabels named 'boxes'"),
            (
                ClassNames(labels=("red",)),
                ClassNames(labels=("red", "blue")),
                "the Choices 'labels' lacks blue",
            ),
        ],
    )
    def test_what_a_project_lacks_is_said(self, there, wanted, difference):
        assert config.differences(config.label_config(there), wanted) == [difference]


class TestRegions:
    def test_labels_are_choices(self):
        found = Annotations(labels=(Label("red", 0.9), Label("blue", 0.8), Label("a & b", 0.7)))
        (result,) = regions(found, CLASSES, (640, 480), (512, 384))
        assert result == {
            "from_name": "labels",
            "to_name": "image",
            "type": "choices",
            "value": {"choices": ["red", "a & b"]},
        }

    def test_boxes_are_in_percent_of_the_sides(self):
        found = Annotations(boxes=(Box("dog", 64, 120, 320, 240, 0.75), Box("cow", 0, 0, 9, 9)))
        (result,) = regions(found, CLASSES, (640, 480), (512, 384))
        sides = {name: result["value"][name] for name in ("x", "y", "width", "height")}
        assert sides == {"x": 10, "y": 25, "width": 50, "height": 50}
        assert result["value"]["rectanglelabels"] == ["dog"]
        assert (result["original_width"], result["original_height"]) == (512, 384)
        assert result["score"] == 0.75

    @pytest.mark.parametrize("shown", [(512, 256), (1000, 500)])
    def test_masks_have_as_many_pixels_as_the_picture_that_is_shown(self, shown):
        pixels = np.zeros((500, 1000), np.uint8)
        pixels[100:300, 50:450] = 1
        found = Annotations(masks=(mask_of(pixels), mask_of(pixels, "sky")))
        (result,) = regions(found, CLASSES, (1000, 500), shown)
        assert (result["original_width"], result["original_height"]) == shown
        alpha = decode_rle(result["value"]["rle"]).reshape(shown[1], shown[0], 4)[..., 3]
        rows, columns = np.nonzero(alpha)
        ends = np.array([rows.min(), rows.max() + 1, columns.min(), columns.max() + 1])
        wanted = np.array([100, 300, 50, 450]) * shown[0] / 1000
        assert np.allclose(ends, wanted, atol=1)
        assert result["value"]["brushlabels"] == ["grass"]

    def test_what_is_unknown_is_not_said(self):
        assert regions(Annotations(), CLASSES, (640, 480), (512, 384)) == []
        boxes = Annotations(boxes=(Box("dog", 0, 0, 9, 9),))
        assert regions(boxes, ClassNames(), (9, 9), (9, 9)) == []


def test_previews_keep_the_ratio_of_sides_and_small_ones_their_size():
    assert shown_size(300, 200) == (300, 200)
    assert shown_size(4000, 3000) == (512, 384)
    assert shown_size(3000, 4000) == (384, 512)
    assert shown_size(20000, 10) == (512, 1)
