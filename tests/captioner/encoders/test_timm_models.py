from typing import Any

import pytest
import safetensors.torch
import torch

from captioner.contract import ModelLoadError
from captioner.encoders import TimmEncoder, TimmEncoderConfig, encoder_of, thaw
from captioner.encoders.timm_models import import_timm, timm_from_pretrained

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.5)
IMAGENET, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@pytest.fixture
def timm() -> Any:
    try:
        return import_timm()
    except ModelLoadError as error:
        pytest.skip(str(error))


def encoder_for(model: str, size: int, **changes: Any) -> TimmEncoder:
    torch.manual_seed(0)
    config = TimmEncoderConfig(image_size=size, mean=MEAN, std=STD, model=model, **changes)
    return TimmEncoder(config).eval()


class TestTimmEncoder:
    @pytest.mark.parametrize(
        ("name", "size", "grid", "width"),
        [
            ("vgg11", 64, 2, 512),
            ("inception_v3", 107, 2, 2048),
            ("resnet18", 64, 2, 512),
            ("vit_tiny_patch16_224", 32, 2, 192),
            ("swin_tiny_patch4_window7_224", 64, 2, 768),
        ],
    )
    def test_features_are_the_librarys_and_then_the_place(self, timm, name, size, grid, width):
        encoder = encoder_for(name, size)
        images = torch.rand(2, 3, size, size)
        mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (MEAN, STD))
        with torch.inference_mode():
            memory = encoder(images)
            maps = encoder.model((images - mean) / std)[0]
        if maps.shape[1] != width:
            maps = maps.permute(0, 3, 1, 2)
        expected = torch.stack([maps[:, :, y, x] for y in range(grid) for x in range(grid)], 1)
        assert encoder.grid == (grid, grid)
        assert memory.shape == (2, grid * grid, encoder.feature_size)
        assert torch.equal(memory[:, :, :width], expected)
        assert torch.equal(memory[:, :, width:], encoder.position.expand(2, -1, -1))

    @pytest.mark.parametrize(
        ("name", "size"),
        [("vgg11", 64), ("inception_v3", 107), ("swin_tiny_patch4_window7_224", 64)],
    )
    def test_it_comes_back_from_a_checkpoint(self, timm, name, size):
        encoder = encoder_for(name, size)
        weights = safetensors.torch.load(safetensors.torch.save(encoder.state_dict()))
        with torch.device("meta"):
            loaded = encoder_of(encoder.config)
        loaded.load_state_dict(weights, assign=True)
        images = torch.rand(1, 3, size, size)
        with torch.inference_mode():
            assert torch.equal(loaded.eval()(images), encoder(images))

    def test_the_whole_network_gives_the_same(self, timm):
        """Weights of a VGG as users have it, classifier and all."""
        whole = timm.create_model("vgg11", num_classes=3).eval()
        encoder = encoder_for("vgg11", 64)
        renamed = {
            name.replace("features.", "features_"): value
            for name, value in whole.state_dict().items()
            if name.startswith("features")
        }
        encoder.model.load_state_dict(renamed)
        images = torch.rand(1, 3, 64, 64)
        with torch.inference_mode():
            expected = whole.forward_features(encoder.normalised(images))
            seen = encoder(images)[0, :, :512]
        assert torch.allclose(seen, expected[0].flatten(1).T, atol=1e-5)

    def test_an_earlier_layer_has_a_larger_grid(self, timm):
        assert encoder_for("vgg11", 64, layer=-2).grid == (4, 4)

    def test_layers_are_convolutions_and_blocks(self, timm):
        encoder = encoder_for("vgg11", 64)
        kinds = [type(layer).__name__ for layer in encoder.layers()]
        assert kinds == ["Conv2d"] * 8
        assert len(thaw(encoder, "last:2")) == 4
        kinds = [type(layer).__name__ for layer in encoder_for("resnet18", 64).layers()]
        assert kinds == ["Conv2d", *["BasicBlock"] * 8]


class TestFromPretrained:
    def test_weights_are_those_that_were_published(self, timm, monkeypatch, tmp_path):
        """The file stands in for the Hub; the body alone is read of a whole classifier."""
        torch.manual_seed(1)
        whole = timm.create_model("resnet18").eval()
        safetensors.torch.save_file(whole.state_dict(), tmp_path / "model.safetensors")
        create = timm.create_model

        def from_file(name: str, pretrained: bool, **options: Any) -> Any:
            published = {"file": str(tmp_path / "model.safetensors")}
            return create(name, pretrained, pretrained_cfg_overlay=published, **options)

        monkeypatch.setattr(timm, "create_model", from_file)
        encoder = timm_from_pretrained("resnet18", 64)
        images = torch.rand(1, 3, 64, 64)
        mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (IMAGENET, DEVIATION))
        with torch.inference_mode():
            expected = whole.forward_features((images - mean) / std)
            seen = encoder(images)[0, :, :512]
        assert torch.allclose(seen, expected[0].flatten(1).T, atol=1e-5)
        assert timm_from_pretrained("resnet18").grid == (7, 7)


class TestErrors:
    def test_a_name_that_is_not_known_gets_those_alike(self, timm):
        with pytest.raises(ModelLoadError, match="no model 'vgg'; those alike are .*vgg11"):
            timm_from_pretrained("vgg")

    def test_a_checkpoint_with_a_name_that_is_not_known(self, timm):
        with pytest.raises(ModelLoadError, match="timm:vgg99 cannot be built"):
            encoder_for("vgg99", 64)

    @pytest.mark.parametrize("name", ["", "hf-hub:somebody/model", "local-dir:/tmp/model"])
    def test_what_is_no_plain_name_is_refused(self, name):
        with pytest.raises(ValueError, match="give the plain name of a model of timm"):
            TimmEncoderConfig(image_size=64, mean=MEAN, std=STD, model=name)
