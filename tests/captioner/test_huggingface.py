import json
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import fsspec
import numpy as np
import pytest
import safetensors.torch
import torch
import transformers
from PIL import Image

from captioner import huggingface, loading
from captioner.confidence.head import HEADS_FILE, verifier_file
from captioner.contract import Caption, DecodingConfig, ModelLoadError
from captioner.huggingface import HuggingFaceCaptioner, View
from schemas.tables import FEATURES

KINDS = ["vision-encoder-decoder", "blip", "git"]
WORDS = ["<pad>", "<start>", "<stop>", "<unk>", *(f"word{n}" for n in range(28))]
SIDE = 32
TEXT = {"vocab_size": len(WORDS), "hidden_size": 32, "num_hidden_layers": 2}
TEXT |= {"num_attention_heads": 2, "intermediate_size": 64, "max_position_embeddings": 40}
VISION = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
VISION |= {"intermediate_size": 64, "image_size": SIDE, "patch_size": 8, "initializer_range": 0.02}
MARKS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}


def vision_encoder_decoder() -> "transformers.PreTrainedModel":
    words = transformers.GPT2Config(
        vocab_size=len(WORDS),
        n_embd=32,
        n_layer=2,
        n_head=2,
        n_positions=40,
        add_cross_attention=True,
        bos_token_id=1,
        eos_token_id=2,
    )
    config = transformers.VisionEncoderDecoderConfig.from_encoder_decoder_configs(
        transformers.ViTConfig(**VISION), words
    )
    config.decoder_start_token_id, config.pad_token_id = 1, 2  # GPT-2 has no other
    return transformers.VisionEncoderDecoderModel(config)


def blip() -> "transformers.PreTrainedModel":
    text = {**TEXT, "encoder_hidden_size": 32, **MARKS, "sep_token_id": 2}
    config = transformers.BlipConfig(text_config=text, vision_config=VISION, projection_dim=16)
    return transformers.BlipForConditionalGeneration(config)


def git() -> "transformers.PreTrainedModel":
    config = transformers.GitConfig(vision_config=VISION, **TEXT, **MARKS)
    return transformers.GitForCausalLM(config)


MAKERS: dict[str, Callable[[], "transformers.PreTrainedModel"]] = {
    "vision-encoder-decoder": vision_encoder_decoder,
    "blip": blip,
    "git": git,
}


UNLIKE = {"vision-encoder-decoder": (8, 7), "blip": (3, 1), "git": (8, 2)}
"""Scale and seed with which captions differ, and some of them end; found by trying."""


