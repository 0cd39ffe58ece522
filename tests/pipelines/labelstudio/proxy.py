"""A proxy in front of Label Studio that fails as networks and servers do."""

import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

import httpx


class Proxy:
    """Passes requests on, except where it was told to fail."""

    def __init__(self, target: str) -> None:
        self.target = target
        self.lost = 0
        self.longest_address = 1_000_000
        self._failures: list[tuple[str, str, int | None, int]] = []
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
        self._failures.append((method, path, None, times))

    def answer_first(self, method: str, path: str, status: int, times: int) -> None:
        """Answer requests to a path with a status, without passing them on."""
        self._failures.append((method, path, status, times))

    def failure(self, method: str, path: str) -> tuple[bool, int | None]:
        """Say whether this request is to fail, and with which status."""
        with self._lock:
            for index, (wanted, end, status, times) in enumerate(self._failures):
                if times and method == wanted and path.partition("?")[0].endswith(end):
                    self._failures[index] = (wanted, end, status, times - 1)
                    return True, status
        return False, None

    def pass_on(self, method: str, path: str, headers: Any, body: bytes) -> httpx.Response:
        """Send a request to Label Studio."""
        kept = {k: v for k, v in headers.items() if k.lower() not in ("host", "connection")}
        return self._http.request(method, path, headers=kept, content=body)


def _handler(proxy: Proxy) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def _handle(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            fails, status = proxy.failure(self.command, self.path)
            if len(self.path) > proxy.longest_address:
                fails, status = True, 414
            if fails and status is not None:
                self._answer(status, b"{}", "application/json")
                return
            answer = proxy.pass_on(self.command, self.path, self.headers, body)
            if fails:
                proxy.lost += 1
                self.connection.close()
                return
            kind = answer.headers.get("content-type", "application/json")
            self._answer(answer.status_code, answer.content, kind)

        def _answer(self, status: int, body: bytes, kind: str) -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Keep quiet."""

        do_GET: Callable[[Any], None] = _handle
        do_POST = do_PATCH = do_DELETE = _handle

    return Handler
