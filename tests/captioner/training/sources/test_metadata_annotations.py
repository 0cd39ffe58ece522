import io
from dataclasses import replace

import numpy as np
import pycocotools.mask
import pytest
from PIL import Image

from captioner.annotations import Annotations, Box, ClassNames, Label, Mask
from captioner.training.sources import (
    DataError,
    Example,
    MaskFile,
    class_names,
    files,
    load_annotations,
    read_examples,
)
from tests.captioner.training.sources.store import DATA, write, write_lines

SQUARE = np.zeros((4, 6), np.uint8)
SQUARE[1:3, 2:5] = 1
CODED = pycocotools.mask.encode(np.asfortranarray(SQUARE))["counts"].decode()
RLE = {"name": "dog", "counts": CODED, "size": [4, 6]}


def read(**said):
    write_lines("metadata.jsonl", {"file_name": "1.jpg", **said})
    (example,) = read_examples(DATA, annotated=True)
    return example


def image(pixels: np.ndarray, format_: str = "PNG", mode: str | None = None) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(file, format_)
    return file.getvalue()


class TestLines:
    @pytest.mark.parametrize("field", ["categories", "category"])
    def test_objects(self, field):
        example = read(objects={"bbox": [[1, 2, 3, 4], [0, 0, 2.5, 1]], field: ["dog", " a  cat"]})
        assert example.annotations == Annotations(
            labels=(Label("a cat"), Label("dog")),
            boxes=(Box("dog", 1, 2, 3, 4), Box("a cat", 0, 0, 2.5, 1)),
        )

    @pytest.mark.parametrize("place", ["train/classes.txt", "classes.txt"])
    def test_classes_by_number(self, place):
        write(place, "cat\r\n dog \n")
        objects = {"bbox": [[1, 2, 3, 4]], "categories": [1]}
        write_lines("train/metadata.jsonl", {"file_name": "1.jpg", "objects": objects, "label": 0})
        (example,) = read_examples(f"{DATA}/train", annotated=True)
        assert example.annotations == Annotations((Label("cat"),), (Box("dog", 1, 2, 3, 4),))

    @pytest.mark.parametrize("said", [{"labels": ["dog", "cat", "dog"]}, {"label": "dog"}])
    def test_labels(self, said):
        known = read(**said).annotations
        assert known.labels == ((Label("cat"),) if "labels" in said else ()) + (Label("dog"),)
        assert (known.boxes, known.masks) == (None, None)

    def test_run_lengths(self):
        counts = [int(run) for run in np.diff([0, 9, 11, 13, 15, 17, 19, 24])]
        masks = [RLE, {"name": "dog", "counts": [0, 1, 23], "size": [4, 6]}]
        masks += [{"name": "cat", "counts": counts, "size": [4, 6]}]
        known = read(masks=masks).annotations
        assert [(mask.name, mask.size) for mask in known.masks] == [
            ("dog", (4, 6)),
            ("cat", (4, 6)),
        ]
        dog, cat = (
            pycocotools.mask.decode({"size": mask.size, "counts": mask.counts})
            for mask in known.masks
        )
        corner = SQUARE.copy()
        corner[0, 0] = 1
        np.testing.assert_array_equal(dog, corner)
        np.testing.assert_array_equal(cat, SQUARE)
        assert known.labels == (Label("cat"), Label("dog"))

    def test_long_run_lengths(self):
        runs = [70_000, 3, 100, 900, 40, 5, 128_952]
        coded = pycocotools.mask.frPyObjects({"counts": runs, "size": [400, 500]}, 400, 500)
        counts = coded["counts"].decode()
        (mask,) = read(
            masks=[{"name": "dog", "counts": counts, "size": [400, 500]}]
        ).annotations.masks
        assert mask == Mask("dog", (400, 500), counts)

    def test_what_is_empty_is_known_and_what_is_lacking_is_not(self):
        write_lines(
            "metadata.jsonl",
            {"file_name": "1.jpg", "objects": {"bbox": [], "categories": []}},
            {"file_name": "2.jpg", "labels": []},
            {"file_name": "3.jpg", "text": "a dog", "objects": None},
            {"file_name": "4.jpg", "label": "dog"},
            {"file_name": "5.jpg"},
        )
        examples = read_examples(DATA, annotated=True)
        assert [example.annotations for example in examples] == [
            Annotations(labels=(), boxes=()),
            Annotations(labels=()),
            None,
            Annotations(labels=(Label("dog"),)),
        ]

    def test_lines_of_one_image_are_joined(self):
        write_lines(
            "metadata.jsonl",
            {"file_name": "1.jpg", "objects": {"bbox": [[1, 2, 3, 4]], "categories": ["dog"]}},
            {"file_name": "1.jpg", "text": "two"},
            {"file_name": "1.jpg", "objects": {"bbox": [[2, 2, 3, 4]], "categories": ["cat"]}},
        )
        (example,) = read_examples(DATA, annotated=True)
        assert example == Example(
            "memory:///data/1.jpg",
            ("two",),
            Annotations(
                (Label("cat"), Label("dog")), (Box("dog", 1, 2, 3, 4), Box("cat", 2, 2, 3, 4))
            ),
        )

    def test_without_being_asked_for_they_are_not_looked_at(self):
        write_lines("metadata.jsonl", {"file_name": "1.jpg", "text": "a dog", "objects": 7})
        assert read_examples(DATA) == [Example("memory:///data/1.jpg", ("a dog",))]

    def test_captions_alone_will_do(self):
        assert read(text="a dog") == Example("memory:///data/1.jpg", ("a dog",))

    def test_captions_without_any_object(self, caplog):
        example = read(text="a dog", labels=[])
        assert example.annotations == Annotations(labels=())
        assert "has no box, mask or label in any of its 1 images" in caplog.text

    @pytest.mark.parametrize(
        ("said", "message"),
        [
            ({"label": " "}, "line 1, has the class ' '; use a name"),
            ({"labels": "dog"}, "field 'labels' is 'dog'; use a list"),
            ({"labels": [None]}, "has the class None"),
            ({"label": 3}, "a class by its number, 3, but no classes.txt says"),
            ({"mask_file_name": "m.png"}, "a file of masks, but no classes.txt"),
            ({"objects": 7}, "line 1, has the objects 7; use bbox and categories"),
            ({"objects": {"bbox": [[1, 2, 3, 4]], "categories": []}}, "two lists of the same"),
            ({"objects": {"bbox": [[1, 2, 3]], "categories": ["a"]}}, "is not four numbers"),
            ({"masks": [7]}, "has the mask 7; use name, counts and size"),
            ({"masks": [RLE], "width": 5, "height": 4}, "6 x 4, but the image is 5 x 4"),
            (
                {"masks": [RLE, {**RLE, "counts": [30], "size": [5, 6]}]},
                "a mask of 6 x 5, but the image is 6 x 4",
            ),
            ({"masks": [{**RLE, "size": [10**5, 10**5]}]}, "more than is read"),
            ({"label": "dog", "width": 0, "height": 4}, "has the width 0 and the height 4"),
            ({"height": 4}, "no line .* has one of the fields captions, .* mask_file_name"),
            ({"labels": []}, "no box, mask or label in any of its 1 images, and no captions"),
        ],
    )
    def test_what_is_wrong_is_said(self, said, message):
        with pytest.raises(DataError, match=message):
            read(**said)

    @pytest.mark.parametrize(
        ("classes", "label", "message"),
        [
            ("cat\ndog", 2, "the class 2, which is not among the 2 of classes.txt"),
            ("cat\ndog", -1, "the class -1, which is not among"),
            ("cat\ndog", "dgo", "the class 'dgo', which is not among"),
            ("cat\n cat", 0, "classes.txt, line 2, is 'cat', as is line 1"),
            ("cat\n\ndog", 0, "classes.txt, line 2, is empty; write the name of class 1"),
        ],
    )
    def test_classes_that_are_not_clear(self, classes, label, message):
        write("classes.txt", classes)
        with pytest.raises(DataError, match=message):
            read(label=label)


