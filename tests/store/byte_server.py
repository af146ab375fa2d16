"""A web server on this machine that gives byte ranges of the files below a folder, as object storage does."""

from __future__ import annotations

import http.server
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit


class ByteServer(http.server.ThreadingHTTPServer):
    """Counts what it is asked for and can be told to fail.

    Args:
        root: folder of the files.
    """

    def __init__(self, root: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.root = root
        self.given: list[tuple[str, int]] = []
        """Path and number of bytes of each answer."""
        self.authorizations: list[str] = []
        """What each request said of who asks."""
        self.failures = 0
        """Answers that are errors of the server, from now on."""
        self.gives_ranges = True

    @property
    def url(self) -> str:
        """Address of the folder."""
        return f"http://127.0.0.1:{self.server_address[1]}"

    def bytes_of(self, ending: str) -> int:
        """Return how many bytes were given of files whose path ends so."""
        return sum(size for path, size in self.given if path.endswith(ending))


class _Handler(http.server.BaseHTTPRequestHandler):
    server: ByteServer

    def do_HEAD(self) -> None:
        self._answer(with_content=False)

    def do_GET(self) -> None:
        self._answer(with_content=True)

    def _answer(self, with_content: bool) -> None:
        file = self.server.root / urlsplit(self.path).path.lstrip("/")
        self.server.authorizations.append(self.headers.get("Authorization", ""))
        if self.server.failures:
            self.server.failures -= 1
            self.send_error(503)
            return
        if not file.is_file():
            self.send_error(404)
            return
        content = file.read_bytes()
        total = len(content)
        wanted = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range") or "")
        if wanted and self.server.gives_ranges:
            first, last = int(wanted[1]), min(int(wanted[2]), total - 1)
            content = content[first : last + 1]
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {first}-{last}/{total}")
        else:
            self.send_response(200)
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if with_content:
            self.server.given.append((self.path, len(content)))
            self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@contextmanager
def serving(root: Path) -> Iterator[ByteServer]:
    """Serve a folder until the block ends."""
    with ByteServer(root) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
