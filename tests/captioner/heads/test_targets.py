import numpy as np
import pytest
import torch
from pycocotools import mask as coco

from captioner.annotations import Annotations, Box, Label, Mask
from captioner.contract import Geometry
from captioner.heads import Found, HeadTargets
from captioner.heads.findings import boxes_of, labels_of, masks_of
from captioner.heads.segmenter import classes_at
from captioner.heads.targets import decoded

NAMES = ("cat", "dog")
UNKNOWN = Annotations()
EMPTY = Annotations((), (), ())


def mask_of(name: str, pixels: np.ndarray) -> Mask:
    counts = coco.encode(np.asfortranarray(pixels, np.uint8))["counts"].decode()
    return Mask(name, pixels.shape, counts)


def targets(*annotations: Annotations, size=(8, 4), image_size=4) -> HeadTargets:
    sizes = [size] * len(annotations)
    return HeadTargets.of(
        annotations, sizes, labels=NAMES, boxes=NAMES, masks=NAMES, image_size=image_size
    )


class TestTargets:
    def test_by_hand(self):
        pixels = np.zeros((4, 8), bool)
        pixels[:, 4:] = True
        low = np.zeros((4, 8), bool)
        low[2:] = True
        known = Annotations(
            labels=(Label("dog"), Label("cat", 0.7)),
            boxes=(Box("dog", 2, 1, 4, 2), Box("cat", -3, 3, 5, 9)),
            masks=(mask_of("cat", pixels), mask_of("dog", low)),
        )
        made = targets(UNKNOWN, known)
        torch.testing.assert_close(
            made.labels, torch.tensor([[float("nan")] * 2, [0.7, 1.0]]), equal_nan=True
        )
        assert made.boxes.tolist() == [
            [[0] * 4] * 2,
            [[0.25, 0.25, 0.75, 0.75], [0, 0.75, 0.25, 1]],
        ]
        assert made.classes.tolist() == [[-1, -1], [1, 0]]
        assert made.boxes_known.tolist() == [False, True]
        assert made.masks[0].unique().tolist() == [255]
        top, bottom = [0, 0, 1, 1], [2, 2, 2, 2]  # Where both lie the later one counts.
        assert made.masks[1].tolist() == [top, top, bottom, bottom]

    def test_known_to_be_none_is_not_unknown(self):
        made = targets(EMPTY)
        assert made.labels.tolist() == [[0, 0]]
        assert made.boxes.shape == (1, 0, 4)
        assert made.boxes_known.tolist() == [True]
        assert made.masks.unique().tolist() == [0]

    def test_without_classes_nothing_is_looked_at(self):
        strange = Annotations((Label("x"),), (Box("x", 0, 0, 1, 1),), (Mask("x", (1, 1), ""),))
        made = HeadTargets.of([strange, strange], [(8, 4)] * 2, image_size=4)
        assert made.labels.shape == (2, 0)
        assert made.boxes_known.tolist() == [False, False]
        assert made.masks.unique().tolist() == [255]

    def test_masks_are_taken_at_the_centres_of_pixels(self):
        pixels = np.random.default_rng(0).random((7, 13)) > 0.5
        made = targets(Annotations(masks=(mask_of("cat", pixels),)), size=(13, 7), image_size=5)
        for y in range(5):
            for x in range(5):
                wanted = pixels[int((y + 0.5) * 7 / 5), int((x + 0.5) * 13 / 5)]
                assert made.masks[0, y, x] == wanted

    @pytest.mark.parametrize(
        ("known", "message"),
        [
            ({"labels": [Label("cow")]}, "label 'cow' is none of the classes, which are cat, dog"),
            ({"labels": [Label("cat", 1.5)]}, "label 'cat' has the probability 1.5; use 0 to 1"),
            ({"boxes": [Box("cow", 0, 0, 1, 1)]}, "box 'cow' is none of the classes"),
            ({"boxes": [Box("cat", 1, 1, 0, 1)]}, r"box 'cat' \(x 1.* has no area"),
            ({"boxes": [Box("cat", 1, 1, float("nan"), 1)]}, "has no area"),
            ({"boxes": [Box("cat", 8, 0, 2, 2)]}, "lies outside the image, which has 8 x 4"),
            ({"boxes": [Box("cat", 0, -5, 2, 5)]}, "lies outside"),
            ({"boxes": [Box("cat", float("nan"), 0, 2, 5)]}, "lies outside"),
            ({"masks": [Mask("cow", (4, 8), "P1")]}, "mask 'cow' is none of the classes"),
            ({"masks": [Mask("cat", (8, 4), "P1")]}, r"the size \(8, 4\).*the image has \(4, 8\)"),
            ({"masks": [Mask("cat", (4, 8), "")]}, "has counts '', which do not make 4 x 8"),
        ],
    )
    def test_what_does_not_fit_is_refused_by_image(self, known, message):
        with pytest.raises(ValueError, match=f"image 1: .*{message}"):
            targets(EMPTY, Annotations(**known))


