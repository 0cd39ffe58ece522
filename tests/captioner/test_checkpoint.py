import copy
import hashlib
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import fsspec
import pytest
import torch

from captioner.checkpoint import CheckpointError, load, put_statistics, read, save
from captioner.confidence.calibration import Sigmoid
from captioner.confidence.head import (
    ConfidenceHead,
    load_heads,
    load_verifier,
    save_heads,
)
from captioner.contract import DecodingConfig, ModelLoadError
from captioner.decoders import LSTMDecoderConfig
from captioner.encoders import GridEncoderConfig
from captioner.heads import ClassifierConfig, DetectorConfig, HeadsConfig, SegmenterConfig
from captioner.model import AttentionCaptioner, CaptionModel, ModelConfig
from captioner.scenes import render, sample
from captioner.statistics import FeatureStatistics
from captioner.tokenizer import CaptionTokenizer
from captioner.verifier import Verifier

CAPTIONS = ["a red circle above a blue star", "two green squares"]


@pytest.fixture(scope="module")
def tokenizer() -> CaptionTokenizer:
    return CaptionTokenizer.train(CAPTIONS)


@pytest.fixture(scope="module")
def model(tokenizer) -> CaptionModel:
    torch.manual_seed(0)
    config = ModelConfig(
        name="tiny",
        encoder=GridEncoderConfig(image_size=32, widths=(4, 8), blocks=(0, 1)),
        decoder=LSTMDecoderConfig(
            vocabulary_size=len(tokenizer), embedding_size=8, hidden_size=8, attention_size=8
        ),
    )
    return CaptionModel(config).eval()


@pytest.fixture
def folder(model, tokenizer, tmp_path) -> Path:
    save(model, tokenizer, str(tmp_path / "model"))
    return tmp_path / "model"


HEADS = HeadsConfig(
    labels=ClassifierConfig(classes=("red", "blue"), attention="query", attention_size=4),
    boxes=DetectorConfig(classes=("circle",), width=4, sizes=(0.2, 0.4), finer=1),
    masks=SegmenterConfig(classes=("star", "circle"), width=4, gate=False),
)


@pytest.fixture(scope="module")
def model_with_heads(model) -> CaptionModel:
    torch.manual_seed(0)
    return CaptionModel(replace(model.config, heads=HEADS)).eval()


@pytest.fixture
def folder_with_heads(model_with_heads, tokenizer, tmp_path) -> Path:
    save(model_with_heads, tokenizer, str(tmp_path / "heads"))
    return tmp_path / "heads"


def change_config(folder, **changes):
    path = folder / "config.json"
    config = json.loads(path.read_text())
    for key, value in changes.items():
        part, _, name = key.rpartition("__")
        (config[part] if part else config)[name] = value
    path.write_text(json.dumps(config))


class TestRoundTrip:
    def test_weights_words_and_captions_come_back(self, model, tokenizer, folder):
        captioner = load(str(folder), device="cpu")
        assert captioner.tokenizer.to_json().strip() == tokenizer.to_json().strip()
        stored = read(str(folder)).model.state_dict()
        assert stored.keys() == model.state_dict().keys()
        for name, value in model.state_dict().items():
            assert torch.equal(stored[name], value), name
        assert captioner.model.config == model.config
        image = captioner.prepare(render(sample(5)))
        assert captioner.caption([image])[0].tokens

    def test_what_was_loaded_to_caption_is_not_saved(self, folder):
        captioner = load(str(folder), device="cpu")
        with pytest.raises(ValueError, match="batch norms of .* are folded"):
            save(captioner.model, captioner.tokenizer, "memory://checkpoints/folded")
        assert not fsspec.filesystem("memory").exists("/checkpoints/folded")

    def test_the_model_id_comes_from_the_content_alone(self, model, tokenizer, folder):
        here = load(str(folder), device="cpu")
        save(read(str(folder)).model, here.tokenizer, "memory://checkpoints/other")
        half = DecodingConfig(precision="bfloat16", max_length=7)
        there = load("memory://checkpoints/other", device="cpu", decoding=half)
        assert there.model_id == here.model_id
        assert here.model_id.startswith("tiny@")
        changed = CaptionModel(model.config)
        changed.load_state_dict(model.state_dict())
        with torch.no_grad():
            changed.decoder.vocabulary.bias[0] += 1
        save(changed, tokenizer, "memory://checkpoints/changed")
        assert load("memory://checkpoints/changed").model_id != here.model_id

    def test_the_name_is_part_of_the_model_id_and_its_hash(self, folder):
        before = load(str(folder)).model_id
        change_config(folder, name="other")
        name, _, digest = load(str(folder)).model_id.partition("@")
        assert name == "other"
        assert digest != before.partition("@")[2]


