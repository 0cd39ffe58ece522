"""Sending many things in bounded requests, though any of them may fail, or may have been done.

One request is on its way at a time. Label Studio on SQLite writes one after another, and one that
finds the database locked sleeps for seconds: with four at once, 2,000 tasks took five times as long
as one after the other.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

from pipelines.labelstudio.client import Client, LabelStudioError, OutcomeUnknownError

MOST_BYTES = 8 * 1024 * 1024
TRIES = 8
DIVIDED = (400, 413)
"""Statuses that one of many may be to blame for."""

Key = TypeVar("Key")


def send(
    client: Client,
    path: str,
    bodies: Mapping[Key, Any],
    most: int,
    taken: Callable[[list[Key], Any], None],
    missing: Callable[[list[Key]], list[Key]],
) -> dict[Key, LabelStudioError]:
    """Send all bodies in lists of bounded length and size, each with its effect once.

    A request that is refused is sent again in halves, down to one body. After one whose outcome is
    not known it is looked up what it did, and only the rest is sent again.

    Args:
        client: a connection to Label Studio.
        path: where a list of bodies is posted to.
        bodies: what to send.
        most: how many in one request.
        taken: told what was sent and how it was answered.
        missing: says which of these had no effect.

    Returns:
        What was refused, even alone, and why.

    Raises:
        LabelStudioError: if it did not go on.
    """
    refused: dict[Key, LabelStudioError] = {}
    written = {key: _written(body) for key, body in bodies.items()}
    waiting = list(_bounded(written, most))[::-1]
    in_doubt = 0
    while waiting:
        keys = waiting.pop()
        content = b"[" + b",".join(written[key] for key in keys) + b"]"
        try:
            answer = client.post(path, content=content, headers=_JSON)
        except OutcomeUnknownError:
            in_doubt += 1
            if in_doubt == TRIES:
                raise
            client.wait(in_doubt)
            waiting += halves(missing(keys))
            continue
        except LabelStudioError as error:
            if error.status not in DIVIDED:
                raise
            if len(keys) == 1:
                refused[keys[0]] = error
            else:
                waiting += halves(keys)
            continue
        in_doubt = 0
        taken(keys, answer)
    return refused


_JSON = {"Content-Type": "application/json"}


def _written(body: Any) -> bytes:
    text = json.dumps(body, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return text.encode("utf-8", "backslashreplace")


def _bounded(written: Mapping[Key, bytes], most: int) -> Iterator[list[Key]]:
    """Divide into lists of at most so many and so many bytes; one may be larger by itself."""
    some: list[Key] = []
    size = 0
    for key, content in written.items():
        if some and (len(some) == most or size + len(content) > MOST_BYTES):
            yield some
            some, size = [], 0
        some.append(key)
        size += len(content)
    if some:
        yield some


def halves(keys: list[Key]) -> list[list[Key]]:
    """Return the two halves, the second one first: what waits is taken from the end."""
    middle = (len(keys) + 1) // 2
    return [half for half in (keys[middle:], keys[:middle]) if half]
