import json

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GPT2Config, GPT2LMHeadModel

from captioner.loading import load
from captioner.scenes import render, sample, truth, write_folder
from captioner.training.assemble import assemble
from captioner.training.augment import AugmentConfig
from captioner.training.config import TrainingConfig
from captioner.training.loop import Trainer
from captioner.training.options import TrainingOptions
from captioner.training.sources import DataError
from captioner.training.state import StateError
from captioner.training.tasks import TaskConfig
from tests.annotated import write_coco, write_image_folder
from tests.captioner.encoders import tiny

COUNT = 20
SIZE = {"height": 32, "width": 32}


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> str:
    folder = str(tmp_path_factory.mktemp("data") / "scenes")
    write_folder(folder, count=COUNT, image_size=48)
    return folder


@pytest.fixture(scope="module")
def backbone(tmp_path_factory) -> str:
    _, settings = tiny.BACKBONES["mobilenet_v1"]
    folder = tmp_path_factory.mktemp("models") / "mobilenet"
    return tiny.save(tiny.make("mobilenet_v1", settings), folder, SIZE)


def language_model(folder) -> str:
    """A tiny model of GPT-2's kind, with byte pairs of its own."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=["<|endoftext|>"], initial_alphabet=alphabet
    )
    tokenizer.train_from_iterator(["a small red circle left of a large blue square"], trainer)
    folder.mkdir()
    tokenizer.save(str(folder / "tokenizer.json"))
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=tokenizer.get_vocab_size(), n_positions=64, n_embd=16, n_layer=2, n_head=2
    )
    GPT2LMHeadModel(config).save_pretrained(folder)
    return str(folder)


def options(data, output, **changes) -> TrainingOptions:
    small = {
        "data": data,
        "output": str(output),
        "image_size": 32,
        "device": "cpu",
        "config": TrainingConfig(epochs=1, batch_size=4, thaw="all"),
    }
    if changes.get("decoder", "lstm") == "lstm":
        small["decoder_settings"] = {
            "embedding_size": 16,
            "hidden_size": 24,
            "attention_size": 16,
        }
    return TrainingOptions(**{**small, **changes})


def count_encoded(monkeypatch) -> list[int]:
    """Count how many images the encoder sees in training."""
    seen = []
    step = Trainer._step

    def counting(self, batch, total):
        seen.append(0 if batch.pixels is None else len(batch))
        return step(self, batch, total)

    monkeypatch.setattr(Trainer, "_step", counting)
    return seen


class TestPretrained:
    def test_a_frozen_network_sees_each_image_once(self, data, backbone, tmp_path, monkeypatch):
        seen = count_encoded(monkeypatch)
        config = TrainingConfig(epochs=2, batch_size=4, thaw="none")
        run = assemble(options(data, tmp_path, encoder=backbone, config=config))
        before = {k: v.clone() for k, v in run.trainer.average.model.encoder.state_dict().items()}
        run.run()
        assert set(seen) == {0}
        trained = load(str(tmp_path / "best"), device="cpu").model.encoder.state_dict()
        assert all(torch.equal(value, trained[name]) for name, value in before.items())

    def test_decoder_first_then_the_last_layer(self, data, backbone, tmp_path, monkeypatch):
        seen = count_encoded(monkeypatch)
        config = TrainingConfig(
            epochs=2,
            batch_size=4,
            thaw="last:1",
            schedule="decoder_first",
            decoder_epochs=1,
            encoder_learning_rate=1e-2,
        )
        changes = AugmentConfig(crop_scale=0.8, flip=True)
        run = assemble(
            options(data, tmp_path, encoder=backbone, config=config, views=2, augment=changes)
        )
        before = {k: v.clone() for k, v in run.trainer.average.model.encoder.state_dict().items()}
        run.run()
        half = len(seen) // 2
        assert set(seen[:half]) == {0}
        assert set(seen[half:]) == {4}
        after = load(str(tmp_path / "last"), device="cpu").model.encoder.state_dict()
        changed = {name for name, value in before.items() if not torch.equal(value, after[name])}
        assert changed
        assert changed < set(before)
        assert not any("running_mean" in name for name in changed)

    def test_regions_of_a_detector(self, data, tmp_path):
        network = tiny.make("detr", tiny.DETECTORS["detr"], "AutoModelForObjectDetection")
        detector = tiny.save(network, tmp_path / "detr", SIZE)
        config = TrainingConfig(epochs=1, batch_size=4)
        run = assemble(
            options(data, tmp_path / "model", encoder=f"regions:{detector}", config=config)
        )
        run.run()
        captioner = load(str(tmp_path / "model" / "best"), device="cpu")
        (caption,) = captioner.caption([captioner.prepare(render(sample(1)))])
        assert caption.attention.sum((1, 2)) == pytest.approx(1, abs=1e-4)

    def test_a_language_model_keeps_what_it_knows(self, data, tmp_path):
        name = language_model(tmp_path / "gpt2")
        run = assemble(options(data, tmp_path / "model", decoder=f"lm:{name}"))
        weights = run.trainer.average.model.decoder.state_dict()
        known = GPT2LMHeadModel.from_pretrained(name).transformer.h[0].attn.c_attn.weight
        assert any(
            value.shape == known.shape and torch.equal(value, known) for value in weights.values()
        )
        run.run()
        captioner = load(str(tmp_path / "model" / "best"), device="cpu")
        assert captioner.tokenizer.encode(["a small circle"])
        card = (tmp_path / "model" / "best" / "README.md").read_text()
        assert "LanguageModelDecoder" in card


class TestScores:
    def test_few_images_are_not_scored_by_how_rare_their_words_are(self, data, tmp_path):
        """CIDEr of one image is 0, whatever is said of it."""
        material = assemble(options(data, tmp_path))._material
        assert (len(material.validation), material.best_by) == (1, "rouge_l")
        many = assemble(options(data, tmp_path / "many", validation=other(tmp_path)))._material
        assert many.best_by == "cider"

    def test_no_more_captions_an_image_than_there_are(self, data, tmp_path):
        config = TrainingConfig(epochs=1, batch_size=4, thaw="all", captions_per_image=50)
        run = assemble(options(data, tmp_path, config=config))
        (batch, *_) = run._material.epochs(run.trainer.average.model)(0).batches(0)
        assert len(batch.tokens) == 4 * 5


def other(folder) -> str:
    write_folder(str(folder / "other"), count=12, seed=3, image_size=48)
    return str(folder / "other")


class TestData:
    def test_one_image_in_twenty_is_held_back(self, data, tmp_path):
        material = assemble(options(data, tmp_path))._material
        assert (len(material.examples), len(material.validation)) == (COUNT - 1, 1)
        assert not {e.uri for e in material.examples} & {e.uri for e in material.validation}

    def test_splits_are_found(self, data, tmp_path):
        for name in ("train", "dev"):
            write_folder(str(tmp_path / "data" / name), count=4, seed=len(name), image_size=48)
        material = assemble(options(str(tmp_path / "data"), tmp_path / "model"))._material
        assert {e.uri.split("/")[-2] for e in material.examples} == {"train"}
        assert {e.uri.split("/")[-2] for e in material.validation} == {"dev"}

    def test_scoring_on_what_was_trained_on_is_refused(self, data, tmp_path):
        with pytest.raises(DataError, match="20 images are to be trained on and scored on"):
            assemble(options(data, tmp_path, validation=data))

    def test_a_single_image_is_too_few(self, tmp_path):
        write_folder(str(tmp_path / "one"), count=1, image_size=48)
        with pytest.raises(DataError, match="give at least two"):
            assemble(options(str(tmp_path / "one"), tmp_path / "model"))

    def test_captions_without_a_word_are_not_scored(self, data, tmp_path):
        folder = tmp_path / "other"
        write_folder(str(folder), count=3, seed=9, image_size=48)
        path = folder / "metadata.jsonl"
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        rows[0]["captions"] = ["...", "a dog."]
        rows[1]["captions"] = ["!"]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        material = assemble(options(data, tmp_path / "m", validation=str(folder)))._material
        assert len(material.validation) == 2
        assert material.validation[0].captions == ("a dog.",)

    def test_changed_captions_are_another_training(self, tmp_path):
        write_folder(str(tmp_path / "data"), count=8, image_size=48)
        assemble(options(str(tmp_path / "data"), tmp_path / "model")).run()
        path = tmp_path / "data" / "metadata.jsonl"
        path.write_text(path.read_text().replace("red", "scarlet").replace("blue", "azure"))
        with pytest.raises(StateError, match="data_hash"):
            assemble(options(str(tmp_path / "data"), tmp_path / "model"))

    def test_changes_that_nobody_would_see_are_refused(self, data, backbone, tmp_path):
        config = TrainingConfig(epochs=1, batch_size=4)
        with pytest.raises(ValueError, match="views is 1, and the one view"):
            assemble(
                options(
                    data,
                    tmp_path,
                    encoder=backbone,
                    config=config,
                    augment=AugmentConfig(flip=True),
                )
            )


ALL = ("labels", "boxes", "masks")


class TestTasks:
    @pytest.fixture(scope="class")
    def annotated(self, tmp_path_factory) -> str:
        return write_image_folder(tmp_path_factory.mktemp("annotated") / "data", 8)

    def test_heads_are_trained_and_scored(self, annotated, tmp_path):
        changes = AugmentConfig(crop_scale=0.6, flip=True)
        run = assemble(options(annotated, tmp_path, tasks=ALL, augment=changes))
        scores = run.run()
        assert {"label_f1", "map_50", "mean_iou", "rouge_l"} <= scores.keys()
        (epoch,) = map(json.loads, (tmp_path / "epochs.jsonl").read_text().splitlines())
        assert {"captions", *ALL} <= epoch["losses"].keys()
        captioner = load(str(tmp_path / "best"), device="cpu")
        heads = captioner.model.config.heads
        assert set(heads.labels.classes) <= set(truth.LABELS)
        assert heads.boxes.classes == heads.masks.classes
        assert heads.boxes.finer == 1
        (caption,) = captioner.caption([captioner.prepare(render(sample(1)))])
        assert None not in vars(caption.annotations).values()

    def test_scenes_know_all_classes(self, tmp_path):
        run = assemble(options("scenes:8", tmp_path, image_size=32, tasks=("boxes",), threads=1))
        heads = run.trainer.average.model.config.heads
        assert heads.boxes.classes == truth.BOXES
        assert heads.labels is heads.masks is None

    def test_without_gates(self, annotated, tmp_path):
        run = assemble(options(annotated, tmp_path, tasks=ALL, gate=False))
        heads = run.trainer.average.model.config.heads
        assert heads.labels.attention == "none"
        assert not heads.boxes.gate
        assert not heads.masks.gate

    def test_captions_and_annotations_of_coco(self, tmp_path):
        captions, instances = write_coco(tmp_path / "coco", 6)
        run = assemble(
            options(
                captions,
                tmp_path / "model",
                images=str(tmp_path / "coco"),
                annotations=instances,
                tasks=("boxes", "labels"),
            )
        )
        material = run._material
        assert all(example.captions and example.annotations.boxes for example in material.examples)
        (batch, *_) = material.epochs(run.trainer.average.model)(0).batches(0)
        assert batch.targets.boxes_known.all()
        assert (batch.targets.classes >= 0).any(1).all()
        assert "map_50" in run.run()

    def test_pixels_are_seen_even_of_a_frozen_encoder(
        self, annotated, backbone, tmp_path, monkeypatch
    ):
        seen = count_encoded(monkeypatch)
        config = TrainingConfig(epochs=1, batch_size=4)
        changes = AugmentConfig(flip=True)
        run = assemble(
            options(
                annotated, tmp_path, encoder=backbone, config=config, tasks=ALL, augment=changes
            )
        )
        before = {k: v.clone() for k, v in run.trainer.average.model.encoder.state_dict().items()}
        run.run()
        assert set(seen) == {4}
        trained = load(str(tmp_path / "best"), device="cpu").model.encoder.state_dict()
        assert all(torch.equal(value, trained[name]) for name, value in before.items())

    def test_one_that_can_be_scored_is_held_back(self, tmp_path):
        """Of many images without captions, one that has some; whatever the seed."""
        data = write_image_folder(tmp_path / "data", 12, captioned=2)
        for seed in range(5):
            config = TrainingConfig(epochs=1, batch_size=4, thaw="all", seed=seed)
            made = options(data, tmp_path / str(seed), tasks=("labels",), config=config)
            material = assemble(made)._material
            assert [bool(example.captions) for example in material.validation] == [True]

    def test_images_without_captions_teach_heads(self, tmp_path):
        data = write_image_folder(tmp_path / "data", 6, captioned=2)
        run = assemble(options(data, tmp_path / "model", tasks=("labels",)))
        assert run.run()["label_f1"] >= 0
        (epoch,) = map(json.loads, (tmp_path / "model/epochs.jsonl").read_text().splitlines())
        assert epoch["losses"]["labels"] > 0

    def test_validation_that_has_captions_alone(self, annotated, data, tmp_path, caplog):
        run = assemble(options(annotated, tmp_path, tasks=("labels",), validation=data))
        assert "only its captions are scored" in caplog.text
        scores = run.run()
        assert "rouge_l" in scores
        assert "label_f1" not in scores

    def test_other_annotations_are_another_training(self, tmp_path):
        data = write_image_folder(tmp_path / "data", 4)
        assemble(options(data, tmp_path / "model", tasks=("labels",))).run()
        path = tmp_path / "data" / "metadata.jsonl"
        path.write_text(path.read_text().replace('"circle"', '"disc"'))
        with pytest.raises(StateError, match="data_hash"):
            assemble(options(data, tmp_path / "model", tasks=("labels",)))

    @pytest.mark.parametrize(
        ("changes", "error", "message"),
        [
            ({"tasks": ("depth",)}, ValueError, "tasks holds 'depth'; use some of labels, boxes"),
            ({"gate": False}, ValueError, "there are no tasks; name some"),
            ({"task_config": TaskConfig(box_weight=2.0)}, ValueError, "there are no tasks"),
            ({"annotations": "x.json"}, ValueError, "annotations is 'x.json', but there are no"),
            ({"tasks": ("masks",)}, DataError, "the data has no masks in any of its images"),
            ({"tasks": ("labels",), "views": 2}, ValueError, "views is 2"),
            (
                {"tasks": ("labels",), "task_config": TaskConfig(mask_weight=5.0)},
                ValueError,
                "mask_weight is 5.0, but masks are none of the tasks",
            ),
            (
                {
                    "tasks": ("labels",),
                    "task_config": TaskConfig(turns="alternating"),
                    "config": TrainingConfig(epochs=1, thaw="all", accumulate=2),
                },
                ValueError,
                "turns is alternating, but accumulate is 2",
            ),
            (
                {"data": "scenes:8", "tasks": ("labels",), "annotations": "x.json"},
                ValueError,
                "drawn scenes know no annotations",
            ),
            (
                {
                    "tasks": ("labels",),
                    "task_config": TaskConfig(turns="alternating"),
                    "config": TrainingConfig(epochs=1, thaw="all", schedule="alternating"),
                },
                ValueError,
                "turns and schedule are both alternating",
            ),
        ],
    )
    def test_what_does_not_fit_is_refused(self, data, tmp_path, changes, error, message):
        with pytest.raises(error, match=message):
            assemble(options(**{"data": data, "output": tmp_path, **changes}))

    def test_views_are_refused_of_tasks(self, annotated, backbone, tmp_path):
        config = TrainingConfig(epochs=1, batch_size=4)
        with pytest.raises(ValueError, match="views is 2, but tasks need the picture itself"):
            assemble(
                options(annotated, tmp_path, encoder=backbone, config=config, tasks=ALL, views=2)
            )

    @pytest.mark.parametrize("decoder", ["lstm", "lm"])
    def test_no_captions_at_all(self, tmp_path, decoder):
        train = write_image_folder(tmp_path / "train", 4, captioned=0)
        name = decoder if decoder == "lstm" else f"lm:{language_model(tmp_path / 'gpt2')}"
        with pytest.raises(DataError, match="no image to score on has a caption"):
            assemble(options(train, tmp_path / "model", tasks=("labels",), decoder=name))
        scored = write_image_folder(tmp_path / "other", 4)
        with pytest.raises(DataError, match="no image to train on has a caption"):
            assemble(
                options(
                    train, tmp_path / "model", tasks=("labels",), decoder=name, validation=scored
                )
            )
