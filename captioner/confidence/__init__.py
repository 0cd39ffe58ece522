"""From features to a confidence.

With a head fitted on labels it is the probability that a reviewer accepts the caption. Without one
it is the exponential of the mean token log-probability, the geometric mean of the tokens'
probabilities: a score that orders captions, marked ``uncalibrated`` because it is not that
probability.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from captioner.confidence.head import ConfidenceHead
from schemas.kinds import ConfidenceKind


@dataclass(frozen=True)
class Confidence:
    """A confidence in [0, 1], what it means, and the hash of the head it came from."""

    value: float
    kind: ConfidenceKind
    id: str | None = None


def score(features: Mapping[str, float | None], head: ConfidenceHead | None = None) -> Confidence:
    """Return the confidence of a caption from its features.

    Args:
        features: named as in ``schemas.tables.FEATURES``.
        head: fitted on labels of the same model and decoding; None for the uncalibrated score.

    Raises:
        ValueError: if a feature that is needed, ``logprob_mean`` without a head, is missing or
            not a number.
    """
    if head is not None:
        return Confidence(head.probability(features), ConfidenceKind.CALIBRATED, head.id)
    logprob_mean = features.get("logprob_mean")
    if logprob_mean is None or math.isnan(logprob_mean):
        raise ValueError(f"logprob_mean is {logprob_mean!r}: the model gave no token probabilities")
    return Confidence(min(1.0, math.exp(logprob_mean)), ConfidenceKind.UNCALIBRATED)
