"""What a run shows in a terminal: a live bar, or a line now and then, and a table at the end."""

import sys
import time
from collections import Counter
from collections.abc import Mapping
from typing import Any, TextIO

from tqdm import tqdm

from pipelines.progress import Progress

LINE_SECONDS = 30.0


def say(message: str) -> None:
    """Print a line to standard error, above a live bar if there is one."""
    tqdm.write(message, file=sys.stderr)


class ProgressBar:
    """A live bar on a terminal; a plain line each half minute otherwise."""

    def __init__(self, total: int, stream: TextIO | None = None) -> None:
        self._total = total
        self._stream = stream or sys.stderr
        self._started = self._said = time.monotonic()
        self._bar: tqdm[Any] | None = None
        if self._stream.isatty():
            self._bar = tqdm(total=total, unit="image", file=self._stream, dynamic_ncols=True)

    def show(self, progress: Progress) -> None:
        """Show how far the run is."""
        done = progress.captioned + progress.failed
        if self._bar is not None:
            self._bar.set_postfix_str(f"{progress.failed:,} failed", refresh=False)
            self._bar.update(done - self._bar.n)
            self._bar.refresh()
        elif time.monotonic() - self._said >= LINE_SECONDS:
            self._said = time.monotonic()
            print(self._line(done, progress.failed), file=self._stream, flush=True)

    def _line(self, done: int, failed: int) -> str:
        rate = done / max(time.monotonic() - self._started, 1e-9)
        left = (self._total - done) / rate if rate else float("inf")
        return f"{done:,} of {self._total:,} images, {rate:.1f} images/s, {failed:,} failed, " + (
            f"{duration(left)} left" if rate else "time left unknown"
        )

    def close(self) -> None:
        """Leave the bar as it stands."""
        if self._bar is not None:
            self._bar.close()


def duration(seconds: float) -> str:
    """Return a time span as people say it.

    >>> duration(5), duration(65), duration(3700)
    ('5 s', '1 min 05 s', '1 h 01 min')
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02} min"


_ROWS = (
    ("listed", "images listed"),
    ("captioned", "captioned"),
    ("skipped", "skipped, done before"),
    ("failed", "failed"),
    ("not_reached", "not reached"),
)


def summary(counts: Mapping[str, int], failures: Mapping[str, int], seconds: float) -> str:
    """Return the table at the end of a run, whose parts add up to its first line."""
    rows = [(text, counts[name]) for name, text in _ROWS if counts[name] or name != "not_reached"]
    width = max(len(f"{number:,}") for _, number in rows)
    lines = [f"  {text:<24}{number:>{width},}" for text, number in rows]
    lines.insert(1, f"  {'-' * (24 + width)}")
    if failures:
        kinds = ", ".join(f"{number:,} {kind}" for kind, number in sorted(failures.items()))
        lines.append(f"  of the failures: {kinds}")
    lines.append(f"  in {duration(seconds)}")
    return "\n".join(lines)


def queue_lines(plan: Mapping[str, Any]) -> list[str]:
    """Return what a plan of the review came to: a line a reason, and what is promised.

    Args:
        plan: a manifest's ``review``.
    """
    rules, reasons = plan["rules"], plan["reasons"]
    texts = {
        "threshold": f"confidence below {rules['review_below']}",
        "budget": "the least confident",
        "guarantee": f"not certified for {rules['guarantee']}",
        "audit": f"a random {100 * rules['audit']:.3g}% of all captions",
        "deferred": "wait: one like them is reviewed",
    }
    lines = [f"to review: {plan['queued']:,} captions"]
    if sum(reasons.values()) > plan["queued"] + plan["deferred"]:
        lines[0] += "; those with several reasons count for each"
    lines += [f"  {reason:<10}{count:>8,}  {texts[reason]}" for reason, count in reasons.items()]
    if plan["certificate"]:
        lines.append(f"guarantee: {plan['certificate']['message']}")
        if plan["certificate"]["threshold"] is None:
            lines.append("guarantee: until then all captions are to be reviewed")
    return [*lines, *(f"note: {message}" for message in plan["messages"])]


def ignored(counts: Counter[str]) -> str:
    """Return how many files were no candidates, by extension."""
    kinds = ", ".join(f"{number:,} {kind}" for kind, number in counts.most_common(8))
    return f"ignored {sum(counts.values()):,} other files: {kinds}"
