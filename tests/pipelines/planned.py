"""Outputs for the tests of planning: captions of known confidence, and what reviewers said."""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa

from pipelines.output import Output
from pipelines.parts import encode, publish
from schemas.tables import CAPTIONS, REVIEWS

MODEL, DECODING = "fake@1", "0123456789ab"
NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


def add(output: Output, table: str, rows: Sequence[dict[str, Any]]) -> None:
    """Publish rows as one live file."""
    schema = {"captions": CAPTIONS, "reviews": REVIEWS}[table]
    new = publish(output, table, encode(pa.Table.from_pylist(rows, schema=schema)), len(rows))
    output.replace_current(output.current().replacing(table, [], [new]))


def captions(
    confidences: Iterable[float], first: int = 0, model_id: str = MODEL, **columns: Sequence[Any]
) -> list[dict[str, Any]]:
    """Return rows of captions, each of an image of its own that is like no other."""
    rows = [
        {
            "image_id": f"{number:064x}",
            "uri": f"file:///in/{number:06}.jpg",
            "uri_version": "mtime:1",
            "width": 8,
            "height": 8,
            "format": "JPEG",
            "num_bytes": 9,
            "phash": f"{int(np.random.default_rng(number).integers(2**63)):016x}",
            "caption": f"caption {number}",
            "confidence": float(confidence),
            "confidence_kind": "uncalibrated",
            "model_id": model_id,
            "decoding": DECODING,
            "run_id": "run",
            "created_at": NOON,
        }
        for number, confidence in enumerate(confidences, first)
    ]
    for name, values in columns.items():
        for row, value in zip(rows, values, strict=True):
            row[name] = value
    return rows


def reviews(
    image_ids: Iterable[str], verdicts: Iterable[str], model_id: str = MODEL, day: int = 0
) -> list[dict[str, Any]]:
    """Return rows of reviews."""
    return [
        {
            "image_id": image_id,
            "model_id": model_id,
            "decoding": DECODING,
            "verdict": verdict,
            "reviewed_at": NOON + timedelta(days=day),
        }
        for image_id, verdict in zip(image_ids, verdicts, strict=True)
    ]
