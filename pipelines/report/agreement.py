"""What reviews say of captions, as tables in a terminal and as a file of numbers."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass

from captioner.evaluation.agreement import Figures
from pipelines import storage

_NAME = 40
"""Letters of a name in the tables; what stands in front of them is left out."""
_NAMED = 3
"""Rows that are named where a figure is missing from some."""
_ALL = "all"
_FILE = "agreement.json"
_Rows = list[tuple[str, Figures | None]]


@dataclass(frozen=True)
class Agreement:
    """What reviews come to.

    Attributes:
        everything: of all.
        by_confidence: least and most confidence, and what lies between.
        by_folder: of the largest folders.
        by_model: by model id and decoding, as one text.
        reviewers: how many people.
        superseded: reviews that a newer one by the same reviewer of the same caption replaces.
        elsewhere: reviews of captions that the output does not have.
    """

    everything: Figures
    by_confidence: list[tuple[float, float, Figures]]
    by_folder: dict[str, Figures]
    by_model: dict[str, Figures]
    reviewers: int
    superseded: int
    elsewhere: int


def write_agreement(folder: str, found: Agreement) -> str:
    """Write the numbers, on any store; return the file's name."""
    content = asdict(found)
    content["by_confidence"] = [
        {"least": least, "most": most, **asdict(one)} for least, most, one in found.by_confidence
    ]
    text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    storage.write_bytes_atomically(storage.join(folder, _FILE), text.encode())
    return _FILE


def lines(uri: str, found: Agreement) -> Iterator[str]:
    """Yield what a terminal shows.

    Args:
        uri: of the output.
        found: what its reviews come to.
    """
    everything, people = found.everything, found.reviewers
    yield f"{everything.reviews:,} reviews by {people:,} reviewer{'s' if people > 1 else ''}"
    if len(found.by_model) == 1:
        yield f"of {next(iter(found.by_model))}"
    yield ""
    rows = list(_rows(found))
    width = max(len(name) for name, _ in rows)
    for head, cells in ((_SAID_HEAD, _said), (_CHANGED_HEAD, _changed)):
        yield f"{'':{width}}{head}"
        yield from (name if one is None else f"{name:{width}}{cells(one)}" for name, one in rows)
        yield ""
    yield from _NOTES
    yield from _missing(rows)
    if len(found.by_model) > 1 and found.by_confidence:
        yield "confidences of several models do not compare; choose one: --model_id, --decoding"
    if found.superseded:
        yield (
            f"{found.superseded:,} older reviews do not count: their reviewer came back to the "
            "caption"
        )
    if found.elsewhere:
        yield (
            f"{found.elsewhere:,} reviews are of captions that are not here: they are not in the "
            "rows by confidence and folder"
        )
    yield f"what is said here is of captions that were reviewed; of all: captioner quality {uri}"


def _rows(found: Agreement) -> Iterator[tuple[str, Figures | None]]:
    """Yield the rows of both tables; one without figures is a title."""
    yield _ALL, found.everything
    if found.by_confidence:
        yield "by confidence", None
        for least, most, one in found.by_confidence:
            yield f"  {least:.3f} to {most:.3f}", one
    for title, groups in (("by folder", found.by_folder), ("by model", found.by_model)):
        if len(groups) > 1:
            yield title, None
            yield from ((f"  {_short(name)}", one) for name, one in groups.items())


def _short(name: str) -> str:
    return name if len(name) <= _NAME else f"...{name[3 - _NAME :]}"


_SAID_HEAD = "  reviews  accepted  95% interval     edited  rejected  skipped  median s"
_CHANGED_HEAD = "  edits  characters  words  CIDEr  compared  same verdict  alpha"
_NOTES = (
    "accepted, edited, rejected: of the reviews that were not skipped; the interval counts an "
    "image once",
    "characters, words: share that edits changed; CIDEr: of the model's captions against the "
    "edited ones, times 100",
    "compared: captions with two reviewers or more; same verdict: how often two of them gave it; "
    "alpha: Krippendorff's",
)


def short_lines(one: Figures) -> Iterator[str]:
    """Say in two lines how many reviews accept, and how far reviewers agree."""
    said = f"of the pulled ones that were not skipped, 95% interval {_interval(one)}"
    yield f"{'acceptance':12}{_share(one.accepted):>8}  {one.missing.get('accepted', said)}"
    said = f"Krippendorff's alpha; captions with two reviewers or more: {one.compared:,}"
    yield f"{'agreement':12}{_alpha(one):>8}  {one.missing.get('alpha', said)}"


def _said(one: Figures) -> str:
    seconds = "-" if one.seconds is None else f"{one.seconds:.1f}"
    return (
        f"  {one.reviews:7,}  {_share(one.accepted):>8}  {_interval(one):15}"
        f"  {_share(one.edited):>6}  {_share(one.rejected):>8}  {_share(one.skipped):>7}"
        f"  {seconds:>8}"
    )


def _changed(one: Figures) -> str:
    cider = "-" if one.cider is None else f"{100 * one.cider:.1f}"
    return (
        f"  {one.edits:5,}  {_share(one.characters):>10}  {_share(one.words):>5}  {cider:>5}"
        f"  {one.compared:8,}  {_share(one.same_verdict):>12}  {_alpha(one):>5}"
    )


def _interval(one: Figures) -> str:
    if one.accepted_low is None or one.accepted_high is None:
        return "-"
    return f"{one.accepted_low:.1%} to {one.accepted_high:.1%}"


def _alpha(one: Figures) -> str:
    return "-" if one.alpha is None else f"{one.alpha:.2f}"


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"


_TITLES: Mapping[str, str] = {"same_verdict": "same verdict", "cider": "CIDEr"}


def _missing(rows: _Rows) -> Iterator[str]:
    """Say of each dash why it stands there, and in which rows unless it does in that of all."""
    places: dict[tuple[str, str], list[str]] = {}
    for row, one in rows:
        for figure, reason in () if one is None else one.missing.items():
            places.setdefault((reason, figure), []).append(row)
    titles: dict[tuple[str, str], list[str]] = {}
    for (reason, figure), names in places.items():
        titles.setdefault((reason, _where(names)), []).append(_TITLES.get(figure, figure))
    for (reason, where), figures in titles.items():
        yield f"- for {', '.join(figures)}{where}: {reason}"


def _where(rows: list[str]) -> str:
    if _ALL in rows:
        return ""
    more = len(rows) - _NAMED
    named = ", ".join(map(str.strip, rows[:_NAMED])) + (f" and {more} more" if more > 0 else "")
    return f" in row{'s' if len(rows) > 1 else ''} {named}"
