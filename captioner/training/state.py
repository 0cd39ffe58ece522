"""What an interrupted training goes on from: one file, without pickles, replaced in one move."""

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from captioner.training.average import Average

STATE = "state.safetensors"


class StateError(Exception):
    """A state that cannot be gone on from: says why, and what to do."""


@dataclass
class Progress:
    """How far training is.

    Attributes:
        epoch: passes that are finished.
        batch: batches of the next one that are done.
        step: times that weights were changed.
        best: the best score so far; None before the first.
        best_epoch: the pass after which it was reached, counted from 1.
        losses: sum of each loss over this pass's batches, to tell their means.
        seconds: spent so far.
        finished: whether there is nothing left to do.
    """

    epoch: int = 0
    batch: int = 0
    step: int = 0
    best: float | None = None
    best_epoch: int = 0
    losses: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    finished: bool = False


def save_state(
    folder: Path,
    settings: Mapping[str, object],
    progress: Progress,
    learner: nn.Module,
    average: Average,
    optimizer: torch.optim.Optimizer,
) -> None:
    """Write everything that the next steps depend on.

    Random numbers are no part of it: each step draws its own from seed and number.
    """
    tensors = {f"learner.{name}": value for name, value in learner.state_dict().items()}
    tensors |= {f"average.{name}": value for name, value in average.model.state_dict().items()}
    for number, values in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{number}.{name}": value for name, value in values.items()}
    told = {
        "settings": json.dumps(settings, sort_keys=True),
        "progress": json.dumps(asdict(progress)),
        "average_steps": str(average.steps),
    }
    data = safetensors.torch.save(
        {name: value.detach().cpu().contiguous() for name, value in tensors.items()}, told
    )
    temporary = folder / f"{STATE}.tmp"
    with temporary.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(folder / STATE)


def load_state(
    folder: Path,
    settings: Mapping[str, object],
    learner: nn.Module,
    average: Average,
    optimizer: torch.optim.Optimizer,
) -> Progress | None:
    """Go on from what was saved; None where nothing was.

    Raises:
        StateError: if it was another training, or the file is broken.
    """
    path = folder / STATE
    if not path.exists():
        return None
    try:
        with safetensors.safe_open(path, "pt") as file:
            told = file.metadata()
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except safetensors.SafetensorError as error:
        raise StateError(
            f"{path} is broken ({error}); remove it to begin anew, or name another output"
        ) from error
    _compare(json.loads(told["settings"]), settings, path)
    learner.load_state_dict(_part(tensors, "learner."))
    average.model.load_state_dict(_part(tensors, "average."))
    average.steps = int(told["average_steps"])
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in _part(tensors, "optimizer.").items():
        number, _, what = name.partition(".")
        state.setdefault(int(number), {})[what] = value
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
    return Progress(**json.loads(told["progress"]))


def _part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {
        name.removeprefix(prefix): value
        for name, value in tensors.items()
        if name.startswith(prefix)
    }


def _compare(before: Mapping[str, object], now: Mapping[str, object], path: Path) -> None:
    now = json.loads(json.dumps(now))  # As JSON has it: tuples are lists.
    differ = [name for name in sorted({*before, *now}) if before.get(name) != now.get(name)]
    if differ:
        name = differ[0]
        raise StateError(
            f"{path} is of another training: {name} was {before.get(name)!r} and is "
            f"{now.get(name)!r} ({len(differ)} settings differ); give the same, or another output"
        )
