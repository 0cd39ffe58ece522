"""Scores held against torchmetrics, COCO's definition written out, and plain numbers."""

import json
import math
import sys

import numpy as np
import pycocotools.mask
import pytest
import torch
from torchmetrics.classification import (
    MulticlassJaccardIndex,
    MultilabelAveragePrecision,
    MultilabelF1Score,
)

from captioner.annotations import Annotations, Box, Label, Mask
from captioner.evaluation.annotations import score_annotations

CLASSES = ("cat", "dog", "bus", "tree")
ALL = {"labels": CLASSES, "boxes": CLASSES, "masks": CLASSES}
UNKNOWN = Annotations()
NONE = Annotations(labels=(), boxes=(), masks=())


def encoded(name, area):
    code = pycocotools.mask.encode(np.asfortranarray(area, np.uint8))
    return Mask(name, tuple(code["size"]), code["counts"].decode())


def of_pixels(pixels):
    """Return the masks of classes 1 to 4 of a picture; 0 is background."""
    return tuple(
        encoded(name, pixels == place)
        for place, name in enumerate(CLASSES, start=1)
        if (pixels == place).any()
    )


def made_up(images, seed=0):
    """Labels, boxes and masks that are partly right: what was found, and the truth."""
    rng = np.random.default_rng(seed)
    found, truth = [], []
    for _ in range(images):
        present = rng.random(4) < 0.4
        said = np.clip(present * 0.4 + rng.random(4) * 0.6, 0, 1)
        boxes = [random_box(rng) for _ in range(rng.integers(5))]
        moved = [random_box(rng, box) for box in boxes for _ in range(rng.integers(3))]
        wrong = [random_box(rng) for _ in range(rng.integers(3))]
        pixels = rng.integers(5, size=(6, 9))
        seen = np.where(rng.random((6, 9)) < 0.5, rng.integers(5, size=(6, 9)), pixels)
        labels = zip(CLASSES, said.tolist(), strict=True)
        truth.append(
            Annotations(
                labels=tuple(Label(n) for n, there in zip(CLASSES, present, strict=True) if there),
                boxes=tuple(boxes),
                masks=of_pixels(pixels),
            )
        )
        found.append(
            Annotations(
                labels=tuple(Label(*pair) for pair in labels),
                boxes=(*moved, *wrong),
                masks=of_pixels(seen),
            )
        )
    return found, truth


def random_box(rng, near=None):
    if near is None:
        name, (x, y, width, height) = CLASSES[rng.integers(4)], rng.uniform(10, 60, 4)
    else:
        name = near.name if rng.random() < 0.8 else CLASSES[rng.integers(4)]
        corner = np.array([near.x, near.y, near.width, near.height])
        x, y, width, height = corner + rng.normal(0, 1.5, 4)
    return Box(name, float(x), float(y), float(width), float(height), float(rng.random()))


def boxes_by_hand(found, truth, name, least):
    """Average precision of a class at an IoU, as COCO defines it (1405.0312)."""
    every = [
        (box.probability, image, box)
        for image, said in enumerate(found)
        for box in said.boxes
        if box.name == name
    ]
    left = [[box for box in there.boxes if box.name == name] for there in truth]
    wanted = sum(map(len, left))
    right, points = 0, []
    for number, (_, image, box) in enumerate(sorted(every, key=lambda one: -one[0]), start=1):
        best = max(left[image], key=lambda other, one=box: overlap(one, other), default=None)
        if best is not None and overlap(box, best) >= least:
            left[image].remove(best)
            right += 1
        points.append((right / wanted, right / number))
    levels = np.linspace(0, 1, 101)
    return np.mean([max((p for r, p in points if r >= level), default=0) for level in levels])


def overlap(one, other):
    width = min(one.x + one.width, other.x + other.width) - max(one.x, other.x)
    height = min(one.y + one.height, other.y + other.height) - max(one.y, other.y)
    both = max(width, 0) * max(height, 0)
    return both / (one.width * one.height + other.width * other.height - both)


