"""What training makes small."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

Grid = tuple[int, int]
"""Height and width of the encoder's grid of positions."""


def caption_loss(
    logits: Tensor,
    tokens: Tensor,
    pad: int,
    word_weights: Tensor | None = None,
    label_smoothing: float = 0.0,
) -> Tensor:
    """Cross-entropy of each next token, a mean over those that are not padding.

    Args:
        logits: for each token but the last, [c x t-1 x vocabulary].
        tokens: start to end, padded, [c x t].
        pad: the padding token.
        word_weights: how much each token counts, [c x t]; None counts all alike.
        label_smoothing: share of each target that is spread over all words (1512.00567).
    """
    targets = tokens[:, 1:]
    losses = functional.cross_entropy(
        logits.flatten(0, 1).float(),
        targets.flatten(),
        ignore_index=pad,
        label_smoothing=label_smoothing,
        reduction="none",
    )
    weights = (targets != pad).float()
    if word_weights is not None:
        weights = weights * word_weights[:, 1:]
    # Of images without captions there may be nothing to learn here.
    return (losses * weights.flatten()).sum() / weights.sum().clamp_min(1)


def doubly_stochastic_loss(attention: Tensor, tokens: Tensor, pad: int) -> Tensor:
    """How unevenly a caption looks at the picture (1502.03044, equation 14).

    Each position's attention, added up over the words, should come to its even share of all: the
    number of words over that of positions, which is the paper's 1 where both are the same.

    Args:
        attention: where each step looked, [c x t-1 x positions].
        tokens: start to end, padded, [c x t].
        pad: the padding token.

    Returns:
        A mean over captions and positions.
    """
    said = (tokens[:, 1:] != pad).float()  # (c, t-1)
    seen = (attention.float() * said.unsqueeze(2)).sum(1)  # (c, positions)
    return (said.sum(1, keepdim=True) / seen.shape[1] - seen).square().mean()


def attention_loss(attention: Tensor, objects: Tensor, centres: Tensor, grid: Grid) -> Tensor:
    """How far attention is from the object that is spoken of (Attention Correctness, 1605.09553).

    Args:
        attention: where each step looked, [b x t-1 x positions].
        objects: the object that each token is about, start to end, -1 for none, [b x t].
        centres: x and y of each object, [b x objects x 2].
        grid: height and width of the grid of positions.
    """
    image, step = (objects[:, 1:] >= 0).nonzero(as_tuple=True)
    if not len(image):
        return attention.sum() * 0.0
    position = cells(centres[image, objects[image, step + 1]], grid)
    # The least that is above zero: a higher bound would stop the gradient where it is needed most.
    least = torch.finfo(torch.float32).tiny
    return -attention[image, step, position].clamp(min=least).log().mean()


def cells(centres: Tensor, grid: Grid) -> Tensor:
    """Return the positions of a grid [m] in which points [m x 2] lie."""
    height, width = grid
    x, y = centres.unbind(1)
    return (y * height).long() * width + (x * width).long()


class ObjectLoss(nn.Module):
    """Names the objects from the grid alone: a help to the encoder, dropped after training.

    Every position says whether an object's centre lies there; where one does, its attributes.
    Of several in one position the last, which lies in front, counts.
    """

    def __init__(self, feature_size: int, grid: Grid, classes: Sequence[int]) -> None:
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
        said = self.head(memory).float()  # (b, positions, 1 + classes)
        image, thing = (attributes[:, :, 0] >= 0).nonzero(as_tuple=True)
        position = cells(centres[image, thing], self.grid)
        present = torch.zeros_like(said[:, :, 0])
        present[image, position] = 1.0
        loss = functional.binary_cross_entropy_with_logits(said[:, :, 0], present)
        parts = said[image, position, 1:].split(self.classes, 1)
        for part, truth in zip(parts, attributes[image, thing].unbind(1), strict=True):
            loss = loss + functional.cross_entropy(part, truth)
        return loss
