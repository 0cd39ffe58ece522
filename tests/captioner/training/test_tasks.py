"""Captions and heads learned together, on scenes."""

import itertools
import math
from dataclasses import replace

import pytest
import torch

from captioner.decoders import LSTMDecoderConfig
from captioner.encoders import GridEncoderConfig
from captioner.heads import (
    ClassifierConfig,
    DetectorConfig,
    HeadsConfig,
    HeadTargets,
    SegmenterConfig,
)
from captioner.model import CaptionModel, ModelConfig
from captioner.scenes import TRAINING, truth
from captioner.training import loop
from captioner.training.config import TrainingConfig
from captioner.training.loop import Learner, Trainer
from captioner.training.objective import CaptionObjective, SceneObjective
from captioner.training.scenes import SceneBatch, SceneBatches, SceneData, render_scenes
from captioner.training.tasks import TaskConfig, TaskObjective

HEADS = ("labels", "boxes", "masks")
TASKS = ("captions", *HEADS)
WEIGHTS = {
    "captions": "caption_weight",
    "labels": "label_weight",
    "boxes": "box_weight",
    "masks": "mask_weight",
}
OF_CAPTIONS = {"captions", "objects", "attention"}


@pytest.fixture(scope="module")
def scenes(tokenizer) -> SceneData:
    return render_scenes(TRAINING, 16, image_size=32, tokenizer=tokenizer, workers=1, targets=True)


@pytest.fixture
def batch(scenes) -> SceneBatch:
    return next(SceneBatches(scenes, 4, seed=0).batches(0))


def learner(tokenizer, **config) -> Learner:
    torch.manual_seed(0)
    model = CaptionModel(
        ModelConfig(
            name="tiny",
            encoder=GridEncoderConfig(image_size=32, widths=(4, 8), blocks=(0, 0)),
            decoder=LSTMDecoderConfig(
                vocabulary_size=len(tokenizer),
                embedding_size=8,
                hidden_size=8,
                attention_size=8,
                dropout=0.0,
                embedding_dropout=0.0,
            ),
            heads=HeadsConfig(
                labels=ClassifierConfig(classes=truth.LABELS),
                boxes=DetectorConfig(classes=truth.BOXES, width=4, layers=1),
                masks=SegmenterConfig(classes=truth.MASKS, width=4),
            ),
        )
    )
    captions = SceneObjective(CaptionObjective(pad=tokenizer.pad), model.encoder)
    objective = TaskObjective(captions, model.heads, TaskConfig(**config))
    return Learner(model, objective, "float32")


def summed(losses) -> torch.Tensor:
    return torch.stack(list(losses.values())).sum()


def of_task(losses, task) -> dict[str, float]:
    names = OF_CAPTIONS if task == "captions" else {task}
    return {name: loss.item() for name, loss in losses.items() if name in names}


def touched(learner, losses) -> set[str]:
    """Which tasks' own weights have a gradient."""
    learner.zero_grad()
    summed(losses).backward()
    parts = {"captions": learner.model.decoder, **dict(learner.model.heads.named_children())}
    return {
        name
        for name, part in parts.items()
        if any(w.grad is not None and w.grad.any() for w in part.parameters())
    }


def unknown(targets: HeadTargets, head: str) -> HeadTargets:
    """Forget what is known of a head."""
    if head == "labels":
        return replace(targets, labels=torch.full_like(targets.labels, math.nan))
    if head == "boxes":
        return replace(targets, boxes_known=torch.zeros_like(targets.boxes_known))
    return replace(targets, masks=torch.full_like(targets.masks, 255))


