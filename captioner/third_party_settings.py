"""Settings of other libraries' networks, which come with checkpoints: checked before building."""

from collections.abc import Iterator, Mapping
from typing import Any

_RUNS_CODE = (
    "attn_implementation",
    "_attn_implementation",
    "_attn_implementation_internal",
    "experts_implementation",
    "auto_map",
    "quantization_config",
)
"""What may make a library fetch code, or weights of its own."""
_DEEPEST = 20
_MOST_LABELS = 100_000


def check_settings(settings: Mapping[str, Any]) -> None:
    """Check settings that nobody here wrote.

    Raises:
        ValueError: if they could fetch or run something, or are beyond all use.
    """
    for name, value in _every(settings, 0):
        if name in _RUNS_CODE and value is not None:
            raise ValueError(f"{name} is {value!r}; such settings can fetch code, leave it out")
        if name == "backbone" and isinstance(value, str) and set(value) & set(":/\\"):
            raise ValueError(f"backbone is {value!r}; give the plain name of a network")
        if name in ("return_dict", "use_return_dict") and value is False:
            raise ValueError(f"{name} is False; leave it out")
        if name == "num_labels" and not (isinstance(value, int) and 0 <= value <= _MOST_LABELS):
            raise ValueError(f"num_labels is {value!r}; use 0 to {_MOST_LABELS}")


def _every(value: Any, depth: int) -> Iterator[tuple[str, Any]]:
    """Yield the settings at every depth by name."""
    if depth > _DEEPEST:
        raise ValueError(f"the settings are nested more than {_DEEPEST} deep")
    if isinstance(value, Mapping):
        yield from value.items()
        for inner in value.values():
            yield from _every(inner, depth + 1)
    elif isinstance(value, list):
        for inner in value:
            yield from _every(inner, depth + 1)