def make_tokenizer() -> "transformers.PreTrainedTokenizerFast":
    from tokenizers import Tokenizer, models, pre_tokenizers

    tokenizer = Tokenizer(models.WordLevel({word: n for n, word in enumerate(WORDS)}, "<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    marks = {"pad_token": "<pad>", "bos_token": "<start>", "eos_token": "<stop>"}
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", **marks
    )


def make_checkpoint(kind: str, folder: Path, **settings: object) -> Path:
    """Write a tiny model with random weights, scaled so that images give unlike captions."""
    scale, seed = UNLIKE[kind]
    torch.manual_seed(seed)
    model = MAKERS[kind]()
    with torch.no_grad():
        for name, value in model.named_parameters():
            if value.dim() > 1 and "position" not in name:
                value.mul_(scale)
    model.save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    processor = {
        "do_resize": True,
        "size": {"height": SIDE, "width": SIDE},
        "resample": 2,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [0.5, 0.4, 0.3],
        "image_std": [0.2, 0.25, 0.3],
    }
    (folder / "preprocessor_config.json").write_text(json.dumps({**processor, **settings}))
    return folder


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {kind: make_checkpoint(kind, tmp_path_factory.mktemp(kind)) for kind in KINDS}


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Tiny tensors are slower on several threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(params=KINDS)
def checkpoint(request: pytest.FixtureRequest, checkpoints: dict[str, Path]) -> Path:
    return checkpoints[request.param]


def load(path: Path | str, **decoding: object) -> HuggingFaceCaptioner:
    config = DecodingConfig(**{"max_length": 12, **decoding})  # type: ignore[arg-type]
    captioner = huggingface.load(str(path), "cpu", config)
    assert isinstance(captioner, HuggingFaceCaptioner)
    return captioner


def pictures(count: int) -> list[Image.Image]:
    generator = np.random.default_rng(4)
    sizes = [(40 + 13 * n, 90 - 5 * n) for n in range(count)]
    return [
        Image.fromarray(generator.integers(0, 255, (height, width, 3), np.uint8))
        for width, height in sizes
    ]


def captions(captioner: HuggingFaceCaptioner, images: list[Image.Image]) -> list[Caption]:
    return captioner.caption([captioner.prepare(image) for image in images])


def teacher_forced(
    captioner: HuggingFaceCaptioner, image: Image.Image, tokens: list[int]
) -> list[float]:
    """Return the log-probability of each token in one pass over the whole caption."""
    model = captioner.model
    pixels = captioner._pixels([captioner.prepare(image)])
    fed = torch.tensor([[1, *tokens[:-1]]])
    with torch.inference_mode():
        if model.config.model_type == "blip":
            seen = model.vision_model(pixel_values=pixels)[0]
            out = model.text_decoder(input_ids=fed, encoder_hidden_states=seen).logits
        elif model.config.model_type == "git":
            out = model(input_ids=fed, pixel_values=pixels).logits[:, -len(tokens) :]
        else:
            out = model(pixel_values=pixels, decoder_input_ids=fed).logits
    return out[0].log_softmax(1).gather(1, torch.tensor(tokens)[:, None])[:, 0].tolist()


def numbers(caption: Caption) -> list[int]:
    return [2 if token == "<end>" else WORDS.index(token) for token in caption.tokens]


def test_captions_have_tokens_and_figures(checkpoint: Path) -> None:
    captioner = load(checkpoint)
    known = {name for name, _ in FEATURES}
    found = captions(captioner, pictures(8))
    assert len({caption.text for caption in found}) >= 3
    for caption in found:
        assert len(caption.tokens) == len(caption.token_logprobs) <= 12
        assert all(logprob <= 0 for logprob in caption.token_logprobs)
        assert caption.tokens.count("<end>") == (caption.tokens[-1] == "<end>")
        words = [token for token in caption.tokens if token.startswith("word")]
        assert caption.text.split() == [w for w in caption.text.split() if w in WORDS]
        assert [w for w in caption.text.split() if w.startswith("word")] == words
        assert caption.features.keys() <= known
        assert caption.features["num_tokens"] == len(caption.tokens)
        assert caption.features["logprob_sum"] == pytest.approx(sum(caption.token_logprobs))
        assert caption.n_best == ((caption.text, pytest.approx(sum(caption.token_logprobs))),)
        assert 0 <= caption.features["margin_min"] <= 1
        assert 0 <= caption.features["entropy_mean"] <= np.log(len(WORDS))
        if caption.tokens[-1] == "<end>":
            last = np.exp(caption.token_logprobs[-1])
            assert caption.features["eos_probability"] == pytest.approx(last)


def test_some_captions_of_the_tests_end_and_differ_in_length(checkpoint: Path) -> None:
    """Otherwise the tests of padding would test nothing."""
    lengths = {len(caption.tokens) for caption in captions(load(checkpoint), pictures(8))}
    assert len(lengths) > 1


def test_figures_are_those_of_one_teacher_forced_pass(checkpoint: Path) -> None:
    captioner = load(checkpoint)
    images = pictures(6)
    for image, caption in zip(images, captions(captioner, images), strict=True):
        expected = teacher_forced(captioner, image, numbers(caption))
        assert caption.token_logprobs == pytest.approx(expected, abs=2e-5)


def test_the_most_probable_token_is_taken_whatever_the_checkpoint_asks_for(
    checkpoint: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(checkpoint, folder)
    saved = {"num_beams": 4, "repetition_penalty": 5.0, "min_length": 15, "no_repeat_ngram_size": 1}
    path = folder / "generation_config.json"
    before = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps({**before, **saved}))
    images = pictures(4)
    plain, odd = captions(load(checkpoint), images), captions(load(folder), images)
    assert [caption.tokens for caption in plain] == [caption.tokens for caption in odd]


def test_a_caption_does_not_depend_on_its_batch(checkpoint: Path) -> None:
    captioner = load(checkpoint)
    images = pictures(8)
    together = captions(captioner, images)
    alone = [captions(captioner, [image])[0] for image in images]
    backwards = captions(captioner, images[::-1])[::-1]
    for other in (alone, backwards):
        for one, two in zip(together, other, strict=True):
            assert one.tokens == two.tokens
            assert one.token_logprobs == pytest.approx(two.token_logprobs, abs=1e-5)
            assert one.features == pytest.approx(two.features, abs=1e-5)
    assert captioner.caption([]) == []


@pytest.mark.parametrize("length", [1, 3])
def test_captions_are_no_longer_than_asked(checkpoint: Path, length: int) -> None:
    found = captions(load(checkpoint, max_length=length), pictures(4))
    assert max(len(caption.tokens) for caption in found) == length
    full = captions(load(checkpoint), pictures(4))
    for cut, whole in zip(found, full, strict=True):
        assert cut.tokens == whole.tokens[:length]


def test_more_tokens_than_the_model_has_positions_for(checkpoint: Path) -> None:
    found = captions(load(checkpoint, max_length=1000), pictures(8))
    assert max(len(caption.tokens) for caption in found) <= 40


def test_the_model_id_is_of_the_content(checkpoint: Path, tmp_path: Path) -> None:
    first = load(checkpoint)
    shutil.copytree(checkpoint, tmp_path / "copy")
    config = json.loads((tmp_path / "copy" / "config.json").read_text())
    config |= {"_name_or_path": "elsewhere", "transformers_version": "9.9"}
    (tmp_path / "copy" / "config.json").write_text(json.dumps(config, indent=7))
    copy = load(tmp_path / "copy")
    kind, _, digest = first.model_id.partition("@")
    assert (kind, len(digest)) == (first.model.config.model_type, 12)
    assert copy.model_id == first.model_id
    (tmp_path / "copy" / HEADS_FILE).write_text("{}")
    assert load(tmp_path / "copy").model_id == first.model_id, "a confidence head is no part of it"
    (tmp_path / "copy" / verifier_file("0" * 12)).write_bytes(b"")
    assert load(tmp_path / "copy").model_id == first.model_id, "nor is a verifier"
    weights = bytearray((tmp_path / "copy" / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (tmp_path / "copy" / "model.safetensors").write_bytes(weights)
    assert load(tmp_path / "copy").model_id != first.model_id


def test_a_model_from_another_store_and_by_its_uri(checkpoint: Path) -> None:
    filesystem = fsspec.filesystem("memory")
    for path in checkpoint.iterdir():
        filesystem.pipe_file(f"/models/{checkpoint.name}/{path.name}", path.read_bytes())
    images = pictures(2)
    expected = captions(load(checkpoint), images)
    for uri in (f"memory://models/{checkpoint.name}", f"file://{checkpoint}"):
        captioner = load(uri)
        assert captioner.model_id == load(checkpoint).model_id
        assert [c.tokens for c in captions(captioner, images)] == [c.tokens for c in expected]


def test_a_precision_is_that_of_the_weights(checkpoint: Path) -> None:
    captioner = load(checkpoint, precision="bfloat16")
    assert captioner.model.dtype == torch.bfloat16
    assert len(captions(captioner, pictures(2))) == 2


# --- images -------------------------------------------------------------------------------------


def test_images_are_normalised_as_their_processor_does(checkpoint: Path) -> None:
    captioner = load(checkpoint)
    image = pictures(1)[0]
    resized = np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BILINEAR), np.float64)
    expected = (resized / 255 - [0.5, 0.4, 0.3]) / [0.2, 0.25, 0.3]
    pixels = captioner._pixels([captioner.prepare(image)])[0].permute(1, 2, 0)
    assert captioner.prepare(image).pixels.dtype == np.uint8
    assert np.allclose(pixels.numpy(), expected, atol=1e-5)
    assert captioner.image_size == (SIDE, SIDE)


def test_the_middle_is_cut_out_where_the_processor_does() -> None:
    settings = {"size": {"shortest_edge": 40}, "do_center_crop": True, "resample": 3}
    settings |= {"crop_size": {"height": 32, "width": 32}, "do_normalize": False}
    view = View.of(settings, None)
    prepared = view.prepare(Image.new("RGB", (200, 100), "red"))
    assert prepared.pixels.shape == (32, 32, 3)
    geometry = prepared.geometry
    assert (geometry.scale_x, geometry.scale_y) == (0.4, 0.4)
    assert (geometry.offset_x, geometry.offset_y) == (-24, -4)
    assert 100 * geometry.scale_x + geometry.offset_x == 16  # the middle stays the middle


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"size": 24}, (24, 24, None)),
        ({"size": {"width": 24, "height": 16}}, (24, 16, None)),
        ({"size": 30, "crop_size": 24, "do_center_crop": True}, (24, 24, 30)),
        ({"size": {"shortest_edge": 24}}, (24, 24, 24)),
    ],
)
def test_sizes_as_older_and_newer_processors_write_them(
    settings: dict[str, object], expected: tuple[int, int, int | None]
) -> None:
    view = View.of({**settings, "do_normalize": False}, None)
    assert (view.width, view.height, view.shortest_edge) == expected


