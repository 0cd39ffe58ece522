"""All heads of one encoder."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from captioner.annotations import Annotations, Box, Label, Mask
from captioner.contract import Geometry
from captioner.encoders import Encoder
from captioner.encoders.base import Seen
from captioner.heads.classifier import AttentionClassifier, Classified, label_loss
from captioner.heads.config import (
    ClassifierConfig,
    DetectorConfig,
    HeadsConfig,
    SegmenterConfig,
)
from captioner.heads.detector import AttentionDetector, Detected
from captioner.heads.findings import boxes_of, labels_of, masks_of
from captioner.heads.segmenter import AttentionSegmenter, Segmented, mask_loss
from captioner.heads.targets import HeadTargets, Size

HEADS: dict[str, tuple[type[Any], type[Any]]] = {
    "labels": (ClassifierConfig, AttentionClassifier),
    "boxes": (DetectorConfig, AttentionDetector),
    "masks": (SegmenterConfig, AttentionSegmenter),
}
"""By the name that ``HeadsConfig`` gives it: what a head is built from, and its class."""


class HeadOutputs(NamedTuple):
    """What each head says; None where there is no such head."""

    labels: Classified | None = None
    boxes: Detected | None = None
    masks: Segmented | None = None


class Heads(nn.Module):
    """One head or more, on what an encoder saw.

    Raises:
        ValueError: if a head does not suit the encoder.
    """

    labels: AttentionClassifier | None
    boxes: AttentionDetector | None
    masks: AttentionSegmenter | None

    def __init__(self, config: HeadsConfig, encoder: Encoder) -> None:
        super().__init__()
        self.config = config
        self.image_size: int = encoder.config.image_size
        for name, (_, kind) in HEADS.items():
            part = getattr(config, name)
            self.add_module(name, None if part is None else kind(part, encoder))

    def forward(self, seen: Seen, images: Tensor) -> HeadOutputs:
        """Run the heads.

        Args:
            seen: of the encoder's ``see``.
            images: what it saw, [b x 3 x height x width], from 0 to 1.
        """
        heads = (self.labels, self.boxes, self.masks)
        return HeadOutputs(*(None if head is None else head(seen, images) for head in heads))

    def targets(self, annotations: Sequence[Annotations], sizes: Sequence[Size]) -> HeadTargets:
        """Make targets for the classes of these heads, as ``HeadTargets.of``."""
        named = {
            name: part.classes for name in HEADS if (part := getattr(self.config, name)) is not None
        }
        return HeadTargets.of(annotations, sizes, image_size=self.image_size, **named)

    def losses(self, outputs: HeadOutputs, targets: HeadTargets) -> dict[str, Tensor]:
        """Compare with what is known; of a head of which nothing is known the loss is 0.

        Returns:
            The loss of each head, by its name.
        """
        losses = {}
        if outputs.labels is not None:
            losses["labels"] = label_loss(outputs.labels.logits, targets.labels)
        if outputs.boxes is not None and self.boxes is not None:
            losses["boxes"] = self.boxes.loss(
                outputs.boxes, targets.boxes, targets.classes, targets.boxes_known
            )
        if outputs.masks is not None:
            losses["masks"] = mask_loss(outputs.masks.logits, targets.masks)
        return losses

    def annotations(
        self,
        outputs: HeadOutputs,
        geometries: Sequence[Geometry],
        *,
        score_threshold: float | None = None,
    ) -> list[Annotations]:
        """Say what was found in each image, in pixels of its original.

        Args:
            outputs: of ``forward``.
            geometries: the way from each original to the model's picture.
            score_threshold: least probability of labels and boxes; the configurations' if None.
        """
        nothing = [None] * len(geometries)
        columns = zip(
            self._labels(outputs.labels, score_threshold) or nothing,
            self._boxes(outputs.boxes, geometries, score_threshold) or nothing,
            self._masks(outputs.masks, geometries) or nothing,
            strict=True,
        )
        return [Annotations(labels, boxes, masks) for labels, boxes, masks in columns]

    def likely(self, outputs: HeadOutputs) -> list[dict[str, float]]:
        """Say of each image how likely the heads find classes, below thresholds, too.

        A class that both labels and boxes have is as likely as the surer of them says. Masks tell
        only of classes that neither has: to bring logits of pixels to probabilities takes long.

        Args:
            outputs: of ``forward``, of one head or more.

        Returns:
            Probabilities by name of the class, of each image.
        """
        names: list[str] = []
        columns: list[Tensor] = []
        for head, said in outputs._asdict().items():
            if said is None:
                continue
            classes = getattr(self.config, head).classes
            kept = [n for n, c in enumerate(classes) if head != "masks" or c not in names]
            if kept:
                names.extend(classes[number] for number in kept)
                columns.append(said.anywhere()[:, kept])
        found: list[dict[str, float]] = []
        for row in torch.cat(columns, 1).tolist():
            surest: dict[str, float] = {}
            for name, probability in zip(names, row, strict=True):
                surest[name] = max(probability, surest.get(name, 0.0))
            found.append(surest)
        return found

    def _labels(
        self, said: Classified | None, score_threshold: float | None
    ) -> list[tuple[Label, ...]]:
        if said is None or self.labels is None:
            return []
        config = self.labels.config
        least = config.threshold if score_threshold is None else score_threshold
        return [labels_of(row, config.classes, least) for row in said.logits.detach()]

    def _boxes(
        self,
        said: Detected | None,
        geometries: Sequence[Geometry],
        score_threshold: float | None,
    ) -> list[tuple[Box, ...]]:
        if said is None or self.boxes is None:
            return []
        names = self.boxes.config.classes
        return [
            boxes_of(found, names, geometry, self.image_size)
            for found, geometry in zip(
                self.boxes.found(said, score_threshold), geometries, strict=True
            )
        ]

    def _masks(
        self, said: Segmented | None, geometries: Sequence[Geometry]
    ) -> list[tuple[Mask, ...]]:
        if said is None or self.masks is None:
            return []
        names = self.masks.config.classes
        return [
            masks_of(logits, names, geometry, self.image_size)
            for logits, geometry in zip(said.logits, geometries, strict=True)
        ]
