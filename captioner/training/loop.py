"""The training loop: any model, any batches, any objective; on what devices there are."""

import logging
import math
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from captioner.model import CaptionModel, Read
from captioner.training.average import Average
from captioner.training.batch import Batch, Batches
from captioner.training.config import Precision, TrainingConfig
from captioner.training.noise import noisy
from captioner.training.optimizer import make_optimizer, rest, set_learning_rates
from captioner.training.state import Progress, load_state, save_state

logger = logging.getLogger(__name__)

_SAVE_EVERY_SECONDS = 300.0
_LOG_EVERY_SECONDS = 30.0

Objective = Callable[[Read, Batch], dict[str, Tensor]]
"""What is made small: losses by name, each weighted already; a module where it learns, too."""


class DivergedError(Exception):
    """Training that came to no numbers: says where, and what to do."""


class Learner(nn.Module):
    """A model and its objective as one module, so that several processes learn all of both."""

    def __init__(
        self,
        model: CaptionModel,
        objective: Objective,
        precision: Precision,
        word_noise: float = 0.0,
    ) -> None:
        super().__init__()
        self._word_noise = word_noise
        self.model = model
        self.objective = objective
        self._half = precision == "bfloat16"

    def forward(self, batch: Batch, encoder_rests: bool = False) -> dict[str, Tensor]:
        """Return the losses of a batch.

        Args:
            batch: what is learned from.
            encoder_rests: spend nothing on the encoder's gradients.
        """
        with torch.autocast(batch.tokens.device.type, torch.bfloat16, enabled=self._half):
            memory, said = batch.memory, None
            if memory is None:
                if batch.pixels is None:
                    raise ValueError("the batch has neither pixels nor memory")
                seen, said = self.model.look(batch.pixels, encoder_rests=encoder_rests)
                memory = seen.memory
            words = noisy(batch.tokens[:, :-1], self._word_noise)
            read = self.model(None, words, memory)._replace(heads=said)
            return self.objective(read, batch)


@dataclass(frozen=True)
class Epoch:
    """What is known after a pass.

    Attributes:
        number: counted from 1.
        losses: mean of each over the pass.
        seconds: since training began, earlier runs included.
        images_per_second: of this pass, or of what this run did of it.
    """

    number: int
    losses: dict[str, float]
    seconds: float
    images_per_second: float


