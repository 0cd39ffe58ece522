"""A run on this machine: waves of one small pipeline after another, the model kept loaded.

Beam's in-process runner makes one giant bundle, holds what a shuffle passes in memory and does
not stop by itself. A wave bounds the memory, ends in a commit, and can be stopped in seconds.
"""

import json
import signal
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import astuple, dataclass, field, replace
from pathlib import Path
from typing import Any

import apache_beam as beam
import pyarrow.compute as pc
from apache_beam.options.pipeline_options import DirectOptions, PipelineOptions
from apache_beam.utils.shared import Shared

from captioner.contract import Captioner
from pipelines.annotate import Annotate, ReadSpool, Spool, tally_of
from pipelines.commit import recover
from pipelines.config import AnnotateConfig
from pipelines.done import DoneIndex
from pipelines.listing import ImageRef
from pipelines.manifest import finish_run
from pipelines.models import keep_loaded
from pipelines.output import Lease, Output
from pipelines.progress import Progress, read_progress, request_stop, stop_requested
from pipelines.worker import LocalRunner
from schemas.identity import row_key
from schemas.tally import Tally

WAVE_IMAGES = 10_000
SEVERAL_PROCESSES_WAVE_IMAGES = 200_000
"""Each wave starts its processes anew, which takes some ten seconds."""

Watcher = Callable[[Progress], None]


class RunError(Exception):
    """A run that ended before its images did; what was finished is committed."""


