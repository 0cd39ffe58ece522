"""Image-to-text models of Hugging Face ``transformers``, as captioners.

They run through their own ``generate``, greedily, with every setting that a checkpoint brings
(penalties, beams, forced tokens) put aside: the caption is the most probable token at each step,
and its figures are of the model's own distribution.
"""

import hashlib
import json
import math
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import torch
from PIL import Image

from captioner.checkpoint import choose_device
from captioner.contract import (
    Caption,
    Captioner,
    DecodingConfig,
    Geometry,
    ModelLoadError,
    Prepared,
)
from captioner.decoding import Decoded
from captioner.model import features
from schemas.uris import redact

CLASSES = {
    "vision-encoder-decoder": "VisionEncoderDecoderModel",
    "blip": "BlipForConditionalGeneration",
    "git": "GitForCausalLM",
}
"""Which models are known, by ``model_type``, and their class in ``transformers``."""

END = "<end>"
"""Stands for the end-of-sequence token, as the contract asks."""

INSTALL = "pip install 'captioner[huggingface]'"

_FILES = ("*.json", "*.txt", "*.model", "*.safetensors")
_HASHED = (".json", ".txt", ".model", ".safetensors")
_NOT_HASHED = ("_name_or_path", "transformers_version")
_BLOCK = 1 << 20


def load(name_or_path: str, device: str, decoding: DecodingConfig) -> Captioner:
    """Load an image-to-text model from the Hub or a folder.

    Args:
        name_or_path: a model's name on the Hub, or a folder on any store.
        device: auto, cpu, cuda or mps.
        decoding: how captions are made.

    Raises:
        ModelLoadError: if ``transformers`` is not installed, or there is no such model, or its
            weights are not safetensors, or it is of a kind that is not known.
    """
    transformers = _transformers()
    where = choose_device(device)
    with tempfile.TemporaryDirectory() as temporary:
        folder = _folder(name_or_path, Path(temporary))
        config = _json(folder, "config.json", name_or_path)
        kind = _checked_kind(folder, config, name_or_path)
        try:
            model = _model(transformers, kind, folder, decoding)
            tokenizer = transformers.AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        except Exception as error:  # safetensors and tokenizers have exceptions of their own
            raise ModelLoadError(_cannot(name_or_path, str(error))) from error
        view = View.of(_image_settings(folder, name_or_path), model.config)
        model_id = f"{kind}@{_content_hash(folder)}"
    if where.type == "cuda" and decoding.precision == "float32":
        torch.backends.cuda.matmul.allow_tf32 = False
        torch.backends.cudnn.allow_tf32 = False
    return HuggingFaceCaptioner(model.to(where), tokenizer, view, model_id, decoding)


def _transformers() -> Any:
    try:
        import transformers
    except ImportError as error:
        raise ModelLoadError(
            f"models of Hugging Face need the package transformers, which is missing: {INSTALL}"
        ) from error
    return transformers


def _cannot(name: str, reason: str) -> str:
    return f"model {redact(name)!r} cannot be loaded: {redact(reason)}"


# --- files --------------------------------------------------------------------------------------


def _folder(name: str, temporary: Path) -> Path:
    """Return a local folder with the model's files, fetched if they are elsewhere."""
    local = name.removeprefix("file://")
    if os.path.isdir(local):
        return Path(local)
    try:
        return _fetched(name, temporary) if "://" in name else _from_hub(name)
    except Exception as error:  # each store and the Hub have exceptions of their own
        reason = f"{error}; name a model of the Hub, or a folder"
        raise ModelLoadError(_cannot(name, reason)) from error


def _fetched(uri: str, temporary: Path) -> Path:
    """Copy the files of a folder on a store."""
    filesystem, path = fsspec.core.url_to_fs(uri)
    for file in filesystem.ls(path, detail=False):
        name = file.rstrip("/").rpartition("/")[2]
        if name.endswith(_HASHED):
            filesystem.get_file(file, str(temporary / name))
    return temporary


