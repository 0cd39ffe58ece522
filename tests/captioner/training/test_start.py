import json
import logging
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from captioner import checkpoint
from captioner.annotations import ClassNames
from captioner.checkpoint import STATISTICS, embedded_path, read
from captioner.contract import ModelLoadError
from captioner.heads import HeadsConfig
from captioner.loading import load
from captioner.model import AttentionCaptioner
from captioner.scenes import render, sample
from captioner.training.assemble import assemble
from captioner.training.config import TrainingConfig
from captioner.training.heads import heads_config
from captioner.training.learned import LEARNED, images_learned
from captioner.training.options import TrainingOptions
from captioner.training.sources import Example
from captioner.training.splitting import hold_back
from captioner.training.start import start_from
from captioner.training.state import StateError
from captioner.training.tasks import TaskConfig
from tests.annotated import write_image_folder

ALL = ("labels", "boxes", "masks")
QUIET = TrainingConfig(
    epochs=1, batch_size=4, thaw="all", learning_rate=1e-9, encoder_learning_rate=1e-9
)
"""Moves weights by next to nothing."""


def options(data, output, **changes) -> TrainingOptions:
    return TrainingOptions(
        **{"data": data, "output": str(output), "device": "cpu", "config": QUIET, **changes}
    )


@pytest.fixture(scope="module")
def annotated(tmp_path_factory) -> str:
    return write_image_folder(tmp_path_factory.mktemp("annotated") / "data", 8)


@pytest.fixture(scope="module")
def trained(annotated, tmp_path_factory) -> str:
    """The folder of a small model with all heads."""
    folder = tmp_path_factory.mktemp("first") / "model"
    settings = {"embedding_size": 16, "hidden_size": 24, "attention_size": 16, "dropout": 0.1}
    config = TrainingConfig(epochs=2, batch_size=4, thaw="all")
    assemble(
        options(
            annotated, folder, config=config, image_size=32, decoder_settings=settings, tasks=ALL
        )
    ).run()
    return str(folder / "last")


@pytest.fixture
def kayaks(tmp_path) -> str:
    """Images whose captions have words that the model does not know."""
    folder = tmp_path / "kayaks"
    folder.mkdir()
    captions = ["a kayak", "a kayak on a lake", "a red kayak", "a red circle"]
    rows = []
    for number, caption in enumerate(captions):
        render(sample(number)).save(folder / f"{number}.png")
        rows.append(json.dumps({"file_name": f"{number}.png", "caption": caption}))
    (folder / "metadata.jsonl").write_text("\n".join(rows) + "\n")
    return str(folder)


def names_of(heads: HeadsConfig) -> ClassNames:
    return ClassNames(heads.labels.classes, heads.boxes.classes, heads.masks.classes)


def said(captioner: AttentionCaptioner) -> list[tuple[str, tuple[float, ...]]]:
    images = [captioner.prepare(render(sample(number))) for number in range(3)]
    return [(caption.text, caption.token_logprobs) for caption in captioner.caption(images)]


