"""How a model of ``transformers`` wants its images."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from captioner.contract import Geometry, Prepared


@dataclass(frozen=True)
class View:
    """How a model wants its images.

    Attributes:
        width: of what the model sees.
        height: likewise.
        shortest_edge: size that the shorter side is brought to before the middle is cut out;
            None squeezes the whole image into width and height.
        resample: Pillow's filter.
        factor: what the 8-bit values are multiplied with.
        mean: subtracted from each channel after that.
        std: what each channel is divided by after that.
    """

    width: int
    height: int
    shortest_edge: int | None
    resample: Image.Resampling
    factor: float
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def of(cls, settings: dict[str, Any], config: Any) -> "View":
        """Read the settings of a ``transformers`` image processor."""
        vision = getattr(config, "vision_config", None) or getattr(config, "encoder", config)
        default = getattr(vision, "image_size", 224)
        crop = _sides(settings["crop_size"]) if settings.get("do_center_crop") else None
        size = settings.get("size", default)
        shortest = size.get("shortest_edge") if isinstance(size, dict) else (size if crop else None)
        width, height = crop or _sides(size if shortest is None else shortest)
        normal = settings.get("do_normalize", True)
        return cls(
            width,
            height,
            shortest,
            Image.Resampling(settings.get("resample", Image.Resampling.BICUBIC)),
            settings.get("rescale_factor", 1 / 255) if settings.get("do_rescale", True) else 1.0,
            tuple(settings["image_mean"]) if normal else (0.0,) * 3,
            tuple(settings["image_std"]) if normal else (1.0,) * 3,
        )

    def prepare(self, image: Image.Image) -> Prepared:
        """Bring an RGB image to the size."""
        image = image.convert("RGB")
        if self.shortest_edge is None:
            resized = image.resize((self.width, self.height), self.resample)
            return _prepared(image, resized, resized.size, (0, 0))
        scale = self.shortest_edge / min(image.size)
        size = tuple(max(self.shortest_edge, int(side * scale)) for side in image.size)
        left, top = (size[0] - self.width) // 2, (size[1] - self.height) // 2
        resized = image.resize((size[0], size[1]), self.resample)
        cut = resized.crop((left, top, left + self.width, top + self.height))
        return _prepared(image, cut, resized.size, (left, top))


def _prepared(
    original: Image.Image, seen: Image.Image, resized: tuple[int, int], cut: tuple[int, int]
) -> Prepared:
    width, height = original.size
    scale_x, scale_y = resized[0] / width, resized[1] / height
    geometry = Geometry(width, height, scale_x, scale_y, float(-cut[0]), float(-cut[1]))
    return Prepared(np.array(seen), geometry)


def _sides(size: Any) -> tuple[int, int]:
    if isinstance(size, dict):
        return int(size["width"]), int(size["height"])
    return int(size), int(size)
