"""The devices that models run on."""

import torch

from captioner.contract import ModelLoadError


def choose_device(name: str) -> torch.device:
    """Turn a name into a device that is there.

    Raises:
        ModelLoadError: if it is not there, or no such device is known.
    """
    there = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    if name == "auto":
        name = next(kind for kind, available in there.items() if available)
    kind = name.partition(":")[0]
    if not there.get(kind):
        known = ", ".join(kind for kind, available in there.items() if available)
        raise ModelLoadError(f"device {name!r} is not there; use auto or one of: {known}")
    try:
        return torch.device(name)
    except RuntimeError as error:
        raise ModelLoadError(f"device {name!r} is no device: {error}") from error
