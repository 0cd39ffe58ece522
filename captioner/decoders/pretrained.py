"""From a name or a folder to a language model with weights that were trained elsewhere."""

import json
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from captioner.contract import ModelLoadError
from captioner.decoders.language_model import LanguageModelDecoderConfig

_NOT_KEPT = frozenset(
    ["_name_or_path", "architectures", "dtype", "id2label", "label2id", "transformers_version"]
)
_NEW = (".crossattention.", ".ln_cross_attn.")
"""What a language model lacks until it is shown images."""


def language_model_from_pretrained(
    name: str, vocabulary_size: int
) -> tuple[LanguageModelDecoderConfig, dict[str, Tensor]]:
    """Load a pretrained language model.

    Its words keep their numbers; those that are new begin as the mean of all others. Attention to
    the image begins anew.

    Args:
        name: of a model on the Hub, or a folder on any store.
        vocabulary_size: tokens of the tokenizer that goes with it.

    Returns:
        The decoder's configuration, and the weights of a ``LanguageModelDecoder`` but for the
        projection of the image.

    Raises:
        ModelLoadError: if there is no such model, it is of a kind that is not known, its weights
            are not safetensors or lack something, or ``transformers`` is missing.
    """
    # Which import this package.
    from captioner.huggingface.files import cannot_load, local_folder
    from captioner.huggingface.loading import import_transformers

    transformers = import_transformers()
    with tempfile.TemporaryDirectory() as temporary:
        folder = local_folder(name, Path(temporary))
        try:
            config = transformers.AutoConfig.from_pretrained(folder, trust_remote_code=False)
            decoder = _decoder_config(config, vocabulary_size)
            config.add_cross_attention = True
            model = _loaded(transformers, config, folder)
            model.resize_token_embeddings(vocabulary_size)
        except Exception as error:  # safetensors and transformers have exceptions of their own
            raise ModelLoadError(cannot_load(name, str(error))) from error
    weights = model.base_model.state_dict()
    return decoder, {f"model.{key}": value.clone() for key, value in weights.items()}


def _decoder_config(config: Any, vocabulary_size: int) -> LanguageModelDecoderConfig:
    plain = json.loads(json.dumps(config.to_dict()))
    settings = {key: value for key, value in plain.items() if key not in _NOT_KEPT}
    settings |= {"vocab_size": vocabulary_size, "add_cross_attention": True}
    return LanguageModelDecoderConfig(vocabulary_size=vocabulary_size, settings=settings)


def _loaded(transformers: Any, config: Any, folder: Path) -> Any:
    """Load the weights.

    Raises:
        ValueError: if some are missing, or they are not safetensors, which run no code.
    """
    if not any(folder.glob("*.safetensors")):
        raise ValueError(
            "it has no weights in safetensors, and others can run code when they are read; "
            "convert them once with model.save_pretrained(FOLDER) of transformers"
        )
    model, info = transformers.AutoModelForCausalLM.from_pretrained(
        folder,
        config=config,
        use_safetensors=True,
        trust_remote_code=False,
        dtype=torch.float32,
        output_loading_info=True,
    )
    missing = sorted(key for key in info["missing_keys"] if not any(new in key for new in _NEW))
    if missing:
        raise ValueError(f"its weights lack {len(missing)} tensors, such as {missing[0]}")
    return model
