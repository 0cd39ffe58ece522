"""The head that says which classes are seen."""

from typing import NamedTuple

from torch import Tensor, nn
from torch.nn import functional

from captioner.encoders import Encoder
from captioner.encoders.base import Seen
from captioner.heads.config import ClassifierConfig
from captioner.heads.gate import GatePooling, MeanPooling, QueryPooling


class Classified(NamedTuple):
    """What a classifier says.

    Attributes:
        logits: of each class by itself, [b x classes].
        attention: what it looked at, [b x positions]; None without attention.
    """

    logits: Tensor
    attention: Tensor | None

    def anywhere(self) -> Tensor:
        """Return how likely each class is to be seen, [b x classes]."""
        return self.logits.float().sigmoid()


class AttentionClassifier(nn.Module):
    """Positions become one by attention; that tells how likely each class is.

    It suits every encoder.
    """

    def __init__(self, config: ClassifierConfig, encoder: Encoder) -> None:
        super().__init__()
        self.config = config
        self.pooling = _pooling(config, encoder.feature_size)
        self.classes = nn.Linear(encoder.feature_size, len(config.classes))

    def forward(self, seen: Seen, images: Tensor) -> Classified:
        """Classify; the images themselves are not looked at."""
        pooled, attention = self.pooling(seen.memory)
        return Classified(self.classes(pooled), attention)


def _pooling(config: ClassifierConfig, feature_size: int) -> nn.Module:
    if config.attention == "query":
        return QueryPooling(feature_size, config.attention_size)
    return GatePooling(feature_size) if config.attention == "gate" else MeanPooling()


def label_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Binary cross-entropy, a mean over what is known.

    Args:
        logits: [b x classes].
        labels: 0 to 1, NaN where it is unknown, [b x classes].
    """
    known = ~labels.isnan()
    losses = functional.binary_cross_entropy_with_logits(
        logits.float(), labels.float().nan_to_num(0.0), reduction="none"
    )
    return (losses * known).sum() / known.sum().clamp_min(1)