def refusal(folder) -> str:
    with pytest.raises(CheckpointError) as caught:
        load(str(folder), device="cpu")
    assert isinstance(caught.value, ModelLoadError)
    return str(caught.value)


class TestHeads:
    def test_they_come_back(self, model_with_heads, folder_with_heads):
        captioner = load(str(folder_with_heads), device="cpu")
        assert captioner.model.config == model_with_heads.config
        wanted = model_with_heads.state_dict()
        found = read(str(folder_with_heads)).model.state_dict()
        assert found.keys() == wanted.keys()
        assert all(torch.equal(value, found[name]) for name, value in wanted.items())
        image = captioner.prepare(render(sample(5)))
        before = AttentionCaptioner(
            copy.deepcopy(model_with_heads), captioner.tokenizer, model_id="x"
        )
        (found,), (wanted,) = captioner.find([image], 0.0), before.find([image], 0.0)
        assert found.masks == wanted.masks
        for one, other in zip(found.labels, wanted.labels, strict=True):
            assert one.name == other.name
            assert one.probability == pytest.approx(other.probability, abs=1e-6)
        assert len(found.boxes) == len(wanted.boxes) > 0

    def test_saved_again_the_model_id_is_the_same(self, folder_with_heads):
        here = read(str(folder_with_heads))
        save(here.model, here.tokenizer, "memory://checkpoints/heads")
        assert load("memory://checkpoints/heads", device="cpu").model_id == here.model_id

    @pytest.mark.parametrize("name", ["labels", "boxes", "masks"])
    def test_one_head_is_enough(self, model, tokenizer, name):
        heads = HeadsConfig(**{name: getattr(HEADS, name)})
        alone = CaptionModel(replace(model.config, heads=heads))
        save(alone, tokenizer, f"memory://checkpoints/{name}")
        assert load(f"memory://checkpoints/{name}").model.config.heads == heads

    def test_what_classes_are_called_is_part_of_the_model_id(self, folder_with_heads):
        before = load(str(folder_with_heads)).model_id
        config = json.loads((folder_with_heads / "config.json").read_text())
        config["heads"]["boxes"]["classes"] = ["ring"]
        (folder_with_heads / "config.json").write_text(json.dumps(config))
        assert load(str(folder_with_heads)).model_id != before

    def test_without_heads_nothing_is_said_of_them_and_ids_stay(self, folder):
        """An id hashes weights, the five parts of config.json and words: as before heads came."""
        config = json.loads((folder / "config.json").read_text())
        assert config.keys() == {"architecture", "format_version", "name", "encoder", "decoder"}
        content = json.dumps(config, sort_keys=True, separators=(",", ":")).encode()
        digest = hashlib.sha256()
        weights, words = (
            (folder / n).read_bytes() for n in ("model.safetensors", "tokenizer.json")
        )
        for part in (weights, content, words):
            digest.update(len(part).to_bytes(8, "little") + part)
        assert load(str(folder)).model_id == f"tiny@{digest.hexdigest()[:12]}"

    @pytest.mark.parametrize(
        ("heads", "message"),
        [
            (None, "heads are None; those known are labels, boxes, masks"),
            ({}, "heads are {}; those known are"),
            ([], r"heads are \[\]; those known are"),
            ("labels", "heads are 'labels'; those known are"),
            ({"depth": {"kind": "depth"}}, "heads are .*depth.*; those known are"),
            ({"labels": None}, "heads: labels: kind is None; those known are labels"),
            ({"labels": {"kind": "boxes", "classes": ["a"]}}, "labels: kind is 'boxes'"),
            ({"labels": {"kind": "labels"}}, "labels: classes is missing"),
            ({"labels": {"kind": "labels", "classes": "a"}}, "classes is 'a', not of its type"),
            ({"labels": {"kind": "labels", "classes": [1]}}, r"classes is \[1\], not of its type"),
            ({"labels": {"kind": "labels", "classes": []}}, "give 1 to 10000 names"),
            ({"labels": {"kind": "labels", "classes": ["a", "a"]}}, "holds 'a' twice"),
            ({"labels": {"kind": "labels", "classes": ["a"], "x": 1}}, "labels knows no 'x'"),
            (
                {"labels": {"kind": "labels", "classes": ["a"], "threshold": 2}},
                "threshold is 2",
            ),
            (
                {"boxes": {"kind": "boxes", "classes": ["a"], "sizes": [0]}},
                "give one or more numbers above 0",
            ),
            ({"boxes": {"kind": "boxes", "classes": ["a"], "finer": 5}}, "makes no model: finer"),
            ({"boxes": {"kind": "boxes", "classes": ["a"], "gate": 1}}, "gate is 1, not of its"),
            ({"masks": {"kind": "masks", "classes": ["a"] * 255}}, "give 1 to 254 names"),
            ({"masks": {"kind": "masks", "classes": ["a"]}}, "tensors are missing, unknown"),
        ],
    )
    def test_broken_ones_are_refused(self, folder_with_heads, heads, message):
        change_config(folder_with_heads, heads=heads)
        assert re.search(message, refusal(folder_with_heads))

    def test_weights_of_heads_that_the_config_does_not_name(self, folder_with_heads):
        path = folder_with_heads / "config.json"
        config = json.loads(path.read_text())
        del config["heads"]
        path.write_text(json.dumps(config))
        assert "the first is 'heads.boxes." in refusal(folder_with_heads)


