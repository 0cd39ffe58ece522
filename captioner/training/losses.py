"""What training makes small."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional


def caption_loss(
    logits: Tensor, tokens: Tensor, pad: int, word_weights: Tensor | None = None
) -> Tensor:
    """Cross-entropy of each next token, a mean over those that are not padding.

    Args:
        logits: for each token but the last, [b x t-1 x vocabulary].
        tokens: start to end, padded, [b x t].
        pad: the padding token.
        word_weights: how much each word counts, [vocabulary]; None counts all alike.
    """
    return functional.cross_entropy(
        logits.flatten(0, 1), tokens[:, 1:].flatten(), weight=word_weights, ignore_index=pad
    )


class ObjectLoss(nn.Module):
    """Names the objects from the grid alone: a help to the encoder, dropped after training.

    Every position says whether an object's centre lies there; where one does, its attributes.
    Of several in one position the last, which lies in front, counts.
    """

    def __init__(self, feature_size: int, grid: tuple[int, int], classes: Sequence[int]) -> None:
        super().__init__()
        self.grid = grid
        self.classes = list(classes)
        self.head = nn.Linear(feature_size, 1 + sum(classes))

    def forward(self, memory: Tensor, centres: Tensor, attributes: Tensor) -> Tensor:
        """Compare the grid with the truth.

        Args:
            memory: what the encoder saw, [b x positions x features].
            centres: x and y of each object, NaN where there is none, [b x objects x 2].
            attributes: the class of each attribute, -1 where there is none, [b x objects x a].
        """
        height, width = self.grid
        said = self.head(memory)  # (b, positions, 1 + classes)
        image, thing = (attributes[:, :, 0] >= 0).nonzero(as_tuple=True)
        x, y = centres[image, thing].unbind(1)
        position = (y * height).long() * width + (x * width).long()
        present = torch.zeros_like(said[:, :, 0])
        present[image, position] = 1.0
        loss = functional.binary_cross_entropy_with_logits(said[:, :, 0], present)
        parts = said[image, position, 1:].split(self.classes, 1)
        for part, truth in zip(parts, attributes[image, thing].unbind(1), strict=True):
            loss = loss + functional.cross_entropy(part, truth)
        return loss