@pytest.mark.parametrize("seed", range(3))
class TestAgainstReferences:
    def test_labels_by_torchmetrics(self, seed):
        found, truth = made_up(40, seed)
        said = torch.tensor([[label.probability for label in each.labels] for each in found])
        there = torch.tensor([[Label(n) in each.labels for n in CLASSES] for each in truth]).long()
        scores = score_annotations(found, truth, labels=CLASSES).labels

        def by(metric, average):
            return metric(num_labels=4, average=average)(said, there).tolist()

        assert scores.f1_micro.value == pytest.approx(by(MultilabelF1Score, "micro"), rel=1e-6)
        assert scores.f1_macro.value == pytest.approx(by(MultilabelF1Score, "macro"), rel=1e-6)
        each = by(MultilabelF1Score, "none")
        assert list(scores.f1.values()) == pytest.approx(each, rel=1e-6)
        mean = by(MultilabelAveragePrecision, "macro")
        assert scores.mean_average_precision == pytest.approx(mean, rel=1e-6)
        each = by(MultilabelAveragePrecision, "none")
        assert list(scores.average_precision.values()) == pytest.approx(each, rel=1e-6)

    def test_boxes_by_hand(self, seed):
        found, truth = made_up(25, seed)
        scores = score_annotations(found, truth, boxes=CLASSES).boxes
        levels = np.linspace(0.5, 0.95, 10)
        each = {
            name: [boxes_by_hand(found, truth, name, level) for level in levels] for name in CLASSES
        }
        half = {name: values[0] for name, values in each.items()}
        mean = {name: np.mean(values) for name, values in each.items()}
        assert 0.1 < scores.map_50_95 < scores.map_50 < 0.9
        assert scores.average_precision_50 == pytest.approx(half, rel=1e-9)
        assert scores.average_precision == pytest.approx(mean, rel=1e-9)
        assert scores.map_50 == pytest.approx(np.mean([*half.values()]), rel=1e-9)
        assert scores.map_50_95 == pytest.approx(np.mean([*mean.values()]), rel=1e-9)

    def test_masks_by_torchmetrics(self, seed):
        found, truth = made_up(20, seed)
        said, there = (
            torch.from_numpy(np.stack([painted(each.masks) for each in every]))
            for every in (found, truth)
        )
        scores = score_annotations(found, truth, masks=CLASSES).masks
        mean = MulticlassJaccardIndex(num_classes=5)(said, there).item()
        each = MulticlassJaccardIndex(num_classes=5, average="none")(said, there).tolist()
        assert scores.mean_iou.value == pytest.approx(mean, rel=1e-6)
        assert list(scores.iou) == ["background", *CLASSES]
        assert list(scores.iou.values()) == pytest.approx(each, rel=1e-6)


def painted(masks):
    pixels = np.zeros((6, 9), np.int64)
    for mask in masks:
        area = pycocotools.mask.decode({"size": list(mask.size), "counts": mask.counts.encode()})
        pixels[area > 0] = 1 + CLASSES.index(mask.name)
    return pixels


