"""Reviews in an output of ``captioner annotate``: captions that people wrote or found right."""

import json
import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from captioner.annotations import Annotations, Box, Label, Mask
from captioner.confidence.duplicates import group_ids
from captioner.training.sources import files, parquet
from captioner.training.sources.examples import DataError, Row
from schemas.kinds import ReviewReason, Verdict
from schemas.tables import SCHEMA_VERSION
from schemas.uris import redact

logger = logging.getLogger(__name__)

CURRENT = "current.json"
"""In an output: names the live files of each table."""

_TABLES = ("captions", "review", "reviews", "comparisons")
_COLUMNS = [
    *("image_id", "verdict", "caption", "shown_caption"),
    *("reviewer", "reviewed_at", "task_id", "labels", "boxes", "masks"),
]
_TIE_BREAKS = ("reviewer", "verdict", "caption", "shown_caption")
"""In this order of reviews of one moment and task: the order of files decides nothing."""
_RIGHT = (Verdict.ACCEPTED, Verdict.EDITED)
_Review = dict[str, Any]


@dataclass(frozen=True)
class _Truth:
    """What the reviewers of an image agree to, or why nothing is taken from them."""

    captions: tuple[str, ...] = ()
    annotations: Annotations | None = None
    left_out: str = ""


def read_output(folder: str, *, annotated: bool, spare_audit: bool) -> Iterator[Row]:
    """Read the images of an output that reviewers wrote a caption of, or accepted one.

    The newest review of each reviewer counts, unless that was skipped:

    - A caption is right as a reviewer accepted it or left it. Where several reviewers left
      different ones, all of them are references.
    - What a reviewer rejected is right for nobody: a caption that another one accepted is left out.
    - Of labels, boxes and masks those of the newest review that has some count, each kind by
      itself. Objects that two reviewers drew would be there twice.
    - A review is of an image. It is read once, by its first uri, however many uris have its bytes.

    Images that nobody reviewed are none of them: what a machine says is no truth.

    Args:
        folder: uri of the output.
        annotated: whether labels, boxes and masks are read too.
        spare_audit: leave out what `audited_images` names, and its near-duplicates: whoever learns
            from the audit, or chooses by it, can no longer be judged by it.

    Raises:
        DataError: if nothing is left, the output is of a newer version, or a file of it is missing
            or damaged.
    """
    live = _live_files(folder)
    truths = {image: _truth(said, annotated) for image, said in _reviews(live["reviews"]).items()}
    spared = _spared(folder, live) if spare_audit else {}
    left_out = Counter[str]()
    for image, truth in list(truths.items()):
        if reason := spared.get(image, truth.left_out):
            left_out[reason] += 1
            del truths[image]
    places, copies = _places(live["captions"], truths.keys())
    left_out["no longer captioned here"] += len(truths.keys() - places.keys())
    told = ", ".join(f"{count:,} {reason}" for reason, count in left_out.items() if count)
    _check_some(folder, len(places), told)
    logger.info(
        "%s: %d reviewed images to go by, %d copies of these under other names; %d images that "
        "were reviewed are left out%s",
        *(redact(folder), len(places), copies, left_out.total(), f" ({told})" if told else ""),
    )
    for image, uri in places.items():
        yield Row(uri, truths[image].captions, truths[image].annotations, image_id=image)


def audited_images(folder: str) -> frozenset[str]:
    """Return the ids of the images of an output that a model is to be judged by.

    They are those that a live queue drew for the audit, and those that were once compared by
    ``captioner promote``.

    Args:
        folder: uri of the output.

    Raises:
        DataError: as `read_output`.
    """
    return _audited(_live_files(folder))


def _spared(folder: str, live: dict[str, list[str]]) -> dict[str, str]:
    """Return by image why it is not learned from: it is audited, or nearly one that is."""
    audited = _audited(live)
    reasons = dict.fromkeys(audited, "drawn for the audit")
    if not audited or not live["captions"]:
        return reasons
    columns = ["image_id", "phash"]
    rows = pa.concat_tables(parquet.table(uri, columns) for uri in live["captions"])
    images, hashes = (rows[name].combine_chunks() for name in columns)
    try:
        groups = group_ids(images, hashes)
    except ValueError as error:
        raise DataError(
            f"near-duplicates of audited images cannot be told in {redact(folder)}/captions: "
            f"{error}; put back what captioner annotate wrote"
        ) from error
    drawn = pc.is_in(images, pa.array(sorted(audited), pa.string()))
    near = images.filter(pc.is_in(groups, groups.filter(drawn)))
    return dict.fromkeys(near.to_pylist(), "nearly the same as one drawn for the audit") | reasons


