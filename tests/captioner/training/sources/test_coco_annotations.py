import io
import json
from copy import deepcopy

import numpy as np
import pycocotools.mask
import pytest
from PIL import Image
from pycocotools.coco import COCO

from captioner.annotations import Annotations, Box, Label
from captioner.training.sources import (
    DataError,
    MaskFile,
    class_names,
    join_annotations,
    load_annotations,
    read_examples,
)
from tests.captioner.training.sources.store import write

RUNS = [30, 12, 358]
"""Of 20 x 20 pixels, column by column."""


def compressed(runs: list[int], height: int, width: int) -> str:
    coded = pycocotools.mask.frPyObjects({"counts": runs, "size": [height, width]}, height, width)
    return coded["counts"].decode()


def note(number: int, image: int, category: int, **said) -> dict:
    return {"id": number, "image_id": image, "category_id": category, "iscrowd": 0, **said}


INSTANCES = {
    "images": [
        {"id": 1, "file_name": "1.jpg", "width": 30, "height": 20},
        {"id": 2, "file_name": "2.jpg", "width": 20, "height": 20},
        {"id": 3, "file_name": "3.jpg", "width": 20, "height": 20},
    ],
    "categories": [{"id": 7, "name": "dog"}, {"id": 9, "name": " traffic  light "}],
    "annotations": [
        note(
            11,
            1,
            7,
            bbox=[2.5, 3, 10, 8],
            segmentation=[[2.5, 3, 12.5, 3, 12.5, 11, 2.5, 11], [20, 1, 28, 2, 22, 17.5]],
        ),
        note(12, 1, 9, bbox=[6, 6, 3, 3], segmentation=[[6, 6, 9, 6, 9, 9, 6, 9]]),
        note(13, 1, 7, bbox=[1, 14, 4, 5], segmentation=[[1, 14, 5, 14, 5, 19, 1, 19]]),
        note(
            14,
            2,
            9,
            bbox=[0, 0, 20, 20],
            segmentation={"counts": RUNS, "size": [20, 20]},
            iscrowd=1,
        ),
        note(
            15,
            2,
            7,
            bbox=[4, 4, 8, 8],
            segmentation={"counts": compressed([99, 5, 17, 3, 276], 20, 20), "size": [20, 20]},
        ),
    ],
}


def written(content: dict, name: str = "instances_train2017.json", **folder) -> str:
    for image in content["images"]:
        write(f"train2017/{image['file_name']}", b"", **folder)
    return write(f"annotations/{name}", json.dumps(content), **folder)


def read(content: dict) -> list:
    return read_examples(written(content), annotated=True)


def changed(**said) -> dict:
    """The instances, the first of them changed."""
    content = deepcopy(INSTANCES)
    content["annotations"][0].update(said)
    return content


def many(count: int, *bad: dict) -> dict:
    """Good boxes, and some that are not."""
    good = [note(n, 1, 7, bbox=[1, 1, 2, 2]) for n in range(count)]
    return {**INSTANCES, "annotations": [*good, *bad]}