class Trainer:
    """Trains a model; what it needs to go on after a kill lies in ``folder``.

    After a kill it ends with the very weights of an unbroken run: batches and random numbers of
    a step come from seed and number, and everything else is in the saved state.

    Attributes:
        average: the averaged model; what validation looks at and what is kept.
        progress: how far it is.
    """

    def __init__(
        self,
        model: CaptionModel,
        objective: Objective,
        config: TrainingConfig,
        *,
        folder: Path,
        settings: Mapping[str, object],
        device: str = "auto",
    ) -> None:
        """Prepare, and go on from the state in ``folder`` where there is one.

        Args:
            model: with ``requires_grad`` where it is to learn.
            objective: what is made small.
            config: how.
            folder: for the state; must exist.
            settings: everything that the result depends on; a state with others is refused.
            device: auto, or cpu.

        Raises:
            ModuleNotFoundError: if ``accelerate`` is not installed.
            StateError: if the state is of other settings, or broken.
            ValueError: if processes cannot share a batch evenly.
        """
        accelerate = import_accelerate()
        self._config, self._folder = config, folder
        several = [
            # Some weights have no gradient in a step: those of a part that rests, or of boxes.
            accelerate.DistributedDataParallelKwargs(find_unused_parameters=True),
            # Others wait while the first process scores, or encodes images for all.
            accelerate.InitProcessGroupKwargs(timeout=timedelta(days=1)),
        ]
        self.accelerator = accelerate.Accelerator(
            cpu=device == "cpu", mixed_precision="no", kwargs_handlers=several
        )
        processes = self.accelerator.num_processes
        if config.batch_size % processes:
            raise ValueError(
                f"batch_size is {config.batch_size}; use a multiple of the {processes} processes"
            )
        self._settings = {**settings, "processes": processes}
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._learner = Learner(model, objective, config.precision, config.word_noise)
        self._learner.to(self.accelerator.device)
        self.average = Average(model, config.averaging)
        others = [m for name, m in model.named_children() if name != "encoder"]
        if isinstance(objective, nn.Module):
            others.append(objective)
        optimizer = make_optimizer(model.encoder, others, config)
        found = load_state(folder, self._settings, self._learner, self.average, optimizer)
        self.progress = found or Progress()
        self._wrapped, self._optimizer = self.accelerator.prepare(self._learner, optimizer)
        self._saved = self._logged = time.monotonic()

    def run(
        self,
        data: Callable[[int], Batches],
        after_epoch: Callable[[Epoch], float | None],
    ) -> None:
        """Train to the end.

        Args:
            data: what each epoch, counted from 0, learns from.
            after_epoch: looks at ``average`` after each pass, in the first process only, and
                returns a score, the higher the better, or None.

        Raises:
            DivergedError: if a loss is no number.
        """
        while not self.progress.finished:
            with self.accelerator.main_process_first():
                batches = data(self.progress.epoch)
            epoch = self._pass(batches)
            score = after_epoch(epoch) if self.accelerator.is_main_process else None
            self._finish_pass(score)
        self._learner.model.load_state_dict(self.average.model.state_dict())

    def _pass(self, data: Batches) -> Epoch:
        progress, accelerator = self.progress, self.accelerator
        number, first, began = progress.epoch, progress.batch, time.monotonic()
        before, images, total = progress.seconds, 0, len(data)
        self._learner.train()
        encoder_learns = self._config.encoder_learns(number)
        if not encoder_learns:
            self._learner.model.encoder.eval()
        model = self._learner.model
        for part in (model.decoder, *(model.heads.children() if model.heads else ())):
            # Where nothing learns the means of batch norms are to stay, too.
            if not any(weight.requires_grad for weight in part.parameters()):
                part.eval()
        bar = tqdm(
            total=total,
            initial=first,
            desc=f"epoch {number + 1}/{self._config.epochs}",
            unit="batch",
            disable=None if accelerator.is_main_process else True,
        )
        with bar:
            for batch in data.batches(number, first):
                changed = self._changes_weights(total)
                losses = self._step(batch, total)
                images += len(batch)
                progress.batch += 1
                progress.seconds = before + time.monotonic() - began
                for name, value in losses.items():
                    progress.losses[name] = progress.losses.get(name, 0.0) + value
                bar.set_postfix(loss=f"{sum(losses.values()):.3f}", refresh=False)
                bar.update()
                if bar.disable:
                    self._log(losses, total, images / (time.monotonic() - began))
                if changed and time.monotonic() - self._saved >= _SAVE_EVERY_SECONDS:
                    self._save()  # By its own clock: others do not wait.
        rate = images / max(1e-9, time.monotonic() - began)
        means = {name: value / max(1, progress.batch) for name, value in progress.losses.items()}
        return Epoch(number + 1, means, progress.seconds, rate)

    def _step(self, batch: Batch, total: int) -> dict[str, float]:
        """Learn from a batch; weights change with the last of those whose gradients add up."""
        config, accelerator, progress = self._config, self.accelerator, self.progress
        # Each step's own: so a resumed run drops out what an unbroken one does.
        place = (config.seed, progress.epoch, progress.batch, accelerator.process_index)
        torch.manual_seed(hash(place) % 2**63)
        resting, changes = self._resting(), self._changes_weights(total)
        batch = batch.part(accelerator.process_index, accelerator.num_processes)
        with nullcontext() if changes else accelerator.no_sync(self._wrapped):
            losses = self._wrapped(batch.to(accelerator.device), resting == "encoder")
            values = {name: value.item() for name, value in losses.items()}
            self._check_finite(values)
            accelerator.backward(torch.stack(list(losses.values())).sum() / config.accumulate)
        if changes:
            done = (progress.epoch + progress.batch / total) / config.epochs
            set_learning_rates(self._optimizer, config, done)
            if resting is not None:
                rest(self._optimizer, resting)
            accelerator.clip_grad_norm_(self._learner.parameters(), config.clip)
            self._optimizer.step()
            self._optimizer.zero_grad()
            progress.step += 1
            self.average.update(self._learner.model)
        return values

    def _check_finite(self, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            if not math.isfinite(value):
                raise DivergedError(
                    f"the loss of {name} is {value} in batch {self.progress.batch + 1} of epoch "
                    f"{self.progress.epoch + 1}; start anew with a lower learning_rate, or with "
                    "precision float32"
                )

    def _changes_weights(self, total: int) -> bool:
        done = self.progress.batch + 1
        return done % self._config.accumulate == 0 or done == total

    def _resting(self) -> str | None:
        """Return which part rests in this step."""
        if not self._config.encoder_learns(self.progress.epoch):
            return "encoder"
        if self._config.schedule == "alternating":
            return ("encoder", "decoder")[self.progress.step % 2]
        return None

    def _log(self, losses: Mapping[str, float], total: int, rate: float) -> None:
        """Tell now and then where there is no terminal to draw a bar on."""
        if time.monotonic() - self._logged < _LOG_EVERY_SECONDS:
            return
        self._logged = time.monotonic()
        told = ", ".join(f"{name} {value:.3f}" for name, value in losses.items())
        logger.info(
            "epoch %d, batch %d of %d: %s, %.0f images/s",
            *(self.progress.epoch + 1, self.progress.batch, total, told, rate),
        )

    def _finish_pass(self, score: float | None) -> None:
        from accelerate.utils import broadcast_object_list

        progress, config = self.progress, self._config
        (score,) = broadcast_object_list([score])
        progress.epoch, progress.batch, progress.losses = progress.epoch + 1, 0, {}
        if score is not None and (progress.best is None or score > progress.best):
            progress.best, progress.best_epoch = score, progress.epoch
        waited = progress.epoch - progress.best_epoch
        stopped = bool(config.patience) and progress.best is not None and waited >= config.patience
        progress.finished = stopped or progress.epoch == config.epochs
        self._save()
        self.accelerator.wait_for_everyone()

    def _save(self) -> None:
        self._saved = time.monotonic()
        if self.accelerator.is_main_process:
            save_state(
                self._folder,
                self._settings,
                self.progress,
                self._learner,
                self.average,
                self._unwrapped_optimizer(),
            )

    def _unwrapped_optimizer(self) -> torch.optim.Optimizer:
        wrapped: Any = self._optimizer
        optimizer: torch.optim.Optimizer = wrapped.optimizer
        return optimizer


def import_accelerate() -> Any:
    """Import the package, or say how to install it.

    Raises:
        ModuleNotFoundError: if it is not installed.
    """
    try:
        import accelerate
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"training needs {error.name}; install it: pip install 'captioner[training]'"
        ) from error
    return accelerate
