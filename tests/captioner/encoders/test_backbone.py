from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from captioner.contract import ModelLoadError
from captioner.encoders import BackboneEncoder, BackboneEncoderConfig, encoder_of, thaw
from captioner.encoders.pretrained import backbone_from_pretrained
from tests.captioner.encoders import tiny

SEES = {"blip": "vision_model", "clip": "vision_model", "siglip": "vision_model"}
"""Models of pictures and words, and their part that sees."""


@pytest.fixture(scope="module", params=tiny.BACKBONES)
def pair(request, tmp_path_factory) -> tuple[Any, BackboneEncoder]:
    """A network of the library, and the encoder that was loaded from where it was saved."""
    size, settings = tiny.BACKBONES[request.param]
    model = tiny.make(request.param, settings)
    folder = tiny.save(model, tmp_path_factory.mktemp("model"), {"height": size, "width": size})
    part = getattr(model, SEES[request.param]) if request.param in SEES else model
    return part, backbone_from_pretrained(folder)


def pictures(encoder: BackboneEncoder, count: int = 2) -> Tensor:
    side = encoder.config.image_size
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(1))


def of_library(model: Any, images: Tensor, **options: Any) -> Tensor:
    """The library's own features as a list of places: tokens before the grid are left out."""
    with torch.inference_mode():
        seen = model(tiny.normalised(images), **options).last_hidden_state
    if seen.ndim == 4:
        return torch.stack([seen[:, :, y, x] for y, x in _places(seen)], 1)
    squares = max(n * n for n in range(1, 40) if n * n <= seen.shape[1])
    return seen[:, seen.shape[1] - squares :]


def _places(maps: Tensor) -> list[tuple[int, int]]:
    return [(y, x) for y in range(maps.shape[2]) for x in range(maps.shape[3])]


class TestEachKind:
    def test_features_are_the_librarys_and_then_the_place(self, pair):
        model, encoder = pair
        images = pictures(encoder)
        with torch.inference_mode():
            memory = encoder(images)
        expected = of_library(model, images)
        seen, placed = memory.tensor_split([-encoder.place_size], 2)
        assert memory.shape[1] == encoder.grid[0] * encoder.grid[1]
        assert memory.shape[2] == encoder.feature_size
        assert torch.allclose(seen, expected, atol=1e-5)
        assert expected.std() > 1e-3
        assert torch.equal(placed, encoder.position.expand_as(placed))

    def test_it_comes_back_from_a_checkpoint(self, pair):
        """Checkpoints build on the meta device, where nothing but the weights is to stay."""
        _, encoder = pair
        weights = safetensors.torch.load(safetensors.torch.save(encoder.state_dict()))
        with torch.device("meta"):
            loaded = encoder_of(encoder.config)
        loaded.load_state_dict(weights, assign=True)
        images = pictures(encoder)
        with torch.inference_mode():
            assert torch.equal(loaded.eval()(images), encoder(images))

    def test_layers_hold_the_weights_from_the_picture_upwards(self, pair):
        _, encoder = pair
        order = {id(parameter): n for n, parameter in enumerate(encoder.parameters())}
        held = [[order[id(p)] for p in layer.parameters()] for layer in encoder.layers()]
        flat = [n for layer in held for n in layer]
        assert len(held) >= 3
        assert len(flat) == len(set(flat))
        assert [min(layer) for layer in held] == sorted(min(layer) for layer in held)
        rest = set(order.values()) - set(flat)
        names = [name for n, (name, _) in enumerate(encoder.named_parameters()) if n in rest]
        assert all("norm" in name or "_bn" in name for name in names), names

    def test_frozen_it_sees_in_training_what_it_sees_in_use(self, pair):
        _, encoder = pair
        thaw(encoder, "none")
        images = pictures(encoder)
        with torch.inference_mode():
            used, trained = encoder.eval()(images), encoder.train()(images)
        assert torch.equal(used, trained)


