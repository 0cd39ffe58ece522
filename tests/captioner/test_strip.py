"""Strips: words over what was looked at, small enough to be uploaded."""

import io

import numpy as np
import pytest
from PIL import Image

from captioner.strip import MOST_BYTES, WIDTH, Look, as_jpeg, small, strip, without_looks

COLOUR = (200, 30, 30)


def pointing(image: Image.Image, right: bool) -> np.ndarray:
    """Weights that are on one half of an image."""
    weights = np.zeros((image.height, image.width), np.float32)
    half = image.width // 2
    weights[:, half:] = right
    weights[:, :half] = not right
    return weights


def colourful(image: Image.Image) -> np.ndarray:
    """Where an image has colour rather than grey."""
    pixels = np.asarray(image, np.int16)
    return pixels.max(-1) - pixels.min(-1) > 60


@pytest.mark.parametrize("size", [(900, 600), (20, 30), (1, 500)])
def test_a_copy_fills_a_panel_and_keeps_its_shape(size: tuple[int, int]) -> None:
    copy = small(Image.new("RGB", size, COLOUR))
    assert max(copy.size) == 240
    assert copy.width == pytest.approx(240 * size[0] / max(size), abs=1)


def test_each_word_shows_what_it_looked_at() -> None:
    image = small(Image.new("RGB", (80, 80), COLOUR))
    looks = [Look(f"word {n}", pointing(image, right=n % 2 == 1)) for n in range(5)]
    drawn = strip(image, looks)
    assert drawn.width == WIDTH
    lit = colourful(drawn)
    for number in range(5):
        left, top = 8 + number % 4 * 248, 8 + number // 4 * (240 + 34 + 8)
        panel = lit[top : top + 240, left : left + 240]
        assert panel[:, 120:].all() == (number % 2 == 1)
        assert panel[:, :120].any() == (number % 2 == 0)
    assert lit.sum() == 5 * 240 * 120  # and nothing else is coloured


def test_unsure_words_are_marked() -> None:
    image = small(Image.new("RGB", (80, 80), "white"))
    looks = [Look("sure", pointing(image, True)), Look("unsure", pointing(image, True), True)]
    lit = colourful(strip(image, looks))
    assert not lit[:, :248].any()
    assert lit[250:, 248:496].any()


def test_a_word_that_is_wider_than_its_panel_stays_in_the_strip() -> None:
    image = small(Image.new("RGB", (80, 80), "white"))
    assert strip(image, [Look("w" * 200, pointing(image, True), True)]).width == WIDTH


def test_noise_is_small_enough_too() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (240, 240, 3), dtype=np.uint8)
    looks = [Look("word", np.ones((240, 240), np.float32))] * 8
    data = as_jpeg(strip(Image.fromarray(noise), looks))
    assert len(data) <= MOST_BYTES
    assert Image.open(io.BytesIO(data)).size == (WIDTH, 8 + 2 * (240 + 34 + 8))


def test_words_in_a_strips_place() -> None:
    drawn = without_looks("There is nothing.")
    assert drawn.width == WIDTH
    assert np.asarray(drawn).min() < 50