def _audited(live: dict[str, list[str]]) -> frozenset[str]:
    drawn = {
        row["image_id"]
        for uri in live["review"]
        for row in parquet.table(uri, ["image_id", "reasons"]).to_pylist()
        if ReviewReason.AUDIT in row["reasons"]
    }
    for uri in live["comparisons"]:
        drawn.update(parquet.table(uri, ["image_id"])["image_id"].to_pylist())
    return frozenset(drawn)


def _check_some(folder: str, images: int, left_out: str) -> None:
    if images:
        return
    shown = redact(folder)
    why, remedy = "it has no reviews", "Bring reviews in with captioner review pull"
    if left_out:
        why = f"all reviewed images are left out: {left_out}"
        remedy = "Have more captions reviewed, of images that are not drawn for the audit"
    raise DataError(
        f"{shown} has no caption that a reviewer accepted or wrote to go by: {why}. {remedy}; what "
        f"the machine itself said is in {shown}/captions"
    )


def _live_files(folder: str) -> dict[str, list[str]]:
    """Return the uris of the live files of each table."""
    uri = files.join(folder, CURRENT)
    try:
        content = json.loads(files.read(uri))
        version = int(content["schema_version"])
        live = {
            table: [
                files.inside(folder, file["path"], redact(uri))
                for file in content["files"].get(table, [])
            ]
            for table in _TABLES
        }
    except DataError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DataError(
            f"{redact(uri)} is not what `captioner annotate` writes: {error!r}"
        ) from error
    if version > SCHEMA_VERSION:
        raise DataError(
            f"{redact(uri)} has schema version {version}, newer than {SCHEMA_VERSION}, which this "
            "program knows; install a newer version of this program"
        )
    return live


def _reviews(uris: list[str]) -> dict[str, list[_Review]]:
    """Return the newest review of each reviewer by image, oldest first, without skipped ones.

    An image that was only skipped has an empty list.
    """
    rows = [row for uri in uris for row in parquet.table(uri, _COLUMNS).to_pylist()]
    newest: dict[str, dict[str | None, _Review]] = {row["image_id"]: {} for row in rows}
    for row in sorted(rows, key=_age):
        if row["verdict"] != Verdict.SKIPPED:
            said = newest[row["image_id"]]
            said.pop(row["reviewer"], None)  # to come last
            said[row["reviewer"]] = row
    return {image: list(said.values()) for image, said in newest.items()}


def _age(review: _Review) -> tuple[Any, ...]:
    at = review["reviewed_at"]
    when = float("-inf") if at is None else float(at.timestamp())
    return when, review["task_id"] or 0, *(review[name] or "" for name in _TIE_BREAKS)


def _truth(reviews: Sequence[_Review], annotated: bool) -> _Truth:
    if not reviews:
        return _Truth(left_out="skipped")
    right = [review for review in reviews if review["verdict"] in _RIGHT]
    if not right:
        return _Truth(left_out="rejected")
    wrong = {review["shown_caption"] for review in reviews if review["verdict"] == Verdict.REJECTED}
    texts = [review["caption"] or review["shown_caption"] for review in right]
    captions = tuple(dict.fromkeys(text for text in texts if text and text not in wrong))
    if not captions:
        disputed = any(texts)
        return _Truth(
            left_out="accepted by one and rejected by another" if disputed else "without a text"
        )
    return _Truth(captions, _annotations(right) if annotated else None)


def _annotations(reviews: Sequence[_Review]) -> Annotations | None:
    """Return what people left of labels, boxes and masks; None if they were asked of none."""
    newest = {
        kind: next((one[kind] for one in reversed(reviews) if one[kind] is not None), None)
        for kind in ("labels", "boxes", "masks")
    }
    if all(items is None for items in newest.values()):
        return None
    labels, boxes, masks = newest.values()
    sides = ("x", "y", "width", "height")
    return Annotations(
        labels=None if labels is None else tuple(Label(item["name"]) for item in labels),
        boxes=None
        if boxes is None
        else tuple(Box(item["name"], *(item[side] for side in sides)) for item in boxes),
        masks=None
        if masks is None
        else tuple(Mask(item["name"], tuple(item["size"]), item["counts"]) for item in masks),
    )


def _places(uris: list[str], images: Iterable[str]) -> tuple[dict[str, str], int]:
    """Return the first uri of each image, by image, and how many others there are."""
    found: dict[str, set[str]] = {}
    wanted = pa.array(sorted(images), pa.string())
    for uri in uris:
        table = parquet.table(uri, ["image_id", "uri"])
        for row in table.filter(pc.is_in(table["image_id"], wanted)).to_pylist():
            place = parquet.place(row["uri"], "uri", uri)
            found.setdefault(row["image_id"], set()).add(place)
    copies = sum(map(len, found.values())) - len(found)
    return {image: min(found[image]) for image in sorted(found)}, copies