class TestDecoded:
    @pytest.mark.parametrize("seed", range(5))
    def test_by_pycocotools(self, seed):
        rng = np.random.default_rng(seed)
        pixels = rng.random((150, 90)) > rng.choice([0.002, 0.5, 0.999])
        pixels[:, 20:60] = seed % 2  # Long runs, of several characters.
        mask = mask_of("cat", pixels)
        expected = coco.decode({"size": list(mask.size), "counts": mask.counts.encode()})
        assert np.array_equal(decoded(mask), expected)
        assert np.array_equal(expected, pixels)

    @pytest.mark.parametrize("counts", ["", "\u00e9", "zzzz", "o" * 40, "1", "54", "o", "P", "77"])
    def test_counts_that_are_none_are_refused(self, counts):
        """4 x 8 pixels; those of too few would be whatever lay in memory."""
        with pytest.raises(ValueError, match="which do not make 4 x 8 pixels"):
            decoded(Mask("cat", (4, 8), counts))


GEOMETRIES = [
    Geometry(300, 150, 96 / 300, 96 / 150),
    Geometry(300, 150, 0.32, 0.32, 0.0, 24.0),  # Its ratio kept, bars above and below.
]


@pytest.mark.parametrize("geometry", GEOMETRIES, ids=["stretched", "kept"])
class TestTheWayBack:
    def test_a_box_comes_back(self, geometry):
        box = Box("dog", 30.0, 15.0, 120.0, 60.0, 0.75)
        ends = [box.x, box.y, box.x + box.width, box.y + box.height]
        shares = [
            [(end * geometry.scale_x + geometry.offset_x) / 96 for end in ends[::2]],
            [(end * geometry.scale_y + geometry.offset_y) / 96 for end in ends[1::2]],
        ]
        place = torch.tensor([[shares[0][0], shares[1][0], shares[0][1], shares[1][1]]])
        found = Found(place, torch.tensor([1]), torch.tensor([0.75]))
        (back,) = boxes_of(found, NAMES, geometry, 96)
        assert (back.name, back.probability) == ("dog", 0.75)
        sides = (back.x, back.y, back.width, back.height)
        assert sides == pytest.approx((30, 15, 120, 60), abs=1e-3)

    def test_boxes_end_at_the_edge_of_the_original(self, geometry):
        found = Found(torch.tensor([[0.0, 0, 1, 1]]), torch.tensor([0]), torch.tensor([1.0]))
        (back,) = boxes_of(found, NAMES, geometry, 96)
        assert (back.x, back.y, back.width, back.height) == (0, 0, 300, 150)

    @pytest.mark.parametrize("scale", [1, 2])
    def test_masks_come_back(self, geometry, scale):
        """What rises evenly crosses at one place; drawn at the model's size, or at half of it."""
        size = 96 // scale
        x = (torch.arange(size) + 0.5) * scale
        original = (x - geometry.offset_x) / geometry.scale_x
        logits = torch.zeros(3, size, size)
        logits[1] = original - 100
        logits[2] = (original - 200) * 3
        masks = masks_of(logits, NAMES, geometry, 96)
        assert [(mask.name, mask.size) for mask in masks] == [
            ("cat", (150, 300)),
            ("dog", (150, 300)),
        ]
        cat, dog = (decoded(mask) for mask in masks)
        assert (cat + dog <= 1).all()
        starts = [int(np.flatnonzero(row)[0]) for row in (cat[75], dog[75])]
        assert starts == pytest.approx([100, 250], abs=1)
        assert (cat == cat[75]).all()


def test_masks_are_the_librarys_bilinear_picture():
    torch.manual_seed(0)
    logits = torch.randn(4, 12, 12)
    whole = torch.nn.functional.interpolate(logits[None], (150, 70), mode="bilinear")[0]
    y, x = (np.arange(150) + 0.5) * 12 / 150, (np.arange(70) + 0.5) * 12 / 70
    assert (classes_at(logits, x, y) == whole.argmax(0).numpy()).mean() > 0.999


def test_only_background_is_no_mask():
    logits = torch.tensor([1.0, 0.0, 0.0]).view(3, 1, 1).expand(3, 4, 4)
    assert masks_of(logits, NAMES, GEOMETRIES[0], 4) == ()


def test_labels_are_those_that_are_likely_the_surest_first():
    labels = labels_of(torch.tensor([0.5, 2.0, -1.0]), ("a", "b", "c"), 0.5)
    assert [label.name for label in labels] == ["b", "a"]
    assert labels[0].probability == pytest.approx(1 / (1 + np.exp(-2.0)))
