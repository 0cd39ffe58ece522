"""The command `review merge`: the final table, a person's caption where there is one."""

import argparse
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.commands import chosen_kind, output_of
from pipelines.commit import Committed, clear
from pipelines.committed import oldest_first
from pipelines.local import opened
from pipelines.options import EXIT_DONE
from pipelines.output import LiveFile, Output, new_run_id
from pipelines.parts import content_hash, encode, publish
from schemas.kinds import CaptionSource, Verdict
from schemas.tables import CAPTIONS, MERGED, REVIEWS
from schemas.uris import redact

_ANNOTATIONS = ("labels", "boxes", "masks")
_REVIEWER = ("verdict", "reviewer", "reviewed_at")
_FROM_CAPTIONS = [name for name in CAPTIONS.names if name in MERGED.names]
_FROM_REVIEWS = [
    *("image_id", "model_id", "decoding", "shown_caption", "caption", "task_id"),
    *(*_REVIEWER, *_ANNOTATIONS),
]
_TEXTS = {
    CaptionSource.REVIEWER: "written, put right or accepted by a person",
    CaptionSource.MODEL: "the model's: nobody has judged it",
    CaptionSource.REJECTED: "no caption: found wrong, and nobody wrote a better one",
}


@dataclass(frozen=True)
class Said:
    """What one review says.

    Attributes:
        row: which of the reviews it is.
        model: the model and decoding whose caption was shown.
        verdict: anything but skipped.
        shown: the text that was shown; None if that is not known.
        left: the text that the reviewer left, if any.
    """

    row: int
    model: tuple[str, str]
    verdict: Verdict
    shown: str | None
    left: str | None

    def words(self, shown: str | None) -> Iterator[tuple[str, bool]]:
        """Yield the texts that the review speaks of, and whether it speaks for them."""
        if self.verdict is Verdict.ACCEPTED:
            text = shown if self.left is None else self.left
            if text is not None:
                yield text, True
            return
        if shown is not None:
            yield shown, False
        if self.verdict is Verdict.EDITED and self.left:
            yield self.left, True


@dataclass(frozen=True)
class Decided:
    """A row's caption, whose word it is, and the review that decided; None if none did."""

    source: CaptionSource
    caption: str | None
    row: int | None = None


def decide(said: Sequence[Said], caption: str, model: tuple[str, str]) -> Decided:
    """Return what the reviews of an image make of one model's caption of it.

    A review speaks of texts, whichever model wrote them. To accept is to speak for the text, to
    reject is to speak against the one that was shown, and to edit is both: for the new text,
    against the one that was shown. Of each text the newest word counts.

    - ``reviewer``: of the texts that are spoken for, the newest is the caption. So one that a
      person wrote stays when the model's is rejected later, and falls when it is itself.
    - ``rejected``: there is no such text, and the model's caption is spoken against.
    - ``model``: there is none, and nobody spoke of the model's caption; to reject what another
      model wrote says nothing of it.

    Args:
        said: the reviews of the image, the oldest first, without skipped ones.
        caption: the model's.
        model: its id and decoding; a review of it whose shown text is not known is of ``caption``.
    """
    words: dict[str, tuple[bool, int]] = {}
    for review in said:
        shown = caption if review.shown is None and review.model == model else review.shown
        for text, good in review.words(shown):
            words.pop(text, None)  # so that the newest is the last
            words[text] = (good, review.row)
    good_ones = [(text, row) for text, (good, row) in words.items() if good]
    if good_ones:
        return Decided(CaptionSource.REVIEWER, *good_ones[-1])
    if caption in words:
        return Decided(CaptionSource.REJECTED, None, words[caption][1])
    return Decided(CaptionSource.MODEL, caption)


@dataclass(frozen=True)
class Merged:
    """What a merge made.

    Attributes:
        sources: rows by source.
        files: how many files they are in.
        elsewhere: reviewed images of which the model has no caption here.
    """

    sources: Counter[str]
    files: int
    elsewhere: int