class TestMaskFiles:
    NUMBERS = np.array([[0, 1, 2], [2, 255, 1]], np.uint8)

    def example(self, content: bytes, **said) -> Example:
        write("classes.txt", "background\ndog\ncat")
        write("masks/1.png", content)
        return read(mask_file_name="masks/1.png", **said)

    @pytest.mark.parametrize("mode", ["L", "P", "I;16"])
    def test_pixels_of_each_class(self, mode):
        if mode == "P":
            palette = Image.fromarray(self.NUMBERS, "P")
            palette.putpalette(bytes(range(255, -1, -1)) * 3)
            file = io.BytesIO()
            palette.save(file, "PNG")
            content = file.getvalue()
        else:
            content = image(self.NUMBERS.astype(np.uint16) if mode == "I;16" else self.NUMBERS)
        example = self.example(content)
        assert example.annotations is None
        assert example.mask_file == MaskFile(
            "memory:///data/masks/1.png", ((0, None), (1, "dog"), (2, "cat"), (255, None))
        )
        found = load_annotations(example).masks
        assert [mask.name for mask in found] == ["dog", "cat"]
        for number, mask in enumerate(found, 1):
            pixels = pycocotools.mask.decode({"size": mask.size, "counts": mask.counts})
            np.testing.assert_array_equal(pixels, self.NUMBERS == number)

    def test_labels_of_objects_alone_are_not_all(self):
        objects = {"bbox": [[0, 0, 1, 1]], "categories": ["dog"]}
        example = self.example(image(self.NUMBERS), objects=objects)
        assert example.annotations == Annotations(boxes=(Box("dog", 0, 0, 1, 1),))

    @pytest.mark.parametrize(
        ("content", "said"),
        [
            (image(np.full((2, 3), 3, np.uint8)), "has the number 3, .* known are 0, 1, 2, 255"),
            (image(np.zeros((2, 3, 3), np.uint8)), "of the mode RGB; it must be of one number"),
            (image(NUMBERS, "JPEG"), "cannot be read as a mask in PNG, BMP, TIFF"),
            (image(np.zeros((3, 3), np.uint8)), "is 3 x 3, but the image is 3 x 2"),
        ],
    )
    def test_what_is_wrong_with_a_file_is_said(self, content, said):
        example = self.example(content, width=3, height=2)
        with pytest.raises(DataError, match=said):
            load_annotations(example)

    def test_a_file_that_a_store_gives_at_the_second_try(self, monkeypatch):
        example, read_once, answers = self.example(image(self.NUMBERS)), files.read, [None]

        def stumbling(uri, max_bytes):
            if answers:
                answers.pop()
                raise DataError("no answer")
            return read_once(uri, max_bytes)

        monkeypatch.setattr(files, "_PAUSE_SECONDS", 0.0)
        monkeypatch.setattr(files, "read", stumbling)
        with pytest.raises(DataError, match="no answer"):
            load_annotations(example, tries=1)
        answers.append(None)
        assert load_annotations(example).masks

    def test_a_file_with_more_pixels_than_are_read(self, monkeypatch):
        monkeypatch.setattr("captioner.images.Limits.__init__.__defaults__", (1 << 20, 5))
        with pytest.raises(DataError, match="has 3 x 2 pixels; the limit is 5 in all"):
            load_annotations(self.example(image(self.NUMBERS)))

    @pytest.mark.parametrize("name", ["../1.png", "/etc/1.png", "s3://user:word@bucket/1.png"])
    def test_no_name_leads_out_of_the_folder(self, name):
        write("classes.txt", "dog")
        with pytest.raises(DataError, match="line 1, names the image") as raised:
            read(mask_file_name=name)
        assert "word@" not in str(raised.value)

    def test_two_files_of_one_image(self):
        write("classes.txt", "dog")
        write_lines(
            "metadata.jsonl",
            {"file_name": "1.jpg", "mask_file_name": "a.png"},
            {"file_name": "1.jpg", "mask_file_name": "b.png"},
        )
        with pytest.raises(DataError, match=r"1.jpg has two files of masks, .*a.png and .*b.png"):
            read_examples(DATA, annotated=True)


