"""Confidence heads: logistic over standardised features, kept as JSON in a model's folder.

A head belongs to one model and one way of decoding: log-probabilities of another mean something
else, so a head for another model is refused, and for another decoding it is not taken.
"""

import fnmatch
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

import fsspec
import numpy as np
import numpy.typing as npt

from captioner.confidence.calibration import (
    Calibration,
    calibration_from_dict,
    calibration_to_dict,
)
from captioner.contract import ModelLoadError
from captioner.verifier import Verifier
from schemas.identity import config_id
from schemas.tables import FEATURES
from schemas.uris import redact

HEADS_FILE = "confidence.json"
"""In a model's folder."""

ALL_LABELS = "-all"
"""How the ids of heads end that were fitted on the labels that are kept for guarantees, too."""

FORMAT_VERSION = 1

VERIFIED = "verifier_logit"
"""The feature that a verifier gives."""
VERIFIER_FILES = f"verifier-{'[0-9a-f]' * 12}.safetensors"
"""In a model's folder, beside the heads that name them: each is called by its content."""

_MAX_BYTES = 64 << 20
_NAMES = tuple(name for name, _ in FEATURES)
_ANEW = (
    "learn it anew (captioner calibrate --verifier, with the decoding options of that head), or "
    f"remove {HEADS_FILE}"
)
_REMEDY = "calibrate the model again (captioner calibrate), or remove the file"


class HeadError(ModelLoadError):
    """A confidence head that cannot be used: says which, why, and what to do."""


@dataclass(frozen=True, kw_only=True)
class ConfidenceHead:
    """What makes features the probability that a reviewer accepts a caption.

    Attributes:
        model_id: of the model whose captions it was fitted on.
        decoding: id of the decoding configuration that they were made with.
        features: names, as in ``schemas.tables.FEATURES``.
        means: of each feature; taken from it first.
        scales: of each feature; it is divided by that.
        weights: of each standardised feature, in the logit.
        bias: of the logit.
        calibration: from logit to probability.
        labels: on how many it was fitted.
        all_labels: whether it was fitted on those, too, that are kept for guarantees. None can
            rest on its confidence then.
        verifier: id of the verifier that its feature ``verifier_logit`` is of; None if it looks at
            no such feature.
    """

    model_id: str
    decoding: str
    features: tuple[str, ...]
    means: tuple[float, ...]
    scales: tuple[float, ...]
    weights: tuple[float, ...]
    bias: float
    calibration: Calibration
    labels: int
    all_labels: bool = False
    verifier: str | None = None

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            ValueError: naming the field that cannot be used.
        """
        for name in ("model_id", "decoding"):
            if not isinstance(value := getattr(self, name), str) or not value:
                raise ValueError(f"{name} is {value!r}; use the id that captions have")
        if unknown := [name for name in self.features if name not in _NAMES]:
            raise ValueError(f"features has {unknown[0]!r}; those known are {', '.join(_NAMES)}")
        if not self.features or len(set(self.features)) < len(self.features):
            raise ValueError(f"features are {list(self.features)}; name some, each once")
        for name in ("means", "scales", "weights"):
            values = getattr(self, name)
            if len(values) != len(self.features) or not all(map(_is_finite, values)):
                raise ValueError(
                    f"{name} are {list(values)}; use {len(self.features)} finite numbers, one a "
                    "feature"
                )
        if min(self.scales) <= 0:
            raise ValueError(f"scales are {list(self.scales)}; use numbers above 0")
        if not _is_finite(self.bias):
            raise ValueError(f"bias is {self.bias!r}; use a finite number")
        if type(self.labels) is not int or self.labels < 1:
            raise ValueError(f"labels is {self.labels!r}; use a whole number above 0")
        if type(self.all_labels) is not bool:
            raise ValueError(f"all_labels is {self.all_labels!r}; use true or false")
        if self.verifier is not None and not _is_verifier_id(self.verifier):
            raise ValueError(f"verifier is {self.verifier!r}; use the id of one, or null")
        if (VERIFIED in self.features) != (self.verifier is not None):
            raise ValueError(
                f"verifier is {self.verifier!r} and features are {list(self.features)}; a head "
                f"that looks at {VERIFIED} names its verifier, another names none"
            )

    @cached_property
    def id(self) -> str:
        """A hash of its content: the ``confidence_id`` column.

        It ends as ``ALL_LABELS`` if no guarantee can rest on it, so that every row says so.
        """
        return config_id(self.to_dict()) + (ALL_LABELS if self.all_labels else "")

    def probability(self, features: Mapping[str, float | None]) -> float:
        """Return the probability that a caption with these features is right.

        Raises:
            ValueError: if a feature that it needs is missing, null or not a finite number.
        """
        for name in self.features:
            value = features.get(name)
            if value is None or not math.isfinite(value):
                raise ValueError(_unusable(name, value))
        return float(self.probabilities(np.array([[features[name] for name in self.features]]))[0])

    def probabilities(self, table: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
        """Return the probability of each row of features.

        Features are rounded to float32, as committed rows hold them, so that a caption is as
        probable in the run that makes it as when its row is read again.

        Args:
            table: [n x features], in the order of ``features``.

        Raises:
            ValueError: if the table is of another width, or a value is not a finite number.
        """
        if table.ndim != 2 or table.shape[1] != len(self.features):
            raise ValueError(f"table is of shape {table.shape}; give [n x {len(self.features)}]")
        values = np.ascontiguousarray(table.astype(np.float32), np.float64)
        bad = np.argwhere(~np.isfinite(values))
        if len(bad):
            row, column = bad[0]
            raise ValueError(f"row {row}: {_unusable(self.features[column], values[row, column])}")
        standardised = (values - np.array(self.means)) / np.array(self.scales)
        # A sum, not a product of matrices, which may add in another order for more rows.
        logits = (standardised * np.array(self.weights)).sum(axis=1) + self.bias
        return self.calibration(logits)

    def to_dict(self) -> dict[str, Any]:
        """All of it, ready for JSON; without a verifier no word of one, as heads had before."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        if self.verifier is None:
            del values["verifier"]
        for name in _LISTS:
            values[name] = list(values[name])
        return {**values, "calibration": calibration_to_dict(self.calibration)}

    @classmethod
    def from_dict(cls, content: Any) -> "ConfidenceHead":
        """Return the head that JSON holds.

        Raises:
            ValueError: naming what is missing, unknown or of no use.
        """
        known = {field.name for field in fields(cls)} - {"verifier"}
        if not isinstance(content, Mapping) or set(content) - {"verifier"} != known:
            found = sorted(content) if isinstance(content, Mapping) else content
            raise ValueError(f"a head has {found!r}, not {sorted(known)}")
        for name in _LISTS:
            if not isinstance(content[name], list):
                raise ValueError(f"{name} is {content[name]!r}; use a list")
        lists = {name: tuple(content[name]) for name in _LISTS}
        calibration = calibration_from_dict(content["calibration"])
        return cls(**{**content, **lists, "calibration": calibration})


