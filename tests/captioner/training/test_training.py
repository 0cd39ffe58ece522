import math

import numpy as np
import pytest
import torch

from captioner.checkpoint import load
from captioner.decoders import LSTMDecoderConfig
from captioner.encoders import GridEncoderConfig
from captioner.model import CaptionModel, ModelConfig
from captioner.scenes import TRAINING, judge, render, sample
from captioner.scenes.grammar import PHRASES
from captioner.training.__main__ import main
from captioner.training.data import (
    MIRRORS,
    SceneData,
    batches,
    relation_weights,
    render_scenes,
    scene_tokenizer,
)
from captioner.training.loop import TrainingConfig, train
from captioner.training.losses import ObjectLoss, attention_loss, caption_loss

SCENES = 96


@pytest.fixture(autouse=True)
def one_thread():
    """Two threads wait for each other longer than a model this small computes."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def tokenizer():
    return scene_tokenizer(TRAINING, 300)


@pytest.fixture(scope="module")
def data(tokenizer) -> SceneData:
    return render_scenes(TRAINING, SCENES, image_size=32, tokenizer=tokenizer, workers=1)


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


class TestData:
    def test_captions_of_each_mirror_are_true_of_the_mirror_image(self, data, tokenizer):
        for row in range(0, SCENES, 5):
            scene = sample(TRAINING + row)
            for number, (across, down, turn) in enumerate(MIRRORS):
                mirror = scene.mirrored(horizontally=across, vertically=down, transposed=turn)
                for tokens in data.tokens[row, number]:
                    text = tokenizer.text([tokenizer.word(int(token)) for token in tokens])
                    assert judge(text, mirror).true, text

    def test_each_word_is_about_the_object_that_it_names(self, data, tokenizer):
        for row in range(SCENES):
            scene = sample(TRAINING + row)
            for tokens, objects in zip(data.tokens[row, 0], data.objects[row, 0], strict=True):
                words = [tokenizer.word(int(token)) for token in tokens]
                named: dict[int, list[str]] = {}
                for word, number in zip(words, objects, strict=True):
                    named.setdefault(int(number), []).append(word)
                first, second = (int(number) for number in dict.fromkeys(objects[objects >= 0]))
                assert named[first] == list(scene.objects[first].attributes)
                assert named[second][-4:] == list(scene.objects[second].attributes)
                assert named[second][-5] == "a"
                relation = " ".join(named[second][:-5]).removeprefix("is ")
                assert any(relation in phrases for phrases in PHRASES.values())
                assert {"<start>", "<end>"} <= set(named[-1])

    def test_batches_mirror_pixels_and_centres_alike(self, tokenizer):
        # Scenes that are black but for one white pixel, where the only object is.
        count, size = 64, 8
        pixels = np.zeros((count, size, size, 3), np.uint8)
        pixels[:, 1, 2] = 255
        centres = np.full((count, 5, 2), np.nan, np.float32)
        centres[:, 0] = (2.5 / size, 1.5 / size)
        tokens = np.zeros((count, len(MIRRORS), 1, 4), np.uint8)
        tokens[:] = np.arange(1, 9)[None, :, None, None]
        objects = np.zeros(tokens.shape, np.int8)
        attributes = np.zeros((count, 5, 4), np.int8)
        made = SceneData(pixels, tokens, objects, centres, attributes)
        (batch,) = batches(made, count, np.random.default_rng(0))
        assert set(batch.tokens[:, 0]) == set(range(1, 9)), "each mirror comes up"
        for image, centre, said in zip(batch.pixels, batch.centres, batch.tokens, strict=True):
            (y, x), *others = np.argwhere(image[:, :, 0])
            assert not others
            assert ((x + 0.5) / size, (y + 0.5) / size) == pytest.approx(tuple(centre[0]))
            across, down, turn = MIRRORS[said[0] - 1]
            wanted = (5 if across else 2, 6 if down else 1)
            assert (x, y) == (wanted[::-1] if turn else wanted)

    def test_a_pass_sees_each_scene_once(self, data):
        seen = [
            batch.pixels.reshape(16, -1).sum(1, dtype=np.int64)
            for batch in batches(data, 16, np.random.default_rng(1))
        ]
        wanted = data.pixels.reshape(SCENES, -1).sum(1, dtype=np.int64)
        assert sorted(np.concatenate(seen)) == sorted(wanted)


class TestLosses:
    def test_padding_counts_for_nothing(self):
        logits = torch.randn(2, 4, 7)
        tokens = torch.tensor([[1, 4, 5, 2, 0], [1, 6, 2, 0, 0]])
        chosen = logits.log_softmax(2)
        by_hand = -(
            chosen[0, 0, 4] + chosen[0, 1, 5] + chosen[0, 2, 2] + chosen[1, 0, 6] + chosen[1, 1, 2]
        )
        torch.testing.assert_close(caption_loss(logits, tokens, 0), by_hand / 5)

    def test_words_count_as_much_as_they_weigh(self):
        logits = torch.randn(1, 2, 4)
        tokens = torch.tensor([[1, 3, 2]])
        weights = torch.tensor([1.0, 1.0, 1.0, 5.0])
        chosen = logits.log_softmax(2)
        by_hand = -(5 * chosen[0, 0, 3] + chosen[0, 1, 2]) / 6
        torch.testing.assert_close(caption_loss(logits, tokens, 0, weights), by_hand)

    def test_words_that_relate_weigh_more(self, tokenizer):
        weights = relation_weights(tokenizer, 5.0)
        heavy = {tokenizer.word(int(number)) for number in (weights == 5).nonzero()}
        assert heavy == set("to the left right of above below in front behind".split())
        assert set(weights.tolist()) == {1.0, 5.0}

    def test_attention_is_held_against_where_objects_are(self):
        looked = torch.full((1, 3, 4), 0.1)
        looked[0, 0, 1] = 0.7  # The second position, for the first word after <start>.
        looked[0, 1, 2] = 0.7
        centres = torch.tensor([[[0.9, 0.2], [0.1, 0.6]]])  # The second position, the third.
        about = torch.tensor([[-1, 0, 1, -1]])
        loss = attention_loss(looked, about, centres, (2, 2))
        torch.testing.assert_close(loss, -torch.tensor(0.7).log())
        swapped = attention_loss(looked, torch.tensor([[-1, 1, 0, -1]]), centres, (2, 2))
        torch.testing.assert_close(swapped, -torch.tensor(0.1).log())

    def test_attention_far_off_is_still_taught(self):
        scores = torch.tensor([[[40.0, 0.0, 0.0, 0.0]]], requires_grad=True)
        centres, about = torch.tensor([[[0.9, 0.2]]]), torch.tensor([[-1, 0]])
        attention_loss(scores.softmax(2), about, centres, (2, 2)).backward()
        assert scores.grad[0, 0].tolist() == pytest.approx([1, -1, 0, 0], abs=1e-6)

    def test_captions_about_no_object_teach_attention_nothing(self):
        looked = torch.full((1, 2, 4), 0.25, requires_grad=True)
        loss = attention_loss(looked, torch.full((1, 3), -1), torch.zeros(1, 1, 2), (2, 2))
        loss.backward()
        assert loss.item() == 0
        assert looked.grad.abs().max() == 0

    def test_objects_are_looked_for_where_their_centres_are(self):
        naming = ObjectLoss(3, (2, 2), [2, 2])
        with torch.no_grad():
            naming.head.weight.zero_()
            naming.head.bias.zero_()
            naming.head.weight[0, 0] = naming.head.weight[2, 1] = naming.head.weight[3, 2] = 20.0
        centres = torch.tensor([[[0.9, 0.2], [float("nan")] * 2]])  # The second position.
        attributes = torch.tensor([[[1, 0], [-1, -1]]])
        memory = torch.tensor([[[-1.0, 0, 0], [1, 1, 1], [-1, 0, 0], [-1, 0, 0]]])
        assert naming(memory, centres, attributes).item() < 1e-4
        moved = memory.roll(1, 1)
        assert naming(moved, centres, attributes).item() > 1


class TestTrain:
    def test_a_few_steps_lower_the_loss(self, data, tokenizer):
        config = TrainingConfig(epochs=16, batch_size=16, learning_rate=5e-3)
        model = tiny_model(tokenizer)
        losses = train(model, data, config, pad=tokenizer.pad)
        assert len(losses) == 16 * SCENES // 16
        assert sum(losses[-6:]) < 0.75 * sum(losses[:6])

    def test_it_learns_to_look_at_what_it_names(self, data, tokenizer):
        """With the loss of attention, more of it falls on the objects than without."""
        on_objects = []
        for weight in (0.0, 2.0):
            model = tiny_model(tokenizer)
            config = TrainingConfig(
                epochs=12, batch_size=16, learning_rate=5e-3, attention_weight=weight
            )
            train(model, data, config, pad=tokenizer.pad)
            (batch,) = batches(data, SCENES, np.random.default_rng(0))
            with torch.inference_mode():
                _, looked = model(
                    torch.from_numpy(batch.pixels), torch.from_numpy(batch.tokens[:, :-1])
                )
                loss = attention_loss(
                    looked,
                    torch.from_numpy(batch.objects),
                    torch.from_numpy(batch.centres),
                    model.encoder.grid,
                )
            on_objects.append(float((-loss).exp()))
        without, with_it = on_objects
        assert with_it > 1.2 * without

    def test_bfloat16_trains_as_well(self, data, tokenizer):
        losses = []
        for precision in ("float32", "bfloat16"):
            config = TrainingConfig(
                epochs=4, batch_size=16, learning_rate=5e-3, precision=precision
            )
            model = tiny_model(tokenizer)
            losses.append(train(model, data, config, pad=tokenizer.pad))
            assert {weight.dtype for weight in model.parameters()} == {torch.float32}
        single, half = losses
        assert half != single
        assert sum(half[-6:]) == pytest.approx(sum(single[-6:]), rel=0.1)

    def test_the_same_seed_gives_the_same_model(self, data, tokenizer):
        config = TrainingConfig(epochs=1, batch_size=32, seed=4)
        first, second = tiny_model(tokenizer), tiny_model(tokenizer)
        losses = train(first, data, config, pad=tokenizer.pad)
        assert train(second, data, config, pad=tokenizer.pad) == losses
        for name, value in first.state_dict().items():
            assert torch.equal(value, second.state_dict()[name]), name
        other = train(
            tiny_model(tokenizer),
            data,
            TrainingConfig(epochs=1, batch_size=32, seed=5),
            pad=tokenizer.pad,
        )
        assert other != losses

    def test_the_average_is_told_after_each_epoch(self, data, tokenizer):
        told = []
        train(
            tiny_model(tokenizer),
            data,
            TrainingConfig(epochs=2, batch_size=48),
            pad=tokenizer.pad,
            after_epoch=lambda epoch, weights: told.append((epoch, sorted(weights))),
        )
        names = sorted(tiny_model(tokenizer).state_dict())
        assert told == [(0, names), (1, names)]


@pytest.mark.parametrize(
    "flags",
    [["--decoder", "transformer"], ["--attention", "multi_head"], ["--attention", "scaled_dot"]],
)
def test_the_command_writes_a_checkpoint_that_loads(tmp_path, flags):
    folder = str(tmp_path / "model")
    sizes = ["--scenes", "64", "--epochs", "1", "--validation", "2", "--workers", "1"]
    main(["--output", folder, "--device", "cpu", "--threads", "1", *sizes, *flags])
    captioner = load(folder, device="cpu")
    assert flags[1] in captioner.model.config.decoder.__class__.__name__.lower() + str(
        captioner.model.config.decoder
    )
    (caption,) = captioner.caption([captioner.prepare(render(sample(5)))])
    assert caption.attention.shape[1:] == (6, 6)
    assert math.isclose(sum(caption.token_logprobs), caption.n_best[0][1])
