"""Labels, boxes and masks as reviewers left them, back in pixels of the original."""

from typing import Any

import numpy as np
import pytest
from label_studio_sdk.converter.brush import mask2rle
from pycocotools import mask as coco

from captioner.annotations import Annotations, Box, ClassNames, Label
from captioner.images import Limits
from pipelines.labelstudio.regions import regions
from pipelines.labelstudio.regions_back import ResultError, annotations_left
from tests.pipelines.labelstudio.test_regions import mask_of

CLASSES = ClassNames(("red", "blue"), ("dog",), ("grass",))
ALL = ("caption", "verdict", "labels", "boxes", "masks")


def pixels_of(mask: Any) -> np.ndarray:
    return coco.decode({"size": list(mask.size), "counts": mask.counts.encode()})


def box(**changes: Any) -> dict[str, Any]:
    value = {"x": 10, "y": 20, "width": 50, "height": 25, "rotation": 0}
    value |= {"rectanglelabels": ["dog"]} | changes
    return {"from_name": "boxes", "type": "rectanglelabels", "value": value}


def brush(pixels: np.ndarray, **changes: Any) -> dict[str, Any]:
    height, width = pixels.shape
    value = {"format": "rle", "rle": mask2rle(pixels), "brushlabels": ["grass"]} | changes
    size = {"original_width": width, "original_height": height, "image_rotation": 0}
    return {"from_name": "masks", "type": "brushlabels", "value": value, **size}


class TestWayBack:
    @pytest.mark.parametrize("shown", [(640, 480), (512, 384)])
    def test_what_was_pushed_and_left_alone_comes_back(self, shown):
        pixels = np.zeros((480, 640), np.uint8)
        pixels[100:300, 200:500] = 1
        found = Annotations(
            labels=(Label("blue", 0.9), Label("red", 0.8)),
            boxes=(Box("dog", 64, 48, 320, 240, 0.7), Box("dog", 1, 2, 3, 4, 0.6)),
            masks=(mask_of(pixels),),
        )
        left = annotations_left(regions(found, CLASSES, (640, 480), shown), ALL, (640, 480))
        assert left.labels == (Label("blue"), Label("red"))
        assert [box.name for box in left.boxes] == ["dog", "dog"]
        for back, sent in zip(left.boxes, found.boxes, strict=True):
            sides = [(b.x, b.y, b.width, b.height) for b in (back, sent)]
            assert sides[0] == pytest.approx(sides[1])
            assert back.probability == 1
        (mask,) = left.masks
        assert (mask.name, mask.size) == ("grass", (480, 640))
        rows, columns = np.nonzero(pixels_of(mask))
        ends = [rows.min(), rows.max() + 1, columns.min(), columns.max() + 1]
        assert ends == pytest.approx([100, 300, 200, 500], abs=0 if shown == (640, 480) else 1)

    def test_a_kind_with_a_control_and_nothing_left_is_none_another_is_unknown(self):
        assert annotations_left([], ALL, (9, 9)) == Annotations((), (), ())
        assert annotations_left([box()], ("caption", "labels"), (9, 9)) == Annotations(labels=())

    def test_without_the_size_of_the_original_boxes_and_masks_are_unknown(self):
        labels = {"from_name": "labels", "type": "choices", "value": {"choices": ["red"]}}
        left = annotations_left([labels, box()], ALL, None)
        assert left == Annotations(labels=(Label("red"),))

    def test_a_box_is_clipped_and_one_outside_is_left_out(self):
        outside = box(x=100, width=10)
        results = [box(x=-10, y=90, width=30, height=30), outside, box(width=0)]
        assert annotations_left(results, ALL, (200, 100)).boxes == (Box("dog", 0, 90, 40, 10),)

    def test_a_box_of_several_classes_is_one_of_each(self):
        boxes = annotations_left([box(rectanglelabels=["dog", "cat"])], ALL, (100, 100)).boxes
        assert [box.name for box in boxes] == ["dog", "cat"]

    def test_a_turned_box_is_what_bounds_it(self):
        """A quarter turn, clockwise about its upper left corner, on a picture twice as wide."""
        (found,) = annotations_left(
            [box(x=50, y=25, width=10, height=50, rotation=90)], ALL, (200, 100)
        ).boxes
        # 20 x 50 pixels at (100, 25) become 50 x 20 to the left of that corner.
        sides = (found.x, found.y, found.width, found.height)
        assert sides == pytest.approx((50, 25, 50, 20))

    def test_soft_edges_of_a_brush_count_from_one_half_on(self):
        alpha = np.array([[0, 100, 127, 128], [200, 255, 0, 0]], np.uint8)
        (mask,) = annotations_left([brush(alpha)], ALL, (4, 2)).masks
        assert pixels_of(mask).tolist() == [[0, 0, 0, 1], [1, 1, 0, 0]]

    def test_a_mask_that_was_erased_is_left_out(self):
        assert annotations_left([brush(np.zeros((4, 6), np.uint8))], ALL, (6, 4)).masks == ()


