"""A TCP proxy in front of a relay, with a network of its own that can break: cut, stalled and restored."""

from __future__ import annotations

import select
import socket
import ssl
import struct
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from urllib.parse import urlsplit

SECONDS = 30.0
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER: closing sends a RST


class CuttingProxy:
    """Forwards connections, as long as the network is whole. All threads may call it.

    :param tls: clients are served by TLS, the server is not.
    """

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self._tls = tls
        self._server = ("", 0)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"{'https' if tls else 'http'}://127.0.0.1:{self._listener.getsockname()[1]}"
        self._changed = threading.Condition()
        self._up = True
        self._flowing = True
        self._closed = False
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._cut_after: bytes | None = None
        self.accepted = 0
        """Connections that were forwarded, ever."""

    def forward_to(self, url: str) -> None:
        """Begin, in front of this server."""
        self.move_to(url)
        threading.Thread(target=self._accept, daemon=True).start()

    def move_to(self, url: str) -> None:
        """Forward connections that are made from now on to another server."""
        parts = urlsplit(url)
        self._server = (parts.hostname or "", parts.port or 80)

    def cut(self) -> None:
        """Reset all connections, and refuse new ones until `restore`."""
        with self._changed:
            self._up = False
            self._break()

    def cut_once(self) -> None:
        """Reset all connections."""
        with self._changed:
            self._break()

    def cut_after(self, text: bytes) -> None:
        """Do as `cut` does, once the server has sent this and it was forwarded, with nothing behind it."""
        with self._changed:
            self._cut_after = text

    def stall(self) -> None:
        """Forward nothing, and break nothing: a dead network, which nobody is told of."""
        with self._changed:
            self._flowing = False

    def restore(self) -> None:
        """Let everything through again."""
        with self._changed:
            self._up = self._flowing = True
            self._changed.notify_all()

    def wait_cut(self) -> None:
        """Wait until what `cut_after` waits for has come."""
        with self._changed:
            assert self._changed.wait_for(lambda: not self._up, SECONDS), "nothing was cut"

    def wait_accepted(self, count: int) -> None:
        """Wait until so many connections were forwarded."""
        with self._changed:
            assert self._changed.wait_for(lambda: self.accepted >= count, SECONDS), "nobody connected"

    def wait_quiet(self, seconds: float) -> None:
        """Wait until nothing has been forwarded for so long."""
        with self._changed:
            while self._changed.wait(seconds):
                pass

    def close(self) -> None:
        """Break everything, for ever."""
        with self._changed:
            self._closed = True
            self._break()
            self._changed.notify_all()
        # A thread in `accept` would not notice that the socket is closed.
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _break(self) -> None:
        for client, server in self._pairs:
            with suppress(OSError):
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            for side in (client, server):
                with suppress(OSError):
                    side.shutdown(socket.SHUT_RDWR)  # wakes the thread, which closes them
        self._pairs.clear()

    def _accept(self) -> None:
        while not self._closed:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with suppress(OSError), ExitStack() as sockets:
            sockets.callback(client.close)
            if self._tls is not None and self._up:
                client = sockets.enter_context(self._tls.wrap_socket(client, server_side=True))
            with self._changed:
                if not self._up or self._closed:
                    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                    return
                server = sockets.enter_context(socket.create_connection(self._server, timeout=SECONDS))
                for side in (client, server):
                    side.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self._pairs.append((client, server))
                self.accepted += 1
                self._changed.notify_all()
            self._forward(client, server)

    def _forward(self, client: socket.socket, server: socket.socket) -> None:
        heard = b""
        while True:
            readable, _, _ = select.select([client, server], [], [])
            for source in readable:
                with self._changed:
                    self._changed.wait_for(lambda: self._flowing or self._closed)
                data = source.recv(65536)
                if not data:
                    return
                with self._changed:
                    self._changed.notify_all()
                if source is client:
                    server.sendall(data)
                    continue
                heard, kept = self._heard(heard, data)
                client.sendall(kept)
                if not heard:
                    self._cut_now(client)
                    return

    def _heard(self, before: bytes, data: bytes) -> tuple[bytes, bytes]:
        """Return what to remember, empty if it is time to cut, and what of the data is forwarded."""
        with self._changed:
            text = self._cut_after
        if text is None:
            return b"-", data
        heard = before + data
        at = heard.find(text)
        if at < 0:
            return heard[-len(text) :], data
        return b"", data[: at + len(text) - len(before)]

    def _cut_now(self, client: socket.socket) -> None:
        # What was forwarded shall arrive: a reset would destroy it.
        client.shutdown(socket.SHUT_RDWR)
        with self._changed:
            self._cut_after = None
            self._up = False
            self._break()
            self._changed.notify_all()


@contextmanager
def cutting_proxy(tls: ssl.SSLContext | None = None) -> Iterator[CuttingProxy]:
    """Make a proxy, for as long as the block lasts; it begins with `CuttingProxy.forward_to`."""
    proxy = CuttingProxy(tls)
    try:
        yield proxy
    finally:
        proxy.close()