_LISTS = ("features", "means", "scales", "weights")


def load_heads(path: str) -> tuple[ConfidenceHead, ...]:
    """Read the heads of a model's folder; none if it has no ``confidence.json``.

    Args:
        path: the folder, local or on any file system that fsspec knows.

    Raises:
        HeadError: if the file is too large, broken, or of a newer version.
    """
    shown = f"{redact(path)}: {HEADS_FILE}"
    data = _read(path, HEADS_FILE, shown)
    if data is None:
        return ()
    try:
        content = json.loads(data)
        version = content["format_version"]
        if type(version) is int and version > FORMAT_VERSION:
            raise HeadError(
                f"{shown}: format_version is {version}, newer than {FORMAT_VERSION}; install a "
                "newer version of this package"
            )
        if version != FORMAT_VERSION:
            raise ValueError(f"format_version is {version!r}, not {FORMAT_VERSION}")
        heads = tuple(map(ConfidenceHead.from_dict, content["heads"]))
        _check_decodings(heads)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        what = f"{error} is missing" if isinstance(error, KeyError) else error
        raise HeadError(f"{shown}: {what}; {_REMEDY}") from error
    return heads


def save_heads(
    path: str, heads: Sequence[ConfidenceHead], verifiers: Sequence[Verifier] = ()
) -> None:
    """Write the heads of a model's folder in place of those that it has, whole or not at all.

    Verifiers are written before the heads that name them, and those that no head names any more
    are removed after, so that a folder is whole at any time.

    Args:
        path: the folder, local or on any file system that fsspec knows; made where missing.
        heads: at most one a decoding.
        verifiers: those that heads name; others of them may lie in the folder already.

    Raises:
        HeadError: if two are for one decoding, a verifier that one names is neither given nor in
            the folder, or the folder cannot be written.
    """
    shown = f"{redact(path)}: {HEADS_FILE}"
    try:
        _check_decodings(heads)
    except ValueError as error:
        raise HeadError(f"{shown}: {error}; keep one of them") from error
    content = {
        "format_version": FORMAT_VERSION,
        "heads": [head.to_dict() for head in sorted(heads, key=lambda head: head.decoding)],
    }
    try:
        fs, folder = fsspec.core.url_to_fs(path)
        folder = folder.rstrip("/")
        fs.makedirs(folder, exist_ok=True)
        for verifier in verifiers:
            _put(fs, f"{folder}/{verifier_file(verifier.id)}", verifier.to_bytes())
        named = {verifier_file(head.verifier) for head in heads if head.verifier}
        there = {name.rpartition("/")[2]: name for name in fs.ls(folder, detail=False)}
        if lacking := sorted(named - there.keys()):
            raise HeadError(
                f"{redact(path)}: there is no {lacking[0]}, which a head names; give that verifier "
                "with the head"
            )
        _put(fs, f"{folder}/{HEADS_FILE}", json.dumps(content, indent=2).encode())
        torn = fnmatch.filter(there, f"{VERIFIER_FILES}.new")
        for name in (*fnmatch.filter(there, VERIFIER_FILES), *torn):
            if name not in named:
                fs.rm_file(there[name])
    except HeadError:
        raise
    except Exception as error:  # Each file system raises its own kinds.
        raise HeadError(
            f"{shown} cannot be written ({type(error).__name__}: {redact(str(error))}); check "
            "path and permissions"
        ) from error


