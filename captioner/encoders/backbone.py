"""Vision networks of Hugging Face ``transformers`` as encoders."""

from collections.abc import Callable
from dataclasses import dataclass
from inspect import signature
from typing import Any

from torch import Tensor, nn

from captioner.contract import ModelLoadError
from captioner.encoders.third_party import MapEncoder, check_view
from captioner.third_party_settings import check_settings

BACKBONES = {
    "blip_vision_model": "BlipVisionModel",
    "clip_vision_model": "CLIPVisionModel",
    "convnext": "ConvNextModel",
    "convnextv2": "ConvNextV2Model",
    "deit": "DeiTModel",
    "dinov2": "Dinov2Model",
    "dinov2_with_registers": "Dinov2WithRegistersModel",
    "efficientnet": "EfficientNetModel",
    "mobilenet_v1": "MobileNetV1Model",
    "mobilenet_v2": "MobileNetV2Model",
    "regnet": "RegNetModel",
    "resnet": "ResNetModel",
    "siglip_vision_model": "SiglipVisionModel",
    "swin": "SwinModel",
    "swinv2": "Swinv2Model",
    "vit": "ViTModel",
}
"""Which networks are known, by ``model_type``, and their class in ``transformers``."""

_TOKENS = {
    "blip_vision_model": 1,
    "clip_vision_model": 1,
    "deit": 2,
    "dinov2": 1,
    "dinov2_with_registers": 1,
    "vit": 1,
}
"""How many tokens come before those of the picture; registers are counted by the settings."""

LAST = -1


@dataclass(frozen=True, kw_only=True)
class BackboneEncoderConfig:
    """A network of ``transformers``.

    Attributes:
        image_size: side of the square picture, in pixels; need not be what it was trained on.
        mean: what is taken from each channel, whose values are from 0 to 1.
        std: what each channel is divided by after that.
        settings: the network's own configuration, with its ``model_type``.
        layer: which of the library's ``hidden_states`` is the grid; -1 is what comes out in the
            end. Convolutional networks have larger grids further down.
    """

    image_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    settings: dict[str, Any]
    layer: int = LAST

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            ValueError: if they are beyond all use, or the network is of a kind that is not known.
        """
        check_view(self.image_size, self.mean, self.std)
        check_kind(self.settings, BACKBONES)


class BackboneEncoder(MapEncoder):
    """A picture [b x 3 x size x size], from 0 to 1, to features [b x positions x f].

    Tokens that stand for no place (class, registers) are dropped.
    """

    def __init__(self, config: BackboneEncoderConfig) -> None:
        kind = config.settings["model_type"]
        self._tokens = _TOKENS.get(kind, 0) + config.settings.get("num_register_tokens", 0)
        self._layer = config.layer
        model = build(BACKBONES[kind], config.settings)
        self._options = _options(model, config.layer)
        super().__init__(model, config.image_size, config.mean, config.std)
        self.config = config

    def rows(self, model: Callable[..., Any], images: Tensor) -> Tensor:
        """Run the network on normalised pictures, to [b x positions x features]."""
        output = model(images, **self._options)
        last = self._layer == LAST
        seen: Tensor = output.last_hidden_state if last else output.hidden_states[self._layer]
        if seen.ndim == 4:  # (b, f, h, w)
            return seen.flatten(2).transpose(1, 2)
        return seen[:, self._tokens :]


def _options(model: nn.Module, layer: int) -> dict[str, bool]:
    """Return what the network is called with: positions for any size of picture, the layers."""
    options = {"output_hidden_states": True} if layer != LAST else {}
    if "interpolate_pos_encoding" in signature(model.forward).parameters:
        options["interpolate_pos_encoding"] = True
    return options


def check_kind(settings: dict[str, Any], known: dict[str, str]) -> None:
    """Check of which kind a network is.

    Raises:
        ValueError: if that is not known, or the settings could fetch or run something.
    """
    check_settings(settings)
    kind = settings.get("model_type")
    if not isinstance(kind, str) or kind not in known:
        raise ValueError(f"model_type is {kind!r}; those known are {', '.join(sorted(known))}")


def build(name: str, settings: dict[str, Any]) -> nn.Module:
    """Build a network of ``transformers`` from its settings, with weights of no worth yet.

    Raises:
        ModelLoadError: if ``transformers`` is missing, or makes no network of the settings.
    """
    # Which imports this package.
    from captioner.huggingface.loading import import_transformers

    transformers = import_transformers()
    kind = getattr(transformers, name)
    try:
        config = transformers.AutoConfig.for_model(**settings)
        model: nn.Module = kind(config, **without_pooler(kind))
    except Exception as error:  # settings are checked by several libraries
        raise ModelLoadError(f"encoder {name} cannot be built: {error}") from error
    return model


def without_pooler(kind: Any) -> dict[str, bool]:
    """Return arguments that leave out a pooler: it plays no part, we read places."""
    has = "add_pooling_layer" in signature(kind.__init__).parameters
    return {"add_pooling_layer": False} if has else {}