class TestLayers:
    @pytest.mark.parametrize(
        ("kind", "names"),
        [
            ("vit", ["ViTEmbeddings", "ViTLayer", "ViTLayer"]),
            ("resnet", ["ResNetEmbeddings", *["ResNetBasicLayer"] * 3]),
            ("swin", ["SwinEmbeddings", *["Swin"] * 4]),
            ("regnet", ["RegNetEmbeddings", *["RegNetYLayer"] * 3]),
            ("clip_vision_model", ["CLIPVisionEmbeddings", *["CLIPEncoderLayer"] * 2]),
        ],
    )
    def test_blocks_are_found_in_stages(self, kind, names):
        found = [type(layer).__name__ for layer in encoder_for(kind).layers()]
        assert len(found) == len(names)
        assert all(name in known for known, name in zip(found, names, strict=True)), found


class TestSizes:
    @pytest.mark.parametrize("kind", ["vit", "deit", "dinov2", "clip_vision_model", "siglip"])
    def test_transformers_interpolate_positions_for_larger_pictures(self, kind, tmp_path):
        size, settings = tiny.BACKBONES[kind]
        model = tiny.make(kind, settings)
        encoder = backbone_from_pretrained(tiny.save(model, tmp_path, {"height": size}), 48)
        images = pictures(encoder)
        own = {} if kind == "dinov2" else {"interpolate_pos_encoding": True}
        expected = of_library(getattr(model, SEES.get(kind, ""), model), images, **own)
        assert encoder.grid == (6, 6)
        with torch.inference_mode():
            assert torch.allclose(encoder(images)[:, :, : expected.shape[2]], expected, atol=1e-5)

    @pytest.mark.parametrize("kind", ["resnet", "convnext", "mobilenet_v1", "swin"])
    def test_others_have_a_larger_grid(self, kind):
        size, _ = tiny.BACKBONES[kind]
        small, large = encoder_for(kind), encoder_for(kind, image_size=2 * size)
        assert large.grid == (2 * small.grid[0], 2 * small.grid[1])
        with torch.inference_mode():
            assert large(pictures(large)).shape[1] == large.grid[0] ** 2

    def test_an_earlier_layer_has_a_larger_grid(self):
        encoder = encoder_for("resnet", layer=1)
        with torch.inference_mode():
            memory = encoder(pictures(encoder))
            images = tiny.normalised(pictures(encoder))
            expected = encoder.model(images, output_hidden_states=True).hidden_states[1]
        assert encoder.grid == (8, 8)
        assert encoder_for("resnet").grid == (4, 4)
        assert torch.equal(memory[:, :, :8], expected.flatten(2).transpose(1, 2))

    def test_a_layer_that_is_not_there_is_named(self):
        with pytest.raises(ModelLoadError, match="no such layer"):
            encoder_for("resnet", layer=9)


class TestTraining:
    def test_batch_norms_keep_their_statistics(self):
        encoder = encoder_for("resnet")
        thaw(encoder, "all")
        encoder.train()
        before = {name: value.clone() for name, value in encoder.named_buffers()}
        encoder(pictures(encoder)).sum().backward()
        assert all(torch.equal(value, before[name]) for name, value in encoder.named_buffers())
        assert all(p.grad is not None for p in encoder.parameters())

    def test_what_is_thawed_is_dropped_from_in_training(self):
        settings = {**tiny.BACKBONES["vit"][1], "hidden_dropout_prob": 0.5}
        encoder = encoder_for("vit", settings=settings)
        images = pictures(encoder)
        thaw(encoder, "last:1")
        assert not torch.equal(encoder.train()(images), encoder.eval()(images))


class TestErrors:
    def test_a_kind_that_is_not_known_is_named(self):
        with pytest.raises(ValueError, match="model_type is 'bert'; those known are .*resnet"):
            encoder_for("bert", settings={})

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"image_size": 4}, "image_size is 4"),
            ({"mean": (0.5,)}, "mean is"),
            ({"std": (0.5, 0.0, 0.5)}, "std is"),
        ],
    )
    def test_what_does_not_fit_is_refused(self, changes, message):
        with pytest.raises(ValueError, match=message):
            encoder_for("resnet", **changes)

    def test_settings_that_make_no_network_are_named(self):
        with pytest.raises(ModelLoadError, match="encoder ResNetModel cannot be built"):
            encoder_for("resnet", settings={"depths": "many"})


