"""How far a local run is, and the request to stop: small files that all its processes see."""

import contextlib
import json
import os
import time
import uuid
from dataclasses import dataclass
from pathlib import Path

_STOP = "stop"


def request_stop(folder: Path) -> None:
    """Ask every worker to take no further image."""
    (folder / _STOP).touch()


def stop_requested(folder: str | None) -> bool:
    """Say whether the user asked to stop."""
    return folder is not None and os.path.exists(os.path.join(folder, _STOP))


@dataclass
class Progress:
    """Images so far."""

    captioned: int = 0
    failed: int = 0


def read_progress(folder: Path) -> Progress:
    """Add up what the workers say."""
    total = Progress()
    for path in folder.glob("worker-*.json"):
        try:
            counts = json.loads(path.read_text())
        except (OSError, ValueError):
            continue  # being replaced; it is there at the next look
        total.captioned += counts["captioned"]
        total.failed += counts["failed"]
    return total


class ProgressReporter:
    """A worker's own count, written at most twice a second."""

    def __init__(self, folder: str | None) -> None:
        self._path = Path(folder) / f"worker-{uuid.uuid4().hex}.json" if folder else None
        self._counts = Progress()
        self._written = 0.0

    def add(self, captioned: int = 0, failed: int = 0) -> None:
        """Count images."""
        self._counts.captioned += captioned
        self._counts.failed += failed
        if time.monotonic() - self._written > 0.5:
            self.write()

    def write(self) -> None:
        """Write the count now."""
        if self._path is None:
            return
        self._written = time.monotonic()
        temporary = self._path.with_suffix(".tmp")
        # A bar that stands still is better than a wave that fails over a full disk.
        with contextlib.suppress(OSError):
            temporary.write_text(json.dumps(vars(self._counts)))
            temporary.replace(self._path)