def _from_hub(name: str) -> Path:
    from huggingface_hub import snapshot_download

    return Path(snapshot_download(name, allow_patterns=list(_FILES), ignore_patterns=["*/*"]))


def _json(folder: Path, file: str, name: str) -> dict[str, Any]:
    try:
        content = json.loads((folder / file).read_bytes())
    except (OSError, ValueError) as error:
        raise ModelLoadError(_cannot(name, f"{file}: {error}")) from error
    if not isinstance(content, dict):
        raise ModelLoadError(_cannot(name, f"{file} holds no object"))
    return content


def _checked_kind(folder: Path, config: dict[str, Any], name: str) -> str:
    """Return the model's type, if it is known and its weights run no code when they are read."""
    kind = str(config.get("model_type"))
    if kind not in CLASSES:
        known = ", ".join(CLASSES)
        raise ModelLoadError(_cannot(name, f"model_type is {kind!r}; those known are {known}"))
    if not any(folder.glob("*.safetensors")):
        others = [path.name for path in folder.glob("*") if path.suffix in (".bin", ".pt", ".h5")]
        found = f" (only {', '.join(sorted(others))})" if others else ""
        reason = (
            f"it has no weights in safetensors{found}, and others can run code when they are "
            "read; convert them once with model.save_pretrained(FOLDER) of transformers"
        )
        raise ModelLoadError(_cannot(name, reason))
    return kind


def _model(transformers: Any, kind: str, folder: Path, decoding: DecodingConfig) -> Any:
    model, info = getattr(transformers, CLASSES[kind]).from_pretrained(
        folder,
        use_safetensors=True,
        trust_remote_code=False,
        dtype=getattr(torch, decoding.precision),
        output_loading_info=True,
    )
    # transformers makes up what is missing; only the pooler plays no part in a caption.
    missing = sorted(key for key in info["missing_keys"] if ".pooler." not in key)
    if missing:
        raise ValueError(f"its weights lack {len(missing)} tensors, such as {missing[0]}")
    return model.eval()


def _image_settings(folder: Path, name: str) -> dict[str, Any]:
    """Return the settings of the image processor; newer checkpoints keep them with others."""
    if (folder / "preprocessor_config.json").exists():
        return _json(folder, "preprocessor_config.json", name)
    if (folder / "processor_config.json").exists():
        settings = _json(folder, "processor_config.json", name).get("image_processor")
        if isinstance(settings, dict):
            return settings
    raise ModelLoadError(_cannot(name, "it has no preprocessor_config.json"))


def _content_hash(folder: Path) -> str:
    """Return a hash of weights, configuration and words, wherever and whenever they were saved."""
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.iterdir() if path.suffix in _HASHED):
        content = _canonical(path) if path.name == "config.json" else None
        size = path.stat().st_size if content is None else len(content)
        digest.update(f"{path.name}\0{size}\0".encode())
        if content is not None:
            digest.update(content)
            continue
        with path.open("rb") as file:
            while block := file.read(_BLOCK):
                digest.update(block)
    return digest.hexdigest()[:12]


def _canonical(path: Path) -> bytes:
    """Return a configuration without the folder and the version that it was saved from."""
    content = json.loads(path.read_bytes())
    kept = {key: value for key, value in content.items() if key not in _NOT_HASHED}
    return json.dumps(kept, sort_keys=True).encode()


