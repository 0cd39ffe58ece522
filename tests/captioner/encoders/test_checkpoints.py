"""Whole models with each kind of encoder, saved and loaded as users do."""

import copy
from typing import Any

import pytest
import torch

from captioner import checkpoint
from captioner.contract import DecodingConfig
from captioner.decoders import LSTMDecoderConfig
from captioner.encoders import BackboneEncoderConfig, RegionEncoderConfig, ViTEncoderConfig
from captioner.model import CaptionModel, ModelConfig
from captioner.scenes import render, sample
from captioner.tokenizer import CaptionTokenizer
from tests.captioner.encoders import tiny

VIEW: dict[str, Any] = {"mean": tiny.MEAN, "std": tiny.STD}
ENCODERS = {
    "vit": ViTEncoderConfig(
        image_size=32, patch_size=8, width=16, layers=1, heads=2, feedforward_size=16
    ),
    "swin": BackboneEncoderConfig(
        image_size=32, settings={"model_type": "swin", **tiny.BACKBONES["swin"][1]}, **VIEW
    ),
    "detr": RegionEncoderConfig(
        image_size=64,
        settings={"model_type": "detr", **tiny.DETECTORS["detr"]},
        regions=4,
        **VIEW,
    ),
}


@pytest.fixture(params=ENCODERS)
def model(request, tokenizer) -> CaptionModel:
    torch.manual_seed(0)
    decoder = LSTMDecoderConfig(
        vocabulary_size=len(tokenizer), embedding_size=8, hidden_size=8, attention_size=8
    )
    config = ModelConfig(name="tiny", encoder=ENCODERS[request.param], decoder=decoder)
    return CaptionModel(config).eval()


@pytest.fixture(scope="module")
def tokenizer() -> CaptionTokenizer:
    return CaptionTokenizer.train(["a red circle above a blue star", "two green squares"])


def test_the_memory_is_the_same(model, tokenizer, tmp_path):
    checkpoint.save(model, tokenizer, str(tmp_path))
    loaded = checkpoint.read(str(tmp_path)).model.eval()
    folded = checkpoint.load(str(tmp_path), "cpu").model
    assert loaded.config == folded.config == model.config
    side = model.config.encoder.image_size
    pixels = torch.randint(0, 256, (2, side, side, 3), dtype=torch.uint8)
    with torch.inference_mode():
        assert torch.equal(loaded.encode(pixels), model.encode(pixels))
        torch.testing.assert_close(folded.encode(pixels), model.encode(pixels))
        assert torch.equal(copy.deepcopy(model).encode(pixels), model.encode(pixels))


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_captions_say_where_was_looked(model, tokenizer, tmp_path, precision):
    checkpoint.save(model, tokenizer, str(tmp_path))
    decoding = DecodingConfig(precision=precision, max_length=4)
    captioner = checkpoint.load(str(tmp_path), "cpu", decoding)
    caption = captioner.caption([captioner.prepare(render(sample(5)))])[0]
    assert caption.attention is not None
    assert caption.attention.shape == (len(caption.tokens), *model.encoder.grid)
    assert caption.attention.sum((1, 2)) == pytest.approx(1, abs=0.02)
