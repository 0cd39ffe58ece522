"""From what a user names to a captioner that is ready."""

import json
from collections.abc import Sequence

import fsspec

from captioner import checkpoint, huggingface
from captioner.contract import EMBEDDED, Captioner, DecodingConfig, ModelLoadError
from schemas.uris import redact


def load(
    name: str,
    device: str = "auto",
    decoding: DecodingConfig | None = None,
    extras: Sequence[str] = (),
    *,
    with_verifier: bool = True,
) -> Captioner:
    """Load a captioner.

    Args:
        name: ``embedded``; a folder on any store, with a checkpoint of this project or of
            ``transformers``; or the name of a model on the Hugging Face hub.
        device: auto, cpu, cuda or mps.
        decoding: how captions are made; greedy unless told otherwise.
        extras: features, of ``EXTRAS``, that are to be computed besides those that cost little.
        with_verifier: with that of its confidence head for this decoding, if there is one.

    Raises:
        ModelLoadError: if there is no such model, or it cannot be used, or cannot compute those.
    """
    decoding = decoding or DecodingConfig()
    if name == EMBEDDED:
        name = checkpoint.embedded_path()
    if is_checkpoint(name):
        return checkpoint.load(name, device, decoding, extras, with_verifier=with_verifier)
    if extras:
        raise ModelLoadError(
            f"{extras[0]} is asked for, but models of Hugging Face run through their own generate "
            "and cannot tell it; leave it out"
        )
    return huggingface.load(name, device, decoding)


def is_checkpoint(name: str) -> bool:
    """Whether a name is that of a folder with a checkpoint of this project.

    Args:
        name: a folder on any store, or anything else.

    Raises:
        ModelLoadError: if the folder's ``config.json`` cannot be read.
    """
    config = _folder_config(name)
    return config is not None and "format_version" in config


def _folder_config(name: str) -> dict[str, object] | None:
    """Return the ``config.json`` of a folder, or None if there is no such file."""
    try:
        with fsspec.open(f"{name.rstrip('/')}/config.json", "rb") as file:
            config = json.loads(file.read(1_000_000))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, ImportError) as error:
        raise ModelLoadError(
            f"config.json of model {redact(name)} cannot be read: {redact(str(error))}"
        ) from error
    return config if isinstance(config, dict) else None
