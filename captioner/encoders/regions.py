"""Bottom-up attention (1707.07998): features of objects that a detector found, not of a grid."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from captioner.encoders.backbone import build, check_kind
from captioner.encoders.third_party import ThirdPartyEncoder, blocks, check_view

DETECTORS = {
    "conditional_detr": "ConditionalDetrForObjectDetection",
    "deformable_detr": "DeformableDetrForObjectDetection",
    "detr": "DetrForObjectDetection",
    "rt_detr": "RTDetrForObjectDetection",
    "rt_detr_v2": "RTDetrV2ForObjectDetection",
    "yolos": "YolosForObjectDetection",
}
"""Which detectors are known, by ``model_type``, and their class in ``transformers``."""

_WITH_NO_OBJECT = frozenset(["detr", "yolos"])
"""Those whose last class is that there is nothing; the others score each class by itself."""

REGIONS = 36
"""How many boxes are read where nothing else is asked for: as many as in the paper."""

_FROM_PLACES = frozenset(["rt_detr", "rt_detr_v2"])
"""Those that choose their boxes among places of the picture, one a stride."""
_STRIDES = (8, 16, 32)

_GRID = 16
_THINNEST = 1e-3


@dataclass(frozen=True, kw_only=True)
class RegionEncoderConfig:
    """A detector of ``transformers``.

    Attributes:
        image_size: side of the square picture, in pixels.
        mean: what is taken from each channel, whose values are from 0 to 1.
        std: what each channel is divided by after that.
        settings: the detector's own configuration, with its ``model_type``.
        regions: how many of the boxes that it finds are read, the surest first.
    """

    image_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    settings: dict[str, Any]
    regions: int = REGIONS

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            ValueError: if they are beyond all use, or the detector is of a kind that is not known.
        """
        check_view(self.image_size, self.mean, self.std)
        check_kind(self.settings, DETECTORS)
        if fixed := self.settings.get("anchor_image_size"):
            raise ValueError(
                f"anchor_image_size is {fixed}; use None: anchors are those of the picture at hand"
            )
        found = boxes_found(self.settings)
        if not 1 <= self.regions <= found:
            raise ValueError(f"regions is {self.regions}; use 1 to {found}, which is all it finds")
        if self.settings["model_type"] in _FROM_PLACES:
            strides = self.settings.get("feat_strides", _STRIDES)
            places = sum((self.image_size // stride) ** 2 for stride in strides)
            if places < found:
                raise ValueError(
                    f"image_size is {self.image_size}, which has {places} places for the {found} "
                    "boxes that the detector finds; use a larger one"
                )


def boxes_found(settings: dict[str, Any]) -> int:
    """Return how many boxes a detector finds in every picture, sure or not."""
    return int(settings.get("num_detection_tokens") or settings.get("num_queries", REGIONS))


class RegionEncoder(ThirdPartyEncoder):
    """A picture [b x 3 x size x size], from 0 to 1, to features [b x regions x f].

    Each region's features are the detector's of the object, then its box: left, top, right,
    bottom and area, from -2 to 2 as places on a grid are. The surest come first; of equally sure
    ones that which the detector names first. Which boxes are read is not learned, their features
    are.
    """

    def __init__(self, config: RegionEncoderConfig) -> None:
        kind = config.settings["model_type"]
        model = build(DETECTORS[kind], config.settings)
        super().__init__(model, config.mean, config.std)
        self.config = config
        self._with_no_object = kind in _WITH_NO_OBJECT
        self.grid = _GRID, _GRID
        self.place_size = 5
        detector: Any = model.config
        self.feature_size = detector.hidden_size + self.place_size

    def forward(self, images: Tensor) -> Tensor:
        """Encode pictures."""
        output = self.model(self.normalised(images))
        # Before the detector's objects YOLOS has the patches.
        objects: Tensor = output.last_hidden_state[:, -output.logits.shape[1] :]
        scores = self._scores(output.logits.detach())
        order = scores.sort(dim=1, descending=True, stable=True).indices
        surest = order[:, : self.config.regions].unsqueeze(2)
        boxes = places(output.pred_boxes.detach()).to(objects.dtype)
        return torch.cat((objects, boxes), 2).take_along_dim(surest, 1)

    def layers(self) -> Sequence[nn.Module]:
        """Stem and blocks of the backbone, layers of the encoder, layers of the decoder."""
        network: Any = self.model.base_model
        if not hasattr(network, "decoder"):  # YOLOS
            return [network.embeddings, *network.encoder.layer]
        # Around them are heads, which nothing trains here.
        return [*blocks(network.backbone), *blocks(network.encoder), *network.decoder.layers]

    def maps(self, attention: Tensor, places: Tensor) -> Tensor:
        """Paint the attention of each region evenly over its box, [t x grid x grid]."""
        return torch.einsum("tn,nhw->thw", attention.float(), painted(places.float(), _GRID))

    def _scores(self, logits: Tensor) -> Tensor:
        """Return how sure the detector is that each box holds some object, [b x queries]."""
        if self._with_no_object:
            return logits.softmax(2)[..., :-1].amax(2)
        return logits.sigmoid().amax(2)


def places(boxes: Tensor) -> Tensor:
    """Turn boxes (centre x and y, width, height) from 0 to 1 into places [... x 5]."""
    boxes = boxes.float()
    centre, size = boxes[..., :2], boxes[..., 2:]
    first, last = (centre - size / 2).clamp(0, 1), (centre + size / 2).clamp(0, 1)
    area = (last - first).prod(-1, keepdim=True)
    return torch.cat((first, last, area), -1) * 4 - 2


def painted(places: Tensor, cells: int) -> Tensor:
    """Spread 1 evenly over the box of each place [n x 5]: [n x cells x cells]."""
    corners = (places[:, :4] + 2) / 4
    first, last = corners[:, :2], corners[:, 2:]  # each x, y
    # A box of no width is somewhere all the same.
    half = ((last - first) / 2).clamp_min(_THINNEST)
    centre = torch.minimum(torch.maximum((first + last) / 2, half), 1 - half)
    edges = torch.linspace(0, 1, cells + 1, device=places.device)
    start = torch.maximum((centre - half).unsqueeze(2), edges[:-1])  # (n, 2, cells)
    end = torch.minimum((centre + half).unsqueeze(2), edges[1:])
    shares = (end - start).clamp_min(0)
    shares = shares / shares.sum(2, keepdim=True)
    return torch.einsum("nw,nh->nhw", shares[:, 0], shares[:, 1])
