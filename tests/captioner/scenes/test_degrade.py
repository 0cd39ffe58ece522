"""Pictures made harder to read."""

from collections import Counter

import numpy as np
import pytest
from PIL import Image

from captioner.scenes import render, sample
from captioner.scenes.degrade import DEGRADATIONS, Degradation, degrade, draw_degradation


@pytest.fixture(scope="module")
def picture() -> Image.Image:
    return render(sample(5))


def difference(image: Image.Image, other: Image.Image) -> float:
    return float(np.abs(np.asarray(image, float) - np.asarray(other, float)).mean())


@pytest.mark.parametrize("kind", DEGRADATIONS)
class TestEachKind:
    def test_more_strength_changes_more(self, picture, kind):
        changes = [
            difference(picture, degrade(picture, Degradation(kind, strength), 1))
            for strength in (0.0, 0.2, 0.6, 1.0)
        ]
        assert changes[0] == 0
        assert all(less < more for less, more in zip(changes, changes[1:], strict=False))

    def test_the_same_seed_gives_the_same_picture(self, picture, kind):
        once, again = (degrade(picture, Degradation(kind, 0.7), 3) for _ in range(2))
        assert difference(once, again) == 0
        assert (once.size, once.mode) == (picture.size, "RGB")

    def test_the_original_stays(self, picture, kind):
        before = picture.tobytes()
        degrade(picture, Degradation(kind, 1.0), 1)
        assert picture.tobytes() == before


def test_noise_has_the_deviation_that_it_says():
    grey = Image.new("RGB", (200, 200), (128, 128, 128))
    pixels = np.asarray(degrade(grey, Degradation("noise", 0.3), 1), float)
    assert pixels.std() == pytest.approx(0.3 * 90, rel=0.02)
    assert pixels.mean() == pytest.approx(128, abs=0.5)


def test_an_occlusion_hides_the_share_that_it_says():
    black = Image.new("RGB", (300, 200), (0, 0, 0))
    shares = []
    for seed in range(8):
        pixels = np.asarray(degrade(black, Degradation("occlusion", 0.5), seed))
        hidden = pixels.any(axis=2)
        rows, columns = hidden.any(axis=1).sum(), hidden.any(axis=0).sum()
        assert hidden.sum() == rows * columns  # one rectangle
        shares.append(hidden.mean())
    assert np.median(shares) == pytest.approx(0.5 * 0.4, rel=0.02)


def test_every_kind_is_drawn_equally_often():
    drawn = [draw_degradation(seed) for seed in range(4000)]
    counts = Counter(item.kind for item in drawn)
    assert set(counts) == {"none", "noise", "blur", "occlusion"}
    assert min(counts.values()) > 900
    strengths = np.array([item.strength for item in drawn if item.kind != "none"])
    assert np.quantile(strengths, (0.25, 0.75)) == pytest.approx([0.25, 0.75], abs=0.03)
    assert {item.strength for item in drawn if item.kind == "none"} == {0}
    assert drawn[:5] == [draw_degradation(seed) for seed in range(5)]


@pytest.mark.parametrize(
    ("kind", "strength", "message"),
    [
        ("rain", 0.5, "kind is 'rain'; use one of none, noise, blur, occlusion"),
        ("blur", 1.5, "strength is 1.5; use a number from 0 to 1"),
    ],
)
def test_what_is_unknown_is_refused(kind, strength, message):
    with pytest.raises(ValueError, match=message):
        Degradation(kind, strength)
