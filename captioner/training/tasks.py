"""Captions, labels, boxes and masks learned together by one encoder."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from captioner.heads import Heads
from captioner.model import CaptionModel, Read
from captioner.training.batch import Batch

Weighting = Literal["fixed", "uncertainty"]
Turns = Literal["joint", "alternating"]

CAPTIONS = "captions"


@dataclass(frozen=True, kw_only=True)
class TaskConfig:
    """How much each task counts; what is not known of a batch's images counts nothing there.

    Attributes:
        caption_weight: of captions, and of what is learned with them.
        label_weight: of labels.
        box_weight: of boxes.
        mask_weight: of masks.
        weighting: ``fixed`` takes these weights as they are; ``uncertainty`` learns by what more
            each task is to be divided (1705.07115).
        turns: ``joint`` learns all tasks in each step, ``alternating`` one after the other,
            those that count 0 left out.
    """

    caption_weight: float = 1.0
    label_weight: float = 1.0
    box_weight: float = 1.0
    mask_weight: float = 1.0
    weighting: Weighting = "fixed"
    turns: Turns = "joint"

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            ValueError: if one is beyond all use.
        """
        for name, value in asdict(self).items():
            if name.endswith("_weight") and not 0 <= value <= 1000:
                raise ValueError(f"{name} is {value}; use 0 to 1000")
        for name, kind in (("weighting", Weighting), ("turns", Turns)):
            if (value := getattr(self, name)) not in get_args(kind):
                raise ValueError(f"{name} is {value!r}; use one of {', '.join(get_args(kind))}")

    @property
    def weights(self) -> Mapping[str, float]:
        """Of each task, by its name."""
        return {
            CAPTIONS: self.caption_weight,
            "labels": self.label_weight,
            "boxes": self.box_weight,
            "masks": self.mask_weight,
        }


def let_rest(model: CaptionModel, config: TaskConfig) -> None:
    """Let what only tasks of weight 0 learn stay as it is: the decoder, or a head.

    Args:
        model: whose weights then say by ``requires_grad`` whether they learn.
        config: how much each task counts.
    """
    parts = {CAPTIONS: model.decoder, **dict(model.heads.named_children() if model.heads else ())}
    for name, part in parts.items():
        if not config.weights[name]:
            part.requires_grad_(False)


class TaskObjective(nn.Module):
    """The losses of captions and of heads, each weighted."""

    def __init__(
        self,
        captions: Callable[[Read, Batch], dict[str, Tensor]],
        heads: Heads,
        config: TaskConfig,
    ) -> None:
        """Make the objective.

        Args:
            captions: their losses, by name, weighted among each other.
            heads: of the model, which is not taken over as a part.
            config: how much each task counts.
        """
        super().__init__()
        self.captions = captions
        self._head_losses = heads.losses
        self._config = config
        self._tasks = [CAPTIONS, *(name for name, head in heads.named_children())]
        # In the turn of a task that counts 0 nothing would be learned.
        self._turns = [name for name in self._tasks if config.weights[name]]
        self.register_buffer("step", torch.zeros((), dtype=torch.int64))
        if config.weighting == "uncertainty":
            zeros = {name: nn.Parameter(torch.zeros(())) for name in self._tasks}
            self.log_variances = nn.ParameterDict(zeros)

    step: Tensor

    def forward(self, read: Read, batch: Batch) -> dict[str, Tensor]:
        """Return the losses of a batch, weighted; those of tasks whose turn it is not are 0.

        Raises:
            ValueError: if nothing is known of the batch, or the heads did not see it.
        """
        if read.heads is None or batch.targets is None:
            raise ValueError("a model with heads learns from pixels and targets; give both")
        found = self._head_losses(read.heads, batch.targets)
        tasks = {CAPTIONS: self.captions(read, batch)}
        tasks |= {name: {name: loss} for name, loss in found.items()}
        losses = {
            name: self._share(task) * loss
            for task, parts in tasks.items()
            for name, loss in parts.items()
        }
        if self._config.weighting == "uncertainty":
            # Without it all variances would grow without end (1705.07115, equation 7); and those
            # of what is not learned here would shrink without end with it.
            losses["uncertainty"] = torch.stack(
                [
                    0.5 * self._learned(name, parts) * self.log_variances[name]
                    for name, parts in tasks.items()
                ]
            ).sum()
        if self.training:
            self.step += 1
        return losses

    def _share(self, task: str) -> Tensor | float:
        share = self._config.weights[task] * self._turn(task)
        if self._config.weighting == "uncertainty":
            return share * torch.exp(-self.log_variances[task])
        return share

    def _learned(self, task: str, parts: Mapping[str, Tensor]) -> Tensor:
        """Return 1 if a task counts in this step and something is known of it, else 0."""
        known = torch.stack([loss.detach() for loss in parts.values()]).any()
        return known * float(self._config.weights[task] * self._turn(task) > 0)

    def _turn(self, task: str) -> float:
        """Return 1 if a task is learned in this step, else 0."""
        if self._config.turns == "joint":
            return 1.0
        return float(self._turns[int(self.step) % len(self._turns)] == task)
