"""The command `review agreement`: what reviews say of captions, and of each other."""

import argparse
from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from captioner.evaluation.agreement import (
    Figures,
    Judgements,
    cider,
    confidence_bins,
    edit_distances,
    figures,
)
from pipelines.commands import CommandError, UsageError, none_of_kind, output_of, uri_of
from pipelines.committed import oldest_first
from pipelines.options import EXIT_DONE
from pipelines.output import Output
from pipelines.quality import folders
from pipelines.report.agreement import Agreement, lines, write_agreement
from schemas.kinds import Verdict
from schemas.tables import REVIEWS
from schemas.uris import redact

_KEY = ("image_id", "model_id", "decoding")
_OF_REVIEWS = [
    *_KEY,
    *("shown_caption", "verdict", "caption", "reviewer", "seconds", "reviewed_at", "task_id"),
]
_OF_CAPTIONS = [*_KEY, "uri", "caption", "confidence"]
_MOST_FOLDERS = 10

_Row = dict[str, Any]
_Key = tuple[str, str, str]


@dataclass(frozen=True, eq=False)
class Reviews:
    """The reviews of an output, the newest of each reviewer and caption, and their captions.

    Attributes:
        judgements: what was said.
        models: model and decoding of each, [n].
        confidence: of each one's caption; NaN where the output has none such, [n].
        uris: of each one's caption, its first; None where there is none, [n].
        superseded: reviews that are older than another by that reviewer of that caption.
    """

    judgements: Judgements
    models: list[tuple[str, str]]
    confidence: npt.NDArray[np.float64]
    uris: list[str | None]
    superseded: int


def agreement(args: argparse.Namespace) -> int:
    """Print what reviews say of captions, and write it where that is asked for.

    Raises:
        CommandError: if there are no reviews.
        UsageError: if there are no captions either, or no reviews of what the options name.
    """
    output = output_of(args.output)
    report = uri_of("--report", args.report) if args.report else None
    reviews = read_reviews(output, args.model_id, args.decoding)
    found = measured(reviews)
    print("\n".join(lines(output.uri, found)))
    if report is not None:
        print(f"{write_agreement(report, found)} in {redact(args.report)}")
    return EXIT_DONE


def read_reviews(
    output: Output, model_id: str | None = None, decoding: str | None = None
) -> Reviews:
    """Read the reviews of an output, and what they are of.

    Reviews by nobody are taken for those of one reviewer. Of an edited caption whose shown text is
    not known, the text is that of the model's caption.

    Args:
        output: the output.
        model_id: only of this model's captions; of all models' if None.
        decoding: only of captions decoded so; however decoded if None.

    Raises:
        CommandError: if the output has no reviews.
        UsageError: if it has no captions either, or no reviews of that model or decoding.
        OutputError: if a file is damaged, or a review has a verdict that there is not.
    """
    rows = _rows(output)
    ours = [
        row
        for row in rows
        if model_id in (None, row["model_id"]) and decoding in (None, row["decoding"])
    ]
    if not ours:
        _refuse(output, rows, model_id, decoding)
    newest = _newest(ours)
    captions = _captions(output, {row["image_id"] for row in newest})
    found = [captions.get(_key(row), {}) for row in newest]
    return Reviews(
        judgements=_judgements(newest, found),
        models=[(row["model_id"], row["decoding"]) for row in newest],
        confidence=np.array([row.get("confidence", np.nan) for row in found], np.float64),
        uris=[row.get("uri") for row in found],
        superseded=len(ours) - len(newest),
    )


def verdict_figures(output: Output) -> Figures | None:
    """Return what the verdicts of an output come to; texts are not compared, which takes longer.

    Args:
        output: the output.

    Returns:
        None where there are no reviews.

    Raises:
        OutputError: if a file is damaged, or a review has a verdict that there is not.
    """
    newest = _newest(_rows(output))
    if not newest:
        return None
    return figures(_verdicts(newest, np.full((3, len(newest)), np.nan), None))


def _rows(output: Output) -> list[_Row]:
    """Return the reviews of an output, oldest first."""
    parts = [part for _, part in output.tables("reviews", _OF_REVIEWS)]
    wanted = pa.schema([REVIEWS.field(name) for name in _OF_REVIEWS])
    return oldest_first(output, pa.concat_tables([wanted.empty_table(), *parts]))


