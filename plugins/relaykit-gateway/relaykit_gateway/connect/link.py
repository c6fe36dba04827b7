"""Link: an open connection to a relay, which makes nobody wait."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Sequence
from contextlib import suppress

from websockets.client import ClientProtocol
from websockets.frames import CloseCode, Frame, Opcode
from websockets.protocol import OPEN, Event

from relaykit_gateway.address import ClientError

MAX_MESSAGE_BYTES = 64 * 1024 * 1024
"""The longest message that is taken: twice what one frame of an agent may have."""

_CHUNK = 1 << 18  # more than one record of TLS: nothing is left where poll does not see it
_HEADER, _MEDIUM, _LARGE = 2, 126, 127  # a frame's shortest header, and what in it says that it is longer
_WHOLE_TEXT = 0x81  # a frame of text that is not continued
_OUR_FAULT = frozenset(
    {
        CloseCode.PROTOCOL_ERROR,
        CloseCode.UNSUPPORTED_DATA,
        CloseCode.INVALID_DATA,
        CloseCode.MESSAGE_TOO_BIG,
        CloseCode.MANDATORY_EXTENSION,
    }
)


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
    :param protocol: past the handshake, and with nothing behind it.
    :param early: what came behind the handshake.
    :param not_now: what the socket raises when it would have to wait.
    :param keep_alive: seconds: a relay that is silent for half of them is pinged, and given up after all of them.
    """

    def __init__(
        self,
        sock: socket.socket,
        protocol: ClientProtocol,
        early: bytes = b"",
        *,
        not_now: tuple[type[OSError], ...],
        keep_alive: float,
    ) -> None:
        self._socket = sock
        self._protocol = protocol
        self._not_now = not_now
        self._keep_alive = keep_alive
        self._outgoing = bytearray()
        self._incoming = bytearray(early)
        self._text: bytearray | None = None  # what has come of a message that comes in pieces
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

        :raises LinkLost: it was silent for too long.
        """
        now = time.monotonic()
        if now < self.next_look:
            return
        if self._pinged:
            raise LinkLost(f"the relay was silent for {self._keep_alive:g} s")
        self._pinged = now
        self._protocol.send_ping(b"")
        self.flush()

    def send(self, texts: Sequence[bytes]) -> None:
        """Send messages, as soon as the network takes them.

        :raises LinkLost: the connection has ended.
        """
        if self._protocol.state is not OPEN:
            raise self._goodbye()
        for text in texts:
            self._protocol.send_text(text)
        self.flush()

    def flush(self) -> None:
        """Send what waits, as far as the network takes it.

        :raises LinkLost: the connection has ended.
        """
        for data in self._protocol.data_to_send():
            self._outgoing += data
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
        try:
            data = self._socket.recv(_CHUNK)
        except self._not_now:
            return ()
        except OSError as error:
            raise LinkLost(reason_of(error)) from error
        if data:
            self._heard, self._pinged = time.monotonic(), 0.0
            self._incoming += data
            texts = self._messages()
        else:
            self._protocol.receive_eof()
            texts = []
        if self._protocol.state is OPEN:
            self.flush()  # pongs
        elif not texts:
            with suppress(LinkLost):
                self.flush()  # our half of the goodbye
            raise self._goodbye()
        return texts

    def _messages(self) -> list[bytes]:
        """Take the frames that are complete. A whole text is cut out here, in a quarter of the library's time.

        A server's frame is a header of two to ten bytes before its payload (RFC 6455, section 5.2).
        """
        incoming, at, texts = self._incoming, 0, list[bytes]()
        while len(incoming) >= at + _HEADER:
            size, start = incoming[at + 1], at + _HEADER
            if size == _MEDIUM:
                start += 2
                size = int.from_bytes(incoming[at + _HEADER : start])
            elif size == _LARGE:
                start += 8
                size = int.from_bytes(incoming[at + _HEADER : start])
            end = start + size
            if len(incoming) < end and size <= MAX_MESSAGE_BYTES:
                break
            if incoming[at] == _WHOLE_TEXT and self._text is None and size <= MAX_MESSAGE_BYTES:
                texts.append(bytes(incoming[start:end]))
            else:
                self._protocol.receive_data(bytes(incoming[at:end]))
                texts += self._texts(self._protocol.events_received())
            at = end
        del incoming[:at]
        return texts

    def _texts(self, events: Sequence[Event]) -> Sequence[bytes]:
        """Return the messages that these events complete."""
        texts: list[bytes] = []
        for event in events:
            if not isinstance(event, Frame):
                continue
            if event.opcode is Opcode.TEXT:
                self._text = bytearray()
            elif event.opcode is not Opcode.CONT or self._text is None:
                continue
            self._text += event.data
            if event.fin:
                texts.append(bytes(self._text))
                self._text = None
        return texts

    def close(self, seconds: float) -> None:
        """Send what waits, say goodbye and close. Waits so long at most. Idempotent.

        The relay's goodbye is awaited: closing before all that it has sent is read would destroy what it has not
        read yet.
        """
        deadline = time.monotonic() + seconds
        with suppress(OSError):
            if self._protocol.state is OPEN:
                self._protocol.send_close(CloseCode.NORMAL_CLOSURE)
                self._outgoing += b"".join(self._protocol.data_to_send())
                self._socket.settimeout(seconds)
                self._socket.sendall(self._outgoing)
                while (left := deadline - time.monotonic()) > 0:
                    self._socket.settimeout(left)
                    if not self._socket.recv(_CHUNK):
                        break
        self._socket.close()

    def _goodbye(self) -> LinkLost:
        goodbye = self._protocol.close_rcvd
        if goodbye is None:
            return LinkLost(str(self._protocol.parser_exc or "the connection was cut"))
        why = goodbye.reason or f"code {goodbye.code}"
        return LinkLost(f"the relay closed the connection: {why}", our_fault=goodbye.code in _OUR_FAULT)


def reason_of(error: OSError) -> str:
    """Return what went wrong, for people."""
    if isinstance(error, TimeoutError):
        return "it took too long"
    return error.strerror or (os.strerror(error.errno) if error.errno else "") or str(error)
