import numpy as np
import pytest
from PIL import Image

from captioner.annotations import Annotations, Box, Label, Mask
from captioner.drawing import colours_of, label_list, panels_of, with_boxes, with_masks
from captioner.training.sources.marks import mask_from_pixels


def where(image: Image.Image, colour: tuple[int, int, int]) -> tuple[int, int, int, int]:
    """Return left, top, right and bottom of the pixels of a colour, both ends inside."""
    y, x = np.nonzero((np.asarray(image) == colour).all(2))
    return int(x.min()), int(y.min()), int(x.max()), int(y.max())


def mask(name: str, left: int, top: int, right: int, bottom: int) -> Mask:
    pixels = np.zeros((100, 300), np.bool_)
    pixels[top:bottom, left:right] = True
    return mask_from_pixels(name, pixels)


class TestBoxes:
    @pytest.mark.parametrize("ground", ["black", "white", "#e69f00"])
    def test_they_lie_where_they_are_on_the_original(self, ground):
        """Of 300 x 100, shown twice as wide and three times as high."""
        colours = colours_of(["cat"])
        image = Image.new("RGB", (600, 300), ground)
        drawn = with_boxes(image, [Box("cat", 100, 40, 150, 50)], (2, 3), colours)
        # Its name stands above the left edge; below it there is nothing but the box.
        lower = np.asarray(drawn)[125:]
        bright = np.asarray(Image.new("RGB", (600, 300), ground))[125:]
        y, x = np.nonzero((lower != bright).any(2))
        assert (x.min(), x.max()) == pytest.approx((200, 499), abs=2)
        assert y.max() + 125 == pytest.approx(269, abs=2)
        (changed,) = np.nonzero((np.asarray(drawn)[:, 450] != bright[0, 0]).any(1))
        assert changed.min() == pytest.approx(120, abs=2)
        inside = np.asarray(drawn)[130:260, 210:490]
        assert (inside == np.asarray(image)[0, 0]).all()

    def test_names_do_not_hide_each_other(self):
        colours = colours_of(["cat", "dog"])
        boxes = [Box("cat", 50, 50, 80, 60, 0.9), Box("dog", 52, 51, 80, 60, 0.8)]
        alone = [
            np.asarray(with_boxes(Image.new("RGB", (300, 200)), [box], (1, 1), colours))
            for box in boxes
        ]
        both = np.asarray(with_boxes(Image.new("RGB", (300, 200)), boxes, (1, 1), colours))
        for box, one in zip(boxes, alone, strict=True):
            colour = colours[box.name]
            filled = [int((picture == colour).all(2).sum()) for picture in (one, both)]
            assert filled[1] > 0.6 * filled[0]  # The name is more than half of it.

    def test_names_at_the_edge_of_a_narrow_image_can_be_read(self):
        colours = colours_of(["a dining table"])
        image = Image.new("RGB", (40, 200))
        drawn = with_boxes(image, [Box("a dining table", 30, 0, 10, 20)], (1, 1), colours)
        left, _, right, _ = where(drawn, colours["a dining table"])
        assert left > 0
        assert 100 < right - left < drawn.width - left


class TestMasks:
    def test_they_tint_their_pixels_alone(self):
        colours = colours_of(["sky", "grass"])
        ground = Image.new("RGB", (600, 200), "red")
        drawn = with_masks(ground, [mask("sky", 0, 0, 300, 50)], colours).crop((0, 0, 600, 200))
        pixels = np.asarray(drawn, int)
        tinted = pixels.max(2) != pixels.min(2)
        assert tinted[:100].all()
        assert not tinted[100:].any()

    def test_the_later_mask_counts(self):
        colours = colours_of(["a", "b"])
        ground = Image.new("RGB", (300, 100), "grey")
        first, second = mask("a", 0, 0, 200, 100), mask("b", 100, 0, 300, 100)
        both = np.asarray(with_masks(ground, [first, second], colours))
        assert (both[50, 150] == both[50, 250]).all()
        assert (both[50, 150] != both[50, 50]).any()

    def test_a_legend_names_each_class_once(self):
        colours = colours_of(["a", "b"])
        ground = Image.new("RGB", (300, 100))
        drawn = with_masks(ground, [mask("a", 0, 0, 9, 9), mask("b", 9, 9, 20, 20)], colours)
        legend = drawn.crop((0, 100, 300, drawn.height))
        (a, *_), (b, *_) = where(legend, colours["a"]), where(legend, colours["b"])
        assert a < b
        again = with_masks(ground, [mask("a", 0, 0, 9, 9), mask("a", 9, 9, 20, 20)], colours)
        assert not (np.asarray(again)[100:] == colours["b"]).all(2).any()


def test_the_surest_label_has_the_longest_bar():
    written = np.asarray(label_list([Label("cat", 0.25), Label("dog", 1.0)], 400), int)
    bars = [(row[:, 2] - row[:, 0] > 20).sum() for row in (written[1], written[23])]
    assert bars == pytest.approx([400, 100], abs=2)


def test_endless_labels_are_cut():
    assert label_list([Label(str(n)) for n in range(5000)], 400).height < 500


def test_classes_have_colours_of_their_own():
    assert len(set(colours_of([str(n) for n in range(40)]).values())) == 40


def test_what_is_unknown_has_no_panel_and_nothing_is_said_to_be_nothing():
    image = Image.new("RGB", (300, 100))
    panels = panels_of(Annotations(labels=(Label("cat"),), boxes=()), image, (456, 152))
    assert [title for title, _ in panels] == ["boxes: none found", "labels"]
