import json

import numpy as np
import pytest
import torch
from PIL import Image

from captioner.annotations import Annotations, Box, Label
from captioner.contract import Caption
from captioner.decoders import LSTMDecoderConfig
from captioner.encoders import GridEncoderConfig
from captioner.evaluation.run import evaluate
from captioner.heads import ClassifierConfig, DetectorConfig, HeadsConfig
from captioner.model import AttentionCaptioner, CaptionModel, ModelConfig
from captioner.scenes import TEST, samples
from captioner.scenes.truth import annotations
from captioner.tokenizer import CaptionTokenizer
from captioner.training.sources import DataError

CAT, DOG = Box("cat", 1, 2, 8, 6), Box("dog", 3, 1, 10, 9)
FOUND = [
    Annotations((Label("cat"),), (CAT,)),
    Annotations((Label("dog"),), (DOG,)),
    Annotations((Label("cat"), Label("dog")), (CAT, DOG)),
]
CAPTIONS = ["a cat sleeps on a chair", "a dog runs over the grass", "a cat and a dog look at me"]


class Knowing(AttentionCaptioner):
    """Finds what it is told to, image by image."""

    found: list[Annotations]

    def caption(self, batch):
        return [Caption("a cat", ("a", "cat"), (-0.5, -0.5)) for _ in batch]

    def find(self, batch, score_threshold=None):
        mine, self.found = self.found[: len(batch)], self.found[len(batch) :]
        return mine


def knowing(found, classes=("cat", "dog"), *, heads: bool = True) -> Knowing:
    torch.manual_seed(0)
    tokenizer = CaptionTokenizer.train(CAPTIONS)
    config = ModelConfig(
        name="tiny",
        encoder=GridEncoderConfig(image_size=16, widths=(4,), blocks=(0,)),
        decoder=LSTMDecoderConfig(
            vocabulary_size=len(tokenizer), embedding_size=4, hidden_size=4, attention_size=4
        ),
        heads=HeadsConfig(
            labels=ClassifierConfig(classes=classes), boxes=DetectorConfig(classes=classes)
        )
        if heads
        else None,
    )
    captioner = Knowing(CaptionModel(config), tokenizer, model_id="knowing@1")
    captioner.found = list(found)
    return captioner


@pytest.fixture
def write(tmp_path):
    """Write a data set of lines of what is known of each image; return its folder."""

    def written(*lines) -> str:
        for number, line in enumerate(lines):
            name = line.setdefault("file_name", f"{number}.png")
            Image.fromarray(np.full((20, 30, 3), 40 * number, np.uint8)).save(tmp_path / name)
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (tmp_path / "metadata.jsonl").write_text(text)
        return str(tmp_path)

    return written


def objects(known: Annotations) -> dict:
    return {
        "bbox": [[box.x, box.y, box.width, box.height] for box in known.boxes],
        "categories": [box.name for box in known.boxes],
    }


def both() -> list[dict]:
    return [
        {"captions": [caption], "objects": objects(known)}
        for caption, known in zip(CAPTIONS, FOUND, strict=True)
    ]


def perfect(metrics) -> bool:
    labels, boxes = metrics["annotations"]["labels"], metrics["annotations"]["boxes"]
    return labels["f1_micro"]["value"] == 1 and boxes["map_50_95"] == pytest.approx(1)


def test_captions_and_annotations(write):
    evaluation = evaluate(knowing(FOUND), write(*both()), batch_size=2)
    assert perfect(evaluation.metrics)
    assert evaluation.metrics["images"] == 3
    assert 0 < evaluation.metrics["bleu_1"]["value"] < 1
    assert evaluation.table.index("CIDEr") < evaluation.table.index("mAP@50")
    assert len(evaluation.rows) == 3
    assert "not scored" not in evaluation.table
    json.dumps(evaluation.metrics)


def test_what_heads_miss_counts(write):
    metrics = evaluate(knowing(FOUND[::-1]), write(*both())).metrics
    # Of four labels three are found, and one is found that is not there.
    assert metrics["annotations"]["labels"]["f1_micro"]["value"] == pytest.approx(
        2 * 3 / (2 * 3 + 1 + 1)
    )


def test_annotations_alone(write):
    lines = [{"objects": objects(known)} for known in FOUND]
    evaluation = evaluate(knowing(FOUND), write(*lines))
    assert perfect(evaluation.metrics)
    assert "bleu_1" not in evaluation.metrics
    assert evaluation.rows == []
    assert "no image has a caption: captions are not scored" in evaluation.table