class TestStart:
    def test_what_was_learned_is_gone_on_with(self, annotated, trained, tmp_path):
        run = assemble(options(annotated, tmp_path, start_from=trained, tasks=ALL))
        stored, model = read(trained), run.trainer.average.model
        before = AttentionCaptioner(stored.model, stored.tokenizer, model_id=stored.model_id)
        after = AttentionCaptioner(model, run._material.tokenizer, model_id="after@0")
        assert said(after) == said(before)
        weights = before.model.state_dict()
        assert all(torch.equal(weights[name], value) for name, value in model.state_dict().items())
        assert model.config.decoder.dropout == 0.1
        run.run()
        assert load(str(tmp_path / "last"), device="cpu").classes == before.classes

    def test_new_words_are_added_behind_those_that_are_known(
        self, trained, kayaks, tmp_path, caplog
    ):
        before = load(trained, device="cpu")
        with caplog.at_level(logging.INFO):
            run = assemble(options(kayaks, tmp_path / "model", start_from=trained, name="kayaks"))
        assert f"are new to {before.model_id}, and are added to its own" in caplog.text
        run.run()
        after = load(str(tmp_path / "model" / "last"), device="cpu")
        assert after.model_id.startswith("kayaks@")
        known = [before.tokenizer.word(number) for number in range(len(before.tokenizer))]
        words = [after.tokenizer.word(number) for number in range(len(after.tokenizer))]
        assert words[: len(known)] == known
        assert "kayak" in words[len(known) :]
        assert after.tokenizer.text(["a", "kayak"]) == "a kayak"
        old, new = before.model.decoder.embedding.weight, after.model.decoder.embedding.weight
        assert torch.allclose(old, new[: len(old)], atol=1e-5)

    def test_rare_new_words_stay_unknown(self, trained, kayaks, tmp_path):
        run = assemble(options(kayaks, tmp_path, start_from=trained, min_frequency=2))
        tokenizer = run._material.tokenizer
        (numbers,) = tokenizer.encode(["a kayak on a lake"])
        assert tokenizer.unknown in numbers
        assert tokenizer.word(numbers[1]) == "kayak"

    def test_heads_that_are_not_named_are_left_out_and_told(
        self, annotated, trained, tmp_path, caplog
    ):
        run = assemble(options(annotated, tmp_path, start_from=trained, tasks=("boxes",)))
        heads = run.trainer.average.model.config.heads
        assert heads.labels is heads.masks is None
        assert "the labels of captioner@" in caplog.text
        assert "the masks of captioner@" in caplog.text
        assert "the boxes of" not in caplog.text

    def test_heads_for_other_classes_are_learned_from_nothing(self, trained):
        start = start_from(trained)
        kept = start.model.config.heads
        classes = ClassNames(kept.labels.classes, ("boat", "oar"), kept.masks.classes)
        heads = start.heads(heads_config(ALL, classes, start.model.encoder, gate=False))
        assert heads.boxes.classes == ("boat", "oar")
        assert not heads.boxes.gate
        assert (heads.labels, heads.masks) == (kept.labels, kept.masks)
        model = start.build("boats", start.tokenizer, heads)
        old, new = start.model.state_dict(), model.state_dict()
        taken = {name for name in old if name in new and torch.equal(old[name], new[name])}
        moved = {name for name in new if name not in taken}
        assert moved
        assert all(name.startswith("heads.boxes.") for name in moved)
        assert "heads.boxes.enter.weight" in moved

    def test_a_head_is_kept_where_the_data_has_fewer_classes_in_another_order(self, trained):
        start = start_from(trained)
        kept = start.model.config.heads
        fewer = ClassNames(*(classes[:0:-1] for classes in vars(names_of(kept)).values()))
        assert start.heads(heads_config(ALL, fewer, start.model.encoder)) == kept

    def test_masks_of_another_width_are_learned_from_nothing(self, trained, caplog):
        start = start_from(trained)
        kept = start.model.config.heads
        wanted = heads_config(ALL, names_of(kept), start.model.encoder, mask_width=6)
        heads = start.heads(wanted, 6)
        assert heads.masks == replace(kept.masks, width=6)
        assert (heads.labels, heads.boxes) == (kept.labels, kept.boxes)
        assert f"has mask_width {kept.masks.width}, not 6" in caplog.text
        assert start.heads(wanted, kept.masks.width) == kept

    def test_what_counts_nothing_stays_to_the_last_bit(self, annotated, trained, tmp_path):
        """A head anew on a model that says all else as before."""
        config = TrainingConfig(epochs=2, batch_size=4, thaw="none")
        weights = TaskConfig(caption_weight=0, label_weight=0, box_weight=0)
        output = tmp_path / "model"
        assemble(
            options(
                *(annotated, output),
                start_from=trained,
                config=config,
                tasks=ALL,
                task_config=weights,
                mask_width=6,
            )
        ).run()
        before, after = read(trained).model.state_dict(), read(f"{output}/last").model.state_dict()
        assert before.keys() == after.keys()
        moved = {name for name, value in before.items() if not torch.equal(value, after[name])}
        assert moved
        assert all(name.startswith("heads.masks.") for name in moved)

    def test_words_that_nobody_learns_are_not_added(self, annotated, trained, tmp_path):
        data = Path(shutil.copytree(annotated, tmp_path / "data"))
        rows = [json.loads(line) for line in (data / "metadata.jsonl").read_text().splitlines()]
        rows = [row | {"captions": ["a kayak on a lake"]} for row in rows]
        (data / "metadata.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
        learned = options(str(data), tmp_path / "model", start_from=trained, tasks=ALL)
        known = read(trained).tokenizer.to_json()
        assert assemble(learned)._material.tokenizer.to_json() != known
        resting = replace(learned, task_config=TaskConfig(caption_weight=0))
        assert assemble(resting)._material.tokenizer.to_json() == known

    @pytest.mark.parametrize("known", [False, True])
    def test_a_head_from_nothing_that_would_never_learn(self, annotated, trained, tmp_path, known):
        weights = TaskConfig(mask_weight=0)
        start = {"start_from": trained, "mask_width": 6} if known else {"image_size": 32}
        with pytest.raises(ValueError, match="masks count 0, but would begin from nothing"):
            assemble(options(annotated, tmp_path, tasks=ALL, task_config=weights, **start))

    def test_a_frozen_encoder_sees_each_picture_once(self, annotated, trained, tmp_path):
        config = replace(QUIET, thaw="none")
        assemble(options(annotated, tmp_path, start_from=trained, config=config)).run()
        assert (tmp_path / "last" / STATISTICS).exists()
        assert len(list((tmp_path / "features").iterdir())) == 1

    def test_weights_are_read_once(self, trained, monkeypatch):
        read_file, files = checkpoint._read, []
        monkeypatch.setattr(
            checkpoint, "_read", lambda path, name: (files.append(name), read_file(path, name))[1]
        )
        start_from(trained)
        assert files.count(checkpoint.WEIGHTS) == 1

    def test_nothing_at_all_to_learn(self, annotated, trained, tmp_path):
        weights = TaskConfig(caption_weight=0, mask_weight=0)
        with pytest.raises(ValueError, match="all weights of captions and tasks are 0"):
            assemble(
                options(
                    *(annotated, tmp_path),
                    start_from=trained,
                    tasks=("masks",),
                    task_config=weights,
                )
            )

    def test_images_that_it_has_not_learned_from_are_scored_on(self, caplog):
        examples = [Example(f"file:///{n}.png", ("a",), image_id=f"{n}") for n in range(40)]
        fresh = {"3", "17"}
        learned = frozenset(one.image_id for one in examples) - fresh
        for seed in range(5):
            training, held = hold_back(examples, seed, learned)
            assert {one.image_id for one in held} == fresh
            assert len(training) == 38
        assert not caplog.records
        _, held = hold_back(examples, 0, learned | {"3"})
        assert len(held) == 2
        assert "17" in {one.image_id for one in held}
        assert "has learned from 1 of these" in caplog.text

    def test_another_start_is_another_training(self, annotated, trained, tmp_path):
        assemble(options(annotated, tmp_path, start_from=trained)).run()
        card = (tmp_path / "last" / "README.md").read_text()
        assert f"- start_from: {load(trained).model_id}\n" in card
        assert "- encoder: grid\n" not in card
        with pytest.raises(StateError, match="start_from"):
            assemble(options(annotated, tmp_path, start_from=str(tmp_path / "last")))

    def test_reviews_that_the_model_has_learned_from_stay_learned(
        self, annotated, trained, tmp_path
    ):
        start = shutil.copytree(trained, tmp_path / "start")
        (start / LEARNED).write_text(
            json.dumps({"version": "0123456789ab", "captions": 2, "images": ["1" * 64, "2" * 64]})
        )
        assemble(options(annotated, tmp_path / "model", start_from=str(start))).run()
        assert images_learned(str(tmp_path / "model" / "best")) == {"1" * 64, "2" * 64}

    def test_scenes_from_the_embedded_model(self, tmp_path):
        small = TrainingConfig(epochs=1, batch_size=8, thaw="all")
        run = assemble(
            options("scenes:8", tmp_path, start_from="embedded", config=small, threads=1, tasks=ALL)
        )
        assert run._material.tokenizer.languages == ("en", "zh")
        model, known = run.trainer.average.model, read(embedded_path()).model
        assert model.config.heads == known.config.heads
        weights = known.state_dict()
        assert all(torch.equal(weights[name], value) for name, value in model.state_dict().items())


class TestBadInput:
    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"encoder": "vit"}, "encoder is 'vit', but .* brings its own; leave it out"),
            ({"image_size": 64}, "image_size is 64"),
            ({"decoder": "transformer"}, "decoder is 'transformer'"),
            ({"decoder_settings": {"dropout": 0.2}}, "decoder_settings is {'dropout': 0.2}"),
            ({"words": "byte_pair"}, "words is 'byte_pair'"),
            ({"punctuation": False}, "punctuation is False"),
            ({"data": "scenes:8", "languages": ("en",)}, "languages is"),
            ({"tasks": ALL, "gate": False}, "gate is False"),
        ],
    )
    def test_what_the_model_decides_is_refused(
        self, annotated, trained, tmp_path, changes, message
    ):
        with pytest.raises(ValueError, match=message):
            assemble(
                options(**{"data": annotated, "output": tmp_path, **changes}, start_from=trained)
            )

    def test_scenes_are_written_in_words_of_their_own(self, trained, tmp_path):
        with pytest.raises(ValueError, match="the words of captioner@.* are not those of drawn"):
            assemble(options("scenes:8", tmp_path, start_from=trained, threads=1))

    def test_there_is_no_such_model(self, annotated, tmp_path):
        with pytest.raises(ModelLoadError, match="nowhere"):
            assemble(options(annotated, tmp_path, start_from=str(tmp_path / "nowhere")))

    def test_models_of_hugging_face_are_not_trained_here(self, annotated, tmp_path, monkeypatch):
        monkeypatch.setattr("captioner.training.start.load", lambda *_: object())
        with pytest.raises(ModelLoadError, match="start from a model of captioner train"):
            assemble(options(annotated, tmp_path, start_from="a/model"))
