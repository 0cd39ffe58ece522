"""Statistics that a training leaves in its models' folders, and those that are added later."""

import logging
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from captioner.checkpoint import STATISTICS, CheckpointError, load
from captioner.contract import EXTRAS, Geometry, Prepared
from captioner.decoders import LSTMDecoderConfig
from captioner.encoders import (
    BackboneEncoderConfig,
    GridEncoderConfig,
    RegionEncoderConfig,
    ViTEncoderConfig,
)
from captioner.model import AttentionCaptioner, CaptionModel, ModelConfig
from captioner.scenes import render, sample, write_folder
from captioner.statistics import FeatureStatistics
from captioner.tokenizer import CaptionTokenizer
from captioner.training import from_examples
from captioner.training.assemble import assemble
from captioner.training.config import TrainingConfig
from captioner.training.options import TrainingOptions
from captioner.training.statistics import add, encoded, evenly, statistics_of
from tests.captioner.encoders import tiny

COUNT = 20
SMALL = {"embedding_size": 8, "hidden_size": 8, "attention_size": 8}


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> str:
    folder = str(tmp_path_factory.mktemp("data") / "scenes")
    write_folder(folder, count=COUNT, image_size=48)
    return folder


def options(data, output, **changes) -> TrainingOptions:
    return TrainingOptions(
        data=data,
        output=str(output),
        image_size=32,
        decoder_settings=SMALL,
        device="cpu",
        threads=1,
        **{"config": TrainingConfig(epochs=1, batch_size=4, thaw="all"), **changes},
    )


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("trained") / "model"
    assemble(options(data, folder)).run()
    return folder


def statistics_in(folder: Path) -> FeatureStatistics:
    return FeatureStatistics.parse((folder / STATISTICS).read_bytes())


def seen_by(model: CaptionModel, uris) -> torch.Tensor:
    """Encode pictures one after another, as a captioner does."""
    images = [Image.open(uri.removeprefix("file://")).convert("RGB") for uri in uris]
    size = (model.config.encoder.image_size,) * 2
    pixels = [np.array(image.resize(size, Image.Resampling.BILINEAR)) for image in images]
    with torch.inference_mode():
        return torch.cat([model.encode(torch.from_numpy(one)[None]) for one in pixels])


class TestTraining:
    def test_they_are_of_the_training_images_as_the_model_sees_them(self, data, trained):
        uris = [example.uri for example in assemble(options(data, trained))._material.examples]
        assert len(uris) == COUNT - 1
        for name in ("best", "last"):
            captioner = load(str(trained / name), device="cpu")
            assert captioner.fills == ("feature_distance",)
            memory = seen_by(captioner.model, uris)
            known = statistics_in(trained / name)
            torch.testing.assert_close(known.memory, memory.mean(0), rtol=1e-4, atol=1e-4)
            distances = known.distance(memory)
            assert float(distances.square().mean()) == pytest.approx(1, abs=0.02)

    def test_a_training_that_was_cut_short_before_them_goes_on_with_them(
        self, data, trained, tmp_path
    ):
        folder = shutil.copytree(trained, tmp_path / "model")
        wanted = load(str(trained / "best"), device="cpu").model_id
        for name in ("best", "last"):
            (folder / name / STATISTICS).unlink()
        assert load(str(folder / "best"), device="cpu").model_id != wanted
        assemble(options(data, folder)).run()
        for name in ("best", "last"):
            assert load(str(folder / name), device="cpu").model_id == wanted

    def test_one_that_has_them_is_left_alone(self, data, trained, monkeypatch):
        monkeypatch.setattr("captioner.training.run.statistics_of", None)
        assemble(options(data, trained)).run()

    def test_what_a_frozen_encoder_saw_is_not_encoded_again(self, data, tmp_path, monkeypatch):
        network = tiny.make("vit", tiny.BACKBONES["vit"][1])
        encoder = tiny.save(network, tmp_path / "network", {"height": 32, "width": 32})
        monkeypatch.setattr(from_examples, "encoded", None)
        config = TrainingConfig(epochs=2, batch_size=4, thaw="none")
        run = assemble(options(data, tmp_path / "model", encoder=encoder, config=config))
        run.run()
        captioner = load(str(tmp_path / "model" / "best"), device="cpu")
        memory = seen_by(captioner.model, [example.uri for example in run._material.examples])
        known = statistics_in(tmp_path / "model" / "best")
        torch.testing.assert_close(known.memory, memory.mean(0), rtol=2e-3, atol=2e-3)
        assert float(known.distance(memory).square().mean()) == pytest.approx(1, abs=0.05)

    def test_images_that_tell_nothing_leave_a_model_without(
        self, data, tmp_path, monkeypatch, caplog
    ):
        run = assemble(options(data, tmp_path / "model"))
        monkeypatch.setattr(run._material, "memories", lambda model: iter(()))
        with caplog.at_level(logging.WARNING):
            run.run()
        assert "no statistics of training images: 0 images tell nothing" in caplog.text
        assert load(str(tmp_path / "model" / "best"), device="cpu").fills == ()


