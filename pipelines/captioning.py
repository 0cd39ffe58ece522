"""Caption: batches through the model; one poison image costs one image (promise 8)."""

import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import apache_beam as beam
import torch
from apache_beam.metrics import Metrics
from apache_beam.utils.shared import Shared
from apache_beam.utils.windowed_value import WindowedValue

from captioner.confidence import Confidence, score
from captioner.confidence.head import VERIFIED, ConfidenceHead
from captioner.contract import Caption, Captioner, Prepared
from pipelines.bundles import at_end_of_bundle
from pipelines.config import AnnotateConfig
from pipelines.models import acquire, is_out_of_memory
from pipelines.records import Captioned, Decoded, Failure
from schemas.kinds import FailureKind, Stage

Said = TypeVar("Said")


def caption_batch(
    captioner: Captioner,
    batch: Sequence[Decoded],
    on_out_of_memory: Callable[[int], None] = lambda size: None,
) -> list[Captioned | Failure]:
    """Caption a batch; on an error split it until the guilty image is alone.

    Args:
        captioner: the model.
        batch: images, at least one.
        on_out_of_memory: told the size of each batch that did not fit.

    Returns:
        One item an image, in order.
    """
    said = in_halves(captioner.caption, batch, on_out_of_memory)
    return [
        one if isinstance(one, Failure) else Captioned(item.facts, one)
        for item, one in zip(batch, said, strict=True)
    ]


def in_halves(
    say: Callable[[list[Prepared]], Sequence[Said]],
    batch: Sequence[Decoded],
    on_out_of_memory: Callable[[int], None] = lambda size: None,
) -> list[Said | Failure]:
    """Have something said of each image of a batch, as `caption_batch` has captions.

    Args:
        say: the model's; returns one item an image, in order.
        batch: images, at least one.
        on_out_of_memory: told the size of each batch that did not fit.
    """
    try:
        said = say([item.prepared for item in batch])
        if len(said) != len(batch):
            raise RuntimeError(f"{len(said)} captions came back for {len(batch)} images")
        return list(said)
    except Exception as error:
        if is_out_of_memory(error):
            on_out_of_memory(len(batch))
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
        if len(batch) == 1:
            return [_failure(batch[0], error)]
    # Outside of the handler, so that the error's traceback no longer holds the batch's tensors.
    half = len(batch) // 2
    return [
        *in_halves(say, batch[:half], on_out_of_memory),
        *in_halves(say, batch[half:], on_out_of_memory),
    ]


def _failure(item: Decoded, error: Exception) -> Failure:
    memory = is_out_of_memory(error)
    kind = FailureKind.OUT_OF_MEMORY if memory else FailureKind.MODEL_ERROR
    return Failure(item.ref, Stage.CAPTION, kind, f"{type(error).__name__}: {error}")


class BatchLimit:
    """How many images go into a batch: fewer after one that did not fit, then slowly more."""

    def __init__(self, most: int, patience: int = 50) -> None:
        self._most = most
        self._patience = patience
        self._successes = 0
        self.size = most

    def shrink(self, failed_size: int) -> None:
        """Stay under a size that did not fit."""
        self.size = max(1, min(self.size, failed_size // 2))
        self._successes = 0

    def succeed(self) -> None:
        """Count a batch that fit; after ``patience`` of them try twice as many images."""
        self._successes += 1
        if self._successes >= self._patience and self.size < self._most:
            self.size = min(self._most, self.size * 2)
            self._successes = 0


class CaptionBatches(beam.DoFn):
    """Collects images to batches and captions them; failures from before pass through."""

    def __init__(self, config: AnnotateConfig, shared: Shared) -> None:
        self._config = config
        self._shared = shared
        self._captioned = Metrics.counter("caption", "images_captioned")
        self._failed = Metrics.counter("caption", "images_failed")
        self._splits = Metrics.counter("caption", "batches_out_of_memory")
        self._batch_sizes = Metrics.distribution("caption", "batch_size")
        self._busy = Metrics.counter("caption", "milliseconds_in_model")

    def setup(self) -> None:
        """Load the model."""
        self._captioner = acquire(self._shared, self._config)
        self._limit = BatchLimit(self._config.batch_size)
        self._batch: list[Decoded] = []

    def start_bundle(self) -> None:
        """Forget a bundle that failed half way."""
        self._batch = []

    def process(self, item: Decoded | Failure) -> Iterator[Any]:
        """Add an image; hand on a batch once it is full."""
        if isinstance(item, Failure):
            yield item
            return
        self._batch.append(item)
        if len(self._batch) >= self._limit.size:
            yield from self._flush()

    def finish_bundle(self) -> Iterator[WindowedValue]:
        """Caption what is left."""
        for item in self._flush():
            yield at_end_of_bundle(item)

    def _flush(self) -> list[Captioned | Failure]:
        batch, self._batch = self._batch, []
        if not batch:
            return []
        self._batch_sizes.update(len(batch))
        started = time.monotonic()
        try:
            items = caption_batch(self._captioner, batch, self._on_out_of_memory)
        finally:
            self._busy.inc(int(1000 * (time.monotonic() - started)))
        self._limit.succeed()
        failed = sum(isinstance(item, Failure) for item in items)
        self._failed.inc(failed)
        self._captioned.inc(len(items) - failed)
        return items

    def _on_out_of_memory(self, size: int) -> None:
        self._splits.inc()
        self._limit.shrink(size)


_UNCALIBRATED = Metrics.counter("confidence", "captions_uncalibrated")


def score_confidence(
    item: Captioned | Failure, head: ConfidenceHead | None = None
) -> Captioned | Failure:
    """Say how likely a caption is to be right; failures pass through.

    A caption that lacks a feature of the head is kept, uncalibrated, and what another verifier said
    than the head's is none of them; one that lacks even ``logprob_mean`` becomes a failure.
    """
    if isinstance(item, Failure):
        return item
    try:
        confidence = _confidence(_known(item.caption, head), head)
    except ValueError as error:
        return Failure(item.ref, Stage.CAPTION, FailureKind.MODEL_ERROR, str(error))
    return dataclasses.replace(
        item,
        confidence=confidence.value,
        confidence_kind=confidence.kind.value,
        confidence_id=confidence.id,
    )


def _known(caption: Caption, head: ConfidenceHead | None) -> dict[str, float]:
    """Return the features of a caption that a head may look at."""
    if head is None or caption.verifier == head.verifier:
        return caption.features
    return {name: value for name, value in caption.features.items() if name != VERIFIED}


def _confidence(features: Mapping[str, float | None], head: ConfidenceHead | None) -> Confidence:
    try:
        return score(features, head)
    except ValueError:
        if head is None:
            raise
    confidence = score(features)
    _UNCALIBRATED.inc()
    return confidence
