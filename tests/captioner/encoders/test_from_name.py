import sys

import pytest
import torch
from huggingface_hub import constants

from captioner.contract import ModelLoadError
from captioner.encoders import (
    BackboneEncoder,
    GridEncoder,
    GridEncoderConfig,
    RegionEncoder,
    ViTEncoder,
    ViTEncoderConfig,
)
from captioner.encoders.from_name import encoder_from_name
from tests.captioner.encoders import tiny


class TestFromNothing:
    @pytest.mark.parametrize(
        ("name", "kind", "config"),
        [
            ("grid", GridEncoder, GridEncoderConfig),
            ("vit", ViTEncoder, ViTEncoderConfig),
        ],
    )
    def test_the_size_is_its_own_unless_told(self, name, kind, config):
        encoder = encoder_from_name(name)
        assert type(encoder) is kind
        assert encoder.config == config()
        assert encoder_from_name(name, 48).config == config(image_size=48)


class TestPretrained:
    def test_folders_hold_networks_or_detectors(self, tmp_path):
        network = tiny.make("resnet", tiny.BACKBONES["resnet"][1])
        folder = tiny.save(network, tmp_path / "network", {"shortest_edge": 32})
        assert type(encoder_from_name(folder)) is BackboneEncoder
        assert encoder_from_name(folder, 64).config.image_size == 64
        detector = tiny.make("yolos", tiny.DETECTORS["yolos"], "AutoModelForObjectDetection")
        folder = tiny.save(detector, tmp_path / "detector", {"shortest_edge": 64})
        assert encoder_from_name(f"regions:{folder}").config.regions == 7

    def test_a_detector_gives_36_regions_if_it_finds_as_many(self, tmp_path):
        settings = {**tiny.DETECTORS["yolos"], "num_detection_tokens": 40}
        detector = tiny.make("yolos", settings, "AutoModelForObjectDetection")
        encoder = encoder_from_name(f"regions:{tiny.save(detector, tmp_path, 64)}")
        assert type(encoder) is RegionEncoder
        assert encoder.config.regions == 36


class TestSideEffects:
    def test_checkpoints_can_be_built_after_a_library_loaded_a_model(self, tmp_path):
        """It exchanges torch.linspace meanwhile, and torch may remember the wrong one for good."""
        folder = tiny.save(tiny.make("resnet", tiny.BACKBONES["resnet"][1]), tmp_path, 32)
        torch.utils._device._device_constructors.cache_clear()  # As in a new process.
        try:
            transformers = sys.modules["transformers"]
            transformers.AutoModel.from_pretrained(folder)
            with torch.device("meta"):
                encoder = GridEncoder(GridEncoderConfig())
        finally:
            torch.utils._device._device_constructors.cache_clear()
        assert encoder.position.is_meta


class TestErrors:
    @pytest.mark.parametrize("name", ["", "timm:", "regions:"])
    def test_an_empty_name_is_refused_with_those_there_are(self, name):
        with pytest.raises(ModelLoadError, match="names nothing; give grid or vit .*timm:NAME"):
            encoder_from_name(name)

    def test_what_is_nowhere_is_refused_with_those_there_are(self, monkeypatch):
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
        with pytest.raises(ModelLoadError, match="'vitt' cannot be loaded.*Encoders are grid"):
            encoder_from_name("vitt")

    @pytest.mark.parametrize(
        ("name", "library", "message"),
        [
            ("timm:vgg16", "timm", r"pip install 'captioner\[timm\]'"),
            ("some/network", "transformers", r"pip install 'captioner\[huggingface\]'"),
            ("regions:some/detector", "transformers", r"pip install 'captioner\[huggingface\]'"),
        ],
    )
    def test_a_missing_library_is_named(self, monkeypatch, name, library, message):
        monkeypatch.setitem(sys.modules, library, None)
        with pytest.raises(ModelLoadError, match=message):
            encoder_from_name(name)
