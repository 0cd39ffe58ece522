"""Heads on encoders of the project, and their losses against the papers' formulas."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from captioner.annotations import Annotations, Box, Label
from captioner.contract import Geometry
from captioner.encoders import (
    Encoder,
    GridEncoder,
    GridEncoderConfig,
    RegionEncoder,
    ViTEncoder,
    ViTEncoderConfig,
)
from captioner.encoders.base import Seen
from captioner.heads import (
    AttentionClassifier,
    AttentionDetector,
    AttentionSegmenter,
    Classified,
    ClassifierConfig,
    Detected,
    DetectorConfig,
    HeadOutputs,
    Heads,
    HeadsConfig,
    Segmented,
    SegmenterConfig,
)
from captioner.heads.boxes import match, to_offsets
from captioner.heads.classifier import label_loss
from captioner.heads.detector import focal_losses
from captioner.heads.segmenter import mask_loss
from captioner.heads.targets import HeadTargets, decoded
from captioner.scenes import render, samples
from captioner.scenes.truth import BOXES, LABELS, MASKS, annotations

NAMES = ("cat", "dog")
UNKNOWN = Annotations()


def grid() -> Encoder:
    return GridEncoder(GridEncoderConfig(image_size=32, widths=(6, 8, 12), blocks=(0, 1, 0)))


def coarse_grid() -> Encoder:
    """One stage, so that nothing is finer."""
    return GridEncoder(GridEncoderConfig(image_size=16, widths=(8,), blocks=(1,)))


def vit() -> Encoder:
    """Its grid of 3 is doubled twice, and is then brought to the 18 of half a picture."""
    return ViTEncoder(
        ViTEncoderConfig(
            image_size=36,
            patch_size=12,
            stem="patches",
            width=16,
            layers=1,
            heads=2,
            feedforward_size=16,
        )
    )


def convolving_vit() -> Encoder:
    return ViTEncoder(
        ViTEncoderConfig(
            image_size=32, patch_size=8, width=16, layers=1, heads=2, feedforward_size=16
        )
    )


def heads_of(encoder: Encoder, gate: bool = True) -> Heads:
    torch.manual_seed(0)
    return Heads(
        HeadsConfig(
            labels=ClassifierConfig(classes=NAMES, attention="gate" if gate else "none"),
            boxes=DetectorConfig(classes=NAMES, gate=gate, width=8, finer=len(encoder.finer) // 2),
            masks=SegmenterConfig(classes=NAMES, gate=gate, width=8),
        ),
        encoder,
    )


def pictures(encoder: Encoder, count: int = 2) -> Tensor:
    side = encoder.config.image_size
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(1))


def said(heads: Heads, encoder: Encoder, images: Tensor) -> HeadOutputs:
    return heads(encoder.see(images), images)


def known(heads: Heads) -> HeadTargets:
    """One image of which all is known, and one that is known to be empty."""
    dog = Annotations((Label("dog"),), (Box("dog", 2, 3, 5, 6), Box("cat", 0, 0, 4, 9)), ())
    return heads.targets([dog, Annotations((), (), ())], [(10, 12)] * 2)


@pytest.mark.parametrize("gate", [True, False])
@pytest.mark.parametrize("make", [grid, coarse_grid, vit, convolving_vit])
class TestOnEveryEncoder:
    def test_shapes_and_maps(self, make, gate):
        encoder = make()
        heads = heads_of(encoder, gate)
        labels, boxes, masks = said(heads, encoder, pictures(encoder))
        side, count = encoder.config.image_size, encoder.grid[0] * encoder.grid[1]
        cells = 8 * 8 if encoder.finer else count  # One step finer than 4 x 4.
        assert labels.logits.shape == (2, 2)
        assert boxes.logits.shape == (2, cells * 9, 2)
        assert boxes.offsets.shape == (2, cells * 9, 4)
        assert masks.logits.shape == (2, 3, side, side)
        for part in (labels, boxes, masks):
            assert (part.attention is not None) == gate
            if gate:
                assert part.attention.shape == (2, count)
                assert 0 < part.attention.min() < part.attention.max() < 1

    @pytest.mark.parametrize("half", [False, True])
    def test_every_weight_learns(self, make, gate, half):
        encoder = make()
        heads = heads_of(encoder, gate)
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            outputs = said(heads, encoder, pictures(encoder))
            losses = heads.losses(outputs, known(heads))
        assert set(losses) == {"labels", "boxes", "masks"}
        assert all(loss.dtype == torch.float32 and loss > 0 for loss in losses.values())
        sum(losses.values()).backward()
        for name, parameter in [*heads.named_parameters(), *encoder.named_parameters()]:
            assert parameter.grad.isfinite().all(), name
            assert parameter.grad.abs().max() > 0, name

    def test_of_what_nothing_is_known_nothing_is_learned(self, make, gate):
        encoder = make()
        heads = heads_of(encoder, gate)
        losses = heads.losses(
            said(heads, encoder, pictures(encoder)), heads.targets([UNKNOWN] * 2, [(10, 12)] * 2)
        )
        assert [loss.item() for loss in losses.values()] == [0, 0, 0]
        sum(losses.values()).backward()
        for name, parameter in heads.named_parameters():
            assert parameter.grad is not None, name
            assert parameter.grad.abs().max() == 0, name

    def test_an_image_of_which_nothing_is_known_changes_no_loss(self, make, gate):
        encoder = make()
        heads = heads_of(encoder, gate).eval()
        encoder.eval()
        images = pictures(encoder, 3)
        targets = known(heads)
        alone = heads.losses(said(heads, encoder, images[:2]), targets)
        more = heads.targets([UNKNOWN], [(5, 5)])
        nothing = HeadTargets(
            labels=torch.cat((targets.labels, more.labels)),
            boxes=torch.cat((targets.boxes, torch.rand(1, 2, 4))),
            classes=torch.cat((targets.classes, torch.zeros(1, 2).long())),
            boxes_known=torch.cat((targets.boxes_known, more.boxes_known)),
            masks=torch.cat((targets.masks, more.masks)),
        )
        together = heads.losses(said(heads, encoder, images), nothing)
        for name, loss in alone.items():
            torch.testing.assert_close(together[name], loss)


class TestAttention:
    def memory(self) -> Tensor:
        encoder = grid()
        return torch.randn(2, 16, encoder.feature_size, generator=torch.Generator().manual_seed(2))

    def test_gated_classes_by_hand(self):
        memory = self.memory()
        head = AttentionClassifier(ClassifierConfig(classes=NAMES), grid())
        logits, shares = head(Seen(memory, ()), None)
        score = head.pooling.gate.score
        gates = 1 / (1 + (-(memory @ score.weight[0]) - score.bias).exp())
        torch.testing.assert_close(shares, gates)
        mean = sum(gates[:, n, None] * memory[:, n] for n in range(16)) / gates.sum(1)[:, None]
        torch.testing.assert_close(logits, mean @ head.classes.weight.T + head.classes.bias)

    def test_a_query_weighs_positions(self):
        config = ClassifierConfig(classes=NAMES, attention="query", attention_size=8)
        head = AttentionClassifier(config, grid())
        memory = self.memory()
        logits, weights = head(Seen(memory, ()), None)
        torch.testing.assert_close(weights.sum(1), torch.ones(2))
        mean = torch.einsum("bn,bnf->bf", weights, memory)
        torch.testing.assert_close(logits, mean @ head.classes.weight.T + head.classes.bias)
        logits.sum().backward()
        assert head.pooling.query.grad.abs().max() > 0

    @pytest.mark.parametrize("kind", [AttentionDetector, AttentionSegmenter])
    def test_nothing_passes_a_shut_gate(self, kind):
        encoder = grid()
        config = DetectorConfig if kind is AttentionDetector else SegmenterConfig
        head = kind(config(classes=NAMES, width=8), encoder).eval()
        images = pictures(encoder, 1)
        finer = tuple(torch.zeros(1, c, s, s) for c, s in encoder.finer)
        first, second = (Seen(m[None], finer) for m in self.memory())
        assert not torch.equal(head(first, images).logits, head(second, images).logits)
        with torch.no_grad():
            head.gate.score.bias.fill_(-200)
        assert torch.equal(head(first, images).logits, head(second, images).logits)


class TestFiner:
    def test_the_finer_map_counts(self):
        encoder = grid().eval()
        head = AttentionDetector(DetectorConfig(classes=NAMES, finer=2, width=8), encoder).eval()
        seen = encoder.see(pictures(encoder))
        blank = Seen(seen.memory, tuple(torch.zeros_like(part) for part in seen.finer))
        assert head.cells == (16, 16)
        assert not torch.equal(head(seen, None).offsets, head(blank, None).offsets)

    def test_maps_that_are_not_there_are_refused(self):
        with pytest.raises(ValueError, match="finer is 3, but the encoder hands out 2.*use 0 to 2"):
            AttentionDetector(DetectorConfig(classes=NAMES, finer=3), grid())

    @pytest.mark.parametrize(
        ("kind", "config"),
        [(AttentionDetector, DetectorConfig), (AttentionSegmenter, SegmenterConfig)],
    )
    def test_regions_are_refused(self, kind, config):
        regions = RegionEncoder.__new__(RegionEncoder)
        with pytest.raises(ValueError, match="those of RegionEncoder are boxes"):
            kind(config(classes=NAMES), regions)


class TestLosses:
    def test_focal_loss_is_the_papers(self):
        """Equation 5 with p_t written out, one number at a time."""
        logits, truth = torch.randn(3, 4) * 3, (torch.rand(3, 4) > 0.5).float()
        losses = focal_losses(logits, truth, alpha=0.3, gamma=1.5)
        for x, y, loss in zip(logits.flatten(), truth.flatten(), losses.flatten(), strict=True):
            p = 1 / (1 + math.exp(-x))
            p_t, alpha_t = (p, 0.3) if y else (1 - p, 0.7)
            assert loss.item() == pytest.approx(-alpha_t * (1 - p_t) ** 1.5 * math.log(p_t), 1e-4)

    def test_boxes_that_are_right_cost_little_and_each_fault_more(self):
        head = AttentionDetector(DetectorConfig(classes=NAMES, width=8, matched_iou=0.3), grid())
        box, classes = torch.tensor([[[0.2, 0.2, 0.5, 0.55]]]), torch.tensor([[1]])
        yes, anchors = torch.tensor([True]), head.anchors(torch.device("cpu"))
        matched = match(box, classes >= 0, anchors, 0.3)[0] == 0
        logits = torch.full((1, len(anchors), 2), -9.0)
        logits[0, matched, 1] = 9.0
        right = Detected(logits, to_offsets(box, anchors), None)
        assert 1 < matched.sum() < 20
        assert head.loss(right, box, classes, yes).abs() < 1e-4
        for part, anchor, cost in [(0, matched, 1.0), (1, matched, 0.2), (1, ~matched, 0.0)]:
            wrong = [right.logits.clone(), right.offsets.clone()]
            wrong[part][0, anchor] += 0.1 if part else -18
            loss = head.loss(Detected(*wrong, None), box, classes, yes)
            assert loss >= cost
            assert cost or loss < 1e-4

    def test_an_empty_image_teaches_background(self):
        head = AttentionDetector(DetectorConfig(classes=NAMES, width=8), grid())
        logits = torch.zeros(1, 144, 2, requires_grad=True)
        offsets = torch.zeros(1, 144, 4, requires_grad=True)
        none = torch.zeros(1, 0)
        loss = head.loss(
            Detected(logits, offsets, None), none.view(1, 0, 4), none.long(), torch.tensor([True])
        )
        loss.backward()
        assert loss.item() == pytest.approx(144 * 2 * 0.75 * 0.25 * math.log(2), rel=1e-5)
        assert (logits.grad > 0).all()
        assert offsets.grad.abs().max() == 0

    def test_labels_that_are_unknown_do_not_count(self):
        logits = torch.tensor([[1.0, -2.0], [3.0, 0.5]])
        labels = torch.tensor([[1.0, float("nan")], [float("nan"), 0.25]])
        p = [1 / (1 + math.exp(-x)) for x in (1.0, 0.5)]
        by_hand = -math.log(p[0]) - 0.25 * math.log(p[1]) - 0.75 * math.log(1 - p[1])
        assert label_loss(logits, labels).item() == pytest.approx(by_hand / 2)

    def test_masks_by_hand(self):
        """Three pixels of two classes; the third class is not there, a fourth pixel unknown."""
        p = torch.tensor([[0.7, 0.2, 0.1], [0.5, 0.4, 0.1], [0.3, 0.6, 0.1], [0.1, 0.1, 0.8]])
        logits = p.log().T.reshape(1, 3, 2, 2)
        masks = torch.tensor([[[0, 0], [1, 255]]])
        weights = 2**-0.5, 2**-0.5, 1.0  # The first class has two pixels, the second one.
        logs = (weight * math.log(q) for weight, q in zip(weights, (0.7, 0.5, 0.6), strict=True))
        entropy = -sum(logs) / sum(weights)
        dice = 2 * 1.2 / (1.5 + 2), 2 * 0.6 / (1.2 + 1)
        by_hand = entropy + 1 - sum(dice) / 2
        assert mask_loss(logits, masks).item() == pytest.approx(by_hand, rel=1e-5)


class TestFound:
    def head(self, **changes) -> AttentionDetector:
        config = DetectorConfig(classes=NAMES, sizes=(0.25,), ratios=(1.0,), width=8)
        return AttentionDetector(replace(config, **changes), grid())

    def said(self) -> Detected:
        """On 4 x 4 cells, each as large as its anchor: a cat, a dog, and a doubt beside the dog."""
        logits = torch.full((2, 16, 2), -9.0)
        logits[0, 5, 0], logits[0, 10, 1], logits[0, 11, 1] = 2.0, 3.0, 1.0
        offsets = torch.zeros(2, 16, 4)
        offsets[0, 11, 0] = -0.9
        return Detected(logits, offsets, None)

    def test_the_surest_come_first_and_doubles_go(self):
        full, empty = self.head().found(self.said())
        assert full.classes.tolist() == [1, 0]
        torch.testing.assert_close(full.probabilities, torch.tensor([3.0, 2.0]).sigmoid())
        torch.testing.assert_close(
            full.boxes, torch.tensor([[0.5, 0.5, 0.75, 0.75], [0.25, 0.25, 0.5, 0.5]])
        )
        assert len(empty.boxes) == 0

    def test_limits(self):
        assert len(self.head(iou_threshold=0.9).found(self.said())[0].boxes) == 3
        assert len(self.head(most=1).found(self.said())[0].boxes) == 1
        assert len(self.head(score_threshold=0.9).found(self.said())[0].boxes) == 1
        assert len(self.head().found(self.said(), 0.9)[0].boxes) == 1

    def test_boxes_end_at_the_pictures_edge(self):
        logits, offsets, _ = self.said()
        offsets[0, 5] = torch.tensor([0.0, 0.0, 3.0, 0.0])
        box = self.head().found(Detected(logits, offsets, None))[0].boxes[1]
        torch.testing.assert_close(box, torch.tensor([0.0, 0.25, 1.0, 0.5]))


class TestLikely:
    def test_the_surest_head_tells_of_each_class_where_it_is_likeliest(self):
        heads = heads_of(grid())
        three, ninth = math.log(3), math.log(9)
        outputs = HeadOutputs(
            labels=Classified(torch.tensor([[0.0, -three], [three, -80.0]]), None),
            boxes=Detected(
                torch.tensor([[[three, -80.0], [-three, 0.0]], [[-80.0, -80.0], [ninth, -three]]]),
                torch.zeros(2, 2, 4),
                None,
            ),
            masks=Segmented(
                # Background, cat and dog of two pixels.
                torch.tensor([[[[0.0, 80]], [[0.0, 0]], [[-80.0, 0]]], [[[0.0, 0]]] * 3]),
                None,
            ),
        )
        pixels = outputs._replace(labels=None, boxes=None)
        for told, wanted in (
            (outputs, [[0.75, 0.5], [0.9, 0.25]]),
            (outputs._replace(boxes=None), [[0.5, 0.25], [0.75, 0.0]]),
            (pixels, [[0.5, 0.0], [1 / 3, 1 / 3]]),
        ):
            for row, probabilities in zip(heads.likely(told), wanted, strict=True):
                assert tuple(row) == NAMES
                assert [*row.values()] == pytest.approx(probabilities, abs=1e-6)

    def test_masks_tell_of_classes_that_only_they_have(self):
        encoder = grid().eval()
        labels, masks = ClassifierConfig(classes=NAMES), SegmenterConfig(classes=(*NAMES, "sky"))
        heads = Heads(HeadsConfig(labels=labels, masks=masks), encoder).eval()
        outputs = said(heads, encoder, pictures(encoder))
        pixels = outputs.masks.logits.detach().softmax(1)
        for likely, logits, sky in zip(
            heads.likely(outputs), outputs.labels.logits, pixels[:, -1], strict=True
        ):
            assert tuple(likely) == (*NAMES, "sky")
            assert [likely[name] for name in NAMES] == pytest.approx(logits.sigmoid().tolist())
            assert likely["sky"] == pytest.approx(float(sky.max()))

    def test_it_is_what_annotations_tell_of_above_no_threshold(self):
        encoder = grid().eval()
        heads = heads_of(encoder).eval()
        outputs = said(heads, encoder, pictures(encoder))
        found = heads.annotations(outputs, [Geometry(32, 32, 1, 1)] * 2, score_threshold=0.0)
        for likely, one in zip(heads.likely(outputs), found, strict=True):
            for label in (*one.labels, one.boxes[0]):
                assert likely[label.name] >= label.probability - 1e-6
            surest = max(one.labels[0].probability, one.boxes[0].probability)
            assert max(likely.values()) == pytest.approx(surest)

    def test_heads_that_are_left_out_tell_nothing(self):
        encoder = vit().eval()
        heads = Heads(HeadsConfig(labels=ClassifierConfig(classes=NAMES)), encoder)
        outputs = said(heads, encoder, pictures(encoder))
        wanted = outputs.labels.logits.sigmoid().tolist()
        for likely, probabilities in zip(heads.likely(outputs), wanted, strict=True):
            assert [*likely.values()] == pytest.approx(probabilities)


def test_heads_that_are_left_out_say_nothing():
    encoder = vit().eval()
    heads = Heads(HeadsConfig(labels=ClassifierConfig(classes=NAMES, threshold=0.0)), encoder)
    outputs = said(heads, encoder, pictures(encoder))
    found = heads.annotations(outputs, [Geometry(36, 36, 1, 1)] * 2)
    assert outputs.boxes is outputs.masks is None
    assert [(one.boxes, one.masks, len(one.labels)) for one in found] == [(None, None, 2)] * 2
    assert set(heads.losses(outputs, heads.targets([UNKNOWN] * 2, [(9, 9)] * 2))) == {"labels"}
    assert heads.annotations(outputs._replace(labels=None), [Geometry(36, 36, 1, 1)]) == [UNKNOWN]


class TestOverfitting:
    """A handful of scenes, learned by heart by all heads at once, comes back in pixels."""

    @pytest.fixture(scope="class")
    def learned(self) -> tuple[list[Annotations], list[Annotations]]:
        torch.manual_seed(0)
        config = GridEncoderConfig(image_size=48, widths=(16, 32, 64), blocks=(0, 1, 1))
        encoder = GridEncoder(config)
        heads = Heads(
            HeadsConfig(
                labels=ClassifierConfig(classes=LABELS),
                boxes=DetectorConfig(classes=BOXES, finer=1, layers=1),
                masks=SegmenterConfig(classes=MASKS),
            ),
            encoder,
        )
        scenes = list(samples(0, 3))
        truth = [annotations(scene, 96) for scene in scenes]
        pixels = [np.asarray(render(scene, 96).resize((48, 48))) for scene in scenes]
        images = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2) / 255
        targets = heads.targets(truth, [(96, 96)] * 3)
        both = torch.nn.ModuleList([encoder, heads])
        optimizer = torch.optim.Adam(both.parameters(), lr=5e-3)
        # Steps that end small let the statistics of batch norm settle on all machines.
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 300, eta_min=1e-5)
        for _ in range(300):
            loss = sum(heads.losses(said(heads, encoder, images), targets).values())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        both.eval()
        with torch.inference_mode():
            outputs = said(heads, encoder, images)
        ways = [Geometry(96, 96, 0.5, 0.5)] * 3
        return truth, heads.annotations(outputs, ways, score_threshold=0.5)

    def test_labels(self, learned):
        for truth, found in zip(*learned, strict=True):
            assert {label.name for label in found.labels} == {label.name for label in truth.labels}

    def test_boxes(self, learned):
        for truth, found in zip(*learned, strict=True):
            assert sorted(box.name for box in found.boxes) == sorted(b.name for b in truth.boxes)
            for box in truth.boxes:
                near = min(
                    abs(box.x - b.x) + abs(box.y - b.y) + abs(box.width - b.width)
                    for b in found.boxes
                    if b.name == box.name
                )
                assert near < 12

    def test_masks(self, learned):
        for truth, found in zip(*learned, strict=True):
            pixels = {mask.name: decoded(mask) > 0 for mask in found.masks}
            assert set(pixels) == {mask.name for mask in truth.masks}
            for mask in truth.masks:
                wanted = decoded(mask) > 0
                both, either = wanted & pixels[mask.name], wanted | pixels[mask.name]
                assert both.sum() > 0.6 * either.sum()