class TestLosses:
    def test_all_are_there_and_teach_everything(self, tokenizer, batch):
        tiny = learner(tokenizer)
        losses = tiny(batch)
        assert losses.keys() == {*OF_CAPTIONS, *HEADS}
        assert all(0 < loss.item() < math.inf for loss in losses.values())
        assert touched(tiny, losses) == set(TASKS)
        assert any(weight.grad.any() for weight in tiny.model.encoder.parameters())

    @pytest.mark.parametrize("task", TASKS)
    def test_weights_scale(self, tokenizer, batch, task):
        plain = learner(tokenizer)(batch)
        scaled = learner(tokenizer, **{WEIGHTS[task]: 3.0})(batch)
        for name in TASKS:
            factor = 3 if name == task else 1
            wanted = {part: factor * loss for part, loss in of_task(plain, name).items()}
            assert of_task(scaled, name) == pytest.approx(wanted, rel=1e-5)

    @pytest.mark.parametrize("weighting", ["fixed", "uncertainty"])
    @pytest.mark.parametrize("task", TASKS)
    def test_what_weighs_nothing_learns_nothing(self, tokenizer, batch, task, weighting):
        tiny = learner(tokenizer, weighting=weighting, **{WEIGHTS[task]: 0.0})
        assert touched(tiny, tiny(batch)) == set(TASKS) - {task}

    @pytest.mark.parametrize("head", HEADS)
    def test_a_batch_that_knows_nothing_of_a_head(self, tokenizer, batch, head):
        tiny = learner(tokenizer)
        known, losses = tiny(batch), tiny(replace(batch, targets=unknown(batch.targets, head)))
        assert losses[head] == 0
        assert touched(tiny, losses) == set(TASKS) - {head}
        for name in set(HEADS) - {head}:
            torch.testing.assert_close(losses[name], known[name])

    def test_a_batch_that_knows_nothing_at_all(self, tokenizer, batch):
        targets = batch.targets
        for head in HEADS:
            targets = unknown(targets, head)
        silent = torch.full_like(batch.tokens, tokenizer.pad)
        silent[:, 0] = tokenizer.start
        nothing = replace(
            batch, tokens=silent, objects=torch.full_like(batch.objects, -1), targets=targets
        )
        tiny = learner(tokenizer, weighting="uncertainty")
        losses = tiny(nothing)
        assert {name: loss.item() for name, loss in losses.items() if name != "objects"} == {
            name: 0 for name in ("captions", "attention", *HEADS, "uncertainty")
        }

    def test_heads_need_pixels_and_targets(self, tokenizer, batch):
        tiny = learner(tokenizer)
        with pytest.raises(ValueError, match="give both"):
            tiny(replace(batch, targets=None))
        with pytest.raises(ValueError, match="give both"):
            tiny(replace(batch, memory=tiny.model.encode(batch.pixels).detach()))


class TestUncertainty:
    def spread(self, tiny) -> dict[str, float]:
        """Set log-variances that differ, and return them."""
        values = dict(zip(TASKS, (0.5, -1.0, 0.0, 1.5), strict=True))
        with torch.no_grad():
            for name, value in values.items():
                tiny.objective.log_variances[name].fill_(value)
        return values

    def test_losses_are_those_of_the_formula(self, tokenizer, batch):
        plain = learner(tokenizer, label_weight=2.0)(batch)
        tiny = learner(tokenizer, label_weight=2.0, weighting="uncertainty")
        variances = self.spread(tiny)
        losses = tiny(batch)
        for name, log_variance in variances.items():
            factor = math.exp(-log_variance)
            wanted = {part: factor * loss for part, loss in of_task(plain, name).items()}
            assert of_task(losses, name) == pytest.approx(wanted, rel=1e-5)
        assert losses["uncertainty"].item() == pytest.approx(sum(variances.values()) / 2)

    def test_gradients_of_variances_by_hand(self, tokenizer, batch):
        """Of exp(-s) * loss + s / 2: that is 1 / 2 - exp(-s) * loss."""
        plain = learner(tokenizer)(batch)
        tiny = learner(tokenizer, weighting="uncertainty")
        variances = self.spread(tiny)
        summed(tiny(batch)).backward()
        for name, log_variance in variances.items():
            loss = sum(of_task(plain, name).values())
            gradient = tiny.objective.log_variances[name].grad.item()
            assert gradient == pytest.approx(0.5 - math.exp(-log_variance) * loss, rel=1e-4)

    @pytest.mark.parametrize("head", HEADS)
    def test_what_is_not_learned_keeps_its_variance(self, tokenizer, batch, head):
        """Else it would fall with every step, and its task's weight grow without end."""
        without = replace(batch, targets=unknown(batch.targets, head))
        weightless = learner(tokenizer, weighting="uncertainty", **{WEIGHTS[head]: 0.0})
        blind = learner(tokenizer, weighting="uncertainty")
        for tiny, seen in ((weightless, batch), (blind, without)):
            summed(tiny(seen)).backward()
            moved = {
                name for name, value in tiny.objective.log_variances.items() if value.grad.any()
            }
            assert moved == set(TASKS) - {head}


