"""ReadAndDecode: references in, pixels at the model's size out, never waiting for one image."""

import threading
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeoutError
from typing import Any

import apache_beam as beam
from apache_beam.metrics import Metrics
from apache_beam.utils.shared import Shared
from apache_beam.utils.windowed_value import WindowedValue

from captioner.contract import Captioner
from captioner.images import ImageError, decode
from pipelines import storage
from pipelines.bundles import at_end_of_bundle
from pipelines.config import AnnotateConfig
from pipelines.listing import ImageRef
from pipelines.models import acquire
from pipelines.progress import stop_requested
from pipelines.records import Decoded, Failure, ImageFacts
from schemas.identity import image_id
from schemas.kinds import FailureKind, Stage


def read_and_decode(
    ref: ImageRef,
    captioner: Captioner,
    config: AnnotateConfig,
    decoding_slots: threading.Semaphore | None = None,
) -> Decoded | Failure:
    """Read, decode and prepare one image; whatever goes wrong is its `Failure`."""
    if ref.kind is not None:
        return Failure(ref, Stage.LIST, FailureKind(ref.kind), ref.message or "")
    try:
        data = storage.read_bytes(ref.uri, config.limits.max_bytes, ref.num_bytes, ref.uri_version)
    except storage.StorageError as error:
        return Failure(ref, Stage.READ, error.kind, str(error))
    slots = decoding_slots or threading.Semaphore()
    try:
        with slots:
            return _decode(ref, data, captioner, config)
    except ImageError as error:
        return Failure(ref, Stage.DECODE, error.kind, str(error))
    except _PrepareError as error:
        message = f"{ref.uri}: the model could not take the image: {error.__cause__!r}"
        return Failure(ref, Stage.DECODE, FailureKind.MODEL_ERROR, message)
    except MemoryError:
        message = f"{ref.uri} did not fit in memory while it was decoded"
        return Failure(ref, Stage.DECODE, FailureKind.OUT_OF_MEMORY, message)


class _PrepareError(Exception):
    """The model's own preparation failed; its cause says how."""


def _decode(ref: ImageRef, data: bytes, captioner: Captioner, config: AnnotateConfig) -> Decoded:
    draft_size = captioner.image_size if config.decoding.draft else None
    decoded = decode(data, config.limits, draft_size)
    try:
        prepared = captioner.prepare(decoded.image)
    except MemoryError:
        raise
    except Exception as error:
        raise _PrepareError from error
    facts = ImageFacts(
        ref=ref,
        image_id=image_id(data),
        num_bytes=len(data),
        width=decoded.width,
        height=decoded.height,
        format=decoded.format,
        phash=decoded.phash,
    )
    return Decoded(facts, prepared)


class ReadAndDecode(beam.DoFn):
    """Keeps a window of images in the making, so that reading and decoding run beside the model.

    A reference goes to a thread; what comes out is the oldest image of the window, in order.
    The window bounds memory: ``read_threads`` images and one batch, whatever the data's size.
    """

    def __init__(self, config: AnnotateConfig, shared: Shared) -> None:
        self._config = config
        self._shared = shared
        self._in = Metrics.counter("decode", "images_in")
        self._failed = Metrics.counter("decode", "images_failed")
        self._wait = Metrics.counter("decode", "milliseconds_waited")

    def setup(self) -> None:
        """Load the model, whose ``prepare`` the threads use, and start them."""
        self._captioner = acquire(self._shared, self._config)
        self._slots = threading.Semaphore(self._config.decode_threads)
        self._window = self._config.read_threads + self._config.batch_size
        self._pool = ThreadPoolExecutor(self._config.read_threads, "read")
        self._pending: deque[tuple[ImageRef, Future[Decoded | Failure]]] = deque()

    def start_bundle(self) -> None:
        """Forget a bundle that failed half way."""
        self._pending.clear()

    def process(self, ref: ImageRef) -> Iterator[Any]:
        """Start on an image and hand on the oldest one if the window is full."""
        if stop_requested(self._config.progress_folder):
            return
        self._in.inc()
        self._pending.append((ref, self._submit(ref)))
        if len(self._pending) >= self._window:
            yield self._oldest()

    def finish_bundle(self) -> Iterator[WindowedValue]:
        """Hand on what is left."""
        while self._pending:
            yield at_end_of_bundle(self._oldest())

    def teardown(self) -> None:
        """End the threads."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _submit(self, ref: ImageRef) -> "Future[Decoded | Failure]":
        return self._pool.submit(read_and_decode, ref, self._captioner, self._config, self._slots)

    def _oldest(self) -> Decoded | Failure:
        ref, future = self._pending.popleft()
        started = time.monotonic()
        try:
            item = future.result(timeout=self._config.read_timeout)
        except FutureTimeoutError:
            item = self._give_up(ref)
        finally:
            self._wait.inc(int(1000 * (time.monotonic() - started)))
        if isinstance(item, Failure):
            self._failed.inc()
        return item

    def _give_up(self, ref: ImageRef) -> Failure:
        """Leave the hung thread to its fate: later images go to fresh threads."""
        self._pool.shutdown(wait=False)
        self._pool = ThreadPoolExecutor(self._config.read_threads, "read")
        message = f"{ref.uri} was not read within {self._config.read_timeout:.0f} s"
        return Failure(ref, Stage.READ, FailureKind.TIMEOUT, message)
