"""Tiny networks of ``transformers`` with weights by chance, saved as users have them."""

import json
from pathlib import Path
from typing import Any

import torch
import transformers

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.5)
PROCESSOR = {
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": list(MEAN),
    "image_std": list(STD),
}

_TRANSFORMER = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
_TRANSFORMER |= {"intermediate_size": 64, "image_size": 32, "patch_size": 8}
_STAGES = {"hidden_sizes": [8, 16], "depths": [1, 2]}
_WINDOWS = {"image_size": 32, "patch_size": 2, "embed_dim": 8, "depths": [1, 2]}
_WINDOWS |= {"num_heads": [2, 2], "window_size": 4}
_WORDS = {"vocab_size": 32, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
_WORDS |= {"intermediate_size": 32, "max_position_embeddings": 16, "projection_dim": 8}
_PAIR = {"vision_config": _TRANSFORMER, "text_config": _WORDS}

BACKBONES: dict[str, tuple[int, dict[str, Any]]] = {
    "blip": (32, _PAIR),
    "clip": (32, _PAIR),
    "clip_vision_model": (32, _TRANSFORMER),
    "convnext": (32, {**_STAGES, "num_stages": 2}),
    "convnextv2": (32, {**_STAGES, "num_stages": 2}),
    "deit": (32, _TRANSFORMER),
    "dinov2": (32, _TRANSFORMER),
    "dinov2_with_registers": (32, {**_TRANSFORMER, "num_register_tokens": 4}),
    "efficientnet": (64, {"width_coefficient": 0.25, "depth_coefficient": 0.1, "hidden_dim": 320}),
    "mobilenet_v1": (64, {"depth_multiplier": 0.25}),
    "mobilenet_v2": (64, {"depth_multiplier": 0.25, "finegrained_output": False}),
    "regnet": (32, {**_STAGES, "embedding_size": 8, "groups_width": 8}),
    "resnet": (32, {**_STAGES, "embedding_size": 8, "layer_type": "basic"}),
    "siglip": (32, _PAIR),
    "siglip_vision_model": (32, _TRANSFORMER),
    "swin": (32, _WINDOWS),
    "swinv2": (32, _WINDOWS),
    "vit": (32, _TRANSFORMER),
}
"""By model type: side of the pictures, and settings."""

_DETR = {"d_model": 32, "encoder_layers": 1, "decoder_layers": 2, "encoder_ffn_dim": 32}
_DETR |= {"decoder_ffn_dim": 32, "encoder_attention_heads": 2, "decoder_attention_heads": 2}
_DETR |= {"num_queries": 7, "num_labels": 5, "use_timm_backbone": False}
_RESNET = {"embedding_size": 8, "hidden_sizes": [8, 16, 16, 16], "depths": [1, 1, 1, 1]}
_RESNET |= {"layer_type": "basic"}
_THREE = ["stage2", "stage3", "stage4"]
_ONE = {"model_type": "resnet", **_RESNET, "out_features": ["stage4"]}
_SEVERAL = {"model_type": "resnet", **_RESNET, "out_features": _THREE}
_RT = {**_DETR, "encoder_hidden_dim": 32, "encoder_in_channels": [16, 16, 16]}
_RT |= {"decoder_in_channels": [32, 32, 32], "anchor_image_size": [64, 64]}
_RT["backbone_config"] = {"model_type": "rt_detr_resnet", **_RESNET, "out_features": _THREE}

DETECTORS: dict[str, dict[str, Any]] = {
    "conditional_detr": {**_DETR, "backbone_config": _ONE},
    "deformable_detr": {**_DETR, "backbone_config": _SEVERAL},
    "detr": {**_DETR, "backbone_config": _ONE},
    "rt_detr": _RT,
    "rt_detr_v2": _RT,
    "yolos": {**_TRANSFORMER, "image_size": [64, 64], "num_detection_tokens": 7, "num_labels": 5},
}
"""By model type: settings of detectors that find seven boxes."""


def make(kind: str, settings: dict[str, Any], auto: str = "AutoModel") -> Any:
    """Build a network whose weights, and statistics of batch norms, are all by chance."""
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(kind, **settings)
    model = getattr(transformers, auto).from_config(config).eval()
    with torch.no_grad():
        for name, value in model.state_dict().items():
            if name.endswith("running_var"):
                value.uniform_(0.5, 2)
            elif value.is_floating_point():
                value.add_(torch.randn_like(value) * 0.05)
    return model


def save(model: Any, folder: Path, size: Any) -> str:
    """Save a network as its authors would, with the settings of its pictures."""
    model.save_pretrained(folder)
    settings = {**PROCESSOR, "size": size}
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))
    return str(folder)


def normalised(images: torch.Tensor) -> torch.Tensor:
    """What an image processor with these settings makes of pictures from 0 to 1."""
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (MEAN, STD))
    return (images - mean) / std