class TestAdd:
    def test_a_model_has_another_id_and_knows_distances(self, trained, tmp_path):
        folder = shutil.copytree(trained / "best", tmp_path / "model")
        (folder / STATISTICS).unlink()
        before = load(str(folder), device="cpu").model_id
        images = (render(sample(number)) for number in range(70))
        model_id = add(str(folder), images, device="cpu")
        captioner = load(str(folder), device="cpu")
        assert model_id == captioner.model_id != before
        drawn = [captioner.prepare(render(sample(number))) for number in range(70)]
        found = [caption.features["feature_distance"] for caption in captioner.caption(drawn)]
        assert np.square(found).mean() == pytest.approx(1, abs=0.01)
        assert add(str(folder), (render(sample(n)) for n in range(70)), device="cpu") == model_id

    def test_nothing_is_written_where_images_tell_nothing(self, trained, tmp_path):
        folder = shutil.copytree(trained / "best", tmp_path / "model")
        before = (folder / STATISTICS).read_bytes()
        with pytest.raises(ValueError, match="1 images tell nothing"):
            add(str(folder), [render(sample(0))], device="cpu")
        assert (folder / STATISTICS).read_bytes() == before

    def test_no_model(self, tmp_path):
        with pytest.raises(CheckpointError, match=r"there is no config\.json"):
            add(str(tmp_path), [], device="cpu")


VIEW = {"mean": (0.5,) * 3, "std": (0.2,) * 3}
ENCODERS = {
    "grid": GridEncoderConfig(image_size=32, widths=(4, 8), blocks=(0, 1)),
    "vit": ViTEncoderConfig(image_size=32, patch_size=8, width=16, layers=1, heads=2),
    "backbone": BackboneEncoderConfig(
        image_size=32, settings={"model_type": "vit", **tiny.BACKBONES["vit"][1]}, **VIEW
    ),
    "regions": RegionEncoderConfig(
        image_size=64,
        settings={"model_type": "detr", **tiny.DETECTORS["detr"]},
        regions=4,
        **VIEW,
    ),
}


@pytest.mark.parametrize("config", ENCODERS.values(), ids=ENCODERS)
def test_every_kind_of_encoder(config):
    """Of regions places are no constants, and the mean memory has their mean places."""
    torch.manual_seed(0)
    tokenizer = CaptionTokenizer.train(["a red circle above a blue star"])
    decoder = LSTMDecoderConfig(vocabulary_size=len(tokenizer), **SMALL)
    model = CaptionModel(ModelConfig(name="tiny", encoder=config, decoder=decoder)).eval()
    pixels = np.random.default_rng(0).integers(0, 256, (12, *[config.image_size] * 2, 3), np.uint8)
    pixels //= np.arange(1, 13, dtype=np.uint8)[:, None, None, None]
    known = statistics_of(model, encoded(model, pixels))
    captioner = AttentionCaptioner(
        model, tokenizer, model_id="tiny@0", statistics=known, extras=EXTRAS
    )
    assert known.memory.shape[1] == model.encoder.feature_size
    geometry = Geometry(1, 1, 1.0, 1.0)
    captions = captioner.caption([Prepared(image, geometry) for image in pixels])
    found = [caption.features["feature_distance"] for caption in captions]
    assert np.square(found).mean() == pytest.approx(1, abs=0.01)
    assert all(np.isfinite(caption.features["image_information"]) for caption in captions)


@pytest.mark.parametrize(
    ("count", "most", "wanted"),
    [(3, 5, [0, 1, 2]), (10, 5, [0, 2, 4, 6, 8]), (7, 3, [0, 2, 4]), (0, 5, [])],
)
def test_images_are_taken_from_all_over(count, most, wanted):
    assert evenly(count, most) == wanted
