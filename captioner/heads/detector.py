"""The head that finds objects."""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from captioner.encoders import Encoder
from captioner.encoders.base import Seen
from captioner.heads.boxes import anchors, from_offsets, giou, kept, match, to_offsets
from captioner.heads.config import DetectorConfig
from captioner.heads.gate import gate_of
from captioner.heads.layers import as_map, check_grid, convolution, joined

_RARE = 0.01
"""How likely an object is before anything is learned (1708.02002, section 3.3)."""
_CANDIDATES = 4
"""Boxes that are looked at for each that may come out."""
_BETA = 0.1
"""Offset from which on their loss grows evenly."""


class Detected(NamedTuple):
    """What a detector says of each anchor.

    Attributes:
        logits: of each class by itself, [b x anchors x classes].
        offsets: of the box to its anchor, [b x anchors x 4].
        attention: what was let through, [b x positions]; None without the gate.
    """

    logits: Tensor
    offsets: Tensor
    attention: Tensor | None

    def anywhere(self) -> Tensor:
        """Return how likely each class is where it is likeliest, [b x classes]."""
        return self.logits.float().amax(1).sigmoid()


class Found(NamedTuple):
    """Objects of one image, the surest first.

    Attributes:
        boxes: left, top, right and bottom as shares of the picture, [k x 4].
        classes: [k].
        probabilities: [k].
    """

    boxes: Tensor
    classes: Tensor
    probabilities: Tensor


