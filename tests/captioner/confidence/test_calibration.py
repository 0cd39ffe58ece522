"""From logits to probabilities, and to JSON and back."""

import json

import numpy as np
import pytest

from captioner.confidence.calibration import (
    Isotonic,
    Sigmoid,
    Temperature,
    calibration_from_dict,
    calibration_to_dict,
)

LOGITS = np.array([-3.0, -1.0, 0.0, 0.5, 2.0])


@pytest.mark.parametrize(
    ("calibration", "expected"),
    [
        (Sigmoid(2.0, -0.5), 1 / (1 + np.exp(-(2 * LOGITS - 0.5)))),
        (Temperature(4.0), 1 / (1 + np.exp(-LOGITS / 4))),
        (Isotonic((-1.0, 1.0), (0.2, 0.8)), [0.2, 0.2, 0.5, 0.65, 0.8]),
        (Isotonic((0.0,), (0.3,)), [0.3] * 5),
    ],
)
def test_each_kind_is_its_formula(calibration, expected):
    assert calibration(LOGITS) == pytest.approx(np.array(expected))
    content = json.loads(json.dumps(calibration_to_dict(calibration)))
    assert calibration_from_dict(content) == calibration


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"kind": "beta"}, "kind 'beta'; those known are sigmoid, temperature, isotonic"),
        (None, "kind None"),
        ({"kind": "sigmoid", "a": 1.0}, "sigmoid has the values .'a'.: .*'b'"),
        ({"kind": "sigmoid", "a": 1.0, "b": float("nan")}, "b is nan; use a finite number"),
        ({"kind": "sigmoid", "a": "1", "b": 0.0}, "a is '1'; use a finite number"),
        ({"kind": "sigmoid", "a": -0.1, "b": 0.0}, "a is -0.1; use 0 or more, so that surer"),
        ({"kind": "temperature", "temperature": 0.0}, "temperature is 0.0; use a number above 0"),
        ({"kind": "isotonic", "logits": [], "probabilities": []}, "at least one"),
        ({"kind": "isotonic", "logits": [0.0, 1.0], "probabilities": [0.5]}, "2, probabilities 1"),
        ({"kind": "isotonic", "logits": [1.0, 0.0], "probabilities": [0.1, 0.2]}, "do not rise"),
        ({"kind": "isotonic", "logits": [0.0, 1.0], "probabilities": [0.5, 0.4]}, "fall, or leave"),
        ({"kind": "isotonic", "logits": [0.0, 1.0], "probabilities": [0.5, 1.4]}, "fall, or leave"),
    ],
)
def test_what_cannot_be_used_is_named(content, message):
    with pytest.raises(ValueError, match=message):
        calibration_from_dict(content)