class TestInstances:
    def test_boxes_and_labels(self):
        first, second, third = read(INSTANCES)
        assert first.uri == "memory:///data/train2017/1.jpg"
        assert first.captions == ()
        assert first.annotations.labels == (Label("dog"), Label("traffic light"))
        assert first.annotations.boxes == (
            Box("dog", 2.5, 3, 10, 8),
            Box("traffic light", 6, 6, 3, 3),
            Box("dog", 1, 14, 4, 5),
        )
        assert second.annotations.labels == (Label("dog"), Label("traffic light"))
        assert second.annotations.boxes == (Box("dog", 4, 4, 8, 8),)  # of the crowd, no box
        assert third.annotations == Annotations(labels=(), boxes=(), masks=())

    def test_masks_are_those_of_pycocotools(self, tmp_path):
        examples = read_examples(written(INSTANCES, folder=f"file://{tmp_path}"), annotated=True)
        coco = COCO(tmp_path / "annotations/instances_train2017.json")
        names = {7: "dog", 9: "traffic light"}
        for image, example in zip((1, 2, 3), examples, strict=True):
            expected: dict[str, np.ndarray] = {}
            for said in coco.imgToAnns[image]:
                name, pixels = names[said["category_id"]], coco.annToMask(said)
                expected[name] = expected.get(name, 0) | pixels
            found = {
                mask.name: pycocotools.mask.decode({"size": mask.size, "counts": mask.counts})
                for mask in example.annotations.masks
            }
            assert found.keys() == expected.keys()
            for name in found:
                np.testing.assert_array_equal(found[name], expected[name])

    def test_the_class_of_the_last_object_lies_on_top(self):
        masks = read(INSTANCES)[0].annotations.masks
        assert [mask.name for mask in masks] == ["traffic light", "dog"]

    @pytest.mark.parametrize(
        ("lacking", "boxes", "masks"), [("bbox", None, 2), ("segmentation", 3, None)]
    )
    def test_an_object_without_a_box_or_mask_leaves_those_of_the_image_unknown(
        self, lacking, boxes, masks
    ):
        content = deepcopy(INSTANCES)
        del content["annotations"][1][lacking]
        first, second, _ = read(content)
        found = first.annotations
        assert (found.boxes and len(found.boxes), found.masks and len(found.masks)) == (
            boxes,
            masks,
        )
        assert len(first.annotations.labels) == 2
        assert second.annotations.boxes
        assert second.annotations.masks

    def test_a_data_set_without_masks(self):
        first, second, _ = read(many(2))
        assert (len(first.annotations.boxes), first.annotations.masks) == (2, None)
        assert second.annotations == Annotations(labels=(), boxes=(), masks=None)

    def test_boxes_are_clipped_and_counted(self, caplog):
        first, *_ = read(changed(bbox=[-2, 15, 10, 8]))
        assert first.annotations.boxes[0] == Box("dog", 0, 15, 8, 5)
        assert "clipped 1 boxes" in caplog.text

    def test_a_box_longer_by_rounding_is_not_spoken_of(self, caplog):
        first, *_ = read(changed(bbox=[20.0, 3.0, 10.000001, 8.0]))
        assert first.annotations.boxes[0].width == 10
        assert "clipped" not in caplog.text

    @pytest.mark.parametrize(
        ("said", "message"),
        [
            ({"bbox": [1, 2, 0, 4]}, r"annotation 11, has the box \[1, 2, 0, 4\], .* no area"),
            ({"bbox": [1, 2, 3]}, "which is not four numbers; boxes are x, y, width"),
            ({"bbox": [1, 2, 3, "4"]}, "not four numbers"),
            ({"bbox": [1, 2, 3, float("nan")]}, "not four numbers"),
            ({"bbox": [1, 2, 3, 10**400]}, "not four numbers"),
            ({"bbox": {"x": 1}}, "not four numbers"),
            ({"bbox": [30, 2, 3, 3]}, r"\[30, 2, 3, 3\], outside the image of 30 x 20"),
            ({"category_id": 8}, "category_id 8, which is not among the categories"),
            ({"category_id": [7]}, r"category_id \[7\], which is not among"),
            ({"image_id": 4}, "annotation 11, is of the image 4, which is not among"),
            ({"segmentation": [[1, 1, 5, 5]]}, "a polygon of 2 points"),
            ({"segmentation": [[1, 1, 5, 5, 9, 1, 3]]}, "a polygon of 3.5 points"),
            ({"segmentation": [[1, 1, 5, 5, 9, None]]}, "which is not of numbers"),
            ({"segmentation": [[40, 1, 45, 5, 49, 1]]}, r"from \(40, 1\) to \(49, 5\), outside"),
            ({"segmentation": [[0, 0, 1e8, 5, 9, 1]]}, "outside the image of 30 x 20"),
            ({"segmentation": "none"}, "has the mask 'none'"),
            (
                {"segmentation": {"counts": RUNS, "size": [20, 20]}},
                "a mask of 20 x 20, but the image is 30 x 20",
            ),
            ({"segmentation": {"counts": RUNS, "size": [20, 30]}}, "do not make 30 x 20 pixels"),
            ({"segmentation": {"counts": [-1, 601], "size": [20, 30]}}, "do not make 30 x 20"),
            ({"segmentation": {"counts": "Xq", "size": [20, 30]}}, "do not make 30 x 20 pixels"),
            ({"segmentation": {"counts": "\x00", "size": [20, 30]}}, "do not make 30 x 20 pixels"),
            ({"segmentation": {"counts": RUNS}}, "run lengths of the size None"),
        ],
    )
    def test_what_is_wrong_with_an_annotation_is_said(self, said, message):
        with pytest.raises(DataError, match=message) as raised:
            read(changed(**said))
        assert "1 of 5 annotations cannot be used" in str(raised.value)

    def test_polygons_need_the_size_of_the_image(self):
        content = deepcopy(INSTANCES)
        del content["images"][0]["width"]
        with pytest.raises(DataError, match="has polygons; say the image's width and height"):
            read(content)

    @pytest.mark.parametrize(
        ("said", "message"),
        [
            ({"categories": []}, "has no categories"),
            ({"categories": [{"id": 7}]}, "a category without id and name"),
            (
                {"categories": [{"id": 7, "name": "dog"}, {"id": 9, "name": " dog"}]},
                "the categories 7 and 9 have the same name, 'dog'",
            ),
            (
                {"categories": [{"id": 7, "name": "dog"}, {"id": 7, "name": "cat"}]},
                "the categories 7 and 7 have the same id, 7",
            ),
            (
                {"images": [{**INSTANCES["images"][0], "width": "30"}]},
                "image 1, has the width '30'",
            ),
            (
                {"images": [{"id": 1, "file_name": "../1.jpg"}]},
                "names the image '../1.jpg'",
            ),
            ({"images": [{"id": [1], "file_name": "1.jpg"}]}, r"an image with the id \[1\]"),
            ({"annotations": []}, "no box, mask or label in any of its 3 images"),
        ],
    )
    def test_what_is_wrong_with_the_file_is_said(self, said, message):
        with pytest.raises(DataError, match=message):
            read({**INSTANCES, **said})

    def test_few_bad_annotations_are_left_out(self, caplog):
        first, *_ = read(many(199, note(500, 1, 7, bbox=[1, 1, 0, 0])))
        assert len(first.annotations.boxes) == 199
        assert "left out 1 of 200 annotations that cannot be used; the first:" in caplog.text
        assert "annotation 500, has the box [1, 1, 0, 0]" in caplog.text

    def test_one_in_a_hundred_is_too_many(self):
        with pytest.raises(DataError, match="1 of 100 annotations cannot be used"):
            read(many(99, note(500, 1, 7, bbox=[1, 1, 0, 0])))

    def test_a_thousand_is_the_most(self, monkeypatch):
        monkeypatch.setattr("captioner.training.sources.marks.MOST_LEFT_OUT", 2)
        wrong = [note(n, 1, 7, bbox=[1, 1, 0, 0]) for n in (500, 501, 502)]
        assert len(read(many(1000, *wrong[:2]))) == 3
        with pytest.raises(DataError, match="more than 2 annotations .* annotation 500"):
            read(many(1000, *wrong))

    def test_secrets_are_not_shown(self):
        with pytest.raises(DataError) as raised:
            read(changed(bbox="s3://user:word@bucket/x"))
        assert "word@" not in str(raised.value)

    def test_without_being_asked_for_they_are_not_captions(self):
        with pytest.raises(DataError, match="begins with captions_"):
            read_examples(written(INSTANCES))