class TestFromPretrained:
    @pytest.fixture
    def folder(self, tmp_path) -> Path:
        tiny.save(tiny.make("resnet", tiny.BACKBONES["resnet"][1]), tmp_path, {"height": 32})
        return tmp_path

    def test_a_classifier_gives_its_body(self, tmp_path):
        settings = tiny.BACKBONES["resnet"][1]
        model = tiny.make("resnet", settings, "AutoModelForImageClassification")
        encoder = backbone_from_pretrained(tiny.save(model, tmp_path, {"shortest_edge": 32}))
        images = pictures(encoder)
        with torch.inference_mode():
            seen = encoder(images)[:, :, :16]
        assert torch.equal(seen, of_library(model.resnet, images))
        assert not any(isinstance(module, nn.Linear) for module in encoder.modules())

    def test_a_store_is_read(self, folder):
        import fsspec

        store = fsspec.filesystem("memory")
        store.put(f"{folder}/", "/encoders/", recursive=True)
        encoder = backbone_from_pretrained("memory://encoders")
        assert encoder.grid == (4, 4)

    @pytest.mark.parametrize(
        ("changes", "mean"),
        [
            ({"rescale_factor": 1 / 127.5}, [0.25, 0.2, 0.15]),
            ({"do_rescale": False}, [0.5 / 255, 0.4 / 255, 0.3 / 255]),
            ({"do_normalize": False}, [0, 0, 0]),
        ],
    )
    def test_pictures_are_scaled_as_they_were(self, folder, changes, mean):
        change(folder / "preprocessor_config.json", **changes)
        assert list(backbone_from_pretrained(str(folder)).config.mean) == pytest.approx(mean)

    def test_an_efficientnet_divides_twice(self, folder):
        """Its image processor normalises again, with the deviations alone."""
        change(folder / "preprocessor_config.json", include_top=True)
        encoder = backbone_from_pretrained(str(folder))
        images = pictures(encoder)
        twice = tiny.normalised(images) / torch.tensor(tiny.STD).view(1, 3, 1, 1)
        assert torch.allclose(encoder.normalised(images), twice, atol=1e-5)

    @pytest.mark.parametrize(
        ("changes", "side"),
        [
            ({"size": {"shortest_edge": 64}}, 64),
            ({"size": {"shortest_edge": 64}, "do_center_crop": True, "crop_size": 48}, 48),
            ({"size": 40}, 40),
        ],
    )
    def test_the_size_is_that_of_its_training(self, folder, changes, side):
        change(folder / "preprocessor_config.json", **changes)
        assert backbone_from_pretrained(str(folder)).config.image_size == side

    @pytest.mark.parametrize(
        ("spoil", "message"),
        [
            (lambda folder: (folder / "model.safetensors").unlink(), "no weights in safetensors"),
            (lambda folder: drop(folder / "model.safetensors"), "lack 1 tensors, such as e"),
            (lambda folder: change(folder / "preprocessor_config.json", size=None), "no size"),
            (lambda folder: (folder / "preprocessor_config.json").unlink(), "preprocessor_config"),
            (lambda folder: change(folder / "config.json", model_type="bert"), "'bert'; those"),
            (lambda folder: change(folder / "config.json", hidden_sizes=[8, 8]), "cannot be load"),
        ],
    )
    def test_what_is_broken_is_named(self, folder, spoil, message):
        spoil(folder)
        with pytest.raises(ModelLoadError, match=message):
            backbone_from_pretrained(str(folder))


def encoder_for(kind: str, **changes: Any) -> BackboneEncoder:
    """An encoder that knows nothing, of a tiny network."""
    size, settings = tiny.BACKBONES.get(kind, (32, {}))
    if kind in SEES:
        kind, settings = f"{kind}_vision_model", settings["vision_config"]
    settings = changes.pop("settings", settings)
    values = {"image_size": size, "mean": tiny.MEAN, "std": tiny.STD, **changes}
    config = BackboneEncoderConfig(settings={"model_type": kind, **settings}, **values)
    torch.manual_seed(0)
    return BackboneEncoder(config).eval()


def change(path: Path, **changes: Any) -> None:
    import json

    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def drop(path: Path) -> None:
    """Take the first of the weights away."""
    weights = safetensors.torch.load_file(path)
    del weights[min(weights)]
    safetensors.torch.save_file(weights, path, {"format": "pt"})
