"""The quality of an output as a folder of numbers and pictures."""

import json
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from captioner.confidence.quality import Estimate
from pipelines import storage
from pipelines.report.curves import Curves, pictures_of


@dataclass(frozen=True)
class Quality:
    """What is known of a model's captions.

    Attributes:
        model_id: the model.
        decoding: and how its captions were made.
        captions: the accuracy of all.
        accepted: that of those which are surer than the queued ones; None if all are queued.
        by_confidence: least and most confidence, and the accuracy between.
        by_folder: of the largest folders.
        audit: captions that the audit drew.
        audited: those of them that are reviewed.
        width: of the interval that is wanted.
        labels_needed: for that, of captions that the audit draws.
    """

    model_id: str
    decoding: str
    captions: Estimate
    accepted: Estimate | None
    by_confidence: list[tuple[float, float, Estimate]]
    by_folder: dict[str, Estimate]
    audit: int
    audited: int
    width: float
    labels_needed: int


def write_report(folder: str, quality: Quality, curves: Curves | None) -> list[str]:
    """Write the numbers, and the pictures if there are curves; return the files' names."""
    numbers = json.dumps(_as_json(quality, curves), indent=2, ensure_ascii=False) + "\n"
    files = {"quality.json": numbers.encode()}
    if curves is not None:
        accepted = quality.accepted.rows / quality.captions.rows if quality.accepted else 0.0
        files |= pictures_of(curves, accepted)
    for name, data in files.items():
        storage.write_bytes_atomically(storage.join(folder, name), data)
    return list(files)


def _as_json(quality: Quality, curves: Curves | None) -> dict[str, Any]:
    content = asdict(quality)
    content["by_confidence"] = [
        {"least": least, "most": most, **asdict(one)} for least, most, one in quality.by_confidence
    ]
    if curves is not None:
        content["curves"] = {
            name: value.tolist() if isinstance(value, np.ndarray) else value
            for name, value in asdict(curves).items()
        }
    return content