@dataclass
class Listed:
    """What the listing found, spooled to a local file so that memory does not grow with it."""

    path: Path
    listed: Tally = Tally()
    to_do: Tally = Tally()
    offsets: list[int] = field(default_factory=list)
    complete: bool = True

    def wave(self, first: int, count: int) -> Spool:
        """Return a range of the images to do."""
        count = min(count, self.to_do.count - first)
        return Spool(str(self.path), self.offsets[first // OFFSET_EVERY], count)

    def __iter__(self) -> Iterator[ImageRef]:
        return Spool(str(self.path), 0, self.to_do.count).read()


OFFSET_EVERY = 1_000
"""References between two places of the spool from which a wave may begin."""


def spool(
    refs: Iterable[ImageRef],
    done: DoneIndex,
    path: Path,
    limit: int | None,
    watch: Callable[[Listed], bool] = lambda listed: True,
) -> Listed:
    """Write the references that are to do to a file and count all.

    Args:
        refs: what was listed.
        done: what the output holds already.
        path: the file to write.
        limit: stop at so many images to do.
        watch: called after each image; stops the listing by returning False.
    """
    listed = Listed(path)
    with path.open("wb") as file:
        for ref in refs:
            if limit is not None and listed.to_do.count >= limit:
                break
            todo = done.to_do(ref)
            tally = tally_of(ref)
            listed.listed += tally
            if todo is not None:
                if listed.to_do.count % OFFSET_EVERY == 0:
                    listed.offsets.append(file.tell())
                listed.to_do += tally
                file.write(json.dumps(astuple(todo)).encode() + b"\n")
            if not watch(listed):
                listed.complete = False
                break
    return listed


@dataclass
class LocalRun:
    """One run of the main job in this process.

    Attributes:
        captioner: the model, loaded.
        config: what the steps need to know; its progress folder is made here.
        options: Beam's options; ``direct_running_mode`` and ``direct_num_workers`` matter.
        wave_images: images between two commits; a multiple of 1,000. Fewer take less memory.
        on_listed: told what the listing found.
        on_progress: told how far the run is, a few times a second.
        on_stop: told once when the user asks to stop.
    """

    captioner: Captioner
    config: AnnotateConfig
    options: PipelineOptions
    wave_images: int = WAVE_IMAGES
    on_listed: Callable[[Listed], None] = lambda listed: None
    on_progress: Watcher = lambda progress: None
    on_stop: Callable[[], None] = lambda: None

    def run(self, refs: Iterable[ImageRef], limit: int | None = None) -> dict[str, Any]:
        """Run, and return the manifest.

        The caller holds the output's lease.

        Raises:
            RunError: if the pipeline failed.
            BalanceError: if the run does not balance.
        """
        output = Output(self.config.output, self.config.run_id)
        with tempfile.TemporaryDirectory(prefix="captioner-", ignore_cleanup_errors=True) as folder:
            self._folder = Path(folder)
            self._seconds: dict[str, float] = {}
            self.config = replace(self.config, progress_folder=folder)
            config = self.config
            ours = config.model_id, config.decoding.id
            done = DoneIndex.load(output, *ours, config.refill, config.verifier)
            with self._stoppable():
                listed = spool(refs, done, self._folder / "to_do.jsonl", limit, self._go_on)
                self.on_listed(listed)
                error = self._run_waves(listed)
                manifest = self._finish(output, listed, error)
        if error is not None:
            raise RunError(
                f"{explain(error)}. What was finished is committed; run the same command again "
                "to go on."
            ) from error
        return manifest

    @property
    def stopped(self) -> bool:
        """Whether the user asked to stop."""
        return stop_requested(str(self._folder))

    def _go_on(self, _: Listed) -> bool:
        return not self.stopped

    def _run_waves(self, listed: Listed) -> Exception | None:
        shared = Shared()
        keep_loaded(shared, self.captioner, self.config)
        size = SEVERAL_PROCESSES_WAVE_IMAGES if self._several_processes() else self.wave_images
        for first in range(0, listed.to_do.count, size):
            if self.stopped:
                break
            error = self._run_wave(listed.wave(first, size), shared, f"wave-{first:09d}")
            if error is not None:
                return error
        return None

    def _several_processes(self) -> bool:
        mode = self.options.view_as(DirectOptions).direct_running_mode
        return bool(mode == "multi_processing")

    def _run_wave(self, wave: Spool, shared: Shared, name: str) -> Exception | None:
        def run_pipeline() -> None:
            try:
                pipeline = beam.Pipeline(runner=LocalRunner(), options=self.options)
                refs = pipeline | "ReadRefs" >> ReadSpool(wave)
                _ = refs | "Annotate" >> Annotate(self.config, shared, name)
                result = pipeline.run()
                result.wait_until_finish()
                self._add_seconds(result)
            except Exception as error:
                errors.append(error)

        errors: list[Exception] = []
        # Not in the main thread: there Ctrl-C would be raised in the middle of a step.
        thread = threading.Thread(target=run_pipeline, name="beam", daemon=True)
        thread.start()
        while thread.is_alive():
            thread.join(0.25)
            self.on_progress(read_progress(self._folder))
        return errors[0] if errors else None

    def _add_seconds(self, result: Any) -> None:
        """Add up what the steps measured of their own time."""
        for counter in result.metrics().query()["counters"]:
            name = counter.key.metric.name
            if name.startswith("milliseconds_"):
                stage = f"{counter.key.metric.namespace}: {name.removeprefix('milliseconds_')}"
                self._seconds[stage] = self._seconds.get(stage, 0) + counter.result / 1000

    def _finish(self, output: Output, listed: Listed, error: Exception | None) -> dict[str, Any]:
        if error is not None:  # publish what the workers had finished when it broke
            recover(output)
        stopped = self.stopped or not listed.complete
        reached, not_reached = None, Tally()
        if stopped or error is not None:
            reached, not_reached = self._reached(output, listed)
        return finish_run(
            output,
            self.config.run_id,
            listed=listed.listed,
            to_do=listed.to_do,
            reached=reached,
            not_reached=not_reached,
            stopped=not listed.complete or not_reached.count > 0,
            seconds=self._seconds,
            error=None if error is None else explain(error),
        )

    def _reached(self, output: Output, listed: Listed) -> tuple[tuple[Tally, Tally], Tally]:
        """Tally, by the keys of this run's rows, what was captioned, failed and not reached."""
        ours = pc.field("run_id") == self.config.run_id
        captioned, failed = set[bytes](), set[bytes]()
        for table, keys in (("captions", captioned), ("failures", failed)):
            for _, rows in output.tables(table, ["uri", "uri_version"], ours):
                columns = (rows.column(name).to_pylist() for name in ("uri", "uri_version"))
                keys.update(map(row_key, *columns))
        to_do = (row_key(ref.uri, ref.uri_version) for ref in listed)
        rest = Tally.of(key for key in to_do if key not in captioned and key not in failed)
        return (Tally.of(captioned), Tally.of(failed)), rest

    @contextmanager
    def _stoppable(self) -> Iterator[None]:
        """Turn the first Ctrl-C (or SIGTERM) into a request; a second one ends at once."""

        def stop(number: int, frame: object) -> None:
            if self.stopped:
                raise KeyboardInterrupt
            request_stop(self._folder)
            self.on_stop()

        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, stop) for number in _SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def explain(error: Exception) -> str:
    """Return the root cause, without the runner's frames around it."""
    cause: BaseException = error
    while cause.__cause__ is not None:
        cause = cause.__cause__
    return f"{type(cause).__name__}: {cause}"


@contextmanager
def opened(output: Output, run_id: str) -> Iterator[None]:
    """Hold an output's lease, having published what a crash left."""
    with Lease(output, run_id):
        recover(output)
        yield
