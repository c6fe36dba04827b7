"""Upgrade: the request by which an HTTP connection becomes a WebSocket, and its answer (RFC 6455, section 4)."""

from __future__ import annotations

import binascii
import os
import re
from collections.abc import Mapping
from http import HTTPStatus
from typing import NamedTuple
from urllib.parse import quote, urlsplit

_MAX_HEAD = 64 * 1024
_MAX_BODY = 64 * 1024
_STATUS_LINE = re.compile(rb"HTTP/1\.[01] ([0-9]{3})(?: .*)?")
_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_PORTS = {"ws": 80, "wss": 443}
_URL_CHARACTERS = ":/?#[]@!$&'()*+,;=%"


class NoWebSocket(Exception):
    """What answers speaks no HTTP, or no WebSocket."""


class Endpoint(NamedTuple):
    """Where to connect.

    :param host: for the network: ASCII.
    :param resource: the path and the query: ASCII.
    """

    secure: bool
    host: str
    port: int
    resource: str

    @property
    def host_header(self) -> str:
        """What HTTP calls the host."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _PORTS["wss" if self.secure else "ws"] else f"{host}:{self.port}"


class Answer(NamedTuple):
    """An HTTP response.

    :param headers: by their names in small letters.
    :param rest: what came behind it.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes
    rest: bytes


def endpoint_of(uri: str) -> Endpoint:
    """Return what a ``ws`` or ``wss`` URI means.

    :raises UnicodeError: its host is no name.
    """
    parts = urlsplit(uri)
    host = parts.hostname or ""
    if not host.isascii():
        host = host.encode("idna").decode()
    resource = f"{parts.path or '/'}?{parts.query}" if parts.query else parts.path or "/"
    return Endpoint(
        parts.scheme == "wss", host, parts.port or _PORTS[parts.scheme], quote(resource, safe=_URL_CHARACTERS)
    )


def new_key() -> str:
    """Return a key that the answer must know."""
    return binascii.b2a_base64(os.urandom(16), newline=False).decode()


def request_for(endpoint: Endpoint, key: str, token: str | None) -> bytes:
    """Return the request.

    :param token: without a character that ends a line.
    """
    lines = [
        f"GET {endpoint.resource} HTTP/1.1",
        f"Host: {endpoint.host_header}",
        "Upgrade: websocket",
        "Connection: Upgrade",
        f"Sec-WebSocket-Key: {key}",
        "Sec-WebSocket-Version: 13",
        *(() if token is None else (f"Authorization: Bearer {token}",)),
    ]
    return "\r\n".join([*lines, "", ""]).encode("ascii")


def read_answer(data: bytes, *, ended: bool) -> Answer | None:
    """Return the response, as soon as it is there; None before.

    :param data: all that has come.
    :param ended: nothing more will.
    :raises NoWebSocket: it is none.
    """
    head, blank, behind = data.partition(b"\r\n\r\n")
    status_line, *lines = head.split(b"\r\n")
    match = _STATUS_LINE.fullmatch(status_line)
    if match is None and (ended or b"\r\n" in data or not b"HTTP/1.".startswith(data[:7])):
        raise NoWebSocket("what answers speaks no HTTP")
    if not blank or match is None:
        if ended or len(data) > _MAX_HEAD:
            raise NoWebSocket("its answer has no end")
        return None
    headers: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.decode("latin-1").partition(":")
        if not colon:
            raise NoWebSocket("what answers speaks no HTTP")
        name, value = name.strip().lower(), value.strip()
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    status = int(match[1])
    if status == HTTPStatus.SWITCHING_PROTOCOLS:
        return Answer(status, headers, b"", behind)
    body = _body(headers, behind)
    if body is None and (ended or len(behind) >= _MAX_BODY):
        body = behind
    return None if body is None else Answer(status, headers, body, b"")


def _body(headers: Mapping[str, str], behind: bytes) -> bytes | None:
    """Return the body if it is complete. Only errors have one, and only people read it."""
    if "chunked" in headers.get("transfer-encoding", "").lower():
        if not behind.endswith(b"0\r\n\r\n"):
            return None
        return b"".join(re.findall(rb"[0-9A-Fa-f]+(?:;[^\r\n]*)?\r\n(.*?)\r\n", behind, re.DOTALL))
    length = headers.get("content-length", "")
    if not length.isdecimal() or len(behind) < int(length):
        return None
    return behind[: int(length)]


def check_answer(answer: Answer, key: str) -> None:
    """Check that a response with status 101 makes the connection a WebSocket.

    :raises NoWebSocket: it does not.
    """
    import hashlib  # needed for the first time when the request is on its way

    expected = binascii.b2a_base64(
        hashlib.sha1(key.encode() + _GUID, usedforsecurity=False).digest(), newline=False
    )
    tokens = [token.strip().lower() for token in answer.headers.get("connection", "").split(",")]
    if answer.headers.get("upgrade", "").lower() != "websocket" or "upgrade" not in tokens:
        raise NoWebSocket("its answer upgrades to something else than a WebSocket")
    if answer.headers.get("sec-websocket-accept", "").encode("latin-1") != expected:
        raise NoWebSocket("its answer is to another request")
    if unasked := {"sec-websocket-extensions", "sec-websocket-protocol"} & answer.headers.keys():
        raise NoWebSocket(f"its answer has {min(unasked)}, which nobody asked for")
