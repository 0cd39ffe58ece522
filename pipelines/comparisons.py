"""The table ``comparisons``: two models' captions of audited images, and what people said."""

from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.commit import Committed, clear
from pipelines.committed import NEVER, first_of_image
from pipelines.labelstudio.comparing import (
    BOTH_RIGHT,
    BOTH_WRONG,
    FIRST,
    SECOND,
    Answer,
    Answers,
    Comparison,
)
from pipelines.labelstudio.review_rows import same_text
from pipelines.output import Output, OutputError
from pipelines.parts import encode, publish
from schemas.identity import config_id, row_key
from schemas.kinds import Choice, ReviewReason
from schemas.tables import COMPARISONS

Row = dict[str, Any]
_NAMES = ("model_id", "decoding", "candidate_id", "candidate_decoding")


@dataclass(frozen=True)
class Pair:
    """Two models, and how their captions are decoded.

    Attributes:
        model_id: of the present one.
        decoding: of its captions.
        candidate_id: of the one that may take its place.
        candidate_decoding: of its captions.
    """

    model_id: str
    decoding: str
    candidate_id: str
    candidate_decoding: str

    @property
    def id(self) -> str:
        """A short hash."""
        return config_id(asdict(self))

    def shown_first(self, image_id: str) -> Choice:
        """Say whose caption of an image stands first: drawn by a hash of both, so always the same.

        It tells nobody anything who does not compute it.
        """
        candidate = row_key("shown first", self.id, image_id)[0] % 2 == 0
        return Choice.CANDIDATE if candidate else Choice.PRESENT


@dataclass(frozen=True)
class AuditedImage:
    """An image that the audit drew.

    Attributes:
        image_id: its id.
        uris: where it is, all of equal bytes, sorted.
        caption: the present model's.
        inclusion_probability: with which it was drawn.
    """

    image_id: str
    uris: tuple[str, ...]
    caption: str
    inclusion_probability: float


def audited(output: Output, model_id: str, decoding: str) -> list[AuditedImage]:
    """Return the images that the audit of a model's captions drew, by id.

    They are a uniform sample of distinct images: one that several uris have is drawn by the first
    of them alone.

    Raises:
        OutputError: if an audited row does not say with which probability it was drawn.
    """
    ours = (pc.field("model_id") == model_id) & (pc.field("decoding") == decoding)
    columns = ["uri", "image_id", "reasons", "inclusion_probability"]
    drawn = {
        (row["uri"], row["image_id"]): row["inclusion_probability"]
        for _, part in output.tables("review", columns, ours)
        for row in part.to_pylist()
        if ReviewReason.AUDIT in row["reasons"]
    }
    if None in drawn.values():
        raise OutputError(
            f"{output.uri}: an audited row of review has no inclusion_probability; plan the audit "
            "anew: captioner review plan"
        )
    images = pa.array(sorted({image for _, image in drawn}), pa.string())
    wanted = ours & pc.field("image_id").isin(images)
    parts = [part for _, part in output.tables("captions", ["image_id", "uri", "caption"], wanted)]
    if not parts:
        return []
    captions = pa.concat_tables(parts).sort_by([("image_id", "ascending"), ("uri", "ascending")])
    rows, uris = captions.to_pylist(), dict[str, list[str]]()
    for row in rows:
        uris.setdefault(row["image_id"], []).append(row["uri"])
    return [
        AuditedImage(
            row["image_id"],
            tuple(uris[row["image_id"]]),
            row["caption"],
            drawn[row["uri"], row["image_id"]],
        )
        for row, first in zip(rows, first_of_image(captions), strict=True)
        if first and (row["uri"], row["image_id"]) in drawn
    ]


def read(output: Output, pair: Pair) -> list[Row]:
    """Return the live rows of two models."""
    ours = pc.scalar(True)
    for name in _NAMES:
        ours &= pc.field(name) == getattr(pair, name)
    return [row for _, part in output.tables("comparisons", None, ours) for row in part.to_pylist()]


def replace(output: Output, pair: Pair, rows: list[Row]) -> None:
    """Make these the live rows of two models; those of others stay."""
    current = output.current()
    old = [
        file.path
        for file, part in output.tables("comparisons", list(_NAMES))
        if part.slice(0, 1).to_pylist() == [asdict(pair)]
    ]
    table = pa.Table.from_pylist(sorted(rows, key=_order), COMPARISONS)
    new = [publish(output, "comparisons", encode(table), len(rows))] if rows else []
    after = current.replacing("comparisons", old, new)
    if after != current:
        output.replace_current(after)
    gone = set(old) - {file.path for file in new}
    clear(output, Committed(leftovers=tuple(sorted(gone))))


