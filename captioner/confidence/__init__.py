"""From features to a confidence.

Without a head fitted on labels it is the exponential of the mean token log-probability, the
geometric mean of the tokens' probabilities: a score that orders captions, marked
``uncalibrated`` because it is not the probability that a reviewer accepts.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from schemas.kinds import ConfidenceKind


@dataclass(frozen=True)
class Confidence:
    """A confidence in [0, 1], what it means, and the hash of the head it came from."""

    value: float
    kind: ConfidenceKind
    id: str | None = None


def score(features: Mapping[str, float]) -> Confidence:
    """Return the confidence of a caption from its features.

    Raises:
        ValueError: if ``logprob_mean`` is missing or not a number.
    """
    logprob_mean = features.get("logprob_mean")
    if logprob_mean is None or math.isnan(logprob_mean):
        raise ValueError(f"logprob_mean is {logprob_mean!r}: the model gave no token probabilities")
    return Confidence(min(1.0, math.exp(logprob_mean)), ConfidenceKind.UNCALIBRATED)
