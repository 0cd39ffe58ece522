"""From a name or a folder to an encoder with weights that were trained elsewhere."""

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from captioner.contract import ModelLoadError
from captioner.encoders.backbone import (
    BACKBONES,
    BackboneEncoder,
    BackboneEncoderConfig,
    without_pooler,
)
from captioner.encoders.regions import (
    DETECTORS,
    REGIONS,
    RegionEncoder,
    RegionEncoderConfig,
    boxes_found,
)
from captioner.encoders.third_party import owned
from captioner.huggingface.files import cannot_load, image_settings, local_folder
from captioner.huggingface.loading import import_transformers

E = TypeVar("E", BackboneEncoder, RegionEncoder)

_PARTS = frozenset(["blip", "clip", "siglip"])
"""Models of pictures and words, of which the part that sees is taken."""

_KEYS = {r"^vision_model\.": ""}
"""What the weights of that part are called in the whole, and by itself."""

_NO_SETTINGS = frozenset(
    ["_name_or_path", "architectures", "dtype", "id2label", "label2id", "transformers_version"]
)


def backbone_from_pretrained(name: str, image_size: int | None = None) -> BackboneEncoder:
    """Load a vision network of ``transformers``.

    Args:
        name: of a model on the Hub, or a folder on any store.
        image_size: side of the pictures; by default what it was trained on.

    Raises:
        ModelLoadError: if there is no such model, it is of a kind that is not known, its weights
            are not safetensors or lack something, or ``transformers`` is missing.
    """

    def make(config: Any, view: dict[str, Any]) -> BackboneEncoder:
        vision = config.vision_config if config.model_type in _PARTS else config
        settings = _settings(vision)
        if vision.model_type == "siglip_vision_model":
            settings["vision_use_head"] = False  # It pools, and we read places.
        return BackboneEncoder(BackboneEncoderConfig(settings=settings, **view))

    return _from_pretrained(name, image_size, BACKBONES, make)


def regions_from_pretrained(
    name: str, image_size: int | None = None, regions: int | None = None
) -> RegionEncoder:
    """Load a detector of ``transformers``, to read the objects that it finds.

    Args:
        name: of a model on the Hub, or a folder on any store.
        image_size: side of the pictures; by default what it was trained on.
        regions: how many objects are read; by default 36, as there, or all where it finds fewer.

    Raises:
        ModelLoadError: as for ``backbone_from_pretrained``.
    """

    def make(config: Any, view: dict[str, Any]) -> RegionEncoder:
        settings = {**_settings(config), "num_labels": config.num_labels}
        if "anchor_image_size" in settings:
            settings["anchor_image_size"] = None
        count = regions or min(REGIONS, boxes_found(settings))
        return RegionEncoder(RegionEncoderConfig(settings=settings, regions=count, **view))

    return _from_pretrained(name, image_size, DETECTORS, make)


def _from_pretrained(
    name: str,
    image_size: int | None,
    known: dict[str, str],
    make: Callable[[Any, dict[str, Any]], E],
) -> E:
    transformers = import_transformers()
    with tempfile.TemporaryDirectory() as temporary:
        folder = local_folder(name, Path(temporary))
        processor = image_settings(folder, name)
        try:
            config = transformers.AutoConfig.from_pretrained(folder, trust_remote_code=False)
            encoder = make(config, _view(processor, image_size))
            settings = encoder.config.settings
            kind = getattr(transformers, known[settings["model_type"]])
            model = _weights(kind, transformers.AutoConfig.for_model(**settings), folder)
        except ModelLoadError as error:
            raise ModelLoadError(cannot_load(name, str(error))) from error
        except Exception as error:  # transformers and safetensors have exceptions of their own
            raise ModelLoadError(cannot_load(name, str(error))) from error
    encoder.model = owned(model).eval()
    return encoder


def _settings(config: Any) -> dict[str, Any]:
    """Return a configuration as JSON holds it, without the names of classes and where it was."""
    plain = json.loads(json.dumps(config.to_dict()))
    return _without(plain)


def _without(settings: dict[str, Any]) -> dict[str, Any]:
    return {
        key: _without(value) if isinstance(value, dict) else value
        for key, value in settings.items()
        if key not in _NO_SETTINGS
    }


def _view(processor: dict[str, Any], image_size: int | None) -> dict[str, Any]:
    """Return how pictures from 0 to 1 are seen, by the settings of an image processor.

    Raises:
        ValueError: if they do not say it.
    """
    rescales = processor.get("do_rescale", True)
    scale = 255 * processor.get("rescale_factor", 1 / 255) if rescales else 255
    mean, std = [0.0] * 3, [1.0] * 3
    if processor.get("do_normalize", True):
        if "image_mean" not in processor or "image_std" not in processor:
            raise ValueError("its image processor has no image_mean and image_std")
        mean, std = processor["image_mean"], processor["image_std"]
    if processor.get("include_top"):  # EfficientNet divides twice.
        std = [value * value for value in std]
    return {
        "image_size": image_size or _side(processor),
        "mean": tuple(value / scale for value in mean),
        "std": tuple(value / scale for value in std),
    }


def _side(processor: dict[str, Any]) -> int:
    """Return the side of the square that a network was trained on, or its shorter side."""
    size = processor.get("crop_size" if processor.get("do_center_crop") else "size")
    if isinstance(size, dict):
        size = size.get("shortest_edge", size.get("height"))
    if not isinstance(size, int):
        raise ValueError("its image processor names no size; give image_size")
    return size


def _weights(kind: Any, config: Any, folder: Path) -> nn.Module:
    """Load a network's weights.

    Raises:
        ValueError: if some are missing, or they are not safetensors, which run no code.
    """
    if not any(folder.glob("*.safetensors")):
        raise ValueError(
            "it has no weights in safetensors, and others can run code when they are read; "
            "convert them once with model.save_pretrained(FOLDER) of transformers"
        )
    model: nn.Module
    model, info = kind.from_pretrained(
        folder,
        config=config,
        use_safetensors=True,
        trust_remote_code=False,
        dtype=torch.float32,
        output_loading_info=True,
        key_mapping=_KEYS,
        **without_pooler(kind),
    )
    # transformers makes up what is missing.
    if missing := sorted(info["missing_keys"]):
        raise ValueError(f"its weights lack {len(missing)} tensors, such as {missing[0]}")
    return model
