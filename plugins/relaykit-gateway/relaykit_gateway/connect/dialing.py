"""Dialing: a connection that is being made, in a thread, because looking up a name cannot be interrupted."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from http import HTTPStatus
from typing import cast
from urllib.parse import urlsplit

from websockets.client import ClientProtocol
from websockets.exceptions import InvalidStatus
from websockets.http11 import Response
from websockets.protocol import OPEN
from websockets.uri import parse_uri

from relaykit_gateway.address import ClientError
from relaykit_gateway.connect.link import MAX_MESSAGE_BYTES, Link, reason_of
from relaykit_gateway.connect.target import TOKEN_VARIABLE, Target

_SECONDS = 10.0


class Unreachable(ClientError):
    """No relay answers, now."""


class TurnedAway(ClientError):
    """The relay answers, and will not let us in however often we try."""


class Dialing:
    """A connection that is being made.

    :param find_target: called in the thread.
    :param done: called in the thread, when there is an outcome.
    """

    def __init__(
        self, find_target: Callable[[], Target], *, keep_alive: float, done: Callable[[], None]
    ) -> None:
        self._find_target = find_target
        self._keep_alive = keep_alive
        self._done = done
        self._outcome: Link | Exception | None = None
        # Nobody waits for it at the end: a name server that does not answer holds nothing up.
        threading.Thread(target=self._run, name="relaykit-connect-dialing", daemon=True).start()

    def link(self) -> Link | None:
        """Return the connection; None as long as it is being made.

        :raises Unreachable: there is none, but there may be one later.
        :raises ClientError: there is none.
        """
        if isinstance(self._outcome, Exception):
            raise self._outcome
        return self._outcome

    def _run(self) -> None:
        try:
            self._outcome = dial(self._find_target(), keep_alive=self._keep_alive)
        except Exception as error:  # noqa: BLE001 -- it is raised where the link is asked for
            self._outcome = error
        self._done()


def dial(target: Target, *, keep_alive: float) -> Link:
    """Connect. Blocks for 10 seconds at most, and for as long as the name is looked up.

    :raises Unreachable: nobody answers, or nobody who speaks WebSocket.
    :raises TurnedAway: the relay does not let us in.
    """
    deadline = time.monotonic() + _SECONDS
    uri = parse_uri(target.uri)
    not_now: tuple[type[OSError], ...] = (BlockingIOError, InterruptedError)
    where = address_of(target)
    # It is ASCII already. Given a text, Python would load its tables for others first.
    host = cast(str, uri.host.encode())
    try:
        sock = socket.create_connection((host, uri.port), timeout=_SECONDS)
    except OSError as error:
        raise Unreachable(
            f"nobody answers at {where}: {reason_of(error)}; is the relay running, and reachable from here?"
        ) from error
    try:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if uri.secure:
            import ssl  # takes longer than the rest of this file

            not_now = (*not_now, ssl.SSLWantReadError, ssl.SSLWantWriteError)
            sock = ssl.create_default_context().wrap_socket(sock, server_hostname=uri.host)
        protocol = ClientProtocol(uri, max_size=MAX_MESSAGE_BYTES)
        early = _shake_hands(sock, protocol, target, deadline)
        sock.setblocking(False)
    except OSError as error:
        sock.close()
        raise Unreachable(f"the connection to {where} could not be made: {reason_of(error)}") from error
    except BaseException:
        sock.close()
        raise
    return Link(sock, protocol, early, not_now=not_now, keep_alive=keep_alive)


def address_of(target: Target) -> str:
    """Return a target for people: without the query, which says nothing of where it is."""
    parts = urlsplit(target.uri)
    return f"{parts.scheme}://{parts.netloc}{parts.path}"


def _shake_hands(sock: socket.socket, protocol: ClientProtocol, target: Target, deadline: float) -> bytes:
    """Upgrade the connection, and return what comes behind the answer."""
    request = protocol.connect()
    if target.token is not None:
        request.headers["Authorization"] = f"Bearer {target.token}"
    protocol.send_request(request)
    sock.sendall(b"".join(protocol.data_to_send()))
    pieces: deque[bytes] = deque()
    while protocol.state is not OPEN:
        sock.settimeout(max(deadline - time.monotonic(), 0.001))
        data = sock.recv(65536)
        pieces.extend(data.splitlines(keepends=True))
        while pieces and protocol.state is not OPEN:  # line by line: what is behind the answer is not for it
            protocol.receive_data(pieces.popleft())
        if not data:
            protocol.receive_eof()
        error = protocol.handshake_exc
        if isinstance(error, InvalidStatus):
            raise _refusal(target, error.response) from error
        if error is not None:
            raise Unreachable(f"no relay answers at {address_of(target)}: {error}") from error
    return b"".join(pieces)


def _refusal(target: Target, response: Response) -> ClientError:
    where, status = address_of(target), response.status_code
    said = _detail(response.body or b"")
    if status == HTTPStatus.UNAUTHORIZED:
        wrong = "another token" if target.token else "a token"
        return TurnedAway(
            f"the relay at {where} wants {wrong}: set {TOKEN_VARIABLE}, or name a file with it by --token-file "
            "(`relaykit serve` keeps its token in gateway/token of its state directory)"
        )
    if said and status == HTTPStatus.FORBIDDEN:
        return TurnedAway(f"the relay at {where} lets nobody in from here: {said}")
    if status in {HTTPStatus.NOT_FOUND, HTTPStatus.FORBIDDEN}:
        return Unreachable(f"there is no relay at {where}, or one that has no /acp: check the address")
    return Unreachable(f"{where} answers with HTTP status {status}{said and f': {said}'}: try again later")


def _detail(body: bytes | bytearray) -> str:
    """Return what an RFC 9457 problem says to people."""
    try:
        problem = json.loads(body)
    except ValueError:
        return ""
    said = problem.get("detail") if isinstance(problem, dict) else None
    return said if isinstance(said, str) else ""