def load_verifier(path: str, verifier_id: str) -> Verifier:
    """Read a verifier of a model's folder.

    Args:
        path: the folder, local or on any file system that fsspec knows.
        verifier_id: as a head names it.

    Raises:
        HeadError: if there is none, or it is broken.
    """
    name = verifier_file(verifier_id)
    shown = f"{redact(path)}: {name}"
    data = _read(path, name, shown)
    if data is None:
        raise HeadError(f"{shown} is missing, and {HEADS_FILE} has a head that needs it; {_ANEW}")
    try:
        verifier = Verifier.parse(data)
    except ValueError as error:
        raise HeadError(f"{shown} cannot be used: {error}; {_ANEW}") from error
    if verifier.id != verifier_id:
        raise HeadError(f"{shown} holds another verifier, {verifier.id}; {_ANEW}")
    return verifier


def verifier_file(verifier_id: str) -> str:
    """Return the name of a verifier's file in a model's folder."""
    return f"verifier-{verifier_id}.safetensors"


def head_for(
    heads: Sequence[ConfidenceHead], model_id: str, decoding: str
) -> ConfidenceHead | None:
    """Return the head for a way of decoding; None if there is none.

    Raises:
        HeadError: if a head is for another model.
    """
    for head in heads:
        if head.model_id != model_id:
            raise HeadError(
                f"{HEADS_FILE} has a head for model {head.model_id}, and this is {model_id}; "
                f"{_REMEDY}"
            )
    return next((head for head in heads if head.decoding == decoding), None)


def _put(fs: Any, file: str, data: bytes) -> None:
    """Write a file, whole or not at all."""
    fs.pipe_file(f"{file}.new", data)
    fs.mv(f"{file}.new", file)


def _read(path: str, name: str, shown: str) -> bytes | None:
    try:
        fs, folder = fsspec.core.url_to_fs(path)
        file = f"{folder.rstrip('/')}/{name}"
        size = fs.size(file)
        if size is None or size > _MAX_BYTES:
            raise HeadError(f"{shown} has {size} bytes, more than {_MAX_BYTES}; {_REMEDY}")
        data: bytes = fs.cat_file(file)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except HeadError:
        raise
    except Exception as error:  # Each file system raises its own kinds.
        raise HeadError(
            f"{shown} cannot be read ({type(error).__name__}: {redact(str(error))}); check path, "
            "permissions and connection"
        ) from error
    return data


def _check_decodings(heads: Sequence[ConfidenceHead]) -> None:
    seen = [head.decoding for head in heads]
    if twice := sorted({decoding for decoding in seen if seen.count(decoding) > 1}):
        raise ValueError(f"two heads are for decoding {twice[0]}")


def _is_verifier_id(value: Any) -> bool:
    # It becomes part of a file's name.
    return isinstance(value, str) and re.fullmatch("[0-9a-f]{12}", value) is not None


def _is_finite(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def _unusable(name: str, value: object) -> str:
    return f"{name} is {value!r}: the confidence head needs it; calibrate with captions like this"