class TestTurns:
    def test_what_weighs_nothing_has_no_turn(self, tokenizer, batch):
        weights = {WEIGHTS[task]: 0.0 for task in ("captions", "boxes")}
        tiny = learner(tokenizer, turns="alternating", **weights)
        turns = [touched(tiny, tiny(batch)) for _ in range(4)]
        assert turns == [{"labels"}, {"masks"}] * 2

    @pytest.mark.parametrize("weighting", ["fixed", "uncertainty"])
    def test_tasks_take_turns(self, tokenizer, batch, weighting):
        tiny = learner(tokenizer, turns="alternating", weighting=weighting)
        assert [touched(tiny, tiny(batch)) for _ in range(6)] == [
            {task} for task in (*TASKS, *TASKS[:2])
        ]

    def test_only_training_counts_steps(self, tokenizer, batch):
        tiny = learner(tokenizer, turns="alternating").eval()
        assert touched(tiny, tiny(batch)) == touched(tiny, tiny(batch)) == {"captions"}
        assert tiny.objective.step == 0
        tiny.train()(batch)
        assert tiny.objective.step == 1

    def test_variances_move_one_at_a_time(self, tokenizer, batch):
        tiny = learner(tokenizer, turns="alternating", weighting="uncertainty")
        for task in TASKS:
            tiny.zero_grad()
            summed(tiny(batch)).backward()
            moved = {
                name for name, value in tiny.objective.log_variances.items() if value.grad.any()
            }
            assert moved == {task}


class Killed(BaseException):
    pass


class TestResume:
    @pytest.fixture
    def train(self, tokenizer, scenes, tmp_path):
        numbers = itertools.count()

        def make(folder=None, **config) -> tuple[Learner, Trainer, SceneBatches]:
            tiny = learner(tokenizer, **config)
            training = TrainingConfig(epochs=2, batch_size=4, learning_rate=5e-3, thaw="all")
            place = tmp_path / (folder or str(next(numbers)))
            place.mkdir(exist_ok=True)
            trainer = Trainer(
                tiny.model, tiny.objective, training, folder=place, settings={}, device="cpu"
            )
            return tiny, trainer, SceneBatches(scenes, 4, seed=0)

        return make

    @pytest.mark.parametrize(
        "config", [{"turns": "alternating"}, {"turns": "alternating", "weighting": "uncertainty"}]
    )
    def test_after_a_kill_it_ends_as_an_unbroken_run(self, train, monkeypatch, config):
        unbroken, trainer, batches = train(**config)
        trainer.run(lambda epoch: batches, lambda epoch: None)
        monkeypatch.setattr(loop, "_SAVE_EVERY_SECONDS", 0.0)
        _, killed, _ = train("killed", **config)
        step = killed._step

        def killing(*arguments):
            if (killed.progress.epoch, killed.progress.batch) == (1, 2):
                raise Killed
            return step(*arguments)

        monkeypatch.setattr(killed, "_step", killing)
        with pytest.raises(Killed):
            killed.run(lambda epoch: batches, lambda epoch: None)
        resumed, trainer, _ = train("killed", **config)
        assert resumed.objective.step == 6
        trainer.run(lambda epoch: batches, lambda epoch: None)
        assert resumed.objective.step == unbroken.objective.step == 8
        wanted = unbroken.state_dict()
        assert all(torch.equal(value, wanted[n]) for n, value in resumed.state_dict().items())


class TestConfig:
    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"label_weight": -1.0}, r"label_weight is -1\.0; use 0 to 1000"),
            ({"caption_weight": math.nan}, "caption_weight is nan"),
            ({"mask_weight": 1001.0}, r"mask_weight is 1001\.0"),
            ({"box_weight": math.inf}, "box_weight is inf"),
            ({"weighting": "fair"}, "weighting is 'fair'; use one of fixed, uncertainty"),
            ({"turns": "random"}, "turns is 'random'; use one of joint, alternating"),
        ],
    )
    def test_what_is_beyond_use_is_refused(self, changes, message):
        with pytest.raises(ValueError, match=message):
            TaskConfig(**changes)