class TestRefusals:
    @pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
    def test_a_missing_file_is_named(self, folder, name):
        (folder / name).unlink()
        assert f"there is no {name}" in refusal(folder)

    def test_no_folder_at_all(self, tmp_path):
        assert "there is no config.json" in refusal(tmp_path / "nowhere")

    def test_a_newer_version_asks_for_a_newer_package(self, folder):
        change_config(folder, format_version=2)
        assert "format_version is 2, newer than 1; install a newer" in refusal(folder)

    @pytest.mark.parametrize("version", ["1", True, 0, None])
    def test_an_unknown_version(self, folder, version):
        change_config(folder, format_version=version)
        assert f"format_version is {version!r}" in refusal(folder)

    def test_another_kind_of_model(self, folder):
        change_config(folder, architecture="blip")
        assert "architecture is 'blip'" in refusal(folder)

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"decoder__hidden_size": 10**9}, "hidden_size is 1000000000; use 1 to 8192"),
            ({"decoder__hidden_size": 9}, "tensors are missing, unknown or of another shape"),
            ({"decoder__hidden_size": "8"}, "hidden_size is '8', not of its type"),
            ({"decoder__dropout": 2}, "dropout is 2"),
            ({"decoder__vocabulary_size": 99}, "tokens but config.json says vocabulary_size 99"),
            ({"decoder__unheard_of": 1}, "unheard_of"),
            ({"encoder__image_size": 2**20}, "image_size is 1048576"),
            ({"encoder__widths": [4, True]}, "widths is [4, True], not of its type"),
            ({"encoder__widths": [4, 10**6]}, "widths is (4, 1000000)"),
            ({"encoder": 3}, "encoder: kind is None; those known are grid"),
            ({"decoder__kind": "mamba"}, "decoder: kind is 'mamba'; those known are lstm, transf"),
            ({"decoder__attention": "hard"}, "attention is 'hard'; use one of additive, dot"),
            ({"decoder__attention": 1}, "attention is 1, not of its type"),
            ({"name": "../x"}, "name is '../x'"),
            ({"surprise": 1}, "surprise"),
        ],
    )
    def test_a_config_that_does_not_fit(self, folder, changes, message):
        change_config(folder, **changes)
        assert message in refusal(folder)

    def test_a_config_nested_without_end(self, folder):
        (folder / "config.json").write_text("[" * 200_000)
        assert "config.json is not JSON" in refusal(folder)

    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"attn_implementation": "somebody/kernel"}, "such settings can fetch code"),
            ({"backbone_config": {"auto_map": {"AutoModel": "a.B"}}}, "auto_map is"),
            ({"backbone": "hf-hub:somebody/model"}, "give the plain name of a network"),
            ({"num_labels": 10**9}, "num_labels is 1000000000; use 0 to 100000"),
            ({"num_hidden_layers": 10**6}, "more than 190 weights, and model.safetensors has"),
            ({"hidden_size": "wide"}, "makes no model"),
            ({"model_type": "llama"}, "model_type is 'llama'; those known are"),
        ],
    )
    def test_settings_of_a_library_that_do_not_fit(self, folder, settings, message):
        """Nothing is fetched, and no memory is taken, before they are refused."""
        settings = {"model_type": "vit", "image_size": 32, "patch_size": 8, **settings}
        encoder = {"kind": "backbone", "image_size": 32, "settings": settings}
        change_config(folder, encoder={**encoder, "mean": [0.5] * 3, "std": [0.5] * 3})
        assert message in refusal(folder)

    @pytest.mark.parametrize("mean", [[10**400, 0, 0], [0.5], ["a", 0, 0]])
    def test_a_view_that_is_none(self, folder, mean):
        encoder = {"kind": "backbone", "image_size": 32, "settings": {"model_type": "vit"}}
        change_config(folder, encoder={**encoder, "mean": mean, "std": [0.5] * 3})
        assert "encoder" in refusal(folder)

    @pytest.mark.parametrize("kept", [0, 5, 300, -1])
    def test_torn_weights(self, folder, kept):
        path = folder / "model.safetensors"
        path.write_bytes(path.read_bytes()[:kept])
        assert "not a whole safetensors file" in refusal(folder)

    def test_weights_that_are_a_pickle_are_never_run(self, folder):
        torch.save({"weights": torch.zeros(2)}, folder / "model.safetensors")
        assert "not a whole safetensors file" in refusal(folder)

    @pytest.mark.parametrize("content", ["{", "[]", "\ufeff"])
    def test_a_config_that_is_no_object(self, folder, content):
        (folder / "config.json").write_text(content)
        assert "config.json" in refusal(folder)

    @pytest.mark.parametrize("content", ["", "{}", '{"version": "1.0"}'])
    def test_a_broken_tokenizer(self, folder, content):
        (folder / "tokenizer.json").write_text(content)
        assert "tokenizer.json cannot be read" in refusal(folder)

    def test_a_config_of_two_megabytes_is_not_read(self, folder):
        (folder / "config.json").write_text(" " * (2 << 20))
        assert "more than the 1048576" in refusal(folder)

    def test_a_device_that_is_not_there(self, folder):
        with pytest.raises(ModelLoadError, match=r"'abacus' is not there.*cpu"):
            load(str(folder), device="abacus")

    def test_a_message_shows_no_secret(self):
        with pytest.raises(CheckpointError) as caught:
            load("ftp://somebody:hunter2@127.0.0.1:9/model")
        assert "hunter2" not in str(caught.value)

    def test_an_unknown_file_system(self):
        with pytest.raises(CheckpointError, match="cannot be read"):
            load("nosuch://bucket/model")