# --- images -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class View:
    """How a model wants its images.

    Attributes:
        width: of what the model sees.
        height: likewise.
        shortest_edge: size that the shorter side is brought to before the middle is cut out;
            None squeezes the whole image into width and height.
        resample: Pillow's filter.
        factor: what the 8-bit values are multiplied with.
        mean: subtracted from each channel after that.
        std: what each channel is divided by after that.
    """

    width: int
    height: int
    shortest_edge: int | None
    resample: Image.Resampling
    factor: float
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def of(cls, settings: dict[str, Any], config: Any) -> "View":
        """Read the settings of a ``transformers`` image processor."""
        vision = getattr(config, "vision_config", None) or getattr(config, "encoder", config)
        default = getattr(vision, "image_size", 224)
        crop = _sides(settings["crop_size"]) if settings.get("do_center_crop") else None
        size = settings.get("size", default)
        shortest = size.get("shortest_edge") if isinstance(size, dict) else (size if crop else None)
        width, height = crop or _sides(size if shortest is None else shortest)
        normal = settings.get("do_normalize", True)
        return cls(
            width,
            height,
            shortest,
            Image.Resampling(settings.get("resample", Image.Resampling.BICUBIC)),
            settings.get("rescale_factor", 1 / 255) if settings.get("do_rescale", True) else 1.0,
            tuple(settings["image_mean"]) if normal else (0.0,) * 3,
            tuple(settings["image_std"]) if normal else (1.0,) * 3,
        )

    def prepare(self, image: Image.Image) -> Prepared:
        """Bring an RGB image to the size."""
        image = image.convert("RGB")
        if self.shortest_edge is None:
            resized = image.resize((self.width, self.height), self.resample)
            return _prepared(image, resized, resized.size, (0, 0))
        scale = self.shortest_edge / min(image.size)
        size = tuple(max(self.shortest_edge, int(side * scale)) for side in image.size)
        left, top = (size[0] - self.width) // 2, (size[1] - self.height) // 2
        resized = image.resize((size[0], size[1]), self.resample)
        cut = resized.crop((left, top, left + self.width, top + self.height))
        return _prepared(image, cut, resized.size, (left, top))


def _prepared(
    original: Image.Image, seen: Image.Image, resized: tuple[int, int], cut: tuple[int, int]
) -> Prepared:
    width, height = original.size
    scale_x, scale_y = resized[0] / width, resized[1] / height
    geometry = Geometry(width, height, scale_x, scale_y, float(-cut[0]), float(-cut[1]))
    return Prepared(np.array(seen), geometry)


def _sides(size: Any) -> tuple[int, int]:
    if isinstance(size, dict):
        return int(size["width"]), int(size["height"])
    return int(size), int(size)


# --- captions -----------------------------------------------------------------------------------


class HuggingFaceCaptioner:
    """A model of ``transformers`` with its words: fits the ``Captioner`` contract."""

    def __init__(
        self, model: Any, tokenizer: Any, view: View, model_id: str, decoding: DecodingConfig
    ) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.view = view
        self._model_id = model_id
        self._decoding = decoding
        self._generation = _generation(model, decoding)
        device = model.device
        self._mean = torch.tensor(view.mean, device=device).view(1, 3, 1, 1)
        self._std = torch.tensor(view.std, device=device).view(1, 3, 1, 1)

    @property
    def model_id(self) -> str:
        """Kind and hash of weights, configuration and words, wherever they are kept or run."""
        return self._model_id

    @property
    def decoding(self) -> DecodingConfig:
        """How captions are made from the model's probabilities."""
        return self._decoding

    @property
    def image_size(self) -> tuple[int, int]:
        """Width and height that ``prepare`` brings images to, at least on their shorter side."""
        edge = self.view.shortest_edge or 0
        return max(self.view.width, edge), max(self.view.height, edge)

    def prepare(self, image: Image.Image) -> Prepared:
        """Bring an image to the model's size, on any thread."""
        return self.view.prepare(image)

    @torch.inference_mode()
    def caption(self, batch: Sequence[Prepared]) -> list[Caption]:
        """Caption a batch; each caption depends on its own image alone."""
        if not batch:
            return []
        recorder = _Recorder(_ends(self.model))
        self.model.generate(
            pixel_values=self._pixels(batch),
            generation_config=self._generation,
            logits_processor=[recorder],
        )
        return [self._finish(decoded) for decoded in recorder.captions()]

    def _pixels(self, batch: Sequence[Prepared]) -> torch.Tensor:
        """Bring a batch to the device as bytes, and normalise it there."""
        stacked = torch.from_numpy(np.stack([item.pixels for item in batch])).to(self._mean.device)
        values = stacked.permute(0, 3, 1, 2).float() * self.view.factor
        return ((values - self._mean) / self._std).to(self.model.dtype)

    def _finish(self, decoded: Decoded) -> Caption:
        ends = _ends(self.model)
        names = self.tokenizer.convert_ids_to_tokens(decoded.tokens)
        text = self.tokenizer.decode(decoded.tokens, skip_special_tokens=True).strip()
        return Caption(
            text=text,
            tokens=tuple(
                END if number in ends else str(name)
                for number, name in zip(decoded.tokens, names, strict=True)
            ),
            token_logprobs=tuple(decoded.logprobs),
            n_best=((text, math.fsum(decoded.logprobs)),),
            features=features(decoded),
        )


