"""Dataclasses of tensors as safetensors files."""

from dataclasses import fields
from typing import Any, TypeVar

import safetensors
import safetensors.torch

_Tensors = TypeVar("_Tensors")


def tensors_to_bytes(tensors: Any) -> bytes:
    """Return the content of a safetensors file with all fields of a dataclass."""
    values = {field.name: getattr(tensors, field.name) for field in fields(tensors)}
    data: bytes = safetensors.torch.save(
        {name: value.contiguous() for name, value in values.items()}
    )
    return data


def tensors_from_bytes(kind: type[_Tensors], data: bytes) -> _Tensors:
    """Read what ``tensors_to_bytes`` wrote of a dataclass of this kind.

    Raises:
        ValueError: if it is something else.
    """
    try:
        found = safetensors.torch.load(data)
    except (safetensors.SafetensorError, KeyError) as error:  # KeyError: of an unknown type.
        raise ValueError(f"not a whole safetensors file ({error})") from error
    wanted = {field.name for field in fields(kind)}  # type: ignore[arg-type]
    if set(found) != wanted:
        raise ValueError(f"its tensors are {sorted(found)}, not {sorted(wanted)}")
    return kind(**found)
