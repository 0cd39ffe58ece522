"""What is known of changed pictures, held against numpy on their pixels."""

import numpy as np
import pytest

from captioner.annotations import Annotations, Box, ClassNames, Label, Mask
from captioner.heads.targets import decoded
from captioner.training.annotated import changed_annotations, of_classes
from captioner.training.augment import Change
from captioner.training.sources.marks import mask_from_pixels

WIDTH, HEIGHT = 20, 10
SIZE = (WIDTH, HEIGHT)
WHOLE = Change()
CROPS = [
    (0.0, 0.0, 1.0, 1.0),
    (0.0, 0.0, 0.5, 1.0),
    (0.25, 0.2, 0.75, 0.9),
    (0.1, 0.5, 1.0, 1.0),
]


def pixels_of(box: Box) -> np.ndarray:
    """Paint a box of whole pixels on black."""
    pixels = np.zeros((HEIGHT, WIDTH), bool)
    x, y = int(box.x), int(box.y)
    pixels[y : y + int(box.height), x : x + int(box.width)] = True
    return pixels


def cut(pixels: np.ndarray, change: Change) -> np.ndarray:
    """Crop and mirror by hand; the crops of these tests are of whole pixels."""
    left, top, right, bottom = change.box
    rows = slice(round(top * HEIGHT), round(bottom * HEIGHT))
    part = pixels[rows, round(left * WIDTH) : round(right * WIDTH)]
    return part[:, ::-1] if change.flipped else part


def extent(pixels: np.ndarray) -> tuple[int, int, int, int]:
    """Return x, y, width and height of what is true."""
    rows, columns = np.argwhere(pixels).T
    x, y = columns.min(), rows.min()
    return x, y, columns.max() + 1 - x, rows.max() + 1 - y


@pytest.mark.parametrize("flipped", [False, True])
@pytest.mark.parametrize("crop", CROPS)
class TestPixels:
    def test_boxes_go_where_their_pixels_go(self, crop, flipped):
        change = Change(crop, flipped=flipped)
        boxes = (Box("a", 4, 3, 6, 5), Box("b", 0, 0, 20, 10), Box("c", 8, 6, 9, 2))
        known, size = changed_annotations(Annotations(boxes=boxes), SIZE, change)
        parts = [cut(pixels_of(box), change) for box in boxes]
        assert size == parts[0].shape[::-1]
        wanted = {
            box.name: extent(part)
            for box, part in zip(boxes, parts, strict=True)
            if 4 * part.sum() >= box.width * box.height
        }
        found = {box.name: (box.x, box.y, box.width, box.height) for box in known.boxes}
        assert found.keys() == wanted.keys()
        for name, sides in wanted.items():
            assert found[name] == pytest.approx(sides)

    def test_masks_go_with_their_pixels(self, crop, flipped):
        change = Change(crop, flipped=flipped)
        drawn = np.random.default_rng(0).random((HEIGHT, WIDTH)) < 0.5
        mask = mask_from_pixels("grass", drawn)
        known, size = changed_annotations(Annotations(masks=(mask,)), SIZE, change)
        (found,) = known.masks
        wanted = cut(drawn, change)
        assert (found.name, found.size) == ("grass", wanted.shape)
        assert np.array_equal(decoded(found), wanted)
        assert size == wanted.shape[::-1]


class TestWhatStays:
    LEFT = Change((0.0, 0.0, 0.5, 1.0))

    @pytest.mark.parametrize(("x", "stays"), [(9, True), (9.01, False), (10, False), (2, True)])
    def test_an_object_needs_a_quarter_of_its_box(self, x, stays):
        known, _ = changed_annotations(Annotations(boxes=(Box("a", x, 2, 4, 4),)), SIZE, self.LEFT)
        assert bool(known.boxes) == stays

    def test_who_drew_it_and_how_sure_is_kept(self):
        box = Box("a", 2, 2, 4, 4, probability=0.5)
        known, _ = changed_annotations(Annotations(boxes=(box,)), SIZE, self.LEFT)
        assert known.boxes == (box,)

    def test_a_mask_that_is_cut_off_is_gone(self):
        drawn = np.zeros((HEIGHT, WIDTH), bool)
        drawn[:, 10:] = True
        masks = (mask_from_pixels("a", drawn), mask_from_pixels("b", ~drawn))
        known, _ = changed_annotations(Annotations(masks=masks), SIZE, self.LEFT)
        assert [mask.name for mask in known.masks] == ["b"]

    def test_labels_go_with_all_boxes_and_masks_of_their_name(self):
        right = np.zeros((HEIGHT, WIDTH), bool)
        right[:, 10:] = True
        known = Annotations(
            labels=tuple(map(Label, ("boxed", "masked", "both", "twice", "mood"))),
            boxes=(
                Box("boxed", 12, 0, 4, 4),
                Box("both", 12, 0, 4, 4),
                Box("twice", 12, 0, 4, 4),
                Box("twice", 2, 0, 4, 4),
            ),
            masks=(mask_from_pixels("masked", right), mask_from_pixels("both", ~right)),
        )
        after, _ = changed_annotations(known, SIZE, self.LEFT)
        assert [label.name for label in after.labels] == ["both", "twice", "mood"]
        assert changed_annotations(known, SIZE, WHOLE)[0] == known

    def test_what_is_unknown_stays_unknown_and_none_stays_none(self):
        for known in (Annotations(), Annotations((), (), ())):
            assert changed_annotations(known, SIZE, self.LEFT)[0] == known


def test_other_classes_are_left_out():
    known = Annotations(
        labels=(Label("a"), Label("b")),
        boxes=(Box("a", 0, 0, 1, 1), Box("b", 0, 0, 1, 1)),
        masks=(Mask("a", (1, 1), "01"), Mask("b", (1, 1), "01")),
    )
    left = of_classes(known, ClassNames(labels=("a",), boxes=("b",), masks=()))
    assert left == Annotations((Label("a"),), (Box("b", 0, 0, 1, 1),), ())
    assert of_classes(Annotations(), ClassNames(("a",), (), ())) == Annotations()
