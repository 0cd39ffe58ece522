"""A proxy in front of Label Studio that fails as networks and servers do."""

import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import MappingProxyType
from typing import Any, Self

import httpx

FAULTS = ("drop", "delay", "truncate", "lose", "429", "500", "502")
"""What may happen to a request: see `Proxy.misbehave`."""


class Proxy:
    """Passes requests on, except where it was told to fail.

    Attributes:
        lost: how many answers were not passed back.
        faults: how often each fault happened, by its name.
        requests: method and path, without what is asked, of all requests so far.
        longest_address: longer ones are answered with status 414.
        largest_body: larger ones are answered with status 413.
        before: called with method and path before a request is passed on.
        change: called with path and body of what is posted; returns what is passed on instead.
        headers: sent with answers that do not come from the server.
        answers: contents to give back for paths that end so, whatever the server answered.
    """

    def __init__(self, target: str) -> None:
        self.target = target
        self.lost = 0
        self.faults: Counter[str] = Counter()
        self.requests: list[tuple[str, str]] = []
        self.longest_address = self.largest_body = 1_000_000_000
        self.before: Callable[[str, str], None] = lambda method, path: None
        self.change: Callable[[str, bytes], bytes] = lambda path, body: body
        self.headers: dict[str, str] = {}
        self.answers: dict[str, bytes] = {}
        self._failures: list[tuple[str, str, str, int]] = []
        self._random: random.Random | None = None
        self._share = 0.0
        self._lock = threading.Lock()
        self._http = httpx.Client(base_url=target, timeout=60)
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._http.close()

    def lose_answers(self, method: str, path: str, times: int) -> None:
        """Pass on requests to a path, and close the connection instead of answering."""
        self._failures.append((method, path, "lose", times))

    def carry_out_late(self, method: str, path: str, times: int) -> None:
        """Close the connection of requests to a path, and pass them on a second later."""
        self._failures.append((method, path, "late", times))

    def answer_first(self, method: str, path: str, status: int, times: int) -> None:
        """Answer requests to a path with a status, without passing them on."""
        self._failures.append((method, path, str(status), times))

    def misbehave(self, seed: int, share: float = 0.3) -> None:
        """Do something wrong with a share of all requests from now on, drawn by a seed.

        ``drop`` closes the connection without passing the request on, ``delay`` waits before it
        does, ``truncate`` gives back half of the answer, ``lose`` nothing of it though the server
        has done what was asked. A number is the status that is answered without asking the server.
        """
        self._random, self._share = random.Random(seed), share

    def behave(self) -> None:
        """Fail no more."""
        self._random, self._failures = None, []

    def fault(self, method: str, path: str) -> str | None:
        """Say what is to go wrong with this request."""
        path = path.partition("?")[0]
        with self._lock:
            self.requests.append((method, path))
            for index, (wanted, end, fault, times) in enumerate(self._failures):
                if times and method == wanted and path.endswith(end):
                    self._failures[index] = (wanted, end, fault, times - 1)
                    return fault
            if self._random is None or self._random.random() >= self._share:
                return None
            fault = self._random.choice(FAULTS)
            self.faults[fault] += 1
            return fault

    def pass_on(self, method: str, path: str, headers: Any, body: bytes) -> httpx.Response:
        """Send a request to Label Studio."""
        bare = path.partition("?")[0]
        self.before(method, bare)
        body = self.change(bare, body) if method == "POST" else body
        left_out = ("host", "connection", "content-length")
        kept = {k: v for k, v in headers.items() if k.lower() not in left_out}
        return self._http.request(method, path, headers=kept, content=body)


def _handler(proxy: Proxy) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def _handle(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            fault = proxy.fault(self.command, self.path)
            if len(self.path) > proxy.longest_address:
                fault = "414"
            elif len(body) > proxy.largest_body:
                fault = "413"
            if fault == "delay":
                time.sleep(0.05)
            elif fault is not None and fault.isdigit():
                self._answer(int(fault), b"{}", headers=proxy.headers)
                return
            elif fault in ("drop", "late"):
                self.connection.close()
                if fault == "drop":
                    return
                time.sleep(1)
            answer = proxy.pass_on(self.command, self.path, self.headers, body)
            if fault in ("lose", "late"):
                proxy.lost += 1
                self.connection.close()
                return
            content = answer.content
            for end, instead in proxy.answers.items():
                if self.path.partition("?")[0].endswith(end):
                    content = instead
            kind = answer.headers.get("content-type", "application/json")
            self._answer(answer.status_code, content, kind, fault == "truncate")

        def _answer(
            self,
            status: int,
            body: bytes,
            kind: str = "application/json",
            torn: bool = False,
            headers: Mapping[str, str] = MappingProxyType({}),
        ) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body[: len(body) // 2] if torn else body)

        def log_message(self, *_: object) -> None:
            """Keep quiet."""

        do_GET: Callable[[Any], None] = _handle
        do_POST = do_PATCH = do_DELETE = _handle

    return Handler
