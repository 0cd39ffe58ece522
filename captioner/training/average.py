"""A moving average of weights: better than the last ones, and steadier."""

import copy

import torch

from captioner.model import CaptionModel


class Average:
    """A copy of a model whose weights follow, statistics of its norms included (1803.05407).

    Attributes:
        model: the copy, never trained itself.
        steps: how often it followed.
    """

    def __init__(self, model: CaptionModel, keep: float) -> None:
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self.steps = 0
        self._keep = keep

    @torch.no_grad()
    def update(self, model: CaptionModel) -> None:
        """Move towards the model as it is now; early on faster, as the start is worth little."""
        self.steps += 1
        keep = min(self._keep, self.steps / (self.steps + 10))
        for mean, value in zip(self.model.parameters(), model.parameters(), strict=True):
            if value.requires_grad:
                mean.lerp_(value, 1 - keep)
        for followed, figure in zip(self.model.buffers(), model.buffers(), strict=True):
            if followed.is_floating_point():
                followed.lerp_(figure, 1 - keep)
            else:
                followed.copy_(figure)