def png(colours: dict[tuple[int, int, int], tuple[slice, slice]], size=(20, 30)) -> bytes:
    pixels = np.zeros((*size, 3), np.uint8)
    for colour, place in colours.items():
        pixels[place] = colour
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


DOG, SKY, CROWD = (slice(2, 8), slice(3, 9)), (slice(10, 20), slice(0, 30)), (slice(0, 2), slice(5))
PIXELS = png({(5, 1, 0): DOG, (0, 0, 2): SKY, (9, 0, 0): CROWD})
PANOPTIC = {
    "images": INSTANCES["images"][:2],
    "categories": [
        {"id": 7, "name": "dog", "isthing": 1},
        {"id": 8, "name": "sky", "isthing": 0},
    ],
    "annotations": [
        {
            "image_id": 1,
            "file_name": "1.png",
            "segments_info": [
                {"id": 261, "category_id": 7, "bbox": [3, 2, 6, 6], "iscrowd": 0},
                {"id": 131072, "category_id": 8, "bbox": [0, 10, 30, 10], "iscrowd": 0},
                {"id": 9, "category_id": 7, "bbox": [0, 0, 5, 2], "iscrowd": 1},
            ],
        }
    ],
}


class TestPanoptic:
    def read(self, content=PANOPTIC, pixels=PIXELS, place="annotations/panoptic_train2017"):
        write(f"{place}/1.png", pixels)
        return read_examples(written(content, "panoptic_train2017.json"), annotated=True)

    @pytest.mark.parametrize(
        "place", ["annotations/panoptic_train2017", "panoptic_train2017", "annotations"]
    )
    def test_masks_stay_in_their_files(self, place):
        (example,) = self.read(place=place)  # of the second image nothing is known
        assert example.annotations == Annotations(
            labels=(Label("dog"), Label("sky")), boxes=(Box("dog", 3, 2, 6, 6),)
        )
        assert example.mask_file == MaskFile(
            f"memory:///data/{place}/1.png",
            ((0, None), (261, "dog"), (131072, "sky"), (9, "dog")),
            coloured=True,
            size=(20, 30),
        )

    def test_pixels_of_each_class(self):
        (example,) = self.read()
        known = load_annotations(example)
        assert known.boxes == example.annotations.boxes
        dog, sky = np.zeros((2, 20, 30), bool)
        dog[DOG] = dog[CROWD] = sky[SKY] = True
        found = {
            mask.name: pycocotools.mask.decode({"size": mask.size, "counts": mask.counts})
            for mask in known.masks
        }
        np.testing.assert_array_equal(found["dog"], dog)
        np.testing.assert_array_equal(found["sky"], sky)
        assert class_names([example]).masks == ("dog", "sky")

    @pytest.mark.parametrize(
        ("pixels", "said"),
        [
            (png({(5, 1, 1): DOG}), "1.png has the number 65797, which is of no class; known"),
            (png({}, (20, 20)), "1.png is 20 x 20, but the image is 30 x 20"),
            (b"no picture", "cannot be read as a mask in PNG"),
        ],
    )
    def test_what_is_wrong_with_a_file_is_said(self, pixels, said):
        (example,) = self.read(pixels=pixels)
        with pytest.raises(DataError, match=said):
            load_annotations(example)

    def test_a_bad_segment_is_of_no_class(self, caplog):
        content = deepcopy(PANOPTIC)
        content["annotations"][0]["segments_info"][0]["category_id"] = 99
        more = [{"id": n, "category_id": 8} for n in range(1000, 1200)]
        content["annotations"][0]["segments_info"] += more
        (example,) = self.read(content)
        assert "segment 261, has the category_id 99" in caplog.text
        assert [mask.name for mask in load_annotations(example).masks] == ["dog", "sky"]
        assert example.annotations.boxes == ()

    def test_no_name_leads_out_of_the_folder(self):
        content = deepcopy(PANOPTIC)
        content["annotations"][0]["file_name"] = "../1.png"
        with pytest.raises(DataError, match=r"names the image '\.\./1.png'"):
            self.read(content)

    def test_where_masks_were_looked_for_is_said(self):
        with pytest.raises(DataError, match="'1.png' in memory:///data/annotations/panoptic_train"):
            read_examples(written(PANOPTIC, "panoptic_train2017.json"), annotated=True)


class TestJoining:
    def test_captions_and_instances_of_one_image(self, caplog):
        caplog.set_level("INFO")
        content = {
            "images": [*INSTANCES["images"][:1], {"id": 4, "file_name": "4.jpg"}],
            "annotations": [
                {"image_id": 1, "caption": "a dog"},
                {"image_id": 4, "caption": "a cat"},
            ],
        }
        captions = read_examples(written(content, "captions_train2017.json"), annotated=True)
        joined = join_annotations(captions, read(INSTANCES))
        assert [example.uri[-5:] for example in joined] == ["1.jpg", "4.jpg", "2.jpg", "3.jpg"]
        assert [example.captions for example in joined] == [("a dog",), ("a cat",), (), ()]
        assert [example.annotations is None for example in joined] == [False, True, False, False]
        assert "1 images are in both" in caplog.text
        assert "1 only in captions, 2 only in annotations" in caplog.text
        assert caplog.records[-1].levelname == "INFO"
        join_annotations(captions[1:], read(INSTANCES))
        assert "0 images are in both" in caplog.text
        assert caplog.records[-1].levelname == "WARNING"
