"""What encoders that are networks of other libraries have in common."""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from captioner.contract import ModelLoadError
from captioner.encoders.base import Encoder, positions, with_positions

_WHOLES = frozenset(["encoder", "backbone", "model"])
_LISTS = frozenset(["layer", "layers", "blocks", "stages"])
_OF_STAGES = frozenset(["layers", "blocks", "stages"])


class ThirdPartyEncoder(Encoder):
    """A network of another library: sees pictures as it was trained to, and keeps what it knows.

    Args:
        model: the network.
        mean: what is taken from each channel.
        std: what each channel is divided by after that.
    """

    def __init__(self, model: nn.Module, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.model = owned(model).eval()
        self.register_buffer("normal", torch.tensor([[*mean], [*std]]).view(2, 3, 1, 1))

    normal: Tensor

    def normalised(self, images: Tensor) -> Tensor:
        """Bring pictures from 0 to 1 to what the network was trained on."""
        normal: Tensor = (images - self.normal[0]) / self.normal[1]
        return normal

    def train(self, mode: bool = True) -> "ThirdPartyEncoder":
        """Switch what is thawed to training; whoever thaws does so before.

        A frozen network stays as it is in use: its dropout would only blur what it sees. In a
        thawed one batch norms keep the statistics that they were trained with: those of the small
        batches here would be worse, and would drift from weights that hardly move.
        """
        super().train(mode)
        if not any(parameter.requires_grad for parameter in self.model.parameters()):
            self.model.eval()
        for module in self.model.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()
        return self

    def layers(self) -> Sequence[nn.Module]:
        """Stem and blocks."""
        return list(blocks(self.model))


class MapEncoder(ThirdPartyEncoder):
    """A network that makes a grid of features: appends to each where it lies.

    Raises:
        ModelLoadError: if what the network makes of such pictures is no square grid.
    """

    def __init__(
        self, model: nn.Module, image_size: int, mean: Sequence[float], std: Sequence[float]
    ) -> None:
        super().__init__(model, mean, std)
        try:
            count, width = self._size(image_size)
        except Exception as error:  # of a layer, of sizes, of channels that do not fit
            raise ModelLoadError(
                f"encoder {type(model).__name__} cannot read pictures of {image_size} pixels, or "
                f"has no such layer: {error}; change image_size or layer"
            ) from error
        side = math.isqrt(count)
        if side * side != count:
            raise ModelLoadError(
                f"encoder {type(model).__name__} makes {count} positions of a picture of "
                f"{image_size} pixels, which are no square; change image_size"
            )
        self.grid = side, side
        position = positions(side, side)
        self.place_size = position.shape[1]
        self.feature_size = width + self.place_size
        self.register_buffer("position", position)

    position: Tensor

    def rows(self, model: Callable[..., Any], images: Tensor) -> Tensor:
        """Run the network on normalised pictures, to [b x positions x features]."""
        raise NotImplementedError

    def forward(self, images: Tensor) -> Tensor:
        """Encode pictures."""
        return with_positions(self.rows(self.model, self.normalised(images)), self.position)

    def _size(self, image_size: int) -> tuple[int, int]:
        """Return how many positions there are, of how many features; nothing is computed."""
        weights = {name: value.to("meta") for name, value in self.model.state_dict().items()}

        def run(images: Tensor, **options: Any) -> Any:
            return functional_call(self.model, weights, (images,), options)

        with torch.no_grad(), torch.device("meta"):
            _, count, width = self.rows(run, torch.empty(1, 3, image_size, image_size)).shape
        return count, width


def owned(model: nn.Module) -> nn.Module:
    """Make every tensor of a network one of its weights, and none of them twice.

    Checkpoints hold weights only, each once. Libraries make some buffers (where positions lie to
    each other, for example) that are no weights, and let heads that we do not train share theirs.
    """
    seen: set[int] = set()
    for module in model.modules():
        for name, value in [*module.named_parameters(recurse=False)]:
            if id(value) in seen:
                value = nn.Parameter(value.detach().clone(), value.requires_grad)
                setattr(module, name, value)
            seen.add(id(value))
        for name, buffer in [*module.named_buffers(recurse=False)]:
            module.register_buffer(name, buffer.clone(), persistent=True)
    return model


def blocks(module: nn.Module) -> Iterator[nn.Module]:
    """Find what a network is made of, from the picture upwards: stem, blocks, projections.

    What has no matrix, such as a norm between them, belongs to no block.
    """
    for name, child in module.named_children():
        listed = isinstance(child, nn.ModuleList) and name in _LISTS
        staged = not _OF_STAGES.isdisjoint(name for name, _ in child.named_children())
        if name in _WHOLES or listed or staged or isinstance(child, nn.Sequential):
            yield from blocks(child)
        elif any(parameter.ndim > 1 for parameter in child.parameters()):
            yield child


def check_view(image_size: int, mean: Sequence[float], std: Sequence[float]) -> None:
    """Check how pictures are seen.

    Raises:
        ValueError: if the values are beyond all use.
    """
    if not 16 <= image_size <= 4096:
        raise ValueError(f"image_size is {image_size}; use 16 to 4096 pixels")
    if len(mean) != 3 or not all(map(math.isfinite, mean)):
        raise ValueError(f"mean is {mean}; give three numbers, one for each channel")
    if len(std) != 3 or not all(0 < value < math.inf for value in std):
        raise ValueError(f"std is {std}; give three numbers above 0, one for each channel")
