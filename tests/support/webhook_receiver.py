"""A receiver of webhooks on a free port of this machine, which answers as a test says and verifies signatures."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import ssl
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from support.sleepers import until


@dataclass(frozen=True)
class Answer:
    """What is answered; with a status of 0 nothing is, and the connection is closed."""

    status: int = 204
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Posted:
    """One request."""

    path: str
    headers: Message
    body: bytes

    @property
    def said(self) -> Mapping[str, Any]:
        """The body, which is JSON."""
        said: dict[str, Any] = json.loads(self.body)
        return said

    def verify(self, secret: str) -> None:
        """Check the signature as https://github.com/standard-webhooks/standard-webhooks says, without our code."""
        key = base64.b64decode(secret.removeprefix("whsec_"))
        signed = b".".join(
            [self.headers["webhook-id"].encode(), self.headers["webhook-timestamp"].encode(), self.body]
        )
        expected = base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
        assert f"v1,{expected}" in self.headers["webhook-signature"].split(" ")


@dataclass
class Receiver:
    """What has come.

    :ivar answers: given in order; behind the last, 204.
    :ivar open: while it is not set, nothing is answered.
    """

    url: str = ""
    port: int = 0
    answers: list[Answer] = field(default_factory=list)
    got: list[Posted] = field(default_factory=list)
    open: threading.Event = field(default_factory=threading.Event)

    async def until_got(self, number: int) -> Sequence[Posted]:
        """Wait until so many requests have come."""
        await until(lambda: len(self.got) >= number)
        return self.got


@contextmanager
def receiving(*answers: Answer, tls: ssl.SSLContext | None = None) -> Iterator[Receiver]:
    """Receive for as long as the block lasts."""
    receiver = Receiver(answers=list(answers))
    receiver.open.set()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            receiver.got.append(Posted(self.path, self.headers, body))
            receiver.open.wait(30)
            answer = receiver.answers.pop(0) if receiver.answers else Answer()
            if not answer.status:
                self.close_connection = True
                return
            self.send_response(answer.status)
            for name, value in answer.headers.items():
                self.send_header(name, value)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *_: object) -> None:
            """Say nothing of clients that have gone, and of handshakes that failed."""

    with Server(("127.0.0.1", 0), Handler) as server:
        if tls is not None:
            server.socket = tls.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
        receiver.port = server.server_address[1]
        receiver.url = f"http://127.0.0.1:{receiver.port}/hook"
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        try:
            yield receiver
        finally:
            receiver.open.set()
            server.shutdown()
            thread.join(10)
