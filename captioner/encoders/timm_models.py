"""Vision networks of ``timm`` as encoders: VGG and Inception are only there."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from captioner.contract import ModelLoadError
from captioner.encoders.third_party import MapEncoder, check_view, owned

INSTALL = "pip install 'captioner[timm]'"


@dataclass(frozen=True, kw_only=True)
class TimmEncoderConfig:
    """A network of ``timm``.

    Attributes:
        image_size: side of the square picture, in pixels; need not be what it was trained on.
        mean: what is taken from each channel, whose values are from 0 to 1.
        std: what each channel is divided by after that.
        model: its name, such as ``vgg16.tv_in1k``.
        layer: which of its ``feature_info`` is the grid; -1 is the last, before any head.
    """

    image_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    model: str
    layer: int = -1

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            ValueError: if they are beyond all use.
        """
        check_view(self.image_size, self.mean, self.std)
        if not self.model or set(self.model) & set(":/\\"):
            raise ValueError(f"model is {self.model!r}; give the plain name of a model of timm")


class TimmEncoder(MapEncoder):
    """A picture [b x 3 x size x size], from 0 to 1, to features [b x positions x f]."""

    def __init__(self, config: TimmEncoderConfig) -> None:
        model = _build(config, pretrained=False)
        self._channels_last = getattr(model, "output_fmt", "NCHW") == "NHWC"
        super().__init__(model, config.image_size, config.mean, config.std)
        self.config = config

    def rows(self, model: Callable[..., Any], images: Tensor) -> Tensor:
        """Run the network on normalised pictures, to [b x positions x features]."""
        seen: Tensor = model(images)[0]
        if self._channels_last:  # (b, h, w, f), as Swin gives them
            return seen.flatten(1, 2)
        return seen.flatten(2).transpose(1, 2)


def timm_from_pretrained(name: str, image_size: int | None = None) -> TimmEncoder:
    """Load a network of ``timm`` with its weights.

    Args:
        name: as ``timm`` gives it, with or without the weights' tag.
        image_size: side of the pictures; by default what it was trained on.

    Raises:
        ModelLoadError: if there is no such network, or ``timm`` is missing.
    """
    timm = import_timm()
    if not timm.is_model(name):
        alike = timm.list_models(f"{name.partition('.')[0]}*")[:8]
        found = f"those alike are {', '.join(alike)}" if alike else "timm.list_models() names all"
        raise ModelLoadError(f"timm knows no model {name!r}; {found}")
    seen = timm.get_pretrained_cfg(name)
    config = TimmEncoderConfig(
        image_size=image_size or seen.input_size[1],
        mean=tuple(seen.mean),
        std=tuple(seen.std),
        model=name,
    )
    encoder = TimmEncoder(config)
    encoder.model = owned(_build(config, pretrained=True)).eval()
    return encoder


def import_timm() -> Any:
    """Import the package, or say how to install it.

    Raises:
        ModelLoadError: if it is not installed, or its torchvision does not fit torch.
    """
    try:
        import timm
    except (ImportError, RuntimeError) as error:
        raise ModelLoadError(
            f"models of timm need the packages timm and torchvision: {error}; {INSTALL}, with "
            "torchvision from where torch is from"
        ) from error
    return timm


def _build(config: TimmEncoderConfig, *, pretrained: bool) -> nn.Module:
    timm = import_timm()
    try:
        fixed = timm.get_pretrained_cfg(config.model).fixed_input_size
        size = {"img_size": config.image_size} if fixed else {}
        model: nn.Module = timm.create_model(
            config.model,
            pretrained=pretrained,
            features_only=True,
            out_indices=(config.layer,),
            **size,
        )
    except Exception as error:  # timm, the Hub and torch have exceptions of their own
        raise ModelLoadError(f"encoder timm:{config.model} cannot be built: {error}") from error
    return model