# --- what is refused ----------------------------------------------------------------------------


def test_pickled_weights_are_refused(checkpoint: Path, tmp_path: Path) -> None:
    shutil.copytree(checkpoint, tmp_path / "model")
    state = transformers.AutoConfig.from_pretrained(checkpoint)
    torch.save({"config": str(state)}, tmp_path / "model" / "pytorch_model.bin")
    (tmp_path / "model" / "model.safetensors").unlink()
    with pytest.raises(ModelLoadError, match=r"no weights in safetensors \(only pytorch_model.bin"):
        load(tmp_path / "model")


def test_code_that_comes_with_a_model_is_not_run(checkpoint: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(checkpoint, folder)
    config = json.loads((folder / "config.json").read_text())
    config["auto_map"] = {"AutoModel": "evil.Model", "AutoConfig": "evil.Config"}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    assert captions(load(folder), pictures(1))
    assert not (tmp_path / "ran").exists()


def drop_a_tensor(folder: Path) -> None:
    path = folder / "model.safetensors"
    tensors = safetensors.torch.load_file(path)
    del tensors["git.encoder.layer.1.output.dense.weight"]
    safetensors.torch.save_file(tensors, path, {"format": "pt"})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: (f / "config.json").unlink(), "config.json"),
        (lambda f: (f / "config.json").write_text("{"), "config.json"),
        (lambda f: (f / "config.json").write_text("[]"), "config.json holds no object"),
        (lambda f: (f / "config.json").write_text('{"model_type": "bert"}'), "'bert'; those known"),
        (lambda f: (f / "preprocessor_config.json").unlink(), "no preprocessor_config.json"),
        (lambda f: (f / "model.safetensors").write_bytes(b"\0" * 64), "cannot be loaded"),
        (lambda f: (f / "tokenizer.json").write_text("{"), "cannot be loaded"),
        (drop_a_tensor, "its weights lack 1 tensors, such as git.encoder.layer.1"),
    ],
)
def test_a_broken_checkpoint_is_refused_with_a_reason(
    checkpoints: dict[str, Path], tmp_path: Path, change: Callable[[Path], object], message: str
) -> None:
    shutil.copytree(checkpoints["git"], tmp_path / "model")
    change(tmp_path / "model")
    with pytest.raises(ModelLoadError, match=message):
        load(tmp_path / "model")