class AttentionDetector(nn.Module):
    """Refines anchors on a map of gated features, as SSD does (1512.02325).

    The map is the encoder's grid, or a finer one into which the gated grid is brought down from
    above (1612.03144, section 3).

    Raises:
        ValueError: if the encoder's positions are no grid, or it has no map that is as fine.
    """

    def __init__(self, config: DetectorConfig, encoder: Encoder) -> None:
        super().__init__()
        check_grid(encoder, "detector")
        if config.finer > len(encoder.finer):
            raise ValueError(
                f"finer is {config.finer}, but the encoder hands out {len(encoder.finer)} finer "
                f"maps; use 0 to {len(encoder.finer)}"
            )
        self.config = config
        self.grid = encoder.grid
        self.gate = gate_of(encoder.feature_size, config.gate)
        self.enter = nn.Conv2d(encoder.feature_size, config.width, 1)
        levels = encoder.finer[::-1][: config.finer]  # The coarsest first.
        self.joins = nn.ModuleList(nn.Conv2d(channels, config.width, 1) for channels, _ in levels)
        self.layers = nn.Sequential(
            *(convolution(config.width, config.width) for _ in range(config.layers))
        )
        self.classes = nn.Conv2d(config.width, config.anchors * len(config.classes), 1)
        self.places = nn.Conv2d(config.width, config.anchors * 4, 1)
        nn.init.normal_(self.classes.weight, std=0.01)
        nn.init.constant_(self.classes.bias, -math.log((1 - _RARE) / _RARE))  # type: ignore[arg-type]
        side = (levels[-1][1], levels[-1][1]) if levels else encoder.grid
        self.cells: tuple[int, int] = side

    def forward(self, seen: Seen, images: Tensor) -> Detected:
        """Say what each anchor finds; the images themselves are not looked at."""
        gated, attention = self.gate(seen.memory)
        features = self.enter(as_map(gated, self.grid))
        for join, finer in zip(self.joins, seen.finer[::-1], strict=False):
            features = joined(features, join(finer))
        features = self.layers(features)  # (b, width, h, w)
        logits, offsets = self.classes(features), self.places(features)
        return Detected(self._rows(logits), self._rows(offsets), attention)

    def loss(self, said: Detected, boxes: Tensor, classes: Tensor, known: Tensor) -> Tensor:
        """Compare with the truth: focal loss of classes, GIoU and smooth L1 of places.

        Args:
            said: of ``forward``.
            boxes: shares of the picture, [b x m x 4].
            classes: -1 where there is no object, [b x m].
            known: whether the objects of an image are known, [b].

        Returns:
            A sum over anchors, over how many are to find an object.
        """
        present = (classes >= 0) & known.unsqueeze(1)
        places = self.anchors(boxes.device)
        matched = match(boxes, present, places, self.config.matched_iou)
        image, anchor = (matched >= 0).nonzero(as_tuple=True)
        thing = matched[image, anchor]
        truth = torch.zeros_like(said.logits, dtype=torch.float32)
        truth[image, anchor, classes[image, thing]] = 1.0
        losses = focal_losses(said.logits.float(), truth)
        loss = (losses * known.view(-1, 1, 1)).sum()
        offsets = said.offsets[image, anchor].float()
        wanted, of = boxes[image, thing].float(), places[anchor]
        loss = loss + (1 - giou(from_offsets(offsets, of), wanted)).sum()
        loss = loss + functional.smooth_l1_loss(
            offsets, to_offsets(wanted, of), reduction="sum", beta=_BETA
        )
        return loss / max(len(image), 1)

    @torch.no_grad()
    def found(self, said: Detected, score_threshold: float | None = None) -> list[Found]:
        """Return the objects of each image.

        Args:
            said: of ``forward``.
            score_threshold: least probability; the configuration's if None.
        """
        config = self.config
        least = config.score_threshold if score_threshold is None else score_threshold
        # An anchor is as sure as its surest class. Of one that is too unsure, or less sure than as
        # many others as are looked at, no class counts: most classes are left alone.
        near = _surest(said.logits.amax(2).float().sigmoid(), least, config.most).indices
        logits = said.logits.take_along_dim(near.unsqueeze(2), 1)  # (b, k, classes)
        scores, chosen = _surest(logits.float().sigmoid().flatten(1), least, config.most)
        valid = scores >= least
        anchor = near.take_along_dim(chosen // len(config.classes), 1)
        classes = chosen % len(config.classes)
        places = self.anchors(scores.device)
        offsets = said.offsets.float().take_along_dim(anchor.unsqueeze(2), 1)
        boxes = from_offsets(offsets, places[anchor]).clamp(0, 1)
        valid = valid & ((boxes[..., 2:] - boxes[..., :2]) > 0).all(2)
        stays = kept(boxes, classes, valid, config.iou_threshold)
        rows = (stay.nonzero().squeeze(1)[: config.most] for stay in stays)
        return [Found(boxes[n, row], classes[n, row], scores[n, row]) for n, row in enumerate(rows)]

    def anchors(self, device: torch.device) -> Tensor:
        """Return the anchors [anchors x 4], in float32 whatever the weights are."""
        return anchors(self.cells, self.config.sizes, self.config.ratios, device)

    def _rows(self, maps: Tensor) -> Tensor:
        """[b x (anchors a cell * numbers) x h x w] to [b x anchors x numbers]."""
        numbers = maps.shape[1] // self.config.anchors
        return maps.permute(0, 2, 3, 1).reshape(len(maps), -1, numbers)


def _surest(scores: Tensor, least: float, most: int) -> torch.return_types.topk:
    """Return the surest of each image [b x n], as many as some image has that are sure enough."""
    count = int((scores >= least).sum(1).max()) if len(scores) else 0
    return scores.topk(min(_CANDIDATES * most, count), 1)


def focal_losses(logits: Tensor, truth: Tensor, alpha: float = 0.25, gamma: float = 2.0) -> Tensor:
    """Cross-entropy that counts little where the answer is already right (1708.02002, eq. 5).

    Args:
        logits: [...].
        truth: 0 or 1, [...].
        alpha: how much a 1 counts; a 0 counts one less that.
        gamma: how fast what is right loses weight.

    Returns:
        Each by itself, [...].
    """
    losses = functional.binary_cross_entropy_with_logits(logits, truth, reduction="none")
    probability = logits.sigmoid()
    wrong = torch.where(truth > 0, 1 - probability, probability)
    return torch.where(truth > 0, alpha, 1 - alpha) * wrong**gamma * losses