class TestStatistics:
    @pytest.fixture(scope="class")
    def statistics(self, model) -> FeatureStatistics:
        torch.manual_seed(0)
        return FeatureStatistics.fit([torch.rand(9, 64, 26)], model.encoder.place_size)

    @pytest.fixture
    def known(self, model, tokenizer, statistics, tmp_path) -> Path:
        save(model, tokenizer, str(tmp_path / "known"), statistics)
        return tmp_path / "known"

    def test_they_come_back_and_are_part_of_the_model_id(self, known, folder, statistics):
        captioner, plain = load(str(known), device="cpu"), load(str(folder), device="cpu")
        assert captioner.model_id != plain.model_id
        assert captioner.fills == ("feature_distance",)
        (caption,) = captioner.caption([captioner.prepare(render(sample(5)))])
        memory = captioner.model.encode(
            torch.from_numpy(captioner.prepare(render(sample(5))).pixels)[None]
        )
        distance = statistics.distance(memory.detach()).item()
        assert caption.features["feature_distance"] == pytest.approx(distance, abs=1e-5)
        (known / "statistics.safetensors").unlink()
        assert load(str(known), device="cpu").model_id == plain.model_id

    def test_a_model_without_them_has_the_id_that_it_had(self, folder):
        files = [(folder / name).read_bytes() for name in ("model.safetensors", "tokenizer.json")]
        config = json.loads((folder / "config.json").read_text())
        content = json.dumps(config, sort_keys=True, separators=(",", ":")).encode()
        digest = hashlib.sha256()
        for part in (files[0], content, files[1]):
            digest.update(len(part).to_bytes(8, "little") + part)
        assert load(str(folder), device="cpu").model_id == f"tiny@{digest.hexdigest()[:12]}"

    def test_they_are_put_in_place_of_others(self, known, statistics):
        before = load(str(known), device="cpu").model_id
        put_statistics(str(known), replace(statistics, precisions=2 * statistics.precisions))
        assert load(str(known), device="cpu").model_id != before
        put_statistics(str(known), statistics)
        assert load(str(known), device="cpu").model_id == before
        assert len(list(known.iterdir())) == 4

    def test_those_of_another_model_do_not_stay(self, known, model, tokenizer):
        save(model, tokenizer, str(known))
        assert load(str(known), device="cpu").fills == ()

    def test_an_extra_is_asked_for_by_name(self, known, folder):
        captioner = load(str(known), device="cpu", extras=["image_information"])
        assert captioner.fills == ("feature_distance", "image_information")
        with pytest.raises(ModelLoadError, match="has no statistics of its training images"):
            load(str(folder), device="cpu", extras=["image_information"])

    @pytest.mark.parametrize("kept", [0, 100, -1])
    def test_a_torn_file(self, known, kept):
        path = known / "statistics.safetensors"
        path.write_bytes(path.read_bytes()[:kept])
        told = refusal(known)
        assert "statistics.safetensors cannot be used: not a whole" in told
        assert "make it anew with captioner statistics" in told

    def test_a_file_of_another_model(self, known):
        other = FeatureStatistics.fit([torch.rand(9, 64, 30)], 18)
        (known / "statistics.safetensors").write_bytes(other.to_bytes())
        assert "is of 12 features a position, but the encoder gives 8" in refusal(known)


