"""What is to be reviewed, as a person says it: by flags, or in a small YAML file."""

import difflib
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from fractions import Fraction
from typing import Any

import yaml

from pipelines import storage
from schemas.identity import row_key
from schemas.uris import redact

AUDIT = 0.02
"""Share of all captions that is audited, unless told otherwise."""
_LARGEST_FILE = 100_000  # bytes of rules
_NUMBER = re.compile(r"[0-9]{1,18}(\.[0-9]{0,30})?([eE][-+]?[0-9]{1,2})?")


class RulesError(ValueError):
    """Rules that cannot be followed: says which, and what to do."""


@dataclass(frozen=True)
class Guarantee:
    """Captions that nobody reviews are to be correct so often, with so much confidence.

    Raises:
        RulesError: if one of them is not between 0 and 1.
    """

    accuracy: float
    confidence: float

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not 0.0 < value < 1.0:
                raise RulesError(
                    f"guarantee has {field.name} {value:g}; use a number between 0 and 1, such "
                    "as 0.95"
                )

    def __str__(self) -> str:
        return f"accuracy>={self.accuracy:g} @ {self.confidence:g}"


@dataclass(frozen=True)
class ReviewRules:
    """Which captions a person looks at: those that any rule chooses.

    Attributes:
        review_below: captions with a confidence below it, 0 to 1.
        budget: so many of the least confident; a share of all captions if it is not whole, of
            which a part of a caption is left out.
        guarantee: all that cannot be promised to be correct.
        audit: share of all captions, drawn at random whatever their confidence; 0 for none. The
            only source of guarantees and of estimates of quality.
        seed: of the audit.

    Raises:
        RulesError: naming the rule, what it is, and what to use.
    """

    review_below: float | None = None
    budget: int | float | None = None
    guarantee: Guarantee | None = None
    audit: float = AUDIT
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("review_below", "audit"):
            value = getattr(self, name)
            if value is not None and not (_is_number(value) and 0.0 <= value <= 1.0):
                raise RulesError(f"{name} is {value!r}; use a number from 0 to 1")
        if self.budget is not None:
            _check_budget(self.budget)
        if not isinstance(self.seed, int) or isinstance(self.seed, bool):
            raise RulesError(f"seed is {self.seed!r}; use a whole number")
        if self.guarantee is not None and not self.audit:
            raise RulesError(
                f"guarantee {self.guarantee} needs an audit, whose labels are the only ones that "
                "can support it; audit 2%, say"
            )

    @classmethod
    def from_yaml(cls, uri: str) -> "ReviewRules":
        """Read rules from a YAML file on any store, with the names of the attributes as keys.

        Raises:
            RulesError: if the file cannot be read, or holds what is no rule.
        """
        name = redact(uri)
        try:
            content = yaml.safe_load(storage.read_bytes(uri, _LARGEST_FILE))
        except (storage.StorageError, yaml.YAMLError, UnicodeDecodeError) as error:
            raise RulesError(f"{name} cannot be read as YAML: {error}") from error
        if not isinstance(content, dict):
            raise RulesError(f"{name} holds no rules; write lines such as 'budget: 5%'")
        try:
            return cls(**_parse_values(content))
        except RulesError as error:
            raise RulesError(f"{name}: {error}") from error

    def as_dict(self) -> dict[str, Any]:
        """All of it, ready for JSON."""
        return {**vars(self), "guarantee": self.guarantee and str(self.guarantee)}

    def draws(self, *key: str) -> bool:
        """Whether the audit draws a caption: each by itself, so order and others do not matter.

        Args:
            key: uri, model id and decoding of the caption.
        """
        drawn = int.from_bytes(row_key("audit", str(self.seed), *key)[:8], "big")
        return drawn < int(Fraction(self.audit) * 2**64)

    def budgeted(self, captions: int) -> int:
        """Return how many of so many captions the budget buys; none without a budget.

        Raises:
            RulesError: if there are fewer captions than that.
        """
        if isinstance(self.budget, int):
            if self.budget > captions:
                raise RulesError(
                    f"budget is {self.budget:,}, but there are only {captions:,} captions; use a "
                    "smaller number, or a share such as 5%"
                )
            return self.budget
        # By the decimals that were written: as a float, 0.29 * 100 is less than 29.
        return math.floor(Fraction(str(self.budget or 0)) * captions)


def parse_share(text: str | float) -> float:
    """Read a share: ``2%`` or ``0.02``.

    Raises:
        RulesError: if it is none.
    """
    written = str(text).strip()
    number = written.removesuffix("%").strip()
    share = Fraction(number) if _NUMBER.fullmatch(number) else Fraction(-1)
    if written.endswith("%"):
        share /= 100
    if isinstance(text, bool) or not 0 <= share <= 1:
        raise RulesError(f"{text!r} is no share; use one such as 2% or 0.02")
    return float(share)


def parse_budget(text: str | int) -> int | float:
    """Read a budget: ``500`` captions, or ``5%`` of them.

    Raises:
        RulesError: if it is neither.
    """
    written = str(text).strip()
    if written.endswith("%"):
        share = parse_share(written)
        _check_budget(share)
        return share
    if isinstance(text, bool) or not re.fullmatch("[0-9]{1,18}", written):
        raise RulesError(f"{text!r} is no budget; use a number of captions, or a share such as 5%")
    return int(written)


def parse_guarantee(text: str) -> Guarantee:
    """Read a guarantee: ``accuracy>=0.95 @ 0.9``, also in percent.

    Raises:
        RulesError: if it is none.
    """
    found = re.fullmatch(r"\s*accuracy\s*>=\s*([^@]+)@(.+)", str(text))
    try:
        levels = [parse_share(level) for level in found.groups()] if found else []
    except RulesError:
        levels = []
    if not levels:
        raise RulesError(f"{text!r} is no guarantee; write it like 'accuracy>=0.95 @ 0.9'")
    return Guarantee(*levels)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _check_budget(budget: object) -> None:
    whole = isinstance(budget, int) and not isinstance(budget, bool)
    if not (whole and budget >= 0) and not (isinstance(budget, float) and 0.0 <= budget <= 1.0):  # type: ignore[operator]
        raise RulesError(f"budget is {budget!r}; use a number of captions, or a share such as 5%")


_PARSERS: Mapping[str, Callable[[Any], Any]] = {
    "budget": parse_budget,
    "guarantee": parse_guarantee,
    "audit": parse_share,
}


def _parse_values(content: Mapping[Any, Any]) -> dict[str, Any]:
    names = [field.name for field in fields(ReviewRules)]
    for key in content:
        if key not in names:
            nearest = difflib.get_close_matches(str(key), names, 1)
            hint = f"did you mean {nearest[0]}?" if nearest else f"there are: {', '.join(names)}"
            raise RulesError(f"unknown rule {key!r}; {hint}")
    given = {key: value for key, value in content.items() if value is not None}
    return {key: _PARSERS.get(key, lambda value: value)(value) for key, value in given.items()}
