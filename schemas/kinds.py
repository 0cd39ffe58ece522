"""Closed vocabularies: every word that a column of an output may hold."""

from enum import StrEnum


class FailureKind(StrEnum):
    """Why an image has no caption."""

    NOT_FOUND = "not_found"
    PERMISSION = "permission"
    STORAGE_ERROR = "storage_error"
    CHANGED = "changed"
    TOO_LARGE = "too_large"
    TOO_MANY_PIXELS = "too_many_pixels"
    NOT_AN_IMAGE = "not_an_image"
    TRUNCATED = "truncated"
    UNSUPPORTED = "unsupported"
    TIMEOUT = "timeout"
    OUT_OF_MEMORY = "out_of_memory"
    MODEL_ERROR = "model_error"
    CRASHED = "crashed"


class Stage(StrEnum):
    """Where an image failed."""

    LIST = "list"
    READ = "read"
    DECODE = "decode"
    CAPTION = "caption"


class ConfidenceKind(StrEnum):
    """Whether a confidence was calibrated on labels (promise 6)."""

    CALIBRATED = "calibrated"
    UNCALIBRATED = "uncalibrated"


class ReviewReason(StrEnum):
    """Why a caption is in the review queue, or is listed there as waiting."""

    THRESHOLD = "threshold"
    BUDGET = "budget"
    GUARANTEE = "guarantee"
    AUDIT = "audit"
    DEFERRED = "deferred"


class Verdict(StrEnum):
    """What a reviewer said of a caption."""

    ACCEPTED = "accepted"
    EDITED = "edited"
    REJECTED = "rejected"
    SKIPPED = "skipped"


class CaptionSource(StrEnum):
    """Whose word a row of the final table is."""

    REVIEWER = "reviewer"
    MODEL = "model"
    REJECTED = "rejected"


class Choice(StrEnum):
    """Which of two models' captions of an image is better."""

    CANDIDATE = "candidate"
    PRESENT = "present"
    BOTH_RIGHT = "both_right"
    BOTH_WRONG = "both_wrong"
    SAME = "same"
