"""What the training loop asks of data."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from typing import Any, Protocol, Self

import torch
from torch import Tensor

from captioner.heads import HeadTargets


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Images and their captions.

    Attributes:
        tokens: start to end, padded, those of one image following each other, [c x t], int64.
        pixels: of the images, [b x height x width x 3], uint8; None where there is memory.
        memory: what a frozen encoder saw of them, [b x positions x features].
        targets: what heads are to say of them; None of a model without heads.
    """

    tokens: Tensor
    pixels: Tensor | None = None
    memory: Tensor | None = None
    targets: HeadTargets | None = None

    def __len__(self) -> int:
        """How many images there are."""
        return next(len(seen) for seen in (self.memory, self.pixels) if seen is not None)

    def part(self, number: int, count: int) -> Self:
        """Return every ``count``-th image from ``number`` on: the share of one process."""
        images = len(self)

        def share(rows: Tensor) -> Tensor:
            each = len(rows) // images
            return rows.reshape(images, each, *rows.shape[1:])[number::count].flatten(0, 1)

        return self._each(share)

    def to(self, device: torch.device) -> Self:
        """Bring everything to a device."""
        return self._each(lambda rows: rows.to(device, non_blocking=True))

    def _each(self, change: Callable[[Tensor], Tensor]) -> Self:
        changed: dict[str, Any] = {}
        for field in fields(self):
            rows = getattr(self, field.name)
            if rows is not None:
                changed[field.name] = (
                    rows.each(change) if isinstance(rows, HeadTargets) else change(rows)
                )
        return replace(self, **changed)


class Batches(Protocol):
    """What is learned from, one pass after another."""

    def __len__(self) -> int:
        """How many batches a pass has."""

    def batches(self, epoch: int, first: int = 0) -> Iterator[Batch]:
        """Yield the batches of a pass from number ``first`` on, the same ones every time."""
