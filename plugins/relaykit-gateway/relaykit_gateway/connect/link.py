"""Link: an open connection to a relay, which makes nobody wait."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Sequence
from contextlib import nullcontext, suppress

from relaykit_gateway.address import ClientError
from relaykit_gateway.connect.frames import (
    NORMAL_CLOSURE,
    PING,
    TEXT,
    FrameReader,
    ProtocolBroken,
    close_frame,
    frame,
)

# More than one record of TLS, so that nothing is left where poll does not see it; and not so much that the
# memory for it is fetched from the kernel, and returned, each time.
_CHUNK = 1 << 16
_OUR_FAULT = frozenset({1002, 1003, 1007, 1009, 1010})  # RFC 6455, section 7.4.1: what we sent was wrong


class LinkLost(ClientError):
    """The connection has ended.

    :param our_fault: the relay closed it because of what it was sent.
    """

    def __init__(self, why: str, *, our_fault: bool = False) -> None:
        super().__init__(why)
        self.our_fault = our_fault


class Link:
    """One connection. For one thread; nothing but `close` waits.

    :param sock: connected, not blocking.
    :param early: what came behind the handshake.
    :param not_now: what the socket raises when it would have to wait.
    :param keep_alive: seconds: a relay that is silent for half of them is pinged, and given up after all of them.
    """

    def __init__(
        self,
        sock: socket.socket,
        early: bytes = b"",
        *,
        not_now: tuple[type[OSError], ...],
        keep_alive: float,
    ) -> None:
        self._socket = sock
        self._not_now = not_now
        self._keep_alive = keep_alive
        self._outgoing = bytearray()
        self._early = early
        self._reader = FrameReader()
        self._end: LinkLost | None = None  # why nothing more is read
        self._heard = time.monotonic()
        self._pinged = 0.0  # when, if nothing has come since

    def fileno(self) -> int:
        """Return what to wait on."""
        return self._socket.fileno()

    @property
    def unsent(self) -> int:
        """The bytes that the network has not taken yet."""
        return len(self._outgoing)

    @property
    def next_look(self) -> float:
        """When, by the monotonic clock, `look` has something to do."""
        return (self._pinged or self._heard) + self._keep_alive / 2

    def look(self) -> None:
        """Ping a relay that is silent.

        :raises LinkLost: it was silent for too long, or the connection has ended.
        """
        self._check_open()
        now = time.monotonic()
        if now < self.next_look:
            return
        if self._pinged:
            raise LinkLost(f"the relay was silent for {self._keep_alive:g} s")
        self._pinged = now
        self._write(frame(PING))

    def send(self, texts: Sequence[bytes]) -> None:
        """Send messages, as soon as the network takes them.

        :raises LinkLost: the connection has ended.
        """
        self._check_open()
        self._write(b"".join([frame(TEXT, text) for text in texts]))

    def _write(self, data: bytes) -> None:
        self._outgoing += data
        self.flush()

    def flush(self) -> None:
        """Send what waits, as far as the network takes it.

        :raises LinkLost: the connection has ended.
        """
        try:
            while self._outgoing:
                del self._outgoing[: self._socket.send(self._outgoing)]
        except self._not_now:
            pass
        except OSError as error:
            raise LinkLost(reason_of(error)) from error

    def receive(self) -> Sequence[bytes]:
        """Return the messages that have come. Binary ones are left out.

        :raises LinkLost: the connection has ended, and there is none any more.
        """
        self._check_open()
        try:
            data = self._socket.recv(_CHUNK)
        except self._not_now:
            return ()
        except OSError as error:
            raise LinkLost(reason_of(error)) from error
        if not data:
            raise LinkLost("the connection was cut")
        self._heard, self._pinged = time.monotonic(), 0.0
        if self._early:
            data, self._early = self._early + data, b""
        texts, answers = self._take(data)
        if answers:
            with nullcontext() if self._end is None else suppress(LinkLost):
                self._write(b"".join(answers))
        if not texts:
            self._check_open()
        return texts

    def _check_open(self) -> None:
        if self._end is not None:
            raise self._end

    def _take(self, data: bytes) -> tuple[Sequence[bytes], Sequence[bytes]]:
        """Return what this completes: texts, and frames that answer the others. Note the connection's end."""
        try:
            taken = self._reader.take(data)
        except ProtocolBroken as broken:
            self._end = LinkLost(f"the relay breaks the protocol: {broken}")
            return (), [close_frame(broken.code)]
        if self._reader.closed is not None:
            code, reason = self._reader.closed
            why = f"the relay closed the connection: {reason or f'code {code}'}"
            self._end = LinkLost(why, our_fault=code in _OUR_FAULT)
        return taken

    def close(self, seconds: float) -> None:
        """Send what waits, say goodbye and close. Waits so long at most. Idempotent.

        The relay's goodbye is awaited: closing before all that it has sent is read would destroy what it has not
        read yet.
        """
        deadline = time.monotonic() + seconds
        with suppress(OSError):
            if self._end is None:
                self._outgoing += close_frame(NORMAL_CLOSURE)
                self._socket.settimeout(seconds)
                self._socket.sendall(self._outgoing)
                while (left := deadline - time.monotonic()) > 0:
                    self._socket.settimeout(left)
                    if not self._socket.recv(_CHUNK):
                        break
        self._socket.close()


def reason_of(error: OSError) -> str:
    """Return what went wrong, for people."""
    if isinstance(error, TimeoutError):
        return "it took too long"
    return error.strerror or (os.strerror(error.errno) if error.errno else "") or str(error)
