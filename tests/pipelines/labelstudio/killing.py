"""Ending a program at any moment, as a machine that loses power does."""

import signal
import subprocess
import time
from collections.abc import Sequence


def kill(command: Sequence[str], at: str, seconds: float) -> None:
    """Start a program, and kill it some time after it has printed a line.

    Args:
        command: how to start it; one that ends by itself before must have done all.
        at: the line.
        seconds: how long after it.
    """
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        said = any(line == f"{at}\n" for line in child.stdout)
        time.sleep(seconds)
        child.send_signal(signal.SIGKILL)
    assert said, f"{at} was not reached"
    assert child.returncode in (-signal.SIGKILL, 0)
