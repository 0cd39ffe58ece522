import itertools
from dataclasses import asdict

import pytest
import torch

from captioner.decoders import LSTMDecoderConfig
from captioner.encoders import GridEncoderConfig
from captioner.model import CaptionModel, ModelConfig
from captioner.training import loop
from captioner.training.config import TrainingConfig
from captioner.training.loop import DivergedError, Epoch, Trainer
from captioner.training.losses import attention_loss
from captioner.training.objective import CaptionObjective, SceneObjective
from captioner.training.scenes import SceneBatches
from captioner.training.state import STATE, StateError
from tests.captioner.training.conftest import SCENES


def tiny_model(tokenizer) -> CaptionModel:
    torch.manual_seed(0)
    return CaptionModel(
        ModelConfig(
            name="tiny",
            encoder=GridEncoderConfig(image_size=32, widths=(8, 16, 16), blocks=(0, 0, 1)),
            decoder=LSTMDecoderConfig(
                vocabulary_size=len(tokenizer),
                embedding_size=16,
                hidden_size=32,
                attention_size=16,
            ),
        )
    )


class Training:
    """Trains a tiny model on scenes, and remembers what happened."""

    def __init__(self, tokenizer, data, folder, *, attention_weight=0.5, scores=(), **changes):
        settings = {
            "epochs": 2,
            "batch_size": 16,
            "learning_rate": 5e-3,
            "encoder_learning_rate": 5e-3,
            "label_smoothing": 0.0,
            "thaw": "all",
        }
        self.config = TrainingConfig(**{**settings, **changes})
        self.model = tiny_model(tokenizer)
        if self.config.thaw == "none":
            self.model.encoder.requires_grad_(False)
        captions = CaptionObjective(pad=tokenizer.pad)
        objective = SceneObjective(
            captions,
            self.model.encoder,
            attention_weight=attention_weight,
        )
        folder.mkdir(exist_ok=True)
        self.trainer = Trainer(
            self.model,
            objective,
            self.config,
            folder=folder,
            settings=asdict(self.config),
            device="cpu",
        )
        self.batches = SceneBatches(data, self.config.batch_size, self.config.seed)
        self.epochs: list[Epoch] = []
        self.scores = iter(scores)

    def run(self) -> "Training":
        self.trainer.run(lambda epoch: self.batches, self._after_epoch)
        return self

    def _after_epoch(self, epoch: Epoch) -> float | None:
        self.epochs.append(epoch)
        return next(self.scores, None)

    def weights(self) -> dict[str, torch.Tensor]:
        return {name: value.clone() for name, value in self.model.state_dict().items()}

    def captions_loss(self) -> list[float]:
        return [epoch.losses["captions"] for epoch in self.epochs]


@pytest.fixture
def train(tokenizer, data, tmp_path):
    numbers = itertools.count()

    def make(folder=None, **changes) -> Training:
        return Training(tokenizer, data, tmp_path / (folder or str(next(numbers))), **changes)

    return make


def same(one, other) -> bool:
    return all(torch.equal(value, other[name]) for name, value in one.items())


def differing(one, other) -> set[str]:
    """Which parts of a model differ."""
    return {name.partition(".")[0] for name in one if not torch.equal(one[name], other[name])}


