from typing import Any

import pytest
import safetensors.torch
import torch

from captioner.encoders import RegionEncoder, RegionEncoderConfig, encoder_of, thaw
from captioner.encoders.pretrained import regions_from_pretrained
from captioner.encoders.regions import painted, places
from tests.captioner.encoders import tiny

REGIONS = 4
NO_OBJECT = ("detr", "yolos")


@pytest.fixture(scope="module", params=tiny.DETECTORS)
def pair(request, tmp_path_factory) -> tuple[Any, RegionEncoder]:
    """A detector of the library, and the encoder that was loaded from where it was saved."""
    model = tiny.make(request.param, tiny.DETECTORS[request.param], "AutoModelForObjectDetection")
    folder = tiny.save(model, tmp_path_factory.mktemp("model"), {"shortest_edge": 64})
    return model, regions_from_pretrained(folder, regions=REGIONS)


def pictures() -> torch.Tensor:
    return torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))


class TestEachKind:
    def test_regions_are_the_surest_boxes_of_the_library(self, pair):
        """Found anew, box by box: features of its query, corners and area."""
        model, encoder = pair
        with torch.inference_mode():
            memory = encoder(pictures())
            output = model(tiny.normalised(pictures()))
        assert memory.shape == (2, REGIONS, encoder.feature_size)
        queries = output.logits.shape[1]
        for image in range(2):
            logits = output.logits[image]
            if model.config.model_type in NO_OBJECT:
                scores = [max(row.softmax(0)[:-1].tolist()) for row in logits]
            else:
                scores = [max(row.sigmoid().tolist()) for row in logits]
            order = sorted(range(queries), key=lambda query: -scores[query])[:REGIONS]
            for region, query in enumerate(order):
                x, y, width, height = output.pred_boxes[image, query].tolist()
                left, right = max(x - width / 2, 0), min(x + width / 2, 1)
                top, bottom = max(y - height / 2, 0), min(y + height / 2, 1)
                area = (right - left) * (bottom - top)
                seen = output.last_hidden_state[image, query - queries]
                got = memory[image, region]
                assert torch.allclose(got[:-5], seen, atol=1e-5)
                expected = [4 * value - 2 for value in (left, top, right, bottom, area)]
                assert got[-5:].tolist() == pytest.approx(expected, abs=1e-4)

    def test_it_comes_back_from_a_checkpoint(self, pair):
        """Checkpoints build on the meta device, and hold each weight once."""
        _, encoder = pair
        weights = safetensors.torch.load(safetensors.torch.save(encoder.state_dict()))
        with torch.device("meta"):
            loaded = encoder_of(encoder.config)
        loaded.load_state_dict(weights, assign=True)
        with torch.inference_mode():
            assert torch.equal(loaded.eval()(pictures()), encoder(pictures()))

    def test_thawed_layers_learn_through_their_features(self, pair):
        """The last layers before the heads get gradients, even where pictures were seen before."""
        _, encoder = pair
        layers = encoder.layers()
        thaw(encoder, "last:1")
        with torch.inference_mode():
            encoder.eval()(pictures())
        encoder.train()(pictures()).square().sum().backward()
        assert sum(float(p.grad.abs().sum()) for p in layers[-1].parameters() if p.grad is not None)
        assert all(p.grad is None for p in layers[0].parameters())
        encoder.zero_grad(set_to_none=True)

    def test_layers_end_with_those_of_the_detector(self, pair):
        model, encoder = pair
        wanted = 2 if hasattr(model.config, "decoder_layers") else model.config.num_hidden_layers
        kinds = [type(layer).__name__ for layer in encoder.layers()]
        assert len(set(kinds[-wanted:])) == 1
        assert kinds[-1].endswith("Layer")

    def test_a_frozen_one_finds_the_same_in_training(self, pair):
        """Detectors drop values in training, which would move the boxes."""
        _, encoder = pair
        thaw(encoder, "none")
        with torch.inference_mode():
            assert torch.equal(encoder.train()(pictures()), encoder.eval()(pictures()))


class TestOrder:
    def test_of_equally_sure_boxes_the_first_comes_first(self):
        encoder = encoder_for("detr")
        with torch.no_grad():
            encoder.model.class_labels_classifier.weight.zero_()
        with torch.inference_mode():
            output = encoder.model(encoder.normalised(pictures()))
            memory = encoder(pictures())
        assert torch.equal(memory[:, :, :-5], output.last_hidden_state[:, :REGIONS])


