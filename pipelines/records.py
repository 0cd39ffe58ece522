"""What passes from step to step: small records, and pixels only between decode and caption."""

from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

from captioner.annotations import Annotations, Box, Label, Mask
from captioner.contract import Caption, Prepared
from pipelines.config import AnnotateConfig
from pipelines.listing import ImageRef
from schemas.kinds import FailureKind, Stage
from schemas.uris import redact

MAX_MESSAGE = 1_000
"""Characters of an error message that are kept."""


@dataclass(frozen=True)
class Failure:
    """An image without a caption, and why (promise 2)."""

    ref: ImageRef
    stage: Stage
    kind: FailureKind
    message: str


@dataclass(frozen=True)
class ImageFacts:
    """What is known of an image once it was decoded; width and height after EXIF orientation."""

    ref: ImageRef
    image_id: str
    num_bytes: int
    width: int
    height: int
    format: str
    phash: str


@dataclass(frozen=True)
class Decoded:
    """An image that was read and decoded, at the model's size."""

    facts: ImageFacts
    prepared: Prepared

    @property
    def ref(self) -> ImageRef:
        """Which image this is."""
        return self.facts.ref


@dataclass(frozen=True)
class Captioned:
    """An image with its caption, without its pixels."""

    facts: ImageFacts
    caption: Caption
    confidence: float | None = None
    confidence_kind: str | None = None
    confidence_id: str | None = None
    created_at: datetime = field(default_factory=lambda: datetime.now(UTC))

    @property
    def ref(self) -> ImageRef:
        """Which image this is."""
        return self.facts.ref


def failure_row(failure: Failure, config: AnnotateConfig) -> dict[str, Any]:
    """Return a row of ``failures``."""
    return {
        **_key(failure.ref, config),
        "stage": failure.stage.value,
        "kind": failure.kind.value,
        "message": redact(failure.message)[:MAX_MESSAGE],
        "attempt": failure.ref.attempt,
        "created_at": datetime.now(UTC),
    }


def caption_row(captioned: Captioned, config: AnnotateConfig) -> dict[str, Any]:
    """Return a row of ``captions``."""
    facts, caption = captioned.facts, captioned.caption
    return {
        **_key(captioned.ref, config),
        "image_id": facts.image_id,
        "width": facts.width,
        "height": facts.height,
        "format": facts.format,
        "num_bytes": facts.num_bytes,
        "phash": facts.phash,
        "caption": caption.text,
        "tokens": list(caption.tokens),
        "token_logprobs": list(caption.token_logprobs),
        "confidence": captioned.confidence,
        "confidence_kind": captioned.confidence_kind,
        "confidence_id": captioned.confidence_id,
        "verifier_id": caption.verifier,
        "features": caption.features,
        "n_best": [{"caption": text, "logprob": logprob} for text, logprob in caption.n_best],
        **_annotation_columns(caption.annotations),
        "created_at": captioned.created_at,
    }


def _annotation_columns(found: Annotations | None) -> dict[str, list[dict[str, Any]] | None]:
    """Return labels, boxes and masks as rows have them: null is unknown, empty is none."""
    columns = asdict(found or Annotations())
    return {name: None if items is None else list(items) for name, items in columns.items()}


def annotations_of(row: dict[str, Any]) -> Annotations:
    """Return the labels, boxes and masks of a row of ``captions``."""
    labels, boxes, masks = (row[name] for name in ("labels", "boxes", "masks"))
    return Annotations(
        labels=None if labels is None else tuple(Label(**item) for item in labels),
        boxes=None if boxes is None else tuple(Box(**item) for item in boxes),
        masks=None
        if masks is None
        else tuple(Mask(item["name"], tuple(item["size"]), item["counts"]) for item in masks),
    )


def _key(ref: ImageRef, config: AnnotateConfig) -> dict[str, Any]:
    return {
        "uri": ref.uri,
        "uri_version": ref.uri_version,
        "model_id": config.model_id,
        "decoding": config.decoding.id,
        "run_id": config.run_id,
    }
