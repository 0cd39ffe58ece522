"""Bounded requests: what is refused is divided, what is in doubt is looked up."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from pipelines.labelstudio import sending
from pipelines.labelstudio.client import LabelStudioError, OutcomeUnknownError
from pipelines.labelstudio.sending import send


class Server:
    """Takes what is posted to it, or does with it what it was told."""

    def __init__(self, answer: Callable[[list[Any]], Exception | None] = lambda bodies: None):
        self.requests: list[list[Any]] = []
        self.has: list[Any] = []
        self.waits: list[int] = []
        self._answer = answer

    def post(self, path: str, content: bytes, headers: dict[str, str]) -> Any:
        assert (path, headers) == ("/import", {"Content-Type": "application/json"})
        bodies = json.loads(content)
        self.requests.append(bodies)
        error = self._answer(bodies)
        if error is None or isinstance(error, Lost):
            self.has += bodies
        if error is not None:
            raise error
        return {"created": len(bodies)}

    def wait(self, attempt: int) -> None:
        self.waits.append(attempt)


class Lost(OutcomeUnknownError):
    """An answer that was lost though it was done."""


def send_all(
    server: Server, bodies: dict[int, Any], most: int = 4
) -> tuple[dict[int, LabelStudioError], list[int]]:
    """Send everything; return what was refused, and the keys that were said to be taken."""
    taken: list[int] = []

    def note(keys: list[int], answer: Any) -> None:
        assert answer == {"created": len(keys)}
        taken.extend(keys)

    def missing(keys: list[int]) -> list[int]:
        return [key for key in keys if bodies[key] not in server.has]

    refused = send(server, "/import", bodies, most, note, missing)  # type: ignore[arg-type]
    return refused, taken


def numbered(count: int) -> dict[int, Any]:
    return {number: {"number": number} for number in range(count)}


def test_requests_are_bounded_by_length() -> None:
    server = Server()
    assert send_all(server, numbered(10)) == ({}, list(range(10)))
    assert [len(request) for request in server.requests] == [4, 4, 2]
    assert server.has == list(numbered(10).values())


def test_requests_are_bounded_by_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sending, "MOST_BYTES", 100)
    server = Server()
    send_all(server, {0: "a" * 40, 1: "b" * 40, 2: "c" * 40, 3: "d" * 500, 4: "e"}, most=9)
    assert [len(request) for request in server.requests] == [2, 1, 1, 1]


@pytest.mark.parametrize("text", ["a 🐕‍🦺 and 漢字", "two\nlines", '"quoted" \\ </script>', "\x7f"])
def test_texts_come_through(text: str) -> None:
    server = Server()
    send_all(server, {0: {"text": text}})
    assert server.has == [{"text": text}]


@pytest.mark.parametrize("status", [400, 413])
def test_what_is_refused_is_divided_until_the_one_to_blame_is_alone(status: int) -> None:
    server = Server(
        lambda bodies: LabelStudioError("no", status) if {"number": 5} in bodies else None
    )
    refused, taken = send_all(server, numbered(8), most=8)
    assert list(refused) == [5]
    assert refused[5].status == status
    assert taken == [0, 1, 2, 3, 4, 6, 7]  # In order all the same.
    assert [len(request) for request in server.requests] == [8, 4, 4, 2, 1, 1, 2]


def test_another_refusal_ends_it() -> None:
    server = Server(lambda bodies: LabelStudioError("not yours", 403))
    with pytest.raises(LabelStudioError, match="not yours"):
        send_all(server, numbered(8))
    assert len(server.requests) == 1


def test_what_was_done_though_the_answer_was_lost_is_not_sent_again() -> None:
    errors: list[Exception | None] = [Lost("?"), OutcomeUnknownError("?"), None, None, None]
    server = Server(lambda bodies: errors.pop(0))
    refused, _ = send_all(server, numbered(8))
    assert refused == {}
    assert [len(request) for request in server.requests] == [4, 4, 2, 2]
    assert server.has == list(numbered(8).values())
    assert server.waits == [1, 2]


def test_a_request_that_never_ends_well_is_given_up() -> None:
    server = Server(lambda bodies: OutcomeUnknownError("no answer"))
    with pytest.raises(OutcomeUnknownError, match="no answer"):
        send_all(server, numbered(1))
    assert len(server.requests) == sending.TRIES