def _order(row: Row) -> tuple[str, int, str]:
    return row["image_id"], row["task_id"] or 0, row["reviewer"] or ""


def _when(row: Row) -> datetime:
    at: datetime | None = row["compared_at"]
    return NEVER if at is None else at


def newest(rows: list[Row]) -> dict[str, Row]:
    """Return of each image the row that counts: of several answers the newest."""
    return {row["image_id"]: row for row in sorted(rows, key=_when)}


def new_row(pair: Pair, image: AuditedImage, candidate_caption: str) -> Row:
    """Return the row of an image that nobody has compared yet; equal captions need nobody."""
    same = same_text(image.caption, candidate_caption)
    return {
        **asdict(pair),
        "image_id": image.image_id,
        "caption": image.caption,
        "candidate_caption": candidate_caption,
        "choice": Choice.SAME.value if same else None,
        "inclusion_probability": image.inclusion_probability,
        "shown_first": None if same else pair.shown_first(image.image_id).value,
        "reviewer": None,
        "compared_at": datetime.now(UTC) if same else None,
        "task_id": None,
    }


def answered(rows: list[Row], answers: Answers) -> list[Row]:
    """Return the rows as they are after what a project says, a row an answer.

    A task without an answer has none any more, if somebody has taken it back. Of an image whose
    task is gone what was said stays, and of one whose task cannot be read.
    """
    after = []
    for image_id, row in newest(rows).items():
        blank = {**row, "choice": None, "reviewer": None, "compared_at": None}
        if row["choice"] == Choice.SAME:
            after.append(row)
        elif (task := answers.tasks.get(image_id)) is None or task in answers.failing:
            said = [one for one in rows if one["image_id"] == image_id and one["choice"]]
            after += said or [{**blank, "task_id": task}]
        else:
            said = [_said(row, answer) for answer in answers.said.get(image_id, ())]
            after += said or [{**blank, "task_id": task}]
    return sorted(after, key=_order)


def _said(row: Row, answer: Answer) -> Row:
    first = Choice(row["shown_first"])
    second = Choice.PRESENT if first == Choice.CANDIDATE else Choice.CANDIDATE
    meant = {
        FIRST: first,
        SECOND: second,
        BOTH_RIGHT: Choice.BOTH_RIGHT,
        BOTH_WRONG: Choice.BOTH_WRONG,
    }
    return {
        **row,
        "choice": meant[answer.choice].value,
        "reviewer": answer.reviewer,
        "compared_at": answer.answered_at,
        "task_id": answer.task_id,
    }


def to_ask(output: Output, rows: list[Row]) -> list[Comparison]:
    """Return what is to be asked: of images that differ and have no task yet."""
    open_rows = {
        row["image_id"]: row
        for row in newest(rows).values()
        if row["choice"] is None and row["task_id"] is None
    }
    wanted = pc.field("image_id").isin(pa.array(sorted(open_rows), pa.string()))
    uris: dict[str, str] = {}
    for _, part in output.tables("captions", ["image_id", "uri"], wanted):
        for row in part.to_pylist():
            uris[row["image_id"]] = min(row["uri"], uris.get(row["image_id"], row["uri"]))
    return [
        Comparison(image_id, uris[image_id], *_in_order(row))
        for image_id, row in open_rows.items()
        if image_id in uris
    ]


def _in_order(row: Row) -> tuple[str, str]:
    """Return the captions in the order in which they are shown."""
    captions = row["candidate_caption"], row["caption"]
    return captions if row["shown_first"] == Choice.CANDIDATE else captions[::-1]


def outcomes(rows: list[Row]) -> npt.NDArray[np.int8]:
    """Return of each image with an answer 1 if the candidate's caption is better, -1, or 0 [n]."""
    worth = {Choice.CANDIDATE: 1, Choice.PRESENT: -1, Choice.BOTH_RIGHT: 0, Choice.BOTH_WRONG: 0}
    found = [row["choice"] for row in newest(rows).values()]
    return np.array([worth[Choice(one)] for one in found if one in worth], np.int8)
