"""What a check finds, and running checks side by side, each within its time."""

import re
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from queue import SimpleQueue

from schemas.uris import redact

SECONDS = 60.0
THREAD = "doctor"
"""Name of the threads that checks run on; one that hangs does not keep the program."""

_STOP_SECONDS = 5.0
_REMEDY = re.compile(r"; |\. (?=[A-Z])")


class Mark(StrEnum):
    """How a check ended."""

    OK = "ok"
    WARNING = "warning"
    FAILED = "FAILED"
    NOT_CHECKED = "not checked"


@dataclass(frozen=True)
class Finding:
    """What a check found.

    Attributes:
        mark: how it ended.
        found: the value found, or what is wrong.
        remedy: what to do about it, where it is not ok.

    Raises:
        ValueError: if something is not ok and there is no remedy.
    """

    mark: Mark
    found: str
    remedy: str = ""

    def __post_init__(self) -> None:
        """Check that there is a remedy where one is needed."""
        if self.mark is not Mark.OK and not self.remedy:
            raise ValueError(f"{self.mark} without a remedy: {self.found}")


def ok(found: str) -> Finding:
    """Return that all is well."""
    return Finding(Mark.OK, found)


def warning(found: str, remedy: str) -> Finding:
    """Return that a run would go on, though not as one would wish."""
    return Finding(Mark.WARNING, found, remedy)


def failed(found: str, remedy: str) -> Finding:
    """Return that a run would fail, or its review."""
    return Finding(Mark.FAILED, found, remedy)


def not_checked(found: str, remedy: str) -> Finding:
    """Return that nothing is known."""
    return Finding(Mark.NOT_CHECKED, found, remedy)


def refused(error: Exception, remedy: str = "put that right and look again") -> Finding:
    """Return that something failed with an error.

    Args:
        error: what was raised; errors here say what is wrong first, and then what to do.
        remedy: what to do where it says no such thing.
    """
    said = " ".join(str(error).strip().splitlines()) or type(error).__name__
    parts = _REMEDY.split(redact(said), maxsplit=1)
    return failed(parts[0], parts[1] if len(parts) == 2 else remedy)


@dataclass(frozen=True)
class Check:
    """Something to look at.

    Attributes:
        subject: what is looked at.
        look: says what was found; what it raises is a failure.
        seconds: after which it is given up.
        gate: whether what follows it in its chain is of no use if it failed.
    """

    subject: str
    look: Callable[[], Finding]
    seconds: float = SECONDS
    gate: bool = False


def run(chains: Sequence[Sequence[Check]], show: Callable[[str, Finding], None]) -> list[Finding]:
    """Run chains of checks side by side, those of a chain one after another.

    Args:
        chains: the checks.
        show: told subject and finding of each, in order, as soon as it is known.

    Returns:
        The findings in the same order.
    """
    stop = threading.Event()
    queues = [SimpleQueue[Finding]() for _ in chains]
    walks = [
        threading.Thread(target=_walk, args=(chain, found, stop), name=THREAD, daemon=True)
        for chain, found in zip(chains, queues, strict=True)
    ]
    for walk in walks:
        walk.start()
    findings = []
    try:
        for chain, queue in zip(chains, queues, strict=True):
            for check in chain:
                findings.append(queue.get())
                show(check.subject, findings[-1])
    except KeyboardInterrupt:
        stop.set()
        for walk in walks:  # so that a check puts away what it made
            walk.join(_STOP_SECONDS)
        raise
    return findings


def _walk(chain: Sequence[Check], found: "SimpleQueue[Finding]", stop: threading.Event) -> None:
    closed = ""
    for check in chain:
        if stop.is_set():
            return
        if closed:
            finding = not_checked(f"{closed} has failed", "put that right and look again")
        else:
            finding = _look(check)
        if check.gate and finding.mark is Mark.FAILED:
            closed = check.subject
        found.put(finding)


def _look(check: Check) -> Finding:
    found: SimpleQueue[Finding] = SimpleQueue()

    def look() -> None:
        try:
            found.put(check.look())
        except Exception as error:
            found.put(refused(error))

    thread = threading.Thread(target=look, name=THREAD, daemon=True)
    thread.start()
    thread.join(check.seconds)
    if thread.is_alive():
        return failed(
            f"no answer within {check.seconds:g} s",
            "see whether it can be reached from here; a run would wait as well",
        )
    return found.get()