class TestLearning:
    def test_a_few_epochs_lower_the_loss(self, train):
        first, *_, last = train(epochs=16).run().captions_loss()
        assert last < 0.75 * first

    def test_it_learns_to_look_at_what_it_names(self, train):
        """With the loss of attention, more of it falls on the objects than without."""
        on_objects = []
        for weight in (0.0, 2.0):
            training = train(epochs=12, attention_weight=weight).run()
            (batch,) = SceneBatches(training.batches.data, SCENES, 0).batches(0)
            with torch.inference_mode():
                looked = training.model(batch.pixels, batch.tokens[:, :-1]).attention
                grid = training.model.encoder.grid
                loss = attention_loss(looked, batch.objects, batch.centres, grid)
            on_objects.append(float((-loss).exp()))
        without, with_it = on_objects
        assert with_it > 1.2 * without

    def test_bfloat16_trains_as_well(self, train):
        single = train(epochs=4).run()
        half = train(epochs=4, precision="bfloat16").run()
        assert half.captions_loss() != single.captions_loss()
        assert half.captions_loss()[-1] == pytest.approx(single.captions_loss()[-1], rel=0.1)
        assert {weight.dtype for weight in half.model.parameters()} == {torch.float32}

    def test_the_seed_decides_everything(self, train):
        first, second = train(seed=4).run(), train(seed=4).run()
        assert first.captions_loss() == second.captions_loss()
        assert same(first.weights(), second.weights())
        assert train(seed=5).run().captions_loss() != first.captions_loss()

    def test_noise_changes_the_words_that_are_read_and_not_those_that_are_learned(self, train):
        training = train(epochs=1, word_noise=0.5)
        learner, learned, read = training.trainer._learner, [], []
        learner.objective.register_forward_pre_hook(lambda _, args: learned.append(args[1].tokens))
        learner.model.register_forward_pre_hook(lambda _, args: read.append(args[1]))
        training.run()
        wanted = [batch.tokens for batch in training.batches.batches(0)]
        assert all(map(torch.equal, learned, wanted))
        assert len(read) == len(wanted)
        for noisy, tokens in zip(read, wanted, strict=True):
            assert torch.equal(noisy[:, 0], tokens[:, 0])
            assert 0.1 < (noisy != tokens[:, :-1]).float().mean() < 0.5

    def test_gradients_that_add_up_make_a_larger_batch(self, train):
        """Two half batches and one step change the weights once, a rest at the end as well."""
        training = train(epochs=1, accumulate=4).run()  # Six batches: four, and two.
        assert training.trainer.progress.step == 2

    def test_without_averaging_the_last_weights_are_kept(self, train):
        training = train(epochs=1, averaging=0.0)
        learner = training.trainer._learner.model
        last = {}
        training._after_epoch = lambda epoch: last.update(
            {name: value.clone() for name, value in learner.state_dict().items()}
        )
        training.run()
        assert same(last, training.weights())


class TestSchedules:
    def test_a_frozen_encoder_stays(self, train):
        training = train(thaw="none")
        before = training.weights()
        assert differing(before, training.run().weights()) == {"decoder"}

    def test_decoder_first_then_both(self, train):
        training = train(epochs=2, schedule="decoder_first", decoder_epochs=1, averaging=0.0)
        before, after = training.weights(), []
        training._after_epoch = lambda epoch: after.append(training.weights())
        training.run()
        assert differing(before, after[0]) == {"decoder"}
        assert differing(after[0], after[1]) == {"decoder", "encoder"}

    def test_alternating_changes_one_part_a_step(self, train, monkeypatch):
        training = train(epochs=1, schedule="alternating")
        changed, last = [], training.weights()
        step = training.trainer._step

        def watched(batch, total):
            nonlocal last
            losses = step(batch, total)
            weights = dict(training.model.named_parameters())
            changed.append(differing(weights, last))
            last = training.weights()
            return losses

        monkeypatch.setattr(training.trainer, "_step", watched)
        training.run()
        assert changed == [{"decoder"}, {"encoder"}] * 3


class TestEnds:
    def test_it_ends_when_scores_no_longer_rise(self, train):
        training = train(epochs=9, patience=2, scores=[0.1, 0.3, 0.2, 0.3, 0.9]).run()
        assert [epoch.number for epoch in training.epochs] == [1, 2, 3, 4]
        assert (training.trainer.progress.best, training.trainer.progress.best_epoch) == (0.3, 2)

    def test_without_patience_it_goes_on(self, train):
        assert len(train(epochs=4, scores=[0.3, 0.2, 0.1, 0.0]).run().epochs) == 4


