"""Encoders: pictures to a sequence of features, (batch, positions, features)."""

from typing import Any

from captioner.encoders.backbone import BackboneEncoder, BackboneEncoderConfig
from captioner.encoders.base import Encoder, positions
from captioner.encoders.grid import GridEncoder, GridEncoderConfig
from captioner.encoders.regions import RegionEncoder, RegionEncoderConfig
from captioner.encoders.thaw import thaw
from captioner.encoders.timm_models import TimmEncoder, TimmEncoderConfig
from captioner.encoders.vit import ViTEncoder, ViTEncoderConfig

ENCODERS: dict[str, tuple[type[Any], type[Encoder]]] = {
    "grid": (GridEncoderConfig, GridEncoder),
    "vit": (ViTEncoderConfig, ViTEncoder),
    "backbone": (BackboneEncoderConfig, BackboneEncoder),
    "timm": (TimmEncoderConfig, TimmEncoder),
    "regions": (RegionEncoderConfig, RegionEncoder),
}
"""By the name that checkpoints give it: what an encoder is built from, and its class."""


def encoder_of(config: Any) -> Encoder:
    """Build the encoder of a configuration, with weights of no worth yet.

    Raises:
        ModelLoadError: if its library is missing, or makes no encoder of it.
        TypeError: if it is no encoder's.
    """
    for known, kind in ENCODERS.values():
        if type(config) is known:
            return kind(config)
    raise TypeError(f"{type(config).__name__} is the configuration of no encoder")


__all__ = [
    "ENCODERS",
    "BackboneEncoder",
    "BackboneEncoderConfig",
    "Encoder",
    "GridEncoder",
    "GridEncoderConfig",
    "RegionEncoder",
    "RegionEncoderConfig",
    "TimmEncoder",
    "TimmEncoderConfig",
    "ViTEncoder",
    "ViTEncoderConfig",
    "encoder_of",
    "positions",
    "thaw",
]