class TestByHand:
    def test_the_truth_is_perfect(self):
        _, truth = made_up(20)
        scores = score_annotations(truth, truth, **ALL)
        assert scores.labels.f1_micro.value == scores.labels.f1_macro.low == 1
        assert scores.labels.mean_average_precision == 1
        assert scores.boxes.map_50 == scores.boxes.map_50_95 == pytest.approx(1)
        assert scores.masks.mean_iou.value == scores.masks.mean_iou.low == 1

    def test_nothing_found_is_nothing(self):
        _, truth = made_up(20)
        scores = score_annotations([NONE] * 20, truth, **ALL)
        assert scores.labels.f1_micro.value == scores.labels.f1_macro.high == 0
        assert scores.boxes.map_50 == scores.boxes.map_50_95 == 0
        assert all(scores.masks.iou[name] == 0 for name in CLASSES)

    def test_labels_count_above_a_half(self):
        said = (Label("cat", 0.51), Label("dog", 0.5), Label("bus", 0.9), Label("bus", 0.2))
        there = (Label("cat"), Label("dog"))
        found = [Annotations(labels=said)]
        scores = score_annotations(found, [Annotations(labels=there)], labels=CLASSES).labels
        assert scores.f1 == {"cat": 1, "dog": 0, "bus": 0, "tree": None}
        assert scores.f1_micro.value == pytest.approx(1 / 2)
        assert scores.f1_macro.value == pytest.approx(1 / 3)
        assert scores.average_precision == {"cat": 1, "dog": 1, "bus": None, "tree": None}

    def test_one_class_is_enough(self):
        found = [Annotations(labels=(Label("cat", p),)) for p in (0.9, 0.7, 0.6)]
        truth = [Annotations(labels=labels) for labels in ((Label("cat"),), (), (Label("cat"),))]
        scores = score_annotations(found, truth, labels=["cat"]).labels
        assert scores.f1_micro.value == pytest.approx(4 / 5)
        assert scores.average_precision["cat"] == pytest.approx((1 + 2 / 3) / 2)

    def test_a_box_found_where_there_is_none_lowers_precision(self):
        box, surer = Box("cat", 0, 0, 9, 9, 0.5), Box("cat", 0, 0, 9, 9, 0.9)
        truth = [Annotations(boxes=(Box("cat", 0, 0, 9, 9),)), Annotations(boxes=())]
        found = [Annotations(boxes=(box,)), Annotations(boxes=(surer,))]
        assert score_annotations(found, truth, boxes=CLASSES).boxes.map_50 == pytest.approx(1 / 2)

    def test_a_box_of_another_class_is_none(self):
        truth = [Annotations(boxes=(Box("cat", 0, 0, 9, 9),))]
        found = [Annotations(boxes=(Box("dog", 0, 0, 9, 9, 0.9),))]
        scores = score_annotations(found, truth, boxes=CLASSES).boxes
        assert scores.average_precision == {"cat": 0, "dog": None, "bus": None, "tree": None}
        assert scores.map_50 == 0

    def test_a_half_overlap_counts_at_half_only(self):
        truth = [Annotations(boxes=(Box("cat", 0, 0, 10, 10),))]
        found = [Annotations(boxes=(Box("cat", 0, 0, 10, 5.2, 0.9),))]
        scores = score_annotations(found, truth, boxes=CLASSES).boxes
        assert (scores.map_50, scores.map_50_95) == pytest.approx((1, 1 / 10))

    def test_the_later_of_two_masks_has_the_pixel(self):
        left, right, whole = np.zeros((2, 2)), np.zeros((2, 2)), np.ones((2, 2))
        left[:, 0] = right[:, 1] = 1
        truth = [Annotations(masks=(encoded("cat", left), encoded("dog", right)))]
        for masks, iou in [
            ((encoded("cat", whole), encoded("dog", right)), {"cat": 1, "dog": 1}),
            ((encoded("dog", right), encoded("cat", whole)), {"cat": 1 / 2, "dog": 0}),
        ]:
            scores = score_annotations([Annotations(masks=masks)], truth, masks=CLASSES).masks
            assert scores.iou == {"background": None, **iou, "bus": None, "tree": None}
            assert scores.mean_iou.value == pytest.approx(sum(iou.values()) / 2)

    def test_background_counts(self):
        half = np.zeros((2, 2))
        half[0] = 1
        found = [Annotations(masks=(encoded("cat", np.ones((2, 2))),))]
        truth = [Annotations(masks=(encoded("cat", half),))]
        scores = score_annotations(found, truth, masks=["cat"]).masks
        assert scores.iou == {"background": 0, "cat": 1 / 2}
        assert scores.mean_iou.value == 1 / 4

    def test_masks_of_images_of_different_sizes(self):
        truth = [Annotations(masks=(encoded("cat", np.ones(size)),)) for size in ((2, 3), (7, 4))]
        found = [Annotations(masks=()), truth[1]]
        scores = score_annotations(found, truth, masks=["cat"]).masks
        assert scores.iou["cat"] == pytest.approx(28 / 34)


