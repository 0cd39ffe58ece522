"""START HERE: the main job, readable as a sentence.

``ListImages -> SkipDone -> Reshuffle -> ReadAndDecode -> Caption -> ScoreConfidence ->
WriteParts -> Commit``, where everything from ReadAndDecode to WriteParts is one composite: it
fuses into one stage, so pixels never cross a shuffle (promise 4).
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import apache_beam as beam
from apache_beam.utils.shared import Shared

from captioner.loading import load
from pipelines.captioning import CaptionBatches, score_confidence
from pipelines.commit import Committed, clear, commit
from pipelines.config import AnnotateConfig
from pipelines.decoding import ReadAndDecode
from pipelines.done import DoneIndex
from pipelines.listing import ImageRef, list_images
from pipelines.manifest import finish_run, record_commit
from pipelines.output import Output
from pipelines.parts import StagedPart
from pipelines.records import Captioned, Failure
from pipelines.review import ReviewConfig, review_committed
from pipelines.writing import WriteParts
from schemas.identity import row_key
from schemas.tally import Tally


@dataclass(eq=False)
class Annotate(beam.PTransform):
    """References to committed captions and failures; ends in one `Committed` record.

    Attributes:
        config: what the steps need to know.
        shared: the process's handle of the model, the same for every wave.
        commit_name: name of this commit in the run's manifest.
        accelerator: Dataflow's resource hint, e.g. ``type:nvidia-l4;count:1``.
        min_ram: Dataflow's resource hint, e.g. ``16GB``.
    """

    config: AnnotateConfig
    shared: Shared
    commit_name: str = "all"
    accelerator: str | None = None
    min_ram: str | None = None

    def expand(self, refs: beam.pvalue.PCollection) -> beam.pvalue.PCollection:
        """Caption, then commit."""
        caption_images: beam.PTransform = CaptionImages(self.config, self.shared)
        # Hints on the composite as a whole: a hint on one step inside breaks fusion.
        if self.accelerator:
            caption_images = caption_images.with_resource_hints(accelerator=self.accelerator)
        if self.min_ram:
            caption_images = caption_images.with_resource_hints(min_ram=self.min_ram)
        parts = refs | "Spread" >> beam.Reshuffle() | "CaptionImages" >> caption_images
        return parts | "Commit" >> Commit(self.config, self.commit_name)


@dataclass(eq=False)
class CaptionImages(beam.PTransform):
    """References in, staged parts out: the composite that carries the hints."""

    config: AnnotateConfig
    shared: Shared

    def expand(self, refs: beam.pvalue.PCollection) -> beam.pvalue.PCollection:
        """Read, caption, score, write."""
        return (
            refs
            | "ReadAndDecode" >> beam.ParDo(ReadAndDecode(self.config, self.shared))
            | "Caption" >> beam.ParDo(CaptionBatches(self.config, self.shared))
            | "ScoreConfidence"
            >> beam.Map(score_confidence, self.config.head).with_output_types(Captioned | Failure)
            | "WriteParts" >> beam.ParDo(WriteParts(self.config)).with_output_types(StagedPart)
        )


@dataclass(eq=False)
class Commit(beam.PTransform):
    """Publishes what the runner reports as written, all at once, even if that is nothing."""

    config: AnnotateConfig
    name: str

    def expand(self, parts: beam.pvalue.PCollection) -> beam.pvalue.PCollection:
        """Gather the parts' names, which are small, and publish."""
        return (
            parts.pipeline
            | "Once" >> beam.Create([None])
            | "Publish" >> beam.Map(self._publish, beam.pvalue.AsList(parts))
        )

    def _publish(self, _: None, parts: Sequence[StagedPart]) -> Committed:
        output = Output(self.config.output, self.config.run_id)
        committed = commit(output, set(parts))
        # Recorded before the staged files go: a retry finds the record or counts the same rows.
        record_commit(output, self.config.run_id, self.name, committed)
        clear(output, committed)
        return committed


@dataclass(eq=False)
class ListImages(beam.PTransform):
    """Inputs to references, on workers. A local run lists before it starts instead."""

    inputs: Sequence[str]
    glob: str | None = None

    def expand(self, pbegin: Any) -> beam.pvalue.PCollection:
        """List each input, then drop what two inputs have in common."""
        refs = (
            pbegin
            | "Inputs" >> beam.Create(list(self.inputs), reshuffle=True)
            | "ListInput" >> beam.FlatMap(self._list).with_output_types(ImageRef)
        )
        if len(self.inputs) == 1:
            return refs
        return (
            refs
            | "KeyByUri" >> beam.WithKeys(lambda ref: ref.uri)
            | "GroupByUri" >> beam.GroupByKey()
            | "OneOfEach" >> beam.MapTuple(_first).with_output_types(ImageRef)
        )

    def _list(self, uri: str) -> Iterator[ImageRef]:
        yield from list_images([uri], self.glob)


