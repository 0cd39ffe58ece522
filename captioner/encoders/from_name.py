"""From what a user names to an encoder that training starts from."""

from dataclasses import replace

from captioner.contract import ModelLoadError
from captioner.encoders.base import Encoder
from captioner.encoders.grid import GridEncoder, GridEncoderConfig
from captioner.encoders.pretrained import backbone_from_pretrained, regions_from_pretrained
from captioner.encoders.timm_models import timm_from_pretrained
from captioner.encoders.vit import ViTEncoder, ViTEncoderConfig

KINDS = (
    "grid or vit (from nothing), timm:NAME, regions:NAME (a detector), or NAME (a vision network); "
    "but for timm a NAME is a model of the Hub, or a folder on any store"
)


def encoder_from_name(name: str, image_size: int | None = None) -> Encoder:
    """Make or load an encoder.

    Args:
        name: ``grid`` or ``vit``, which know nothing yet; ``timm:`` and the name of a model of
            ``timm``; ``regions:`` and a detector, or only the name of a vision network of
            ``transformers``, both on the Hub or in a folder on any store.
        image_size: side of the pictures, in pixels; by default what suits the encoder.

    Raises:
        ModelLoadError: if there is no such encoder, or it cannot be loaded.
        ValueError: if image_size does not suit it.
    """
    if name == "grid":
        small = GridEncoderConfig()
        return GridEncoder(replace(small, image_size=image_size or small.image_size))
    if name == "vit":
        patches = ViTEncoderConfig()
        return ViTEncoder(replace(patches, image_size=image_size or patches.image_size))
    kind, colon, rest = name.partition(":")
    if not name or (colon and not rest):
        raise ModelLoadError(f"encoder {name!r} names nothing; give {KINDS}")
    if kind == "timm" and colon:
        return timm_from_pretrained(rest, image_size)
    if kind == "regions" and colon:
        return regions_from_pretrained(rest, image_size)
    try:
        return backbone_from_pretrained(name, image_size)
    except ModelLoadError as error:
        raise ModelLoadError(f"{error}. Encoders are {KINDS}") from error