class TestUnknown:
    def test_an_image_of_unknown_truth_is_left_out_of_that_kind(self):
        found, truth = made_up(30)
        kinds = ("labels", "boxes", "masks")
        for place, kind in enumerate(kinds):
            part = [
                UNKNOWN if number % 3 == place else Annotations(**{kind: getattr(each, kind)})
                for number, each in enumerate(truth)
            ]
            rest = [number for number in range(30) if number % 3 != place]
            scores = score_annotations(found, part, **ALL)
            wanted = score_annotations([found[n] for n in rest], [truth[n] for n in rest], **ALL)
            assert getattr(scores, kind) == getattr(wanted, kind)
            assert getattr(scores, kind).images == 20
            assert [getattr(scores, other) for other in kinds if other != kind] == [None, None]

    def test_what_a_model_does_not_look_for_is_not_scored(self):
        found, truth = made_up(10)
        only = [Annotations(boxes=each.boxes) for each in found]
        scores = score_annotations(only, truth, **ALL)
        assert scores == score_annotations(found, truth, boxes=CLASSES)
        assert scores.labels is scores.masks is None
        assert scores.boxes is not None

    @pytest.mark.parametrize("truth", [UNKNOWN, NONE])
    def test_what_is_nowhere_is_not_scored(self, truth):
        found, _ = made_up(5)
        scores = score_annotations(found, [truth] * 5, **ALL)
        assert scores.as_dict() == {"labels": None, "boxes": None, "masks": None}
        assert scores.table() == "Scores times 100"

    def test_an_image_known_to_show_nothing_counts(self):
        found, truth = made_up(10)
        few = score_annotations(found, truth, **ALL)
        more = score_annotations([*found, found[0]], [*truth, NONE], **ALL)
        assert more.labels.f1_micro.value < few.labels.f1_micro.value
        assert more.boxes.map_50 < few.boxes.map_50
        assert more.masks.mean_iou.value < few.masks.mean_iou.value


class TestInterval:
    def test_it_holds_the_value_and_shrinks_with_more_images(self):
        found, truth = made_up(640)
        few = score_annotations(found[:40], truth[:40], labels=CLASSES, masks=CLASSES)
        many = score_annotations(found, truth, labels=CLASSES, masks=CLASSES)
        for wide, narrow in [
            (few.labels.f1_micro, many.labels.f1_micro),
            (few.labels.f1_macro, many.labels.f1_macro),
            (few.masks.mean_iou, many.masks.mean_iou),
        ]:
            assert wide.low < wide.value < wide.high
            assert narrow.low < narrow.value < narrow.high
            share = (narrow.high - narrow.low) / (wide.high - wide.low)
            assert share == pytest.approx(1 / 4, rel=0.4)  # 16 times as many images.

    def test_it_is_that_of_a_mean_where_the_score_is_one(self):
        """Every image shows a cat in one of two pixels; the other is background."""
        area = np.array([[1, 0]])
        truth = [Annotations(masks=(encoded("cat", area),))] * 400
        wrong = Annotations(masks=(encoded("cat", 1 - area),))
        found = [*truth[:300], *[wrong] * 100]
        score = score_annotations(found, truth, masks=["cat"]).masks.mean_iou
        share = 300 / 400
        slope = 2 / (2 - share) ** 2  # Of IoU, share / (2 - share).
        half = 1.96 * slope * math.sqrt(share * (1 - share) / 400)
        assert score.value == pytest.approx(share / (2 - share))
        assert score.low == pytest.approx(score.value - half, abs=0.15 * half)
        assert score.high == pytest.approx(score.value + half, abs=0.15 * half)

    def test_draws_without_any_class_do_not_break_it(self):
        one = Annotations(labels=(Label("cat"),), masks=(encoded("cat", np.ones((2, 2))),))
        scores = score_annotations([one, NONE], [one, NONE], labels=CLASSES, masks=CLASSES)
        for score in (scores.labels.f1_micro, scores.labels.f1_macro, scores.masks.mean_iou):
            assert (score.low, score.value, score.high) == (1, 1, 1)

    def test_the_same_annotations_give_the_same_interval(self):
        found, truth = made_up(20)
        assert score_annotations(found, truth, **ALL) == score_annotations(found, truth, **ALL)


