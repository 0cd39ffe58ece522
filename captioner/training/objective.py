"""What training on captions makes small."""

from dataclasses import dataclass

from torch import Tensor, nn

from captioner.encoders import Encoder
from captioner.model import Read
from captioner.scenes.languages import ATTRIBUTES
from captioner.training.batch import Batch
from captioner.training.losses import (
    ObjectLoss,
    attention_loss,
    caption_loss,
    doubly_stochastic_loss,
)
from captioner.training.scenes import SceneBatch


@dataclass(frozen=True, kw_only=True)
class CaptionObjective:
    """Cross-entropy with teacher forcing, and how evenly attention sees the picture.

    Attributes:
        pad: the padding token.
        label_smoothing: share of each target that is spread over all words.
        doubly_stochastic: weight of the second part.
    """

    pad: int
    label_smoothing: float = 0.0
    doubly_stochastic: float = 0.0

    def __call__(self, read: Read, batch: Batch) -> dict[str, Tensor]:
        """Return the losses of a batch, weighted."""
        losses = {
            "captions": caption_loss(
                read.logits, batch.tokens, self.pad, label_smoothing=self.label_smoothing
            )
        }
        return losses | self.evenness(read, batch)

    def evenness(self, read: Read, batch: Batch) -> dict[str, Tensor]:
        """Return how unevenly attention sees the picture, weighted; nothing where not asked for."""
        if not self.doubly_stochastic or read.attention is None:
            return {}
        unevenness = doubly_stochastic_loss(read.attention, batch.tokens, self.pad)
        return {"evenness": self.doubly_stochastic * unevenness}


class SceneObjective(nn.Module):
    """What scenes can teach besides their captions, since the truth about them is known."""

    def __init__(
        self,
        captions: CaptionObjective,
        encoder: Encoder,
        *,
        relation_weight: float = 5.0,
        object_weight: float = 0.5,
        attention_weight: float = 0.5,
    ) -> None:
        """Set the weights.

        Args:
            captions: padding and label smoothing.
            encoder: whose positions are to know the objects.
            relation_weight: how much words like "left" count: few, and hardest to learn.
            object_weight: of the loss that names objects from the grid alone.
            attention_weight: of the loss that looks at the object that is being named.
        """
        super().__init__()
        self.naming = ObjectLoss(
            encoder.feature_size, encoder.grid, [len(names) for names in ATTRIBUTES]
        )
        self._captions, self._grid = captions, encoder.grid
        self._relation_weight = relation_weight
        self._object_weight, self._attention_weight = object_weight, attention_weight

    def forward(self, read: Read, batch: Batch) -> dict[str, Tensor]:
        """Return the losses of a batch of scenes, weighted."""
        assert isinstance(batch, SceneBatch)
        named = self.naming(read.memory, batch.centres, batch.attributes)
        losses = {
            "captions": caption_loss(
                read.logits,
                batch.tokens,
                self._captions.pad,
                1 + (self._relation_weight - 1) * batch.relating,
                self._captions.label_smoothing,
            ),
            "objects": self._object_weight * named,
        }
        if read.attention is not None:
            looked = attention_loss(
                read.attention.float(), batch.objects, batch.centres, self._grid
            )
            losses["attention"] = self._attention_weight * looked
        return losses | self._captions.evenness(read, batch)