class TestLoading:
    EXAMPLE = Example(
        "memory:///data/1.jpg",
        (),
        Annotations(boxes=(Box("dog", 2, 1, 9, 2),), masks=(Mask("dog", (4, 6), CODED),)),
    )

    def test_boxes_are_clipped_to_a_size_that_is_known_by_now(self):
        known = load_annotations(self.EXAMPLE, (4, 6))
        assert known == replace(self.EXAMPLE.annotations, boxes=(Box("dog", 2, 1, 4, 2),))
        assert load_annotations(self.EXAMPLE) == self.EXAMPLE.annotations

    @pytest.mark.parametrize(
        ("size", "said"),
        [((6, 4), "1.jpg has a mask of 6 x 4, but the image is 4 x 6"), ((4, 2), "a mask of")],
    )
    def test_masks_of_another_size(self, size, said):
        with pytest.raises(DataError, match=said):
            load_annotations(self.EXAMPLE, size)

    def test_a_box_outside(self):
        example = Example("memory:///data/1.jpg", (), Annotations(boxes=(Box("dog", 2, 1, 9, 2),)))
        with pytest.raises(DataError, match="1.jpg has the box .*, outside the image of 2 x 4"):
            load_annotations(example, (4, 2))

    def test_of_an_image_without_annotations(self):
        assert load_annotations(Example("memory:///data/1.jpg", ("a dog",)), (4, 6)) is None


def test_class_names_are_those_that_occur():
    file = MaskFile("memory:///1.png", ((0, None), (1, "sky"), (255, None)))
    examples = [
        Example("1", ("a dog",)),
        Example("2", (), Annotations(labels=(Label("b"), Label("a")), boxes=())),
        Example("3", (), Annotations((Label("a"),), (Box("x", 0, 0, 1, 1),)), file),
        Example("4", (), Annotations(masks=(Mask("dog", (4, 6), CODED),))),
    ]
    assert class_names(examples) == ClassNames(("a", "b"), ("x",), ("dog", "sky"))
