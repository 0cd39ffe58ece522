"""What a task of Label Studio says of its captions: a row of ``reviews`` for each annotation."""

import re
import unicodedata
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta
from typing import Any

import numpy as np

from captioner.images import Limits
from pipelines.labelstudio.config import CAPTION, VERDICT, VERDICTS
from pipelines.labelstudio.regions import TAGS
from pipelines.labelstudio.regions_back import (
    BY_DEFAULT,
    ResultError,
    annotations_left,
    texts,
    value_of,
)
from schemas.kinds import Verdict

OURS = (CAPTION, VERDICT, *TAGS)
"""The controls that are read; what a project has besides is passed over."""

Who = tuple[str | None, datetime]
"""A reviewer, and when the review was last changed."""

_IMAGE_ID = re.compile("[0-9a-f]{64}")
_LONGEST = float(np.finfo(np.float32).max)
_TOGETHER = timedelta(minutes=1)
"""An import makes annotations first, then the predictions that came with them."""


@dataclass(frozen=True)
class ReviewedTask:
    """A task that was read.

    Attributes:
        id: its number.
        created_at: when it was made.
        image_id: of its image; None if the task is none of a review queue.
        rows: of ``reviews``.
        damaged: what is wrong with annotations of which there is no row.
        unknown: how many annotations are of no caption of this output.
        unread: of annotations of which there is no row.
    """

    id: int
    created_at: datetime
    image_id: str | None
    rows: tuple[dict[str, Any], ...] = ()
    damaged: tuple[str, ...] = ()
    unknown: int = 0
    unread: frozenset[Who] = frozenset()


@dataclass(frozen=True)
class ReviewReader:
    """Turns tasks, as Label Studio lists them, into rows.

    Attributes:
        controls: names of all controls in the project's labelling config.
        shown_version: the model version whose predictions the project fills in.
        models: model id and decoding of the output's captions, by model version.
        size_of: width and height of an image in pixels, by image id; None if not known.
        reviewers: e-mail addresses by the number of the user.
        limits: how many pixels the picture of a mask may have.
    """

    controls: Collection[str]
    shown_version: str
    models: Mapping[str, tuple[str, str]]
    size_of: Callable[[str], tuple[int, int] | None]
    reviewers: Mapping[int, str] = field(default_factory=dict)
    limits: Limits = BY_DEFAULT

    def read(self, task: Mapping[str, Any]) -> ReviewedTask:
        """Read a task with its annotations and predictions."""
        image_id = task["data"].get("image_id") if isinstance(task["data"], Mapping) else None
        made, annotations = datetime.fromisoformat(task["created_at"]), task["annotations"]
        if not isinstance(image_id, str) or not _IMAGE_ID.fullmatch(image_id):
            return ReviewedTask(int(task["id"]), made, None, unknown=len(annotations))
        predictions = [_Prediction.of(found) for found in task["predictions"]]
        rows: list[dict[str, Any]] = []
        damaged: list[str] = []
        unread: list[Who] = []
        for annotation in annotations:
            row: dict[str, Any] = {"image_id": image_id, "task_id": int(task["id"])}
            row |= self._who_and_when(annotation)
            try:
                review = self._review(annotation, predictions, task["data"])
            except ResultError as error:
                damaged.append(f"task {task['id']}, annotation {annotation['id']}: {error}")
                review = None
            if review is None:
                unread.append((row["reviewer"], row["reviewed_at"]))
            else:
                rows.append(row | review)
        unknown = len(annotations) - len(rows) - len(damaged)
        read = tuple(rows), tuple(damaged), unknown, frozenset(unread)
        return ReviewedTask(int(task["id"]), made, image_id, *read)

    def _who_and_when(self, annotation: Mapping[str, Any]) -> dict[str, Any]:
        return {
            "reviewer": reviewer_of(annotation, self.reviewers),
            "seconds": _seconds(annotation["lead_time"]),
            "reviewed_at": datetime.fromisoformat(annotation["updated_at"]),
        }

    def _shown(
        self, annotation: Mapping[str, Any], predictions: Sequence["_Prediction"], filled_in: object
    ) -> "_Prediction | None":
        """Find the caption that the reviewer was shown; None if it is none of this output.

        A browser says in ``parent_prediction`` from which prediction an annotation began. It does
        not after a draft was loaded again, nor where no prediction was filled in.
        """
        parent = annotation["parent_prediction"]
        if found := next((one for one in predictions if one.id == parent), None):
            return found if found.version in self.models else None
        began = annotation.get("draft_created_at") or annotation["created_at"]
        ours = [one for one in predictions if one.version in self.models]
        before = [one for one in ours if one.made <= datetime.fromisoformat(began) + _TOGETHER]
        candidates = [
            *(one for one in before if one.version == self.shown_version),
            *(one for one in (*before, *ours) if same_text(one.text, filled_in)),
            *(before if len(before) == 1 else ()),
        ]
        return candidates[0] if candidates else None

    def _review(
        self,
        annotation: Mapping[str, Any],
        predictions: Sequence["_Prediction"],
        data: Mapping[str, Any],
    ) -> dict[str, Any] | None:
        """Return the columns that say what was shown and what was left; None if not of ours."""
        shown = self._shown(annotation, predictions, data.get(CAPTION))
        if shown is None:
            return None
        if shown.text is None:
            raise ResultError(f"prediction {shown.id}, which it is of, holds no caption")
        model_id, decoding = self.models[shown.version]
        row = {"model_id": model_id, "decoding": decoding, "shown_caption": shown.text}
        if annotation["was_cancelled"]:
            return row | {"verdict": Verdict.SKIPPED.value}
        results = self._results(annotation["result"])
        choice, left = _choice(results), _text(results)
        verdict = verdict_of(choice, shown.text, left)
        caption = {Verdict.ACCEPTED: shown.text, Verdict.EDITED: normal(left or "")}.get(verdict)
        size = self.size_of(data["image_id"])
        found = annotations_left(results, self.controls, size, self.limits)
        columns = {
            name: None if items is None else list(items) for name, items in asdict(found).items()
        }
        return row | columns | {"verdict": verdict.value, "caption": caption}

    def _results(self, found: object) -> list[Mapping[str, Any]]:
        """Return the results of our controls.

        Raises:
            ResultError: if there are others, of controls that the project does not have.
        """
        if not isinstance(found, list) or not all(isinstance(one, Mapping) for one in found):
            raise ResultError("its result is not a list of what controls hold")
        results = [one for one in found if one.get("type") != "relation"]  # Of no control.
        for name in (one.get("from_name") for one in results):
            if name not in self.controls:
                raise ResultError(
                    f"it was made with the control {name!r}, which the project does not have (any "
                    "more)"
                )
        return [one for one in results if one["from_name"] in OURS]


