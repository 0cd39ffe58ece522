"""A captioner that needs no model: it says what it sees, and fails on demand."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from PIL import Image

from captioner.contract import Caption, DecodingConfig, Geometry, Prepared


class OutOfMemory(RuntimeError):
    """What torch raises, by its words."""


@dataclass
class FakeCaptioner:
    """Captions an image by its mean colour.

    Attributes:
        model_id: any.
        decoding: any.
        poison: an image whose first pixel has this value of red breaks its batch.
        most: a larger batch does not fit in memory.
        batches: sizes of the batches that came.
        fills: features that it tells besides those of every caption.
        verifier: whose ``verifier_logit`` is, if that is one of them.
    """

    model_id: str = "fake@1"
    decoding: DecodingConfig = DecodingConfig()
    poison: int | None = None
    most: int = 10_000
    batches: list[int] = field(default_factory=list)
    image_size: tuple[int, int] = (8, 8)
    fills: tuple[str, ...] = ()
    verifier: str | None = None

    def prepare(self, image: Image.Image) -> Prepared:
        small = np.asarray(image.resize(self.image_size, Image.Resampling.NEAREST))
        geometry = Geometry(image.width, image.height, 8 / image.width, 8 / image.height)
        return Prepared(small, geometry)

    def caption(self, batch: Sequence[Prepared]) -> list[Caption]:
        self.batches.append(len(batch))
        if len(batch) > self.most:
            raise OutOfMemory("CUDA out of memory. Tried to allocate 2.00 GiB")
        if any(item.pixels[0, 0, 0] == self.poison for item in batch):
            raise ValueError("poison")
        return [self._caption(item) for item in batch]

    def _caption(self, item: Prepared) -> Caption:
        red, green, blue = (int(value) for value in item.pixels.reshape(-1, 3).mean(0))
        words = (f"r{red}", f"g{green}", f"b{blue}", "<end>")
        logprobs = tuple(-(value + 1) / 100 for value in (red, green, blue, 0))
        return Caption(
            text=" ".join(words[:-1]),
            tokens=words,
            token_logprobs=logprobs,
            n_best=((" ".join(words[:-1]), sum(logprobs)),),
            features={
                "logprob_mean": sum(logprobs) / 4,
                "num_tokens": 4.0,
                **{name: float(red) for name in self.fills},
            },
            verifier=self.verifier,
        )
