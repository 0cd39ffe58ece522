"""Splitting batches and finding their size; what becomes of a caption's confidence."""

import math
from dataclasses import replace

import apache_beam as beam
import numpy as np
import pytest

from captioner.confidence.calibration import Sigmoid
from captioner.confidence.head import ConfidenceHead
from captioner.contract import DecodingConfig, Geometry, Prepared
from pipelines.captioning import BatchLimit, caption_batch, score_confidence
from pipelines.listing import ImageRef
from pipelines.records import Captioned, Decoded, Failure, ImageFacts
from tests.fakes import FakeCaptioner

HEAD = ConfidenceHead(
    model_id="fake@1",
    decoding=DecodingConfig().id,
    features=("logprob_mean", "beam_gap"),
    means=(-0.5, 0.0),
    scales=(1.0, 1.0),
    weights=(1.0, 0.5),
    bias=0.2,
    calibration=Sigmoid(1.0, 0.0),
    labels=100,
)


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
    for head in (None, HEAD):
        scored = score_confidence(item, head)
        assert isinstance(scored, Failure)
        assert "logprob_mean is nan" in scored.message


@pytest.mark.parametrize("gap", [None, math.nan])
def test_a_caption_that_lacks_a_feature_of_the_head_is_kept_uncalibrated(gap: float | None):
    item = caption_batch(FakeCaptioner(), [decoded(1)])[0]
    assert isinstance(item, Captioned)
    item.caption.features["beam_gap"] = gap
    assert score_confidence(item, HEAD) == score_confidence(item)
    item.caption.features["beam_gap"] = 0.5
    scored = score_confidence(item, HEAD)
    assert isinstance(scored, Captioned)
    assert (scored.confidence_kind, scored.confidence_id) == ("calibrated", HEAD.id)


@pytest.mark.parametrize(("verifier", "kind"), [("0" * 12, "calibrated"), ("1" * 12, None)])
def test_what_another_verifier_said_is_no_feature_of_the_heads(verifier: str, kind: str | None):
    head = replace(HEAD, features=("logprob_mean", "verifier_logit"), verifier="0" * 12)
    captioner = FakeCaptioner(fills=("verifier_logit",), verifier=verifier)
    item = caption_batch(captioner, [decoded(1)])[0]
    assert isinstance(item, Captioned)
    scored = score_confidence(item, head)
    assert isinstance(scored, Captioned)
    assert scored.confidence_kind == (kind or "uncalibrated")
    assert scored.confidence_id == (kind and head.id)
    assert scored.caption.features["verifier_logit"] == 1.0, "the row still says what was said"


def test_uncalibrated_captions_are_counted():
    items = caption_batch(FakeCaptioner(), [decoded(red) for red in range(3)])
    assert isinstance(items[0], Captioned)
    items[0].caption.features["beam_gap"] = 0.5
    pipeline = beam.Pipeline()
    _ = pipeline | beam.Create(items) | beam.Map(score_confidence, HEAD)
    result = pipeline.run()
    result.wait_until_finish()
    (counter,) = (
        counter
        for counter in result.metrics().query()["counters"]
        if counter.key.metric.name == "captions_uncalibrated"
    )
    assert counter.result == 2
