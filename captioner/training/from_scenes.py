"""Training on drawn scenes, of which everything is known."""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean

from PIL import Image
from torch import Tensor

from captioner.annotations import ClassNames
from captioner.contract import Captioner
from captioner.evaluation.heads import score_heads_on_scenes
from captioner.evaluation.scenes import Combinations, score_on_scenes
from captioner.model import AttentionCaptioner, CaptionModel
from captioner.scenes import HELD_OUT, TRAINING, VALIDATION, render, sample, truth
from captioner.tokenizer import CaptionTokenizer
from captioner.training.batch import Batches
from captioner.training.config import TrainingConfig
from captioner.training.loop import Objective
from captioner.training.material import PICTURES
from captioner.training.objective import CaptionObjective, SceneObjective
from captioner.training.scenes import (
    SceneBatches,
    SceneData,
    render_scenes,
    scene_tokenizer,
)
from captioner.training.statistics import MOST_IMAGES, encoded
from captioner.training.tasks import TaskConfig, TaskObjective


@dataclass
class SceneMaterial:
    """Scenes by number, and no file.

    Attributes:
        count: scenes to train on.
        config: how.
        languages: that captions are written in; the first is what the model says unless asked.
        hold_out: train on no scene that shows a colour and a shape of ``HELD_OUT``, so that those
            tell afterwards whether the model brings together what it saw apart.
        tasks: how much captions and heads count.
        validation: scenes to score on.
        object_weight: of the loss that names objects from the grid alone.
        attention_weight: of the loss that looks at the object that is being named.
        relation_weight: how much a word like "left" counts.
        workers: processes that render.
    """

    count: int
    config: TrainingConfig
    languages: Sequence[str] = ("en",)
    hold_out: bool = True
    tasks: TaskConfig = TaskConfig()
    validation: int = 500
    object_weight: float = 0.5
    attention_weight: float = 0.5
    relation_weight: float = 5.0
    workers: int = os.cpu_count() or 1
    tokenizer: CaptionTokenizer = field(init=False)
    best_by: str = "true_captions"
    classes: ClassNames = ClassNames(truth.LABELS, truth.BOXES, truth.MASKS)

    def __post_init__(self) -> None:
        """Learn the words."""
        self._rendered: SceneData | None = None
        self.tokenizer = scene_tokenizer(TRAINING, languages=self.languages)
        if not self.tasks.caption_weight:
            self.best_by = "heads"
        held_out = ", ".join(" ".join(pair) for pair in HELD_OUT)
        self.facts: dict[str, object] = {
            "data": f"{self.count:,} drawn scenes",
            "languages": ", ".join(self.languages),
            "never shown": held_out if self.hold_out else "nothing is held out",
            "scores": f"on {self.validation:,} other scenes",
        }

    def epochs(self, model: CaptionModel) -> Callable[[int], Batches]:
        """Render the scenes; every epoch goes through all of them."""
        data = self._rendered = self._render(model, self.count)
        size = min(self.config.batch_size, len(data))
        batches = SceneBatches(data, size, self.config.seed)
        return lambda epoch: batches

    def _render(self, model: CaptionModel, count: int) -> SceneData:
        return render_scenes(
            TRAINING,
            count,
            image_size=model.config.encoder.image_size,
            tokenizer=self.tokenizer,
            workers=self.workers,
            hold_out=self.hold_out,
            targets=model.heads is not None,
        )

    def objective(self, model: CaptionModel) -> Objective:
        """Return the losses of captions, objects and attention, and of heads if there are any."""
        captions = SceneObjective(
            CaptionObjective(
                pad=self.tokenizer.pad,
                label_smoothing=self.config.label_smoothing,
                doubly_stochastic=self.config.doubly_stochastic,
            ),
            model.encoder,
            relation_weight=self.relation_weight,
            object_weight=self.object_weight,
            attention_weight=self.attention_weight,
        )
        return captions if model.heads is None else TaskObjective(captions, model.heads, self.tasks)

    def validate(self, captioner: Captioner) -> dict[str, float]:
        """Hold captions of unseen scenes against the truth: means over languages, and of each.

        What is held out is not looked at, or the best epoch would be chosen by it.
        """
        assert isinstance(captioner, AttentionCaptioner)
        combinations: Combinations = "seen" if self.hold_out else "all"
        found = {
            language: score_on_scenes(
                _speaking(captioner, language),
                VALIDATION,
                self.validation,
                combinations=combinations,
                language=language,
            )
            for language in self.languages
        }
        scores = {
            "true_captions": fmean(of.true_captions for of in found.values()),
            "stated_facts": fmean(of.stated_facts for of in found.values()),
        }
        if len(found) > 1:
            scores |= {f"true_captions_{name}": of.true_captions for name, of in found.items()}
        if captioner.model.heads is not None:
            scores |= score_heads_on_scenes(
                captioner, VALIDATION, self.validation, combinations=combinations
            ).headline()
        return scores

    def memories(self, model: CaptionModel) -> Iterator[Tensor]:
        """Encode the first scenes that are trained on."""
        most = min(self.count, MOST_IMAGES)
        data = self._rendered or self._render(model, most)
        return encoded(model, data.pixels[:most])

    def pictures(self) -> Sequence[Image.Image]:
        """Draw the first scenes that are scored on."""
        return [render(sample(VALIDATION + number)) for number in range(PICTURES)]


def _speaking(captioner: AttentionCaptioner, language: str) -> AttentionCaptioner:
    return AttentionCaptioner(
        captioner.model,
        captioner.tokenizer,
        model_id=captioner.model_id,
        decoding=replace(captioner.decoding, language=language),
        device=captioner.device,
    )
