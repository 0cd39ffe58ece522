"""The files of a model: fetched, looked at before any is loaded, and hashed."""

import fnmatch
import hashlib
import json
import os
from pathlib import Path
from typing import Any

import fsspec

from captioner.confidence.head import HEADS_FILE, VERIFIER_FILES
from captioner.contract import ModelLoadError
from schemas.uris import redact

CLASSES = {
    "vision-encoder-decoder": "VisionEncoderDecoderModel",
    "blip": "BlipForConditionalGeneration",
    "git": "GitForCausalLM",
}
"""Which models are known, by ``model_type``, and their class in ``transformers``."""

_FILES = ("*.json", "*.txt", "*.model", "*.safetensors")
_HASHED = (".json", ".txt", ".model", ".safetensors")
_NOT_HASHED = ("_name_or_path", "transformers_version")
_BLOCK = 1 << 20


def cannot_load(name: str, reason: str) -> str:
    """Say that a model cannot be loaded, and why; secrets in either are not repeated."""
    return f"model {redact(name)!r} cannot be loaded: {redact(reason)}"


def local_folder(name: str, temporary: Path) -> Path:
    """Return a local folder with the model's files, fetched if they are elsewhere."""
    local = name.removeprefix("file://")
    if os.path.isdir(local):
        return Path(local)
    try:
        return _fetched(name, temporary) if "://" in name else _from_hub(name)
    except Exception as error:  # each store and the Hub have exceptions of their own
        reason = f"{error}; name a model of the Hub, or a folder"
        raise ModelLoadError(cannot_load(name, reason)) from error


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


def read_json(folder: Path, file: str, name: str) -> dict[str, Any]:
    """Read one of a model's JSON files.

    Raises:
        ModelLoadError: if it is not there or holds no object.
    """
    try:
        content = json.loads((folder / file).read_bytes())
    except (OSError, ValueError) as error:
        raise ModelLoadError(cannot_load(name, f"{file}: {error}")) from error
    if not isinstance(content, dict):
        raise ModelLoadError(cannot_load(name, f"{file} holds no object"))
    return content


def checked_kind(folder: Path, config: dict[str, Any], name: str) -> str:
    """Return the model's type, if it is known and its weights run no code when they are read."""
    kind = str(config.get("model_type"))
    if kind not in CLASSES:
        known = ", ".join(CLASSES)
        raise ModelLoadError(cannot_load(name, f"model_type is {kind!r}; those known are {known}"))
    if not any(not _is_of_confidence(path.name) for path in folder.glob("*.safetensors")):
        others = [path.name for path in folder.glob("*") if path.suffix in (".bin", ".pt", ".h5")]
        found = f" (only {', '.join(sorted(others))})" if others else ""
        reason = (
            f"it has no weights in safetensors{found}, and others can run code when they are "
            "read; convert them once with model.save_pretrained(FOLDER) of transformers"
        )
        raise ModelLoadError(cannot_load(name, reason))
    return kind


def image_settings(folder: Path, name: str) -> dict[str, Any]:
    """Return the settings of the image processor; newer checkpoints keep them with others."""
    if (folder / "preprocessor_config.json").exists():
        return read_json(folder, "preprocessor_config.json", name)
    if (folder / "processor_config.json").exists():
        settings = read_json(folder, "processor_config.json", name).get("image_processor")
        if isinstance(settings, dict):
            return settings
    raise ModelLoadError(cannot_load(name, "it has no preprocessor_config.json"))


def content_hash(folder: Path) -> str:
    """Return a hash of weights, configuration and words, wherever and whenever they were saved.

    Confidence heads and their verifiers are no part of it: heads name the model that they are for.
    """
    digest = hashlib.sha256()
    files = (path for path in folder.iterdir() if path.suffix in _HASHED)
    for path in sorted(path for path in files if not _is_of_confidence(path.name)):
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


def _is_of_confidence(name: str) -> bool:
    return name == HEADS_FILE or fnmatch.fnmatch(name, VERIFIER_FILES)


def _canonical(path: Path) -> bytes:
    """Return a configuration without the folder and the version that it was saved from."""
    content = json.loads(path.read_bytes())
    kept = {key: value for key, value in content.items() if key not in _NOT_HASHED}
    return json.dumps(kept, sort_keys=True).encode()