class TestShown:
    def test_as_json_and_as_a_table(self, capsys):
        found, truth = made_up(20)
        scores = score_annotations(found, truth, **ALL)
        assert capsys.readouterr().out == ""
        again = json.loads(json.dumps(scores.as_dict(), allow_nan=False))
        assert again["labels"]["f1_micro"]["low"] == scores.labels.f1_micro.low
        assert again["boxes"]["average_precision"]["cat"] == scores.boxes.average_precision["cat"]
        assert set(again["masks"]["iou"]) == {"background", *CLASSES}
        lines = scores.table().splitlines()
        micro, half = 100 * scores.labels.f1_micro.value, 100 * scores.boxes.map_50
        assert lines[1] == "Labels of 20 images"
        assert lines[2].startswith(f"F1 micro    {micro:.1f}   95% interval ")
        assert lines[6] == f"mAP@50      {half:.1f}"
        assert [line.split()[0] for line in lines[1:]] == [
            "Labels",
            "F1",
            "F1",
            "mAP",
            "Boxes",
            "mAP@50",
            "mAP@50:95",
            "Masks",
            "mIoU",
        ]


class TestRefused:
    @pytest.mark.parametrize(
        ("found", "truth", "message"),
        [
            ([], [], "annotations of 0 images but the truth of 0"),
            ([NONE], [NONE] * 2, "annotations of 1 images but the truth of 2"),
            (
                [NONE, NONE],
                [NONE, Annotations(labels=(Label("cow"),))],
                "the truth of image 1 has 'cow' among its labels, which is no class; the classes "
                "are: cat, dog, bus, tree",
            ),
            (
                [Annotations(boxes=(Box("cow", 0, 0, 1, 1),))],
                [NONE],
                "what was found of image 0 has 'cow' among its boxes",
            ),
            (
                [Annotations(labels=(Label("cat", 1.5),))],
                [Annotations(labels=(Label("cat"),))],
                "probability=1.5.* is not from 0 to 1",
            ),
            (
                [Annotations(masks=(encoded("cat", np.ones((2, 3))),))],
                [Annotations(masks=(encoded("cat", np.ones((3, 2))),))],
                r"sizes \[\(2, 3\), \(3, 2\)\]",
            ),
        ],
    )
    def test_what_cannot_be_scored(self, found, truth, message):
        with pytest.raises(ValueError, match=message):
            score_annotations(found, truth, **ALL)

    def test_a_class_of_masks_is_not_the_background(self):
        with pytest.raises(ValueError, match="a class of masks is called 'background'"):
            score_annotations([NONE], [NONE], masks=["background"])

    @pytest.mark.parametrize("name", ["torchmetrics", "pycocotools"])
    def test_what_is_not_installed_is_named(self, monkeypatch, name):
        for module in [module for module in sys.modules if module.split(".")[0] == name]:
            monkeypatch.setitem(sys.modules, module, None)
        monkeypatch.setitem(sys.modules, name, None)
        with pytest.raises(ModuleNotFoundError, match=rf"need {name}.*captioner\[evaluation\]"):
            score_annotations([NONE], [NONE])