class TestNumbers:
    def test_what_is_no_number_ends_it_before_weights_change(self, train):
        training = train()
        with torch.no_grad():
            training.model.decoder.vocabulary.bias[0] = float("nan")
        before = training.weights()["encoder.stages.0.0.weight"]
        with pytest.raises(
            DivergedError, match="the loss of captions is nan in batch 1 of epoch 1"
        ):
            training.run()
        assert torch.equal(training.weights()["encoder.stages.0.0.weight"], before)


class Killed(BaseException):
    pass


class TestResume:
    @pytest.mark.parametrize("batch", [0, 3, 5])
    @pytest.mark.parametrize("schedule", ["joint", "alternating"])
    def test_after_a_kill_it_ends_as_an_unbroken_run(self, train, monkeypatch, batch, schedule):
        unbroken = train(epochs=3, schedule=schedule).run()
        monkeypatch.setattr(loop, "_SAVE_EVERY_SECONDS", 0.0)
        killed = train("killed", epochs=3, schedule=schedule)
        step = killed.trainer._step

        def killing(*arguments):
            if (killed.trainer.progress.epoch, killed.trainer.progress.batch) == (1, batch):
                raise Killed
            return step(*arguments)

        monkeypatch.setattr(killed.trainer, "_step", killing)
        with pytest.raises(Killed):
            killed.run()
        resumed = train("killed", epochs=3, schedule=schedule)
        assert (resumed.trainer.progress.epoch, resumed.trainer.progress.batch) == (1, batch)
        resumed.run()
        assert same(unbroken.weights(), resumed.weights())
        assert unbroken.captions_loss()[1:] == resumed.captions_loss()

    def test_gradients_that_were_adding_up_are_not_lost(self, train, monkeypatch):
        unbroken = train(epochs=2, accumulate=4).run()
        monkeypatch.setattr(loop, "_SAVE_EVERY_SECONDS", 0.0)
        killed = train("killed", epochs=2, accumulate=4)
        step = killed.trainer._step

        def killing(*arguments):
            if killed.trainer.progress.batch == 3:
                raise Killed
            return step(*arguments)

        monkeypatch.setattr(killed.trainer, "_step", killing)
        with pytest.raises(Killed):
            killed.run()
        assert same(unbroken.weights(), train("killed", epochs=2, accumulate=4).run().weights())

    def test_a_finished_training_is_not_done_again(self, train):
        done = train("done").run()
        again = train("done").run()
        assert again.epochs == []
        assert same(done.weights(), again.weights())

    def test_another_training_is_refused(self, train):
        train("mine").run()
        with pytest.raises(StateError, match=r"learning_rate was 0\.005 and is 0\.1"):
            train("mine", learning_rate=0.1)

    def test_a_torn_state_is_refused(self, train, tmp_path):
        train("torn").run()
        state = tmp_path / "torn" / STATE
        state.write_bytes(state.read_bytes()[:1000])
        with pytest.raises(StateError, match="is broken"):
            train("torn")


class TestConfig:
    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"epochs": 0}, "epochs is 0; use 1 to"),
            ({"schedule": "sideways"}, "schedule is 'sideways'; use one of joint, alternating"),
            ({"schedule": "alternating"}, "thaw is none: the encoder never learns"),
            ({"schedule": "decoder_first", "thaw": "all"}, "decoder_epochs is 0 with"),
            ({"decoder_epochs": 3}, "decoder_epochs is 3 with the schedule joint"),
            ({"precision": "int8"}, "precision is 'int8'"),
            (
                {"schedule": "decoder_first", "thaw": "all", "epochs": 4, "decoder_epochs": 4},
                "use 1 to 3",
            ),
        ],
    )
    def test_what_does_not_fit_is_refused(self, changes, message):
        with pytest.raises(ValueError, match=message):
            TrainingConfig(**changes)
