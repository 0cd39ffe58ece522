"""A training run: from a model and what it learns from to a folder that one can use."""

import json
import logging
import shutil
from collections.abc import Mapping
from pathlib import Path

from captioner.checkpoint import CARD, STATISTICS, put_statistics, read, save
from captioner.model import AttentionCaptioner, CaptionModel
from captioner.training.card import model_card
from captioner.training.config import TrainingConfig
from captioner.training.learned import LEARNED, Learned
from captioner.training.loop import Epoch, Trainer
from captioner.training.material import Material
from captioner.training.picture import attention_picture
from captioner.training.statistics import statistics_of

logger = logging.getLogger(__name__)

BEST, LAST, LOG, PICTURES = "best", "last", "epochs.jsonl", "attention"


class TrainingRun:
    """Trains, and after each epoch scores, draws and saves the averaged model.

    The folder then holds ``best`` and ``last``, checkpoints with model cards, and at the end with
    statistics of what their encoder sees of training images; ``epochs.jsonl``,
    losses and scores of each epoch; ``attention``, a picture of each epoch; and the state that a
    run which was ended early goes on from.
    """

    def __init__(
        self,
        model: CaptionModel,
        material: Material,
        config: TrainingConfig,
        *,
        output: Path,
        settings: Mapping[str, object],
        learned: Learned | None = None,
        device: str = "auto",
    ) -> None:
        """Prepare the run, or take it up again where it was left.

        Args:
            model: to train, with ``requires_grad`` where it is to learn.
            material: what it learns from.
            config: how.
            output: the folder; made where missing.
            settings: everything that was asked for and that the result depends on.
            learned: which reviewed images it learns from, to be kept beside the models.
            device: auto, or cpu.

        Raises:
            StateError: if the folder holds another training's state.
        """
        output.mkdir(parents=True, exist_ok=True)
        self._model, self._material, self._output = model, material, output
        self._settings, self._learned = settings, learned
        self.trainer = Trainer(
            model,
            material.objective(model),
            config,
            folder=output,
            settings=settings,
            device=device,
        )

    @property
    def best(self) -> Path:
        """The folder of the best epoch's model."""
        return self._output / BEST

    @property
    def leads(self) -> bool:
        """Whether this is the process that speaks for all: the first, or the only one."""
        return bool(self.trainer.accelerator.is_main_process)

    def run(self) -> dict[str, float]:
        """Train to the end and return the best epoch's scores."""
        if not self.trainer.progress.finished:
            self.trainer.run(self._material.epochs(self._model), self._after_epoch)
        if self.leads:
            self._add_statistics()
        rows = [json.loads(line) for line in (self._output / LOG).read_text().splitlines()]
        best = self.trainer.progress.best_epoch
        scores: dict[str, float] = next(row["scores"] for row in rows if row["epoch"] == best)
        return scores

    def _after_epoch(self, epoch: Epoch) -> float:
        captioner = AttentionCaptioner(
            self.trainer.average.model,
            self._material.tokenizer,
            model_id=f"{self._model.config.name}@epoch-{epoch.number}",
            device=self.trainer.accelerator.device,
        )
        scores = self._material.validate(captioner)
        told = ", ".join(f"{name} {value:.3f}" for name, value in scores.items())
        logger.info("epoch %d: %s (%.0f images/s)", epoch.number, told, epoch.images_per_second)
        self._log(epoch, scores)
        picture = attention_picture(captioner, self._material.pictures())
        if picture is not None:
            (self._output / PICTURES).mkdir(exist_ok=True)
            picture.save(self._output / PICTURES / f"epoch-{epoch.number:03d}.png")
        score = scores[self._material.best_by]
        before = self.trainer.progress.best
        self._keep(LAST, epoch, scores)
        if before is None or score > before:
            self._keep(BEST, epoch, scores)
        return score

    def _add_statistics(self) -> None:
        """Tell both models what training images are like; one that knows already is left alone."""
        known = None
        for name in (BEST, LAST):
            folder = self._output / name
            if (folder / STATISTICS).exists():
                continue
            progress = self.trainer.progress
            if known is None or progress.best_epoch != progress.epoch:
                logger.info("looking at training images once more, for statistics of %s", name)
                # As it was trained: what a frozen encoder saw is kept by a hash of its weights.
                model = read(str(folder)).model.eval().to(self.trainer.accelerator.device)
                try:
                    known = statistics_of(model, self._material.memories(model))
                except ValueError as error:
                    logger.warning("no statistics of training images: %s", error)
                    return
            put_statistics(str(folder), known)

    def _log(self, epoch: Epoch, scores: Mapping[str, float]) -> None:
        """Append a line; one of an epoch that is done again after a kill is replaced."""
        path = self._output / LOG
        lines = path.read_text().splitlines() if path.exists() else []
        kept = [line for line in lines if json.loads(line)["epoch"] < epoch.number]
        row = {
            "epoch": epoch.number,
            "losses": epoch.losses,
            "scores": scores,
            "seconds": round(epoch.seconds, 1),
            "images_per_second": round(epoch.images_per_second, 1),
        }
        text = "".join(f"{line}\n" for line in [*kept, json.dumps(row)])
        temporary = path.with_suffix(".tmp")
        temporary.write_text(text)
        temporary.replace(path)

    def _keep(self, name: str, epoch: Epoch, scores: Mapping[str, float]) -> None:
        card = model_card(
            self._model,
            settings=self._settings,
            facts=self._material.facts,
            scores=scores,
            epoch=epoch.number,
            seconds=epoch.seconds,
        )
        new, folder = self._output / f"{name}.new", self._output / name
        shutil.rmtree(new, ignore_errors=True)
        save(self.trainer.average.model, self._material.tokenizer, str(new))
        (new / CARD).write_text(card, encoding="utf-8")
        if self._learned is not None:
            (new / LEARNED).write_bytes(self._learned.to_bytes())
        _replace(folder, new)


def _replace(folder: Path, new: Path) -> None:
    """Put a whole folder in place of another: who reads finds one of them, or for a moment none."""
    old = folder.with_name(f"{folder.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    new.rename(folder)
    shutil.rmtree(old, ignore_errors=True)
