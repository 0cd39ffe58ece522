"""From a name or a folder to a captioner."""

import tempfile
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch

from captioner.contract import Captioner, DecodingConfig, ModelLoadError
from captioner.devices import choose_device
from captioner.huggingface.captioner import HuggingFaceCaptioner
from captioner.huggingface.files import (
    CLASSES,
    cannot_load,
    checked_kind,
    content_hash,
    image_settings,
    local_folder,
    read_json,
)
from captioner.huggingface.view import View

_HEEDED = ("max_length", "precision", "draft")
"""What of a decoding configuration these models heed."""

INSTALL = "pip install 'captioner[huggingface]'"


def load(name_or_path: str, device: str, decoding: DecodingConfig) -> Captioner:
    """Load an image-to-text model from the Hub or a folder.

    Args:
        name_or_path: a model's name on the Hub, or a folder on any store.
        device: auto, cpu, cuda or mps.
        decoding: how captions are made.

    Raises:
        ModelLoadError: if ``transformers`` is not installed, or there is no such model, or its
            weights are not safetensors, or it is of a kind that is not known, or captions are
            to be made in a way that is not known for these models.
    """
    _check_decoding(decoding)
    transformers = import_transformers()
    where = choose_device(device)
    with tempfile.TemporaryDirectory() as temporary:
        folder = local_folder(name_or_path, Path(temporary))
        config = read_json(folder, "config.json", name_or_path)
        kind = checked_kind(folder, config, name_or_path)
        try:
            model = _model(transformers, kind, folder, decoding)
            tokenizer = transformers.AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
            view = View.of(image_settings(folder, name_or_path), model.config)
        except ModelLoadError:
            raise
        except Exception as error:  # safetensors and tokenizers have exceptions of their own
            reason = f"{type(error).__name__}: {error}"
            raise ModelLoadError(cannot_load(name_or_path, reason)) from error
        model_id = f"{kind}@{content_hash(folder)}"
    if where.type == "cuda" and decoding.precision == "float32":
        torch.backends.cuda.matmul.allow_tf32 = False
        torch.backends.cudnn.allow_tf32 = False
    return HuggingFaceCaptioner(model.to(where), tokenizer, view, model_id, decoding)


def _check_decoding(decoding: DecodingConfig) -> None:
    default = DecodingConfig()
    for field in fields(DecodingConfig):
        value = getattr(decoding, field.name)
        if field.name not in _HEEDED and value != getattr(default, field.name):
            raise ModelLoadError(
                f"{field.name} is {value!r}, but models of Hugging Face are decoded greedily, "
                f"without rules; leave --{field.name} out"
            )


def import_transformers() -> Any:
    """Import the package, or say how to install it.

    Raises:
        ModelLoadError: if it is not installed.
    """
    try:
        import transformers
    except ImportError as error:
        raise ModelLoadError(
            f"models of Hugging Face need the package transformers, which is missing: {INSTALL}"
        ) from error
    return transformers


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
