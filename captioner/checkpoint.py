"""Checkpoints: a folder of config.json, model.safetensors and tokenizer.json, anywhere."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, Literal, get_origin

import fsspec
import safetensors
import safetensors.torch
import torch

from captioner.contract import DecodingConfig, ModelLoadError
from captioner.decoders import LSTMDecoderConfig, TransformerDecoderConfig
from captioner.encoders import GridEncoderConfig
from captioner.model import AttentionCaptioner, CaptionModel, ModelConfig
from captioner.tokenizer import WordTokenizer
from schemas.uris import redact

FORMAT_VERSION = 1
ARCHITECTURE = "attention-captioner"
CONFIG, WEIGHTS, TOKENIZER = "config.json", "model.safetensors", "tokenizer.json"

_MAX_BYTES = {CONFIG: 1 << 20, WEIGHTS: 8 << 30, TOKENIZER: 64 << 20}
_NAME_LETTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.")

_ENCODERS: Mapping[str, type[Any]] = {"grid": GridEncoderConfig}
_DECODERS: Mapping[str, type[Any]] = {
    "lstm": LSTMDecoderConfig,
    "transformer": TransformerDecoderConfig,
}


class CheckpointError(ModelLoadError):
    """A checkpoint that cannot be loaded: says what is wrong with it and what to do."""


def embedded_path() -> str:
    """The folder of the model that ships with the package; it knows synthetic scenes only."""
    return str(Path(__file__).parent / "data" / "embedded")


def load(
    path: str, device: str = "auto", decoding: DecodingConfig | None = None
) -> AttentionCaptioner:
    """Load a captioner.

    Args:
        path: the checkpoint's folder, local or on any file system that fsspec knows.
        device: ``auto`` takes cuda, then mps, then cpu; or a device by name.
        decoding: how captions are made; greedy by default.

    Raises:
        CheckpointError: if something is missing, broken, too large, or of another version.
    """
    where = choose_device(device)
    config_bytes, weights, words = (_read(path, name) for name in (CONFIG, WEIGHTS, TOKENIZER))
    path = redact(path)  # From here on it is only shown.
    config = _parse_config(config_bytes, path)
    tokenizer = _parse_tokenizer(words, path)
    if len(tokenizer) != config.decoder.vocabulary_size:
        raise CheckpointError(
            f"{path}: {TOKENIZER} has {len(tokenizer)} tokens but {CONFIG} says vocabulary_size "
            f"{config.decoder.vocabulary_size}; use the files of one checkpoint"
        )
    model = _build(config, weights, path)
    if where.type == "cuda":  # Promise 5: float32 means float32.
        torch.backends.cuda.matmul.allow_tf32 = False
        torch.backends.cudnn.allow_tf32 = False
    return AttentionCaptioner(
        model,
        tokenizer,
        model_id=_model_id(config, weights, words),
        decoding=decoding,
        device=where,
    )


def save(model: CaptionModel, tokenizer: WordTokenizer, path: str) -> None:
    """Write a checkpoint's folder.

    Args:
        model: what was trained.
        tokenizer: its words.
        path: the folder, local or on any file system that fsspec knows; made where missing.
    """
    files = {
        CONFIG: _config_json(model.config, indent=2).encode() + b"\n",
        WEIGHTS: _weights_bytes(model),
        TOKENIZER: tokenizer.to_json().encode() + b"\n",
    }
    fs, folder = fsspec.core.url_to_fs(path)
    fs.makedirs(folder, exist_ok=True)
    for name, data in files.items():
        fs.pipe_file(f"{folder.rstrip('/')}/{name}", data)


def choose_device(name: str) -> torch.device:
    """Turn a name into a device that is there.

    Raises:
        CheckpointError: if it is not there, or no such device is known.
    """
    there = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    if name == "auto":
        name = next(kind for kind, available in there.items() if available)
    kind = name.partition(":")[0]
    if not there.get(kind):
        known = ", ".join(kind for kind, available in there.items() if available)
        raise CheckpointError(f"device {name!r} is not there; use auto or one of: {known}")
    return torch.device(name)


def _read(path: str, name: str) -> bytes:
    """Read one file of a checkpoint, if it is no larger than such a file may be."""
    shown = redact(path)
    try:
        fs, folder = fsspec.core.url_to_fs(path)
        file = f"{folder.rstrip('/')}/{name}"
        size = fs.size(file)
        if size is None or size > _MAX_BYTES[name]:
            raise CheckpointError(
                f"{shown}: {name} has {size} bytes, more than the {_MAX_BYTES[name]} that it may "
                "have; check that this is a checkpoint"
            )
        data = fs.cat_file(file)
    except CheckpointError:
        raise
    except FileNotFoundError as error:
        raise CheckpointError(
            f"{shown}: there is no {name}; name a folder with {CONFIG}, {WEIGHTS} and {TOKENIZER}"
        ) from error
    except Exception as error:  # Each file system raises its own kinds.
        raise CheckpointError(
            f"{shown}: {name} cannot be read ({type(error).__name__}: {redact(str(error))}); "
            "check path, permissions and connection"
        ) from error
    if not isinstance(data, bytes):
        raise CheckpointError(f"{shown}: {name} gave {type(data).__name__} where bytes were wanted")
    return data


def _parse_config(data: bytes, path: str) -> ModelConfig:
    try:
        config = json.loads(data)
    except ValueError as error:
        raise CheckpointError(f"{path}: {CONFIG} is not JSON: {error}; save it anew") from error
    if not isinstance(config, dict):
        raise CheckpointError(f"{path}: {CONFIG} holds no object; save it anew")
    if config.get("architecture") != ARCHITECTURE:
        raise CheckpointError(
            f"{path}: architecture is {config.get('architecture')!r}, not {ARCHITECTURE!r}; "
            "this is another kind of model"
        )
    version = config.get("format_version")
    if type(version) is not int or version < 1:
        raise CheckpointError(
            f"{path}: format_version is {version!r}; versions 1 to {FORMAT_VERSION} are known"
        )
    if version > FORMAT_VERSION:
        raise CheckpointError(
            f"{path}: format_version is {version}, newer than {FORMAT_VERSION}; install a newer "
            "version of this package"
        )
    known = {"architecture", "format_version", "name", "encoder", "decoder"}
    if set(config) != known:
        raise CheckpointError(
            f"{path}: {CONFIG} has the keys {sorted(config)}, not {sorted(known)}; save it anew"
        )
    name = config["name"]
    if not isinstance(name, str) or not 1 <= len(name) <= 64 or not _NAME_LETTERS.issuperset(name):
        raise CheckpointError(
            f"{path}: name is {name!r}; use 1 to 64 letters, digits and the marks - _ ."
        )
    return ModelConfig(
        name=name,
        encoder=_parse_part(_ENCODERS, config["encoder"], f"{path}: encoder"),
        decoder=_parse_part(_DECODERS, config["decoder"], f"{path}: decoder"),
    )


def _parse_part(kinds: Mapping[str, type[Any]], values: Any, what: str) -> Any:
    """Make a config dataclass of what JSON holds, every value checked against its field."""
    kind = values.get("kind") if isinstance(values, Mapping) else None
    if not isinstance(kind, str) or kind not in kinds:
        raise CheckpointError(f"{what}: kind is {kind!r}; those known are {', '.join(kinds)}")
    values = {name: value for name, value in values.items() if name != "kind"}
    types = {field.name: field.type for field in fields(kinds[kind])}
    if set(values) != set(types):
        raise CheckpointError(f"{what} has {sorted(values)}, not {sorted(types)}; save it anew")
    checked: dict[str, Any] = {}
    for name, value in values.items():
        if types[name] is int:
            good = type(value) is int
        elif types[name] is float:
            good = type(value) in (int, float)
        elif get_origin(types[name]) is Literal:
            good = isinstance(value, str)
        else:
            good = isinstance(value, list) and all(type(item) is int for item in value)
        if not good:
            raise CheckpointError(f"{what}: {name} is {value!r}, not of its type; save it anew")
        checked[name] = tuple(value) if isinstance(value, list) else value
    try:
        return kinds[kind](**checked)
    except ValueError as error:
        raise CheckpointError(f"{what}: {error}") from error


def _parse_tokenizer(data: bytes, path: str) -> WordTokenizer:
    try:
        return WordTokenizer.from_json(data.decode())
    except Exception as error:  # The tokenizers library raises bare Exception.
        raise CheckpointError(
            f"{path}: {TOKENIZER} cannot be read ({error}); save it anew"
        ) from error


def _build(config: ModelConfig, data: bytes, path: str) -> CaptionModel:
    try:
        weights = safetensors.torch.load(data)
    except safetensors.SafetensorError as error:
        raise CheckpointError(
            f"{path}: {WEIGHTS} is not a whole safetensors file ({error}); copy or save it anew"
        ) from error
    # Shapes are compared before any memory is taken for the model itself.
    with torch.device("meta"):
        model = CaptionModel(config)
    wanted = {name: (value.shape, value.dtype) for name, value in model.state_dict().items()}
    found = {name: (value.shape, value.dtype) for name, value in weights.items()}
    if wanted != found:
        wrong = sorted(
            name for name in wanted.keys() | found.keys() if wanted.get(name) != found.get(name)
        )
        raise CheckpointError(
            f"{path}: {WEIGHTS} does not fit {CONFIG}: {len(wrong)} tensors are missing, unknown "
            f"or of another shape, the first is {wrong[0]!r}; use the files of one checkpoint"
        )
    model.load_state_dict(weights, assign=True)
    return model


def _weights_bytes(model: CaptionModel) -> bytes:
    weights = {
        name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()
    }
    return safetensors.torch.save(weights)


def _config_json(config: ModelConfig, indent: int | None = None) -> str:
    content = {
        "architecture": ARCHITECTURE,
        "format_version": FORMAT_VERSION,
        "name": config.name,
        "encoder": _part(_ENCODERS, config.encoder),
        "decoder": _part(_DECODERS, config.decoder),
    }
    separators = (",", ":") if indent is None else None
    return json.dumps(content, sort_keys=True, indent=indent, separators=separators)


def _part(kinds: Mapping[str, type[Any]], config: Any) -> dict[str, Any]:
    kind = next(name for name, known in kinds.items() if type(config) is known)
    return {"kind": kind, **asdict(config)}


def _model_id(config: ModelConfig, weights: bytes, words: bytes) -> str:
    """Name and hash; each part is preceded by its length, so that no two models share one."""
    digest = hashlib.sha256()
    for part in (weights, _config_json(config).encode(), words):
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return f"{config.name}@{digest.hexdigest()[:12]}"
