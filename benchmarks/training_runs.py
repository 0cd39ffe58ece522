"""What tables of trained models share: training one by the command line, and naming the machine."""

import json
import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import torch

LSTM = ("--embedding_size", "96", "--hidden_size", "256", "--dropout", "0.1")
LSTM_ATTENDS = (*LSTM, "--attention_size", "128", "--embedding_dropout", "0")
COMMON = (
    *("--batch_size", "64", "--captions_per_image", "1", "--label_smoothing", "0"),
    *("--learning_rate", "2e-3", "--encoder_learning_rate", "2e-3", "--device", "cpu"),
)


def trained(output: Path, name: str, flags: Sequence[str]) -> tuple[str, float]:
    """Train a model, if that is not done: return its last folder, and the minutes of its steps."""
    folder = output / "".join(c if c.isalnum() else "-" for c in name)
    command = ("train", "--output", str(folder), *COMMON, *flags)
    subprocess.run([sys.executable, "-m", "pipelines.cli", *command], check=True)
    *_, last = (folder / "epochs.jsonl").read_text().splitlines()
    return str(folder / "last"), json.loads(last)["seconds"] / 60


def machine() -> str:
    """Return a line on when and where this runs, and with what."""
    names = ("torch", "accelerate", "numpy", "pillow")
    return (
        f"- {datetime.now(UTC):%Y-%m-%d}, {platform.machine()}, {os.cpu_count()} cores, "
        f"{torch.get_num_threads()} threads, "
        + ", ".join(f"{name} {version(name)}" for name in names)
    )
