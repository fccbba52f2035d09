"""Between clients and an S3 server: counts what goes through, and refuses what it is told to."""

from __future__ import annotations

import http.client
import http.server
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from urllib.parse import unquote, urlsplit


@dataclass
class Traffic:
    """What went through.

    Attributes
    ----------
    url : str
    requests : list of (str, str, int)
        Method, path and bytes of the answer, of those that asked for objects.
    refused : dict of str to int
        HTTP statuses, by the ends of paths whose content is refused.
    """

    url: str
    requests: list[tuple[str, str, int]] = field(default_factory=list)
    refused: dict[str, int] = field(default_factory=dict)

    def gets(self, ending: str) -> list[int]:
        """The bytes of each answer that had content of an object with that ending."""
        return [
            size
            for method, path, size in self.requests
            if method == "GET" and path.endswith(ending)
        ]


@contextmanager
def proxied(server: str) -> Iterator[Traffic]:
    """A proxy of an S3 server, on a port of its own."""
    target = urlsplit(server)

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

        def forward(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            path = unquote(urlsplit(self.path).path)
            status = next((code for end, code in traffic.refused.items() if path.endswith(end)), 0)
            if status and self.command == "GET":
                self.answer(status, {}, b"<Error><Code>%d</Code></Error>" % status)
                return
            upstream = http.client.HTTPConnection(str(target.hostname), target.port)
            upstream.request(self.command, self.path, body, dict(self.headers))
            answer = upstream.getresponse()
            content = answer.read()
            traffic.requests.append((self.command, path, len(content)))
            self.answer(answer.status, dict(answer.getheaders()), content)
            upstream.close()

        def answer(self, status: int, headers: dict[str, str], content: bytes) -> None:
            self.send_response(status)
            for name, value in headers.items():
                if name.lower() not in ("connection", "content-length", "transfer-encoding"):
                    self.send_header(name, value)
            size = headers.get("Content-Length") if self.command == "HEAD" else None
            self.send_header("Content-Length", size or str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = forward

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listening:
        listening.daemon_threads = True
        traffic = Traffic(f"http://127.0.0.1:{listening.server_port}")
        threading.Thread(target=listening.serve_forever, daemon=True).start()
        yield traffic
        listening.shutdown()
