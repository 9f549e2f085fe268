"""Small servers on this machine that are as bad as servers get, each for a `with` block."""

import contextlib
import http.server
import json
import socket
import socketserver
import threading
from collections.abc import Iterator

BEGUN = {
    "data": {
        "upsertBucket": {
            "bucket": {
                "id": "1",
                "name": "one",
                "displayName": "one",
                "historyLineCount": 0,
                "project": {"name": "p", "entity": {"name": "e"}},
            },
            "inserted": True,
        }
    }
}
"""What wandb's server says to a run that begins."""


class _Silent(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        """Accept, and never answer."""
        threading.Event().wait()


class _Answering(http.server.BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        self.answer(self.rfile.read(int(self.headers.get("content-length", 0))))

    def do_GET(self) -> None:
        self.answer(b"")

    def log_message(self, *_: object) -> None:
        """Nothing."""

    def answer(self, body: bytes) -> None:
        raise NotImplementedError

    def send(self, status: int, content: bytes = b"") -> None:
        self.send_response(status)
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


class _Broken(_Answering):
    def answer(self, *_: object) -> None:
        self.send(500)


class _Refusing(_Answering):
    def answer(self, *_: object) -> None:
        self.send(401)


class _FallingSilent(_Answering):
    def answer(self, body: bytes) -> None:
        if b"UpsertBucket" in body and not self.server.begun.is_set():
            self.server.begun.set()
            self.send(200, json.dumps(BEGUN).encode())
        else:
            threading.Event().wait()


KINDS = {"silent": _Silent, "broken": _Broken, "refusing": _Refusing, "falling silent": _FallingSilent}


class _Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self, handler: type[socketserver.BaseRequestHandler]) -> None:
        self.begun = threading.Event()
        super().__init__(("127.0.0.1", 0), handler)


@contextlib.contextmanager
def server(kind: str) -> Iterator[str]:
    """The address of a server that is `closed`, or one of `KINDS`."""
    if kind == "closed":
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        yield f"http://127.0.0.1:{port}"
        return
    with _Server(KINDS[kind]) as serving:
        threading.Thread(target=serving.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{serving.server_address[1]}"
        serving.shutdown()
