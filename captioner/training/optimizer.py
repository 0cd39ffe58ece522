"""Which weights change in a step, and by how much."""

import math
from collections.abc import Iterable
from itertools import product
from typing import Any

import torch
from torch import nn

from captioner.training.config import TrainingConfig

_WARM_UP = 0.06


def make_optimizer(
    encoder: nn.Module, others: Iterable[nn.Module], config: TrainingConfig
) -> torch.optim.Optimizer:
    """Return AdamW (1711.05101) over what learns, the encoder's weights apart from all others.

    Args:
        encoder: of the model.
        others: everything else that learns.
        config: how.
    """
    parts = {
        "encoder": [w for w in encoder.parameters() if w.requires_grad],
        "decoder": [w for module in others for w in module.parameters() if w.requires_grad],
    }
    groups: list[dict[str, Any]] = []
    for (part, weights), matrices in product(parts.items(), (True, False)):
        chosen = [w for w in weights if (w.ndim > 1) == matrices]
        if chosen:
            decay = config.weight_decay if matrices else 0.0
            groups.append({"params": chosen, "weight_decay": decay, "part": part})
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=(0.9, 0.99))


def set_learning_rates(
    optimizer: torch.optim.Optimizer, config: TrainingConfig, done: float
) -> None:
    """Set the learning rates for a step.

    Args:
        optimizer: of ``make_optimizer``.
        config: how.
        done: share of all the training that is done, from 0 to 1.
    """
    rest = config.decoder_epochs / config.epochs
    for group in optimizer.param_groups:
        if group["part"] == "encoder":
            group["lr"] = config.encoder_learning_rate * one_cycle((done - rest) / (1 - rest))
        else:
            group["lr"] = config.learning_rate * one_cycle(done)


def rest(optimizer: torch.optim.Optimizer, part: str) -> None:
    """Let a part, ``encoder`` or ``decoder``, rest in this step: without gradient it stays."""
    for group in optimizer.param_groups:
        if group["part"] == part:
            for weight in group["params"]:
                weight.grad = None


def one_cycle(done: float) -> float:
    """Share of the highest learning rate when that share of the steps is done (1708.07120)."""
    if done < _WARM_UP:
        return 0.05 + 0.95 * max(0.0, done) / _WARM_UP
    falling = min(1.0, (done - _WARM_UP) / (1 - _WARM_UP))
    return 0.002 + 0.998 * 0.5 * (1 + math.cos(math.pi * falling))
