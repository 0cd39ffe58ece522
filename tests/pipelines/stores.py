"""What the tests of storage and listing share: nasty names, and a small http server."""

import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import quote, unquote

NASTY = (
    "a b.jpg",
    " c ",
    "quote'\".jpg",
    "50%.jpg",
    "%41.jpg",
    "a#b.jpg",
    "a#123.jpg",
    "a?b.jpg",
    "a?versionId=1.jpg",
    "a?key=1.jpg",
    "a[1].jpg",
    "a*b.jpg",
    "{a,b}.jpg",
    "a::b.jpg",
    "é日本.jpg",
    "a+b&c=d.jpg",
    "new\nline.jpg",
    "back\\slash.jpg",
    "~tilde.jpg",
    "$HOME.jpg",
)


def content(name: str) -> bytes:
    """Return bytes that belong to a name."""
    return hashlib.sha256(name.encode()).digest() + name.encode()


@dataclass
class Server:
    """A running http server.

    Attributes:
        url: where it is.
        files: what it serves, by path.
        headers: further headers of each answer, by path.
        statuses: answers to give instead, in order, by path.
        requests: what was asked, as method and path.
    """

    url: str
    files: dict[str, bytes] = field(default_factory=dict)
    headers: dict[str, dict[str, str]] = field(default_factory=dict)
    statuses: dict[str, list[int]] = field(default_factory=dict)
    requests: list[tuple[str, str]] = field(default_factory=list)
    etags: bool = True
    sent: int = 0


@contextmanager
def http_server() -> Iterator[Server]:
    """Serve files from memory, with pages that list folders, for as long as the block runs."""
    server = Server("")

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self._answer(False)

        def do_GET(self) -> None:
            self._answer(True)

        def _answer(self, with_body: bool) -> None:
            path = unquote(self.path)
            server.requests.append((self.command, path))
            status, body = _found(server, path)
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            is_page = path.endswith("/")
            self.send_header("Content-Type", "text/html" if is_page else "image/jpeg")
            if server.etags and not is_page:
                self.send_header("ETag", f'"{hashlib.md5(body).hexdigest()}"')
            for name, value in server.headers.get(path, {}).items():
                self.send_header(name, value)
            self.end_headers()
            if with_body:
                self._send(body)

        def _send(self, body: bytes) -> None:
            try:
                for start in range(0, len(body), 1 << 16):
                    server.sent += self.wfile.write(body[start : start + (1 << 16)])
            except OSError:
                pass

        def log_message(self, *arguments: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listening:
        server.url = f"http://127.0.0.1:{listening.server_port}"
        thread = threading.Thread(target=listening.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server
        finally:
            listening.shutdown()
            thread.join()


def _found(server: Server, path: str) -> tuple[int, bytes]:
    if server.statuses.get(path):
        return server.statuses[path].pop(0), b""
    if path in server.files:
        return 200, server.files[path]
    names = {name.removeprefix(path) for name in server.files if name.startswith(path)}
    if not path.endswith("/") or not names:
        return 404, b""
    items = sorted({name.split("/")[0] + "/" * ("/" in name) for name in names})
    links = "".join(f'<a href="{quote(item)}">{item[:9]}</a>\n' for item in ["../", *items])
    return 200, f'<html><a href="?C=N;O=D">Name</a>{links}</html>'.encode()