class _Recorder:
    """Takes the figures of each step, and no logits: those of 60 steps can fill a device.

    ``generate`` calls it with the logits of a step, before it takes the highest.
    """

    def __init__(self, ends: frozenset[int]) -> None:
        self._ends = ends
        self._steps: list[torch.Tensor] = []

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        logprobs = scores.float().log_softmax(1)
        probabilities = logprobs.exp()
        best = scores.argmax(1)
        first = logprobs.gather(1, best.unsqueeze(1)).squeeze(1)
        runner_up = logprobs.scatter(1, best.unsqueeze(1), float("-inf")).amax(1)
        entropies = -(probabilities * logprobs.clamp_min(-1e4)).sum(1)
        end = probabilities[:, sorted(self._ends)].sum(1)
        margins = first.exp() - runner_up.exp()
        figures = (best.double(), first, entropies, margins, end)
        self._steps.append(torch.stack([figure.double() for figure in figures], 1))
        return scores

    def captions(self) -> list[Decoded]:
        """Return what was recorded of each row, up to its end: what follows is padding."""
        rows = torch.stack(self._steps, 1).cpu().tolist()  # (captions, steps, figures)
        return [self._until_end(row) for row in rows]

    def _until_end(self, steps: list[list[float]]) -> Decoded:
        decoded = Decoded()
        for token, logprob, entropy, margin, decoded.end_probability in steps:
            decoded.tokens.append(int(token))
            decoded.logprobs.append(logprob)
            decoded.entropies.append(entropy)
            decoded.margins.append(margin)
            if int(token) in self._ends:
                break
        return decoded


def _decoder(model: Any) -> Any:
    """Return the part of a model that writes: the whole of it, save in BLIP."""
    return getattr(model, "text_decoder", model)


def _text_config(model: Any) -> Any:
    config = model.config
    return getattr(config, "text_config", None) or getattr(config, "decoder", None) or config


def _ends(model: Any) -> frozenset[int]:
    """Return the tokens that end a caption; BLIP ends with the separator."""
    if model.config.model_type == "blip":
        return frozenset([model.config.text_config.sep_token_id])
    saved = model.generation_config.eos_token_id
    found = saved if saved is not None else _text_config(model).eos_token_id
    return frozenset(found if isinstance(found, list) else [found])


def _generation(model: Any, decoding: DecodingConfig) -> Any:
    """Return settings for plain greedy decoding, and put them in place of the checkpoint's.

    ``generate`` fills in what is not set here from those that are in the model.
    """
    config, saved, text = model.config, model.generation_config, _text_config(model)
    ends = sorted(_ends(model))
    start = getattr(saved, "decoder_start_token_id", None)
    start = start if start is not None else getattr(config, "decoder_start_token_id", None)
    begin = saved.bos_token_id if saved.bos_token_id is not None else text.bos_token_id
    pad = saved.pad_token_id if saved.pad_token_id is not None else text.pad_token_id
    plain = _transformers().GenerationConfig(
        do_sample=False,
        num_beams=1,
        max_new_tokens=min(decoding.max_length, _positions(text) - 1),
        bos_token_id=begin,
        eos_token_id=ends,
        pad_token_id=pad if pad is not None else ends[0],
        decoder_start_token_id=start if start is not None else begin,
    )
    model.generation_config = plain
    _decoder(model).generation_config = plain
    return plain


def _positions(text_config: Any) -> int:
    return int(getattr(text_config, "max_position_embeddings", 1 << 30))
