"""Frames of the WebSocket protocol (RFC 6455), as a client writes and reads them. It does no input or output.

The library `websockets` does this too. Importing it would be a third of the time that ``relaykit connect`` takes
to start, and its frames a tenth of what a message costs.
"""

from __future__ import annotations

import os

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA
NORMAL_CLOSURE, PROTOCOL_ERROR, INVALID_DATA, MESSAGE_TOO_BIG = 1000, 1002, 1007, 1009

MAX_MESSAGE_BYTES = 64 * 1024 * 1024
"""The longest message that is taken: twice what one frame of an agent may have."""

_FINAL, _OPCODE, _MASKED = 0x80, 0x0F, 0x80
_WHOLE_TEXT = _FINAL | TEXT
_HEADER, _MEDIUM, _LARGE = 2, 126, 127  # a frame's shortest header, and what in it says that it is longer
_MEDIUM_END = 1 << 16
_HUGE = 1 << 20
_CLOSE_CODE = 2
_NO_CLOSE_CODES = {1004, 1005, 1006, 1015}  # reserved: they are never sent (section 7.4.1)
_FIRST_CODE, _FIRST_FREE_CODE, _LAST_CODE = 1000, 3000, 4999
_LAST_KNOWN_CODE = 1014


class ProtocolBroken(Exception):
    """What came is not what the protocol allows.

    :param code: to close the connection with.
    """

    def __init__(self, why: str, code: int = PROTOCOL_ERROR) -> None:
        super().__init__(why)
        self.code = code


def frame(opcode: int, payload: bytes = b"") -> bytes:
    """Return a whole frame, masked as section 5.3 wants it of clients."""
    size = len(payload)
    if size < _MEDIUM:
        head = bytes((_FINAL | opcode, _MASKED | size))
    elif size < _MEDIUM_END:
        head = bytes((_FINAL | opcode, _MASKED | _MEDIUM, size >> 8, size & 0xFF))
    else:
        head = bytes((_FINAL | opcode, _MASKED | _LARGE)) + size.to_bytes(8, "big")
    mask = os.urandom(4)
    return b"%b%b%b" % (head, mask, masked(payload, mask))


def close_frame(code: int) -> bytes:
    """Return the frame that closes a connection."""
    return frame(CLOSE, code.to_bytes(2, "big"))


def masked(payload: bytes, mask: bytes) -> bytes:
    """Return the payload with the mask over it, which is its own inverse."""
    size = len(payload)
    if size >= _HUGE:
        from websockets.utils import apply_mask  # in C, and worth its import here

        return apply_mask(payload, mask)
    over = (mask * (size // 4 + 1))[:size]
    return (int.from_bytes(payload, "little") ^ int.from_bytes(over, "little")).to_bytes(size, "little")


class FrameReader:
    """Takes apart what a server sends."""

    def __init__(self) -> None:
        self.closed: tuple[int, str] | None = None
        """The server's goodbye: code and reason. Nothing behind it is read."""
        self._rest = bytearray()
        self._opcode: int | None = None  # of a message that comes in pieces, of which this has come
        self._pieces = bytearray()

    def take(self, data: bytes) -> tuple[list[bytes], list[bytes]]:
        """Return the texts that are complete now, and frames to answer with: pongs, and the answer to a goodbye.

        Binary messages are left out.

        :raises ProtocolBroken: the server does not keep to the protocol: what it sends is not to be read further.
        """
        texts: list[bytes] = []
        answers: list[bytes] = []
        # Mostly there is no rest, and what comes is whole: then it is not copied first.
        buffer: bytes | bytearray = data
        if self._rest:
            self._rest += data
            buffer = self._rest
        at, length = 0, len(buffer)
        while length >= at + _HEADER and self.closed is None:
            size, start = buffer[at + 1], at + _HEADER
            if size >= _MEDIUM:
                size, start = _size_at(buffer, at)
            end = start + size
            if length < end:
                break
            if buffer[at] == _WHOLE_TEXT and self._opcode is None:
                texts.append(bytes(buffer[start:end]))
            else:
                self._other(buffer[at], bytes(buffer[start:end]), texts, answers)
            at = end
        if buffer is data:
            self._rest += data[at:]
        else:
            del self._rest[:at]
        return texts, answers

    def _other(self, first: int, payload: bytes, texts: list[bytes], answers: list[bytes]) -> None:
        """Take a frame that is not a whole text."""
        opcode, final = first & _OPCODE, bool(first & _FINAL)
        if first & ~(_FINAL | _OPCODE):
            raise ProtocolBroken("a frame has bits that no extension gives a meaning")
        if opcode in {TEXT, BINARY, CONTINUATION}:
            self._piece(opcode, payload)
            if final:
                if self._opcode == TEXT:
                    texts.append(bytes(self._pieces))
                self._opcode = None
                self._pieces.clear()
        elif opcode not in {CLOSE, PING, PONG}:
            raise ProtocolBroken(f"there is no opcode {opcode}")
        elif not final or len(payload) >= _MEDIUM:
            raise ProtocolBroken("a control frame is in pieces, or too long")
        elif opcode == CLOSE:
            self.closed = _goodbye(payload)
            answers.append(frame(CLOSE, payload[:_CLOSE_CODE]))
        elif opcode == PING:
            answers.append(frame(PONG, payload))

    def _piece(self, opcode: int, payload: bytes) -> None:
        """Take a piece of a message, or a whole one."""
        if (opcode == CONTINUATION) is (self._opcode is None):
            raise ProtocolBroken("a message goes on that did not begin, or begins in another")
        if len(self._pieces) + len(payload) > MAX_MESSAGE_BYTES:
            raise _too_long()
        self._opcode = self._opcode or opcode
        self._pieces += payload


def _size_at(buffer: bytes | bytearray, at: int) -> tuple[int, int]:
    """Return the size and the start of a longer payload. Where that is not known yet, it lies behind the buffer."""
    kind = buffer[at + 1]
    if kind & _MASKED:
        raise ProtocolBroken("a server's frames are not masked")
    start = at + _HEADER + (2 if kind == _MEDIUM else 8)
    size = int.from_bytes(buffer[at + _HEADER : start], "big")
    if size > MAX_MESSAGE_BYTES:
        raise _too_long()
    return size, start


def _too_long() -> ProtocolBroken:
    return ProtocolBroken(f"a message is longer than {MAX_MESSAGE_BYTES} bytes", code=MESSAGE_TOO_BIG)


def _goodbye(payload: bytes) -> tuple[int, str]:
    """Return the code and the reason of a goodbye; code 1005 if it has none."""
    if not payload:
        return 1005, ""
    code = int.from_bytes(payload[:_CLOSE_CODE], "big")
    known = _FIRST_CODE <= code <= _LAST_KNOWN_CODE and code not in _NO_CLOSE_CODES
    if len(payload) < _CLOSE_CODE or not (known or _FIRST_FREE_CODE <= code <= _LAST_CODE):
        raise ProtocolBroken("a goodbye has no valid code")
    try:
        return code, payload[_CLOSE_CODE:].decode()
    except UnicodeDecodeError:
        raise ProtocolBroken("a goodbye is not UTF-8", code=INVALID_DATA) from None
