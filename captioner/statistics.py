"""How far an image is from those that a model was trained on, and what those are on the whole.

Shapes: b images, n positions, f features of which p say where a position lies, k directions.
"""

from collections.abc import Iterable
from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from captioner.tensor_files import tensors_from_bytes, tensors_to_bytes

_DIRECTIONS = 128
_LEAST_VARIANCE = 1e-6
"""Of a direction, as a share of the mean: what never varies must not decide alone."""


@dataclass(frozen=True, eq=False)
class FeatureStatistics:
    """What the encoder's features of training images are like; all in float32, on the processor.

    The distance is Mahalanobis's, of features pooled over the image (1807.03888, without classes).
    Of their covariance the directions of most variance are kept, and the mean variance of all
    others (Tipping and Bishop 1999, probabilistic principal components).

    Attributes:
        mean: of the pooled features, without those of place, [f - p].
        directions: orthonormal, [f - p x k].
        precisions: what the square of the way along each direction counts, and, last, of what is
            left: one over the variance, scaled so that the mean square distance of training
            images is 1, [k + 1].
        memory: what the encoder sees in training images, on the whole, [n x f].
    """

    mean: Tensor
    directions: Tensor
    precisions: Tensor
    memory: Tensor

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            ValueError: if they do not fit together, or one is no number.
        """
        for field in fields(self):
            value = getattr(self, field.name)
            if value.dtype != torch.float32 or not value.isfinite().all():
                raise ValueError(f"{field.name} holds what is no number in float32")
        size, count = len(self.mean), len(self.precisions) - 1
        shapes = (size,), (size, count), (count + 1,)
        found = tuple(tuple(part.shape) for part in (self.mean, self.directions, self.precisions))
        if found != shapes or self.memory.ndim != 2 or not len(self.memory):
            raise ValueError(
                f"mean, directions, precisions and memory have shapes {found} and "
                f"{tuple(self.memory.shape)}, which do not fit together"
            )
        if (self.precisions < 0).any():
            raise ValueError("precisions holds a number below 0")

    @classmethod
    def fit(cls, memories: Iterable[Tensor], place_size: int) -> "FeatureStatistics":
        """Learn from images, in one pass; covariance by scikit-learn's ``ledoit_wolf``.

        Args:
            memories: what the encoder saw of some of them after others, [b x n x f] each.
            place_size: how many of the features, the last ones, say where a position lies.

        Raises:
            ValueError: if there are fewer than two images, or they all look the same, or features
                are no numbers.
        """
        pooled: list[npt.NDArray[np.float64]] = []
        total: Tensor | None = None
        for memory in memories:
            seen = memory.shape[2] - place_size
            pooled.append(_pooled(memory, seen).numpy())
            summed = memory.float().cpu().double().sum(0)
            total = summed if total is None else total + summed
        images = sum(map(len, pooled))
        if total is None or images < 2:
            raise ValueError(f"{images} images tell nothing of how images differ; give 2 or more")
        mean, directions, precisions = _fitted(np.concatenate(pooled))
        values = (torch.from_numpy(value) for value in (mean, directions, precisions))
        return cls(*(value.float() for value in (*values, total / images)))

    @classmethod
    def parse(cls, data: bytes) -> "FeatureStatistics":
        """Read what ``to_bytes`` wrote.

        Raises:
            ValueError: if it is something else.
        """
        return tensors_from_bytes(cls, data)

    def to_bytes(self) -> bytes:
        """Return the content of a safetensors file."""
        return tensors_to_bytes(self)

    def fits(self, feature_size: int, place_size: int) -> bool:
        """Say whether an encoder of such sizes could have made these features."""
        seen = feature_size - place_size
        return len(self.mean) == seen and self.memory.shape[1] == feature_size

    def distance(self, memory: Tensor) -> Tensor:
        """Return how far images are from training images, of which most have about 1, [b].

        Args:
            memory: what the encoder saw, [b x n x f].
        """
        off = _pooled(memory, len(self.mean)) - self.mean
        along = off @ self.directions.double()
        left = (off.square().sum(1) - along.square().sum(1)).clamp_min(0)
        squares = torch.cat((along.square(), left.unsqueeze(1)), 1)
        return (squares @ self.precisions.double()).sqrt().float()


def _pooled(memory: Tensor, seen: int) -> Tensor:
    """Return the mean over positions of what is seen there, [b x f - p], float64.

    The standard deviation over positions, beside it, sets no image of another kind further apart.
    """
    return memory[..., :seen].float().mean(1).cpu().double()  # Not every device knows float64.


def _fitted(pooled: npt.NDArray[np.float64]) -> tuple[npt.NDArray[np.float64], ...]:
    """Return mean, directions and precisions of pooled features [images x f - p]."""
    # Only who fits needs it, and it takes a second to import.
    from sklearn.covariance import ledoit_wolf

    if not np.isfinite(pooled).all():
        raise ValueError("the encoder's features are not all numbers; use another model")
    mean = pooled.mean(0)
    covariance, _ = ledoit_wolf(pooled)
    size = len(mean)
    count = min(size, _DIRECTIONS)
    total = float(covariance.trace())
    least = _LEAST_VARIANCE * total / size
    if not least > 0:
        raise ValueError("all images look the same to the encoder; give others")
    # All of them: LAPACK's way to some of them alone fails where many variances are the same.
    variances, directions = (part[..., -count:] for part in np.linalg.eigh(covariance))
    rest = (total - variances.sum()) / (size - count) if size > count else np.inf
    precisions = 1 / np.maximum((*variances, rest), least)
    off = pooled - mean
    along = np.square(off @ directions)
    left = np.maximum(np.square(off).sum(1) - along.sum(1), 0)
    squares = np.column_stack((along, left)) @ precisions
    return mean, directions, precisions / squares.mean()