FULL = np.full((40, 60), 255, np.uint8)
EYE = (np.eye(40, 60) * 255).astype(np.uint8)


@pytest.mark.parametrize(
    ("result", "message"),
    [
        (box(x="10"), "x of a box in 'boxes' is '10', not a number"),
        (box(height=float("nan")), "height of a box in 'boxes' is nan"),
        (box(width=True), "width of a box in 'boxes' is True"),
        (box(rectanglelabels=[]), "'boxes' holds something without a class"),
        (box(rectanglelabels=[5]), r"rectanglelabels of 'boxes' is \[5\], not text"),
        (box(rectanglelabels=None), "rectanglelabels of 'boxes' is None, not text"),
        (box() | {"type": "rectangle"}, "'boxes' holds a 'rectangle', not a 'rectanglelabels'"),
        (box() | {"value": [1]}, "'boxes' has no value"),
        (box() | {"image_rotation": 90}, "turned by 90 degrees; set rotateControl"),
        (brush(FULL, format="png"), "not in Label Studio's run lengths"),
        (brush(FULL, rle="AAAA"), "run lengths of a mask are 'AAAA', not bytes"),
        (brush(FULL, rle=[0, 300]), r"run lengths of a mask are \[0, 300\], not bytes"),
        (brush(FULL, rle=[]), "make 0 values, not 9,600 for 60 x 40 pixels"),
        (brush(FULL) | {"original_width": 61}, "make 9,600 values, not 9,760 for 61 x 40"),
        (brush(FULL) | {"original_width": "60"}, r"on a picture of \('60', 40\) pixels"),
        (brush(FULL) | {"original_width": 10**9}, "which is too many"),
        (brush(EYE, rle=mask2rle(EYE)[:40]), "run lengths of a mask are damaged"),
        (brush(FULL) | {"image_rotation": 180}, "'masks' was drawn on a picture turned by 180"),
    ],
)
def test_a_damaged_result_is_told(result, message):
    with pytest.raises(ResultError, match=message):
        annotations_left([result], ALL, (60, 40))


def test_a_picture_may_have_as_many_pixels_as_is_allowed():
    assert annotations_left([brush(FULL)], ALL, (60, 40), Limits(max_pixels=2_400)).masks
    with pytest.raises(ResultError, match="on a picture of 60 x 40 pixels, which is too many"):
        annotations_left([brush(FULL)], ALL, (60, 40), Limits(max_pixels=2_399))


def test_a_huge_number_in_run_lengths_takes_no_memory():
    """The decoder would make an array of 4 GiB first."""
    rle = [255, 255, 255, 255, *mask2rle(FULL)[4:]]
    with pytest.raises(ResultError, match="make 4,294,967,295 values, not 9,600"):
        annotations_left([brush(FULL, rle=rle)], ALL, (60, 40))