class TestPlaces:
    def test_corners_and_area_are_from_minus_two_to_two(self):
        boxes = torch.tensor([[0.5, 0.5, 1.0, 1.0], [0.75, 0.25, 0.5, 0.5], [1.0, 0.5, 0.5, 0.0]])
        expected = [[-2, -2, 2, 2, 2], [0, -2, 2, 0, -1], [1, 0, 2, 0, -2]]
        assert places(boxes).tolist() == expected


class TestMaps:
    def test_a_box_is_painted_evenly_and_by_the_share_of_each_cell(self):
        box = torch.tensor([[0.375, 0.5, 0.25, 0.5]])  # Columns 1 and 2 of 8; rows 2 to 5.
        expected = torch.zeros(8, 8)
        expected[2:6, 2:4] = 1 / 8
        assert torch.allclose(painted(places(box), 8)[0], expected)
        half = painted(places(torch.tensor([[0.5, 0.125, 0.5, 0.25]])), 2)[0]
        assert torch.allclose(half, torch.tensor([[0.5, 0.5], [0.0, 0.0]]))

    @pytest.mark.parametrize(
        "box",
        [
            [0.51, 0.26, 0.01, 0.01],  # Smaller than a cell.
            [0.51, 0.26, 0.0, 0.0],
            [0.51, 0.26, 0.0, 0.005],
        ],
    )
    def test_small_and_empty_boxes_are_where_they_are(self, box):
        weights = painted(places(torch.tensor([box])), 16)[0]
        assert float(weights[4, 8]) == pytest.approx(1, abs=1e-3)

    @pytest.mark.parametrize("corner", [(0.0, 0.0), (1.0, 1.0), (0.0, 1.0)])
    def test_empty_boxes_on_the_edge_are_in_the_picture(self, corner):
        weights = painted(places(torch.tensor([[*corner, 0.0, 0.0]])), 16)[0]
        assert float(weights[round(15 * corner[1]), round(15 * corner[0])]) == pytest.approx(1)

    def test_attention_is_spread_over_the_boxes(self):
        encoder = encoder_for("detr")
        boxes = torch.tensor([[0.25, 0.5, 0.5, 1.0], [0.75, 0.5, 0.5, 1.0]])
        maps = encoder.maps(torch.tensor([[0.25, 0.75], [1.0, 0.0]]), places(boxes))
        assert maps.shape == (2, 16, 16)
        assert maps.sum((1, 2)).tolist() == pytest.approx([1, 1])
        assert float(maps[0, :, :8].sum()) == pytest.approx(0.25)
        assert float(maps[1, :, 8:].sum()) == 0

    def test_what_is_seen_is_what_is_painted(self, pair):
        _, encoder = pair
        with torch.inference_mode():
            memory = encoder(pictures())[0]
        maps = encoder.maps(torch.eye(REGIONS), memory[:, -encoder.place_size :])
        assert maps.sum((1, 2)).tolist() == pytest.approx([1] * REGIONS, abs=1e-4)
        centre = (maps.sum(1) * (torch.arange(16) + 0.5) / 16).sum(1)
        expected = ((memory[:, -5] + memory[:, -3]) / 2 + 2) / 4
        assert centre.tolist() == pytest.approx(expected.tolist(), abs=0.01)


class TestErrors:
    @pytest.mark.parametrize(
        ("kind", "changes", "message"),
        [
            ("detr", {"regions": 8}, "regions is 8; use 1 to 7, which is all it finds"),
            ("yolos", {"regions": 0}, "regions is 0; use 1 to 7, which is all it finds"),
            ("rt_detr", {}, r"anchor_image_size is \[64, 64\]; use None"),
            ("resnet", {}, "model_type is 'resnet'; those known are .*yolos"),
        ],
    )
    def test_what_does_not_fit_is_refused(self, kind, changes, message):
        with pytest.raises(ValueError, match=message):
            encoder_for(kind, **changes)


def encoder_for(kind: str, **changes: Any) -> RegionEncoder:
    settings = {"model_type": kind, **tiny.DETECTORS.get(kind, {})}
    values = {"image_size": 64, "mean": tiny.MEAN, "std": tiny.STD, "regions": REGIONS}
    torch.manual_seed(0)
    return RegionEncoder(RegionEncoderConfig(settings=settings, **{**values, **changes})).eval()