@dataclass(frozen=True)
class _Prediction:
    """A prediction of a task: its caption as it was shown, if it has one."""

    id: int
    version: str
    text: str | None
    made: datetime

    @classmethod
    def of(cls, found: Mapping[str, Any]) -> "_Prediction":
        try:
            text = _text([one for one in found["result"] if isinstance(one, Mapping)])
        except (ResultError, TypeError):
            text = None
        made = datetime.fromisoformat(found["created_at"])
        return cls(int(found["id"]), str(found["model_version"]), text, made)


def _seconds(lead_time: float | None) -> float | None:
    """Return the time spent; None if it is not known, or none that a float32 can hold."""
    return lead_time if lead_time is not None and 0 <= lead_time <= _LONGEST else None


def reviewer_of(annotation: Mapping[str, Any], addresses: Mapping[int, str]) -> str | None:
    """Return who made an annotation: the e-mail address if it is known, else the number.

    Args:
        annotation: as Label Studio lists it.
        addresses: e-mail addresses by the number of the user.
    """
    who = annotation["completed_by"]
    if isinstance(who, Mapping):  # Some editions write out the user.
        reviewer = who.get("email") or who.get("id")
    else:
        reviewer = addresses.get(who) or who
    return None if reviewer is None else str(reviewer)


def verdict_of(choice: str | None, shown: str, left: str | None) -> Verdict:
    """Say what a reviewer meant.

    What counts is whether the caption was right as it was: one that was accepted and changed all
    the same was not. One that was to be fixed and is as before was not put right.

    Args:
        choice: accept, fix or reject; None where the project has no such control.
        shown: the caption that the reviewer was shown.
        left: the text that the reviewer left; None if there is no field of it.
    """
    if choice == "reject" or (left is not None and not normal(left)):
        return Verdict.REJECTED
    if left is None:
        return Verdict.ACCEPTED if choice == "accept" else Verdict.REJECTED
    if same_text(shown, left):
        return Verdict.REJECTED if choice == "fix" else Verdict.ACCEPTED
    return Verdict.EDITED


def normal(text: str) -> str:
    """Return a text as it is compared: composed characters, no white space around it."""
    return unicodedata.normalize("NFC", text).strip()


def same_text(one: object, other: object) -> bool:
    """Say whether two texts are the same to a reader; what is none is like no text."""
    return isinstance(one, str) and isinstance(other, str) and normal(one) == normal(other)


def _text(results: Sequence[Mapping[str, Any]]) -> str | None:
    """Return what is in the caption's field; None if there is nothing of it."""
    found = [
        text
        for one in results
        if one.get("from_name") == CAPTION
        for text in texts(value_of(one, CAPTION, "textarea"), "text", CAPTION)
    ]
    if len(found) > 1:
        raise ResultError(
            f'{CAPTION!r} holds {len(found)} texts, not one; set maxSubmissions="1" in the '
            "project's labelling config"
        )
    return found[0] if found else None


def _choice(results: Sequence[Mapping[str, Any]]) -> str | None:
    """Return the verdict that was chosen; None if there is none."""
    found = [
        choice
        for one in results
        if one.get("from_name") == VERDICT
        for choice in texts(value_of(one, VERDICT, "choices"), "choices", VERDICT)
    ]
    if len(found) > 1 or not set(found) <= set(VERDICTS):
        raise ResultError(f"{VERDICT!r} holds {found!r}, not one of {', '.join(VERDICTS)}")
    return found[0] if found else None
