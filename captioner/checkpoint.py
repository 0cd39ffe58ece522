"""Checkpoints: a folder of config.json, model.safetensors and tokenizer.json, anywhere.

A model may have statistics.safetensors besides: what its encoder saw of training images.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import MISSING, Field, asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import fsspec
import safetensors
import safetensors.torch
import torch
from torch import nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from captioner.confidence.head import HeadError, load_heads, load_verifier
from captioner.contract import DecodingConfig, ModelLoadError
from captioner.decoders import DECODERS
from captioner.devices import choose_device
from captioner.encoders import ENCODERS
from captioner.folding import fold, is_folded
from captioner.heads import HEADS, HeadsConfig
from captioner.model import AttentionCaptioner, CaptionModel, ModelConfig
from captioner.statistics import FeatureStatistics
from captioner.tokenizer import CaptionTokenizer
from captioner.verifier import Verifier
from schemas.uris import redact

FORMAT_VERSION = 1
ARCHITECTURE = "attention-captioner"
CONFIG, WEIGHTS, TOKENIZER = "config.json", "model.safetensors", "tokenizer.json"
STATISTICS = "statistics.safetensors"
CARD = "README.md"

_MAX_BYTES = {CONFIG: 1 << 20, WEIGHTS: 8 << 30, TOKENIZER: 64 << 20, STATISTICS: 64 << 20}

_MARGIN = 100
"""Weights that a model may make and throw away again while it is built."""

_ENCODERS: Mapping[str, type[Any]] = {name: config for name, (config, _) in ENCODERS.items()}
_DECODERS: Mapping[str, type[Any]] = {name: config for name, (config, _) in DECODERS.items()}
_HEADS: Mapping[str, type[Any]] = {name: config for name, (config, _) in HEADS.items()}


class CheckpointError(ModelLoadError):
    """A checkpoint that cannot be loaded: says what is wrong with it and what to do."""


def embedded_path() -> str:
    """The folder of the model that ships with the package; it knows synthetic scenes only."""
    return str(Path(__file__).parent / "data" / "embedded")


def load(
    path: str,
    device: str = "auto",
    decoding: DecodingConfig | None = None,
    extras: Sequence[str] = (),
    *,
    with_verifier: bool = True,
) -> AttentionCaptioner:
    """Load a captioner.

    Args:
        path: the checkpoint's folder, local or on any file system that fsspec knows.
        device: ``auto`` takes cuda, then mps, then cpu; or a device by name.
        decoding: how captions are made; greedy by default.
        extras: features, of ``EXTRAS``, that are to be computed besides those that cost little.
        with_verifier: with that of the folder's confidence head for this decoding, if there is one.

    Raises:
        CheckpointError: if something is missing, broken, too large, or of another version.
        HeadError: if its confidence heads are, or the verifier of the head for that decoding.
        ModelLoadError: if captions in that way, or those features, are beyond the model.
    """
    where = choose_device(device)
    stored = read(path)
    verifier = None
    if with_verifier:
        verifier = _verifier(path, stored.model_id, (decoding or DecodingConfig()).id)
    model = stored.model.eval()
    fold(model)
    if where.type == "cuda":  # Promise 5: float32 means float32.
        torch.backends.cuda.matmul.allow_tf32 = False
        torch.backends.cudnn.allow_tf32 = False
    return AttentionCaptioner(
        model,
        stored.tokenizer,
        model_id=stored.model_id,
        decoding=decoding,
        device=where,
        statistics=stored.statistics,
        extras=extras,
        verifier=verifier,
    )


def _verifier(path: str, model_id: str, decoding: str) -> Verifier | None:
    """Return the verifier of a folder's confidence head for a way of decoding, if it has one."""
    for head in load_heads(path):
        if (head.model_id, head.decoding) == (model_id, decoding) and head.verifier:
            try:
                return load_verifier(path, head.verifier)
            except HeadError:
                # Heads that were replaced in between name another; what is broken stays so.
                if head in load_heads(path):
                    raise
                return _verifier(path, model_id, decoding)
    return None


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint's folder holds.

    Attributes:
        model: with its weights, as it was saved: fit to be trained further.
        tokenizer: its words.
        statistics: of the features of its training images, None if there are none.
        model_id: name and hash.
    """

    model: CaptionModel
    tokenizer: CaptionTokenizer
    statistics: FeatureStatistics | None
    model_id: str


def read(path: str) -> Checkpoint:
    """Read a checkpoint's folder, local or on any file system that fsspec knows.

    Raises:
        CheckpointError: if something is missing, broken, too large, or of another version.
    """
    config_bytes, weights, words = (_read(path, name) for name in (CONFIG, WEIGHTS, TOKENIZER))
    known = _read_if_there(path, STATISTICS)
    path = redact(path)  # From here on it is only shown.
    config = _parse_config(config_bytes, path)
    tokenizer = _parse_tokenizer(words, path)
    if len(tokenizer) != config.decoder.vocabulary_size:
        raise CheckpointError(
            f"{path}: {TOKENIZER} has {len(tokenizer)} tokens but {CONFIG} says vocabulary_size "
            f"{config.decoder.vocabulary_size}; use the files of one checkpoint"
        )
    model = _build(config, weights, path)
    statistics = None if known is None else _parse_statistics(known, model, path)
    model_id = _model_id(config, weights, words, known)
    return Checkpoint(model, tokenizer, statistics, model_id)


def save(
    model: CaptionModel,
    tokenizer: CaptionTokenizer,
    path: str,
    statistics: FeatureStatistics | None = None,
) -> None:
    """Write a checkpoint's folder; statistics of another model that lie there go.

    Args:
        model: what was trained.
        tokenizer: its words.
        path: the folder, local or on any file system that fsspec knows; made where missing.
        statistics: of the features of its training images.

    Raises:
        ValueError: if the model was loaded to caption, so that its batch norms are folded.
    """
    if is_folded(model):
        raise ValueError(
            f"the batch norms of {model.config.name} are folded, as load does to caption; save a "
            "model that comes from read"
        )
    files = {
        CONFIG: json.dumps(_content(model.config), sort_keys=True, indent=2).encode() + b"\n",
        WEIGHTS: _weights_bytes(model),
        TOKENIZER: tokenizer.to_json().encode() + b"\n",
    }
    fs, folder = fsspec.core.url_to_fs(path)
    fs.makedirs(folder, exist_ok=True)
    for name, data in files.items():
        fs.pipe_file(f"{folder.rstrip('/')}/{name}", data)
    if statistics is not None:
        put_statistics(path, statistics)
    elif fs.exists(old := f"{folder.rstrip('/')}/{STATISTICS}"):
        fs.rm_file(old)


def put_statistics(path: str, statistics: FeatureStatistics) -> None:
    """Put statistics into a checkpoint's folder, whole or not at all; its model id is another then.

    Args:
        path: the folder, local or on any file system that fsspec knows.
        statistics: of the features of its training images.
    """
    fs, folder = fsspec.core.url_to_fs(path)
    new = f"{folder.rstrip('/')}/{STATISTICS}.new"
    fs.pipe_file(new, statistics.to_bytes())
    fs.mv(new, f"{folder.rstrip('/')}/{STATISTICS}")


def _read(path: str, name: str) -> bytes:
    """Read one file of a checkpoint, if it is no larger than such a file may be."""
    data = _read_if_there(path, name)
    if data is None:
        raise CheckpointError(
            f"{redact(path)}: there is no {name}; name a folder with {CONFIG}, {WEIGHTS} and "
            f"{TOKENIZER}"
        )
    return data


def _read_if_there(path: str, name: str) -> bytes | None:
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
    except FileNotFoundError:
        return None
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
    except (ValueError, RecursionError) as error:
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
    if set(config) - {"heads"} != known:
        raise CheckpointError(
            f"{path}: {CONFIG} has the keys {sorted(config)}, not {sorted(known)}; save it anew"
        )
    encoder = _parse_part(_ENCODERS, config["encoder"], f"{path}: encoder")
    decoder = _parse_part(_DECODERS, config["decoder"], f"{path}: decoder")
    heads = _parse_heads(config["heads"], f"{path}: heads") if "heads" in config else None
    try:
        return ModelConfig(name=config["name"], encoder=encoder, decoder=decoder, heads=heads)
    except ValueError as error:
        raise CheckpointError(f"{path}: {error}") from error


def _parse_heads(parts: Any, what: str) -> HeadsConfig:
    if not isinstance(parts, Mapping) or not parts or set(parts) - set(_HEADS):
        raise CheckpointError(f"{what} are {parts!r}; those known are {', '.join(_HEADS)}")
    return HeadsConfig(
        **{
            name: _parse_part({name: _HEADS[name]}, part, f"{what}: {name}")
            for name, part in parts.items()
        }
    )


def _parse_part(kinds: Mapping[str, type[Any]], values: Any, what: str) -> Any:
    """Make a config dataclass of what JSON holds, every value checked against its field."""
    kind = values.get("kind") if isinstance(values, Mapping) else None
    if not isinstance(kind, str) or kind not in kinds:
        raise CheckpointError(f"{what}: kind is {kind!r}; those known are {', '.join(kinds)}")
    values = {name: value for name, value in values.items() if name != "kind"}
    known = {field.name: field for field in fields(kinds[kind])}
    needed = {name for name, field in known.items() if not _has_default(field)}
    if unknown := sorted(set(values) - set(known)):
        raise CheckpointError(f"{what}: {kind} knows no {unknown[0]!r}; save it anew")
    if missing := sorted(needed - set(values)):
        raise CheckpointError(f"{what}: {missing[0]} is missing; save it anew")
    checked: dict[str, Any] = {}
    for name, value in values.items():
        if not _is_of(known[name].type, value):
            raise CheckpointError(f"{what}: {name} is {value!r}, not of its type; save it anew")
        checked[name] = tuple(value) if isinstance(value, list) else value
    try:
        return kinds[kind](**checked)
    except (ValueError, TypeError, OverflowError) as error:
        raise CheckpointError(f"{what}: {error}") from error


def _has_default(field: Field[Any]) -> bool:
    return field.default is not MISSING or field.default_factory is not MISSING


def _is_of(kind: Any, value: Any) -> bool:
    """Whether what JSON holds can be a field of that type."""
    if kind is float:
        return type(value) in (int, float)
    if get_origin(kind) is Literal:
        return isinstance(value, str)
    if get_origin(kind) is tuple:
        return isinstance(value, list) and all(_is_of(get_args(kind)[0], item) for item in value)
    return type(value) is (get_origin(kind) or kind)


def _parse_tokenizer(data: bytes, path: str) -> CaptionTokenizer:
    try:
        return CaptionTokenizer.from_json(data.decode())
    except Exception as error:  # The tokenizers library raises bare Exception.
        raise CheckpointError(
            f"{path}: {TOKENIZER} cannot be read ({error}); save it anew"
        ) from error


def _parse_statistics(data: bytes, model: CaptionModel, path: str) -> FeatureStatistics:
    try:
        statistics = FeatureStatistics.parse(data)
    except ValueError as error:
        raise CheckpointError(
            f"{path}: {STATISTICS} cannot be used: {error}; make it anew with captioner statistics"
        ) from error
    encoder = model.encoder
    if not statistics.fits(encoder.feature_size, encoder.place_size):
        raise CheckpointError(
            f"{path}: {STATISTICS} is of {len(statistics.mean)} features a position, but the "
            f"encoder gives {encoder.feature_size - encoder.place_size}; use the files of one "
            "checkpoint"
        )
    return statistics


def _build(config: ModelConfig, data: bytes, path: str) -> CaptionModel:
    try:
        weights = safetensors.torch.load(data)
    except (safetensors.SafetensorError, KeyError) as error:  # KeyError: of a type torch lacks.
        raise CheckpointError(
            f"{path}: {WEIGHTS} is not a whole safetensors file ({error}); copy or save it anew"
        ) from error
    # Shapes are compared before any memory is taken for the model itself.
    try:
        with torch.device("meta"), _at_most(2 * len(weights) + _MARGIN):
            model = CaptionModel(config)
    except Exception as error:  # Settings of other libraries' networks fail in many ways.
        raise CheckpointError(f"{path}: {CONFIG} makes no model: {error}") from error
    wanted = {name: (value.shape, value.dtype) for name, value in model.state_dict().items()}
    found = {name: (value.shape, value.dtype) for name, value in weights.items()}
    if wanted != found:
        wrong = sorted(
            name for name in wanted.keys() | found.keys() if wanted.get(name) != found.get(name)
        )
        raise CheckpointError(
            f"{path}: {WEIGHTS} does not fit {CONFIG}: {len(wrong)} tensors are missing, unknown "
            f"or of another shape or type, the first is {wrong[0]!r}; use the files of one "
            "checkpoint"
        )
    model.load_state_dict(weights, assign=True)
    return model


@contextmanager
def _at_most(count: int) -> Iterator[None]:
    """Stop the building of a model that has more weights than its file could hold."""
    made = 0

    def counting(module: nn.Module, name: str, weight: nn.Parameter) -> None:
        nonlocal made
        made += 1
        if made > count:
            raise ValueError(f"more than {count} weights, and {WEIGHTS} has far fewer")

    hook = register_module_parameter_registration_hook(counting)
    try:
        yield
    finally:
        hook.remove()


def _weights_bytes(model: CaptionModel) -> bytes:
    weights = {
        name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()
    }
    return safetensors.torch.save(weights)


def _content(config: ModelConfig) -> dict[str, Any]:
    """Return config.json; without heads it has no word of them, as models had before."""
    content = {
        "architecture": ARCHITECTURE,
        "format_version": FORMAT_VERSION,
        "name": config.name,
        "encoder": _part(_ENCODERS, config.encoder),
        "decoder": _part(_DECODERS, config.decoder),
    }
    if config.heads is not None:
        heads = {name: getattr(config.heads, name) for name in _HEADS}
        content["heads"] = {
            name: _part(_HEADS, part) for name, part in heads.items() if part is not None
        }
    return content


def _part(kinds: Mapping[str, type[Any]], config: Any) -> dict[str, Any]:
    """Return what a part is built from; what is at its default is left out.

    So a field that comes later changes no model's id; and a default, once released, stays.
    """
    kind = next(name for name, known in kinds.items() if type(config) is known)
    defaults = {field.name: field.default for field in fields(config)}
    values = {name: value for name, value in asdict(config).items() if value != defaults[name]}
    return {"kind": kind, **values}


def _model_id(config: ModelConfig, weights: bytes, words: bytes, statistics: bytes | None) -> str:
    """Name and hash; each part is preceded by its length, so that no two models share one."""
    digest = hashlib.sha256()
    content = json.dumps(_content(config), sort_keys=True, separators=(",", ":"))
    parts = (weights, content.encode(), words)
    for part in parts if statistics is None else (*parts, statistics):
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return f"{config.name}@{digest.hexdigest()[:12]}"
