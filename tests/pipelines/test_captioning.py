"""Splitting batches and finding their size."""

import numpy as np
import pytest

from captioner.contract import Geometry, Prepared
from pipelines.captioning import BatchLimit, caption_batch, score_confidence
from pipelines.listing import ImageRef
from pipelines.records import Captioned, Decoded, Failure, ImageFacts
from tests.fakes import FakeCaptioner


def decoded(red: int) -> Decoded:
    pixels = np.full((8, 8, 3), (red, 0, 0), np.uint8)
    prepared = Prepared(pixels, Geometry(8, 8, 1, 1))
    facts = ImageFacts(ImageRef(f"memory://{red}", "x"), str(red), 1, 8, 8, "PNG", "0")
    return Decoded(facts, prepared)


@pytest.mark.parametrize("size", [1, 2, 3, 16, 33])
@pytest.mark.parametrize("guilty", [0, 1, 15])
def test_only_the_guilty_image_fails(size: int, guilty: int):
    guilty %= size
    items = caption_batch(FakeCaptioner(poison=guilty), [decoded(red) for red in range(size)])
    assert [item.ref.uri for item in items] == [f"memory://{red}" for red in range(size)]
    assert [isinstance(item, Failure) for item in items] == [red == guilty for red in range(size)]


def test_splitting_costs_a_logarithm_of_batches():
    captioner = FakeCaptioner(poison=17)
    caption_batch(captioner, [decoded(red) for red in range(64)])
    assert len(captioner.batches) == 1 + 2 * 6


def test_a_model_that_returns_too_few_captions_is_found_out():
    class Short(FakeCaptioner):
        def caption(self, batch):
            return super().caption(batch)[: 1 if len(batch) == 1 else -1]

    items = caption_batch(Short(), [decoded(red) for red in range(4)])
    assert all(isinstance(item, Captioned) for item in items)


def test_interrupts_are_not_taken_for_a_poison_image():
    class Interrupted(FakeCaptioner):
        def caption(self, batch):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        caption_batch(Interrupted(), [decoded(1)])


def test_batch_limit_halves_and_grows_back():
    limit = BatchLimit(32, patience=3)
    limit.shrink(32)
    limit.shrink(16)
    assert limit.size == 8
    sizes = []
    for _ in range(7):
        limit.succeed()
        sizes.append(limit.size)
    assert sizes == [8, 8, 16, 16, 16, 32, 32]


def test_a_caption_without_probabilities_is_a_failure():
    item = caption_batch(FakeCaptioner(), [decoded(1)])[0]
    assert isinstance(item, Captioned)
    item.caption.features["logprob_mean"] = float("nan")
    scored = score_confidence(item)
    assert isinstance(scored, Failure)
    assert "logprob_mean is nan" in scored.message
