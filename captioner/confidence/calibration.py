"""From a head's logit to a probability: three ways, each fitted on scores of unseen captions.

How they are fitted is in ``captioner.confidence.fitting``.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.special import expit

Values = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Sigmoid:
    """Platt scaling: the sigmoid of ``a * logit + b`` (Platt, 1999)."""

    a: float
    b: float

    def __post_init__(self) -> None:
        """Check the values; ``ValueError`` if one is not finite, or ``a`` turns the order round."""
        for name in ("a", "b"):
            _check_number(name, getattr(self, name))
        if self.a < 0:
            raise ValueError(f"a is {self.a}; use 0 or more, so that surer captions stay surer")

    def __call__(self, logits: Values) -> Values:
        """Return the probabilities of logits, of their shape."""
        probabilities: Values = expit(self.a * logits + self.b)
        return probabilities


@dataclass(frozen=True)
class Temperature:
    """Temperature scaling: the sigmoid of ``logit / temperature`` (1706.04599)."""

    temperature: float

    def __post_init__(self) -> None:
        """Check the value; ``ValueError`` unless it is above 0."""
        _check_number("temperature", self.temperature)
        if self.temperature <= 0:
            raise ValueError(f"temperature is {self.temperature}; use a number above 0")

    def __call__(self, logits: Values) -> Values:
        """Return the probabilities of logits, of their shape."""
        probabilities: Values = expit(logits / self.temperature)
        return probabilities


@dataclass(frozen=True)
class Isotonic:
    """A rising curve through breakpoints, straight between and level beyond (Zadrozny, Elkan 2002).

    Attributes:
        logits: where the breakpoints are, rising.
        probabilities: what they stand for, not falling.
    """

    logits: tuple[float, ...]
    probabilities: tuple[float, ...]

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            ValueError: if the curve has no points, falls, or leaves [0, 1].
        """
        for name in ("logits", "probabilities"):
            for value in getattr(self, name):
                _check_number(name, value)
        if not self.logits or len(self.logits) != len(self.probabilities):
            raise ValueError(
                f"logits are {len(self.logits)}, probabilities {len(self.probabilities)}; give as "
                "many, at least one"
            )
        if np.any(np.diff(self.logits) <= 0):
            raise ValueError("logits do not rise; give breakpoints in order, each once")
        low, high = self.probabilities[0], self.probabilities[-1]
        if low < 0 or high > 1 or np.any(np.diff(self.probabilities) < 0):
            raise ValueError("probabilities fall, or leave [0, 1]; give a rising curve")

    def __call__(self, logits: Values) -> Values:
        """Return the probabilities of logits, of their shape."""
        return np.interp(logits, self.logits, self.probabilities)


Calibration = Sigmoid | Temperature | Isotonic

_KINDS: Mapping[str, type[Any]] = {
    "sigmoid": Sigmoid,
    "temperature": Temperature,
    "isotonic": Isotonic,
}
KINDS = tuple(_KINDS)
"""What kinds of calibration there are, by name."""


def calibration_to_dict(calibration: Calibration) -> dict[str, Any]:
    """Return a calibration and its kind, ready for JSON."""
    kind = next(name for name, known in _KINDS.items() if type(calibration) is known)
    values = {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in asdict(calibration).items()
    }
    return {"kind": kind, **values}


def calibration_from_dict(content: Any) -> Calibration:
    """Return the calibration that JSON holds.

    Raises:
        ValueError: naming what is missing, unknown or of no use.
    """
    kind = content.get("kind") if isinstance(content, Mapping) else None
    if not isinstance(kind, str) or kind not in _KINDS:
        raise ValueError(f"calibration is of kind {kind!r}; those known are {', '.join(KINDS)}")
    values = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in content.items()
        if name != "kind"
    }
    try:
        calibration: Calibration = _KINDS[kind](**values)
    except TypeError as error:
        raise ValueError(f"calibration {kind} has the values {sorted(values)}: {error}") from error
    return calibration


def _check_number(name: str, value: Any) -> None:
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
        raise ValueError(f"{name} is {value!r}; use a finite number")