def _newest(rows: Iterable[_Row]) -> list[_Row]:
    """Return of each reviewer and caption the last review."""
    return list({(*_key(row), row["reviewer"]): row for row in rows}.values())


def _refuse(
    output: Output, rows: Sequence[_Row], model_id: str | None, decoding: str | None
) -> None:
    if not rows:
        if not output.current().of("captions"):
            raise UsageError(f"{output.uri} holds no captions; run captioner annotate first")
        raise CommandError(
            f"{output.uri} holds no reviews. Send captions to reviewers (captioner review push "
            f"{output.uri}), and bring back what they said (captioner review pull {output.uri})"
        )
    kinds = {(row["model_id"], row["decoding"]) for row in rows}
    raise none_of_kind("reviews", kinds, model_id, decoding)


def _key(row: _Row) -> _Key:
    return (row["image_id"], row["model_id"], row["decoding"])


def _captions(output: Output, images: set[str]) -> dict[_Key, _Row]:
    """Return the captions of images, of each the first by uri."""
    wanted = pc.field("image_id").isin(pa.array(sorted(images), pa.string()))
    found: dict[_Key, _Row] = {}
    for _, part in output.tables("captions", _OF_CAPTIONS, wanted):
        for row in part.to_pylist():
            first = found.setdefault(_key(row), row)
            if row["uri"] < first["uri"]:
                found[_key(row)] = row
    return found


def _judgements(reviews: Sequence[_Row], captions: Sequence[_Row]) -> Judgements:
    edited: list[int] = []
    before: list[str] = []
    after: list[str] = []
    for number, (row, caption) in enumerate(zip(reviews, captions, strict=True)):
        shown = caption.get("caption") if row["shown_caption"] is None else row["shown_caption"]
        left = row["caption"]
        if row["verdict"] is Verdict.EDITED and shown is not None and left is not None:
            edited.append(number)
            before.append(shown)
            after.append(left)
    measures = np.full((3, len(reviews)), np.nan)
    measures[:2, edited] = edit_distances(before, after)
    no_cider = None
    try:
        measures[2, edited] = cider(before, after)
    except (ValueError, ModuleNotFoundError) as error:
        no_cider = str(error)
    return _verdicts(reviews, measures, no_cider)


def _verdicts(
    reviews: Sequence[_Row], measures: npt.NDArray[np.float64], no_cider: str | None
) -> Judgements:
    """Return what was said, with what is known of edits: characters, words, CIDEr, [3, n]."""
    return Judgements(
        caption=_numbers(_key(row) for row in reviews),
        image=_numbers(row["image_id"] for row in reviews),
        reviewer=_numbers(row["reviewer"] for row in reviews),
        verdict=np.array([row["verdict"].value for row in reviews], np.str_),
        seconds=np.array(
            [np.nan if row["seconds"] is None else row["seconds"] for row in reviews], np.float64
        ),
        characters=measures[0],
        words=measures[1],
        cider=measures[2],
        no_cider=no_cider,
    )


def _numbers(names: Iterable[Hashable]) -> npt.NDArray[np.int64]:
    """Return a number for each name, the same for the same."""
    known: dict[Hashable, int] = {}
    return np.array([known.setdefault(name, len(known)) for name in names], np.int64)


def measured(reviews: Reviews) -> Agreement:
    """Return what reviews come to: over all, by confidence, by folder and by model."""
    judgements = reviews.judgements
    there = [number for number, uri in enumerate(reviews.uris) if uri is not None]
    names = np.full(len(reviews.uris), None, object)
    names[there] = folders([uri for uri in reviews.uris if uri is not None])
    largest = Counter(names[there].tolist())
    models = np.array([" ".join(model) for model in reviews.models])
    return Agreement(
        everything=figures(judgements),
        by_confidence=[
            (least, most, figures(judgements, rows))
            for least, most, rows in confidence_bins(reviews.confidence)
        ],
        by_folder={
            name: figures(judgements, names == name)
            for name, _ in sorted(largest.items(), key=lambda item: (-item[1], item[0]))[
                :_MOST_FOLDERS
            ]
        },
        by_model={name: figures(judgements, models == name) for name in sorted({*models.tolist()})},
        reviewers=len(np.unique(judgements.reviewer)),
        superseded=reviews.superseded,
        elsewhere=len(names) - len(there),
    )
