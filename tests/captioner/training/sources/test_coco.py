import json

import pytest

from captioner.training.sources import DataError, Example, read_examples
from tests.captioner.training.sources.store import write

COCO = {
    "images": [{"id": 5, "file_name": "5.jpg"}, {"id": 6, "file_name": "6.jpg"}],
    "annotations": [
        {"image_id": 6, "caption": "a cat"},
        {"image_id": 5, "caption": "a dog"},
        {"image_id": 5, "caption": "two dogs"},
    ],
}


class TestCoco:
    @pytest.mark.parametrize(
        "folder",
        ["train2017", "annotations/train2017", "images/train2017", "images", "annotations"],
    )
    def test_images_are_found_beside_the_captions(self, folder):
        uri = write("annotations/captions_train2017.json", json.dumps(COCO))
        write(f"{folder}/6.jpg", b"")
        assert read_examples(uri) == [
            Example(f"memory:///data/{folder}/5.jpg", ("a dog", "two dogs")),
            Example(f"memory:///data/{folder}/6.jpg", ("a cat",)),
        ]

    def test_images_may_be_named(self):
        uri = write("annotations/captions_train2017.json", json.dumps(COCO))
        write("train2017/5.jpg", b"")
        write("5.jpg", b"", "memory://elsewhere")
        examples = read_examples(uri, images="memory://elsewhere")
        assert examples[0].uri == "memory:///elsewhere/5.jpg"

    def test_where_images_were_looked_for_is_said(self):
        uri = write("annotations/captions_val2017.json", json.dumps(COCO))
        with pytest.raises(
            DataError, match=r"'5.jpg' in memory:///data/val2017, memory:///data/ann"
        ):
            read_examples(uri)

    @pytest.mark.parametrize(
        ("content", "said"),
        [
            ("[1]", "needs images and annotations, and has a list"),
            ('{"images": [], "info": 1}', "needs images and annotations, and has images, info"),
            ('{"images": 1, "annotations": []}', "must be lists"),
            ('{"images": [{"id": 5}], "annotations": []}', "an image without file_name"),
            ("{", "is not JSON"),
            (
                json.dumps({**COCO, "annotations": [{"image_id": 5, "bbox": []}]}),
                "begins with captions_, not that of instances_",
            ),
            (
                json.dumps({**COCO, "annotations": [{"image_id": 7, "caption": "a"}]}),
                "a caption of image 7, which is not among",
            ),
            (
                json.dumps({**COCO, "images": [{"id": 5, "file_name": "../5.jpg"}]}),
                "names the image '../5.jpg'",
            ),
        ],
    )
    def test_what_is_wrong_is_said(self, content, said):
        write("5.jpg", b"")
        uri = write("captions.json", content)
        with pytest.raises(DataError, match=said):
            read_examples(uri)
