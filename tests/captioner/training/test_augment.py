import numpy as np
import pytest
from PIL import Image, ImageEnhance

from captioner.training.augment import AugmentConfig, Change, changed, draw_change, swap_sides

CROPS = AugmentConfig(crop_scale=0.5)
ALL = AugmentConfig(crop_scale=0.5, colour=0.3, flip=True)


def picture(width: int = 12, height: int = 8) -> Image.Image:
    rng = np.random.default_rng(0)
    return Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))


def draw(config: AugmentConfig, image: int, *, epoch: int = 0, size=(120, 80)) -> Change:
    return draw_change(config, size, seed=0, epoch=epoch, image=image)


def squeeze(image: Image.Image):
    return np.asarray(image.resize((6, 6)))


class TestDrawing:
    def test_by_itself_nothing_changes(self):
        assert all(draw(AugmentConfig(), image) == Change() for image in range(20))

    def test_the_same_numbers_give_the_same_change(self):
        assert draw(ALL, 3, epoch=2) == draw(ALL, 3, epoch=2)
        others = {draw(ALL, 4, epoch=2), draw(ALL, 3, epoch=1), draw(ALL, 2, epoch=3)}
        assert len(others | {draw(ALL, 3, epoch=2)}) == 4

    def test_one_thing_turned_off_changes_no_other(self):
        alone = draw(CROPS, 5)
        assert alone.box == draw(ALL, 5).box
        assert alone.colour == (1, 1, 1)

    def test_crops_keep_the_share_and_stay_in_the_picture(self):
        boxes = np.array([draw(CROPS, image).box for image in range(500)])
        areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
        assert boxes.min() >= 0
        assert boxes.max() <= 1 + 1e-12
        assert areas.max() <= 1 + 1e-12
        # A ratio of sides may make less fit in, never less than 3/4 of it in this picture.
        assert 0.5 * 3 / 4 <= areas.min() < 0.55
        assert np.mean(areas) == pytest.approx(0.72, abs=0.05)

    def test_colours_and_flips_are_spread_evenly(self):
        changes = [draw(ALL, image) for image in range(500)]
        colours = np.array([change.colour for change in changes])
        assert colours.min() == pytest.approx(0.7, abs=0.01)
        assert colours.max() == pytest.approx(1.3, abs=0.01)
        assert np.mean([change.flipped for change in changes]) == pytest.approx(0.5, abs=0.07)

    @pytest.mark.parametrize("size", [(1, 1), (1, 500), (500, 1)])
    def test_a_narrow_picture_keeps_a_pixel(self, size):
        for image in range(50):
            pixels = changed(Image.new("RGB", size, "red"), draw(CROPS, image, size=size), squeeze)
            assert (pixels == (255, 0, 0)).all()

    @pytest.mark.parametrize("wrong", [{"crop_scale": 0}, {"crop_scale": 1.1}, {"colour": 1}])
    def test_a_value_out_of_range_is_named(self, wrong):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            AugmentConfig(**wrong)


class TestChanging:
    def test_a_box_is_cut_out_before_the_picture_is_prepared(self):
        pixels = changed(picture(), Change(box=(0.25, 0.5, 0.75, 1.0)), np.asarray)
        assert np.array_equal(pixels, np.asarray(picture())[4:8, 3:9])

    def test_mirrored(self):
        pixels = changed(picture(), Change(flipped=True), np.asarray)
        assert np.array_equal(pixels, np.asarray(picture())[:, ::-1])

    @pytest.mark.parametrize(
        ("place", "kind"),
        [(0, ImageEnhance.Brightness), (1, ImageEnhance.Contrast), (2, ImageEnhance.Color)],
    )
    def test_colour(self, place, kind):
        colour = [1.0, 1.0, 1.0]
        colour[place] = 0.6
        pixels = changed(picture(), Change(colour=tuple(colour)), np.asarray)
        assert np.array_equal(pixels, np.asarray(kind(picture()).enhance(0.6)))
        assert not np.array_equal(pixels, np.asarray(picture()))


class TestSides:
    @pytest.mark.parametrize(
        ("caption", "other"),
        [
            ("a dog to the left of a cat", "a dog to the right of a cat"),
            ("Left: a dog. RIGHT: a cat.", "Right: a dog. LEFT: a cat."),
            (
                "the leftmost and rightward left-hand dog",
                "the rightmost and leftward right-hand dog",
            ),
            ("leftover food, bright light, aright", "leftover food, bright light, aright"),
            ("狗在猫的左边，鸟在右边", "狗在猫的右边，鸟在左边"),
            ("猫的左右有狗", "猫的左右有狗"),
            ("no side at all", "no side at all"),
        ],
    )
    def test_swapped(self, caption, other):
        assert swap_sides(caption) == other
        assert swap_sides(other) == caption