def test_a_checkpoint_is_read_from_a_zip(folder, tmp_path):
    archive = shutil.make_archive(str(tmp_path / "model"), "zip", folder)
    assert load(f"zip://::{archive}").model_id == load(str(folder)).model_id


def test_save_writes_three_files_and_nothing_else(model, tokenizer):
    save(model, tokenizer, "memory://three")
    names = {Path(name).name for name in fsspec.filesystem("memory").ls("/three", detail=False)}
    assert names == {"config.json", "model.safetensors", "tokenizer.json"}


class TestVerifier:
    """Of the confidence head for the decoding that is asked for."""

    @pytest.fixture
    def judged(self, folder) -> tuple[Path, Verifier]:
        captioner = load(str(folder), device="cpu")
        _, (known,) = captioner.caption_with_evidence([captioner.prepare(render(sample(5)))])
        torch.manual_seed(3)
        size = known.shape[1]
        parts = torch.randn(size), torch.ones(size), torch.randn(4, size).half(), torch.randn(4)
        images = torch.zeros(0, dtype=torch.int32)
        verifier = Verifier(*parts, torch.randn(4), torch.randn(1), images)
        head = ConfidenceHead(
            model_id=captioner.model_id,
            decoding=captioner.decoding.id,
            features=("verifier_logit",),
            means=(0.0,),
            scales=(1.0,),
            weights=(1.0,),
            bias=0.0,
            calibration=Sigmoid(1.0, 0.0),
            labels=60,
            verifier=verifier.id,
        )
        save_heads(str(folder), [head], [verifier])
        return folder, verifier

    def test_it_judges_each_caption(self, judged):
        folder, verifier = judged
        captioner = load(str(folder), device="cpu")
        assert "verifier_logit" in captioner.fills
        images = [captioner.prepare(render(sample(number))) for number in range(4)]
        captions, evidence = captioner.caption_with_evidence(images)
        logits = [caption.features["verifier_logit"] for caption in captions]
        assert logits == pytest.approx(verifier.logits(evidence), rel=0.01)
        assert len({round(value, 3) for value in logits}) > 1
        assert {caption.verifier for caption in captions} == {verifier.id}
        alone = [captioner.caption([image])[0].features["verifier_logit"] for image in images]
        assert alone == pytest.approx(logits, abs=1e-4)

    def test_it_is_no_part_of_the_model_id(self, judged):
        folder, _ = judged
        before = load(str(folder), device="cpu").model_id
        save_heads(str(folder), [])
        assert load(str(folder), device="cpu").model_id == before
        assert load(str(folder), device="cpu").fills == ()

    def test_another_decoding_has_none(self, judged):
        captioner = load(str(judged[0]), device="cpu", decoding=DecodingConfig(max_length=7))
        assert captioner.fills == ()
        (caption,) = captioner.caption([captioner.prepare(render(sample(5)))])
        assert caption.verifier is None
        assert "verifier_logit" not in caption.features

    def test_a_head_for_another_model_brings_none(self, judged):
        folder, verifier = judged
        (head,) = load_heads(str(folder))
        save_heads(str(folder), [replace(head, model_id="other@1")], [verifier])
        assert load(str(folder), device="cpu").fills == ()

    def test_one_that_is_gone_is_named(self, judged):
        folder, verifier = judged
        (folder / f"verifier-{verifier.id}.safetensors").unlink()
        with pytest.raises(ModelLoadError, match=f"verifier-{verifier.id}.safetensors is missing"):
            load(str(folder), device="cpu")

    def test_one_of_another_width_is_refused(self, judged):
        folder, verifier = judged
        (head,) = load_heads(str(folder))
        wider = replace(
            verifier,
            mean=torch.zeros(len(verifier.mean) + 1),
            scale=torch.ones(len(verifier.mean) + 1),
            hidden_weight=torch.zeros(4, len(verifier.mean) + 1).half(),
        )
        save_heads(str(folder), [replace(head, verifier=wider.id)], [wider])
        with pytest.raises(ModelLoadError, match=r"judges words by \d+ figures, but model"):
            load(str(folder), device="cpu")

    def test_heads_that_are_replaced_in_between_bring_theirs(self, judged, monkeypatch):
        folder, verifier = judged
        (head,) = load_heads(str(folder))
        other = replace(verifier, word_bias=verifier.word_bias + 1)

        def replaced(path, verifier_id):
            if verifier_id == verifier.id:
                save_heads(path, [replace(head, verifier=other.id)], [other])
            return load_verifier(path, verifier_id)

        monkeypatch.setattr("captioner.checkpoint.load_verifier", replaced)
        assert load(str(folder), device="cpu").verifier_id == other.id