def merge(output: Output, model_id: str, decoding: str) -> Merged:
    """Make the table ``merged``: a row for each uri of one model's captions, as `decide` says.

    Verdict, reviewer, time, labels, boxes and masks are those of the review that decided; what it
    does not have of the last three is the model's. Reviews are held in memory, captions a file at
    a time. The table replaces the one before in one write, also that of another model, and where
    nothing is new no file changes. To be called by the holder of the lease.

    Raises:
        OutputError: if a file is damaged, or a review has a verdict that there is not.
    """
    ours = (pc.field("model_id") == model_id) & (pc.field("decoding") == decoding)
    reviews = _reviews(output)
    said = _said(output, reviews)
    before = output.current()
    old = {file.path: file for file in before.of("merged")}
    new: dict[str, LiveFile] = {}
    sources: Counter[str] = Counter()
    unseen = set(said)
    for _, part in output.tables("captions", _FROM_CAPTIONS, ours):
        if part.num_rows:
            rows = _merged(part, reviews, said, (model_id, decoding))
            file = _published(output, rows, old)
            new[file.path] = file
            sources.update(rows["source"].to_pylist())
            unseen.difference_update(rows["image_id"].to_pylist())
    after = before.replacing("merged", old, new.values())
    if after != before:
        output.replace_current(after)
    clear(output, Committed(leftovers=tuple(sorted(old.keys() - new.keys()))))
    return Merged(sources, len(new), len(unseen))


def _reviews(output: Output) -> pa.Table:
    parts = [part for _, part in output.tables("reviews", _FROM_REVIEWS)]
    wanted = pa.schema([REVIEWS.field(name) for name in _FROM_REVIEWS])
    return pa.concat_tables([wanted.empty_table(), *parts]).combine_chunks()


def _said(output: Output, reviews: pa.Table) -> Mapping[str, list[Said]]:
    """Return what was said of each image, the oldest first; skipped reviews say nothing."""
    found: dict[str, list[Said]] = defaultdict(list)
    columns = [name for name in _FROM_REVIEWS if name not in _ANNOTATIONS]
    for row in oldest_first(output, reviews.select(columns)):
        if row["verdict"] is not Verdict.SKIPPED:
            model = (row["model_id"], row["decoding"])
            texts = (row["shown_caption"], row["caption"])
            found[row["image_id"]].append(Said(row["row"], model, row["verdict"], *texts))
    return found


def _merged(
    part: pa.Table, reviews: pa.Table, said: Mapping[str, list[Said]], model: tuple[str, str]
) -> pa.Table:
    pairs = zip(part["image_id"].to_pylist(), part["caption"].to_pylist(), strict=True)
    decided = [decide(said.get(image, ()), caption, model) for image, caption in pairs]
    review = reviews.take(pa.array([one.row for one in decided], pa.int64()))
    columns = {name: part[name] for name in _FROM_CAPTIONS}
    columns |= {name: review[name] for name in _REVIEWER}
    columns |= {name: pc.coalesce(review[name], part[name]) for name in _ANNOTATIONS}
    columns |= {
        "model_caption": part["caption"],
        "caption": pa.array([one.caption for one in decided], pa.string()),
        "source": pa.array([one.source.value for one in decided], pa.string()),
    }
    return pa.table([columns[name] for name in MERGED.names], schema=MERGED).combine_chunks()


def _published(output: Output, rows: pa.Table, live: Mapping[str, LiveFile]) -> LiveFile:
    """Write a part, unless it is live already."""
    data = encode(rows)
    there = live.get(f"merged/part-{content_hash(data)}.parquet")
    return there or publish(output, "merged", data, rows.num_rows)


def merge_output(args: argparse.Namespace) -> int:
    """Make the final table of an output, and say what is in it.

    Raises:
        UsageError: if the output has no captions, or several models' and none is chosen.
    """
    output = Output(output_of(args.output).uri, new_run_id())
    model_id, decoding = chosen_kind(output, args.model_id, args.decoding)
    with opened(output, str(output.run_id)):
        merged = merge(output, model_id, decoding)
    print("\n".join(_lines(output, merged, model_id, decoding)))
    return EXIT_DONE


def _lines(output: Output, merged: Merged, model_id: str, decoding: str) -> Iterator[str]:
    folder = redact(output.path("merged")).removeprefix("file://")
    yield f"{model_id} {decoding}"
    yield f"merged: {merged.sources.total():,} rows"
    for source, text in _TEXTS.items():
        yield f"  {source.value:<10}{merged.sources[source.value]:>8,}  {text}"
    if merged.elsewhere:
        yield f"{merged.elsewhere:,} reviewed images have no caption of this model here; not used"
    yield f"in {folder}, files: {merged.files:,}, named in current.json"
    yield "Reviews that are pulled later, and captions made later, need another merge."