def test_captions_alone(write):
    evaluation = evaluate(knowing([]), write(*[{"captions": [caption]} for caption in CAPTIONS]))
    assert "annotations" not in evaluation.metrics
    assert evaluation.metrics["images"] == 3
    assert evaluation.table.splitlines()[-1].startswith("not scored: labels, boxes; ")


def test_an_image_without_words_is_scored_by_what_is_seen(write):
    lines = both()
    lines[1]["captions"] = ["..."]
    evaluation = evaluate(knowing(FOUND), write(*lines))
    assert evaluation.metrics["images"] == 2
    assert evaluation.metrics["left_out"] == 0
    assert evaluation.metrics["annotations"]["labels"]["images"] == 3


def test_images_that_cannot_be_read_are_left_out_of_both(write, tmp_path):
    data = write(*both())
    (tmp_path / "1.png").write_bytes(b"no image")
    evaluation = evaluate(knowing([FOUND[0], FOUND[2]]), data)
    assert perfect(evaluation.metrics)
    assert evaluation.metrics["left_out"] == 1
    assert [row for row in evaluation.rows if "left_out" in row]


def test_classes_that_the_model_does_not_know(write):
    lines = both()
    lines[0]["objects"]["bbox"].append([0, 0, 9, 9])
    lines[0]["objects"]["categories"].append("giraffe")
    evaluation = evaluate(knowing(FOUND), write(*lines))
    assert perfect(evaluation.metrics)
    assert evaluation.metrics["unknown_classes"] == {"labels": ["giraffe"], "boxes": ["giraffe"]}
    assert "does not know: 1 of labels, 1 of boxes, such as 'giraffe'" in evaluation.table


def test_a_model_without_heads_is_scored_as_ever(write):
    evaluation = evaluate(knowing([], heads=False), write(*both()))
    assert "annotations" not in evaluation.metrics
    assert "not scored" not in evaluation.table


def test_a_model_without_heads_needs_captions(write):
    with pytest.raises(DataError):
        evaluate(knowing([], heads=False), write({"objects": objects(FOUND[0])}))


class TestAnnotationsOfTheirOwn:
    def test_they_are_joined_by_image(self, write, tmp_path):
        data = write(*[{"captions": [caption]} for caption in CAPTIONS])
        coco = {
            "images": [
                {"id": n, "file_name": f"{n}.png", "height": 20, "width": 30} for n in range(3)
            ],
            "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
            "annotations": [
                {
                    "id": 10 * n + at,
                    "image_id": n,
                    "category_id": 1 + (box.name == "dog"),
                    "bbox": [box.x, box.y, box.width, box.height],
                    "area": 1,
                    "iscrowd": 0,
                }
                for n, known in enumerate(FOUND)
                for at, box in enumerate(known.boxes)
            ],
        }
        captions = tmp_path / "captions.json"
        notes = [{"id": n, "image_id": n, "caption": text} for n, text in enumerate(CAPTIONS)]
        captions.write_text(json.dumps({"images": coco["images"], "annotations": notes}))
        (tmp_path / "instances.json").write_text(json.dumps(coco))
        evaluation = evaluate(
            knowing(FOUND), str(captions), data, annotations=str(tmp_path / "instances.json")
        )
        assert perfect(evaluation.metrics)
        assert evaluation.metrics["images"] == 3
        assert evaluation.metrics["annotation_data"].endswith("instances.json")

    def test_a_model_without_heads_has_no_use_for_them(self):
        with pytest.raises(ValueError, match=r"knowing@1 has no heads.*--tasks"):
            evaluate(knowing([], heads=False), "data", annotations="instances.json")

    def test_scenes_bring_their_own(self):
        with pytest.raises(ValueError, match="scenes bring their own"):
            evaluate(knowing([]), "scenes:3", annotations="instances.json")


class TestScenes:
    def test_heads_that_know_a_few_shapes(self):
        classes = ("circle", "square")
        found = [
            Annotations(
                tuple(label for label in known.labels if label.name in classes),
                tuple(box for box in known.boxes if box.name in classes),
            )
            for known in map(annotations, samples(TEST, 12))
        ]
        evaluation = evaluate(knowing(found, classes), "scenes:12", batch_size=5)
        assert perfect(evaluation.metrics)
        assert evaluation.metrics["true_captions"] == 0
        assert "star" in evaluation.metrics["unknown_classes"]["boxes"]
        assert evaluation.table.index("true captions") < evaluation.table.index("mAP@50")

    def test_heads_that_know_none_of_the_shapes(self):
        evaluation = evaluate(knowing([Annotations((), ())] * 4), "scenes:4")
        assert "annotations" not in evaluation.metrics
        assert "not scored: labels, boxes; " in evaluation.table