def _first(uri: str, refs: Sequence[ImageRef]) -> ImageRef:
    return min(refs, key=lambda ref: (ref.kind is not None, ref.uri_version))


class SkipDone(beam.DoFn):
    """Drops references whose caption is in the output already."""

    def __init__(self, config: AnnotateConfig, shared: Shared) -> None:
        self._config = config
        self._shared = shared

    def setup(self) -> None:
        """Load the index of what is done, once a process."""
        config = self._config
        ours = config.model_id, config.decoding.id
        self._index: DoneIndex = self._shared.acquire(
            lambda: DoneIndex.load(Output(config.output), *ours, config.refill, config.verifier),
            tag=config.run_id,
        )

    def process(self, ref: ImageRef) -> Iterator[ImageRef]:
        """Hand on what is to do."""
        yield from self._index.skip_done([ref])


@dataclass(frozen=True)
class Spool:
    """A local file of references, one JSON array a line, and a range of it."""

    path: str
    offset: int
    count: int

    def read(self) -> Iterator[ImageRef]:
        """Yield the references of the range."""
        with open(self.path, encoding="utf-8") as file:
            file.seek(self.offset)
            for _ in range(self.count):
                yield ImageRef(*json.loads(file.readline()))


@dataclass(eq=False)
class ReadSpool(beam.PTransform):
    """The references of one wave of a local run."""

    spool: Spool

    def expand(self, pbegin: Any) -> beam.pvalue.PCollection:
        """Read them in the pipeline, so that the graph does not hold them."""
        return (
            pbegin
            | "Wave" >> beam.Create([self.spool])
            | "ReadSpool" >> beam.FlatMap(Spool.read).with_output_types(ImageRef)
        )


def tally_of(ref: ImageRef) -> Tally:
    """Return the tally of one reference."""
    return Tally.of([row_key(ref.uri, ref.uri_version)])


class SumTallies(beam.CombineFn):
    """Adds tallies up."""

    def create_accumulator(self) -> Tally:
        """Begin with nothing."""
        return Tally()

    def add_input(self, total: Tally, tally: Tally) -> Tally:
        """Add one."""
        return total + tally

    def merge_accumulators(self, totals: Sequence[Tally]) -> Tally:
        """Add several."""
        return sum(totals, Tally())

    def extract_output(self, total: Tally) -> Tally:
        """Return the sum."""
        return total


@dataclass(eq=False)
class AnnotateFolders(beam.PTransform):
    """The whole job as one graph, for runners that outlive the launcher (Dataflow, Flink).

    Ends in the run's id, after the manifest with the balance was written; a run that does not
    balance fails.
    """

    inputs: Sequence[str]
    config: AnnotateConfig
    shared: Shared
    done_shared: Shared
    glob: str | None = None
    accelerator: str | None = None
    min_ram: str | None = None
    review: ReviewConfig | None = None

    def expand(self, pbegin: Any) -> beam.pvalue.PCollection:
        """List, skip, caption, commit, balance, plan the review and push it."""
        listed = pbegin | "ListImages" >> ListImages(self.inputs, self.glob)
        to_do = listed | "SkipDone" >> beam.ParDo(
            SkipDone(self.config, self.done_shared)
        ).with_output_types(ImageRef)
        committed = to_do | "Annotate" >> Annotate(
            self.config, self.shared, "all", self.accelerator, self.min_ram
        )
        balanced = committed | "Balance" >> beam.Map(
            self._balance,
            beam.pvalue.AsSingleton(_tally("TallyListed", listed)),
            beam.pvalue.AsSingleton(_tally("TallyToDo", to_do)),
        )
        # A step of its own: a push that is tried again must not commit again.
        return balanced | "Settle" >> beam.Reshuffle() | "Review" >> beam.Map(self._review)

    def _balance(self, _: Committed, listed: Tally, to_do: Tally) -> str:
        finish_run(
            Output(self.config.output),
            self.config.run_id,
            listed=listed,
            to_do=to_do,
        )
        return self.config.run_id

    def _review(self, run_id: str) -> str:
        if self.review is not None:
            output, config = Output(self.config.output), self.config
            kind = config.model_id, config.decoding.id
            review_committed(
                output,
                run_id,
                *kind,
                self.review,
                lambda: load(config.model, config.device, config.decoding),
            )
        return run_id


def _tally(label: str, refs: beam.pvalue.PCollection) -> beam.pvalue.PCollection:
    return refs | f"{label}Keys" >> beam.Map(tally_of) | label >> beam.CombineGlobally(SumTallies())