@pytest.mark.parametrize(
    "decoding", [{"strategy": "beam"}, {"min_length": 2}, {"forbidden_words": ("dog",)}]
)
def test_a_way_of_decoding_that_it_does_not_know_is_refused(
    checkpoint: Path, decoding: dict[str, object]
) -> None:
    (name,) = decoding
    with pytest.raises(ModelLoadError, match=f"{name} is .*leave --{name} out"):
        load(checkpoint, **decoding)


def test_features_that_it_cannot_tell_are_refused(checkpoint: Path) -> None:
    load = loading.load
    with pytest.raises(ModelLoadError, match="image_information is asked for, but models of Hug"):
        load(str(checkpoint), device="cpu", extras=["image_information"])
    assert load(str(checkpoint), device="cpu").fills == ()


def test_a_model_that_is_nowhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import huggingface_hub

    def offline(*arguments: object, **options: object) -> None:
        raise OSError("cannot reach the Hub")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", offline)
    with pytest.raises(ModelLoadError, match="'no/model'.*cannot reach the Hub; name a model"):
        load("no/model")
    with pytest.raises(ModelLoadError, match="memory://none"):
        load("memory://none/model")


def test_without_transformers_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ModelLoadError, match=r"pip install 'captioner\[huggingface\]'"):
        huggingface.load("some/model", "cpu", DecodingConfig())
