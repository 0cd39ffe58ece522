"""The training loop: plain PyTorch, one pass over the scenes after another."""

import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from captioner.model import CaptionModel
from captioner.training.data import ATTRIBUTES, Batch, SceneData, batches
from captioner.training.losses import ObjectLoss, attention_loss, caption_loss

logger = logging.getLogger(__name__)

Precision = Literal["float32", "bfloat16"]
_LOG_EVERY_SECONDS = 20.0
_CPU = torch.device("cpu")


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """How a model is trained.

    Attributes:
        epochs: passes over the scenes.
        batch_size: scenes a step.
        learning_rate: the highest; it rises to it and falls to nothing (one cycle).
        weight_decay: of matrices and kernels; biases and norms go without.
        object_weight: weight of the loss that names objects from the grid alone.
        attention_weight: weight of the loss that looks at the object that is being named.
        averaging: share of the averaged weights kept at each step (exponential moving average).
        clip: largest norm of the gradient.
        seed: decides first weights, order, mirrors and captions.
        precision: of matrix products and convolutions; weights are kept in float32.
    """

    epochs: int = 5
    batch_size: int = 64
    learning_rate: float = 2e-3
    weight_decay: float = 0.02
    object_weight: float = 0.5
    attention_weight: float = 0.5
    averaging: float = 0.998
    clip: float = 1.0
    seed: int = 0
    precision: Precision = "float32"


class Average:
    """A moving average of a model's weights, statistics of its norms included."""

    def __init__(self, model: nn.Module, keep: float) -> None:
        self._keep = keep
        self._steps = 0
        self.weights = {name: value.clone() for name, value in model.state_dict().items()}

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Move towards the model as it is now; early on faster, as the start is worth little."""
        self._steps += 1
        keep = min(self._keep, self._steps / (self._steps + 10))
        for name, value in model.state_dict().items():
            mean = self.weights[name]
            if mean.is_floating_point():
                mean.lerp_(value, 1 - keep)
            else:
                mean.copy_(value)


def train(
    model: CaptionModel,
    data: SceneData,
    config: TrainingConfig,
    *,
    pad: int,
    word_weights: Tensor | None = None,
    device: torch.device = _CPU,
    after_epoch: Callable[[int, dict[str, Tensor]], None] | None = None,
) -> list[float]:
    """Train a model in place and leave the averaged weights in it.

    Args:
        model: what is trained.
        data: the scenes.
        config: how.
        pad: the tokenizer's padding token.
        word_weights: how much each word counts in the loss; None counts all alike.
        device: where.
        after_epoch: called with the epoch's number and the averaged weights so far.

    Returns:
        The caption loss of each step.
    """
    torch.manual_seed(config.seed)
    rng = np.random.default_rng(config.seed)
    naming = ObjectLoss(
        model.encoder.feature_size, model.encoder.grid, [len(names) for names in ATTRIBUTES]
    )
    model.to(device).train()
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    naming.to(device)
    word_weights = None if word_weights is None else word_weights.to(device)
    average = Average(model, config.averaging)
    steps = config.epochs * (len(data) // config.batch_size)
    optimizer = _optimizer(model, naming, config)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: _one_cycle(step / max(1, steps))
    )
    losses: list[float] = []
    began = told = time.monotonic()
    for epoch in range(config.epochs):
        for batch in batches(data, config.batch_size, rng):
            with torch.autocast(
                device.type, torch.bfloat16, enabled=config.precision == "bfloat16"
            ):
                said, named, looked = _losses(model, naming, batch, pad, word_weights, device)
            optimizer.zero_grad(set_to_none=True)
            torch.autograd.backward(
                said + config.object_weight * named + config.attention_weight * looked
            )
            nn.utils.clip_grad_norm_(model.parameters(), config.clip)
            optimizer.step()
            schedule.step()
            average.update(model)
            losses.append(said.item())
            if (now := time.monotonic()) - told >= _LOG_EVERY_SECONDS:
                told = now
                logger.info(
                    "step %d of %d: loss of captions %.4f, objects %.4f, attention %.4f, "
                    "%.0f images/s",
                    *(len(losses), steps, losses[-1], named.item(), looked.item()),
                    len(losses) * config.batch_size / (now - began),
                )
        if after_epoch is not None:
            after_epoch(epoch, average.weights)
    model.load_state_dict(average.weights)
    model.eval()
    return losses


def _losses(
    model: CaptionModel,
    naming: ObjectLoss,
    batch: Batch,
    pad: int,
    word_weights: Tensor | None,
    device: torch.device,
) -> tuple[Tensor, Tensor, Tensor]:
    pixels, tokens, objects, centres, attributes = (
        torch.from_numpy(getattr(batch, field.name)).to(device) for field in fields(batch)
    )
    memory = model.encode(pixels)
    logits, attention = model.decoder(memory, tokens[:, :-1])
    return (
        caption_loss(logits.float(), tokens, pad, word_weights),
        naming(memory, centres, attributes),
        attention_loss(attention.float(), objects, centres, model.encoder.grid),
    )


def _optimizer(
    model: nn.Module, naming: nn.Module, config: TrainingConfig
) -> torch.optim.Optimizer:
    weights = [*model.parameters(), *naming.parameters()]
    groups = [
        {"params": [w for w in weights if w.ndim > 1], "weight_decay": config.weight_decay},
        {"params": [w for w in weights if w.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=(0.9, 0.99))


def _one_cycle(done: float, warm_up: float = 0.06) -> float:
    """Share of the highest learning rate when that share of the steps is done."""
    if done < warm_up:
        return 0.05 + 0.95 * done / warm_up
    falling = min(1.0, (done - warm_up) / (1 - warm_up))
    return 0.002 + 0.998 * 0.5 * (1 + math.cos(math.pi * falling))
