"""Dialing: a connection that is being made, in a thread, because looking up a name cannot be interrupted."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable
from http import HTTPStatus
from typing import cast
from urllib.parse import urlsplit

from relaykit_gateway.address import ClientError
from relaykit_gateway.connect.link import Link, reason_of
from relaykit_gateway.connect.target import TOKEN_VARIABLE, Target
from relaykit_gateway.connect.upgrade import (
    Answer,
    Endpoint,
    NoWebSocket,
    check_answer,
    endpoint_of,
    new_key,
    read_answer,
    request_for,
)

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
    not_now: tuple[type[OSError], ...] = (BlockingIOError, InterruptedError)
    where = address_of(target)
    try:
        endpoint = endpoint_of(target.uri)
    except UnicodeError as error:
        raise Unreachable(f"nobody answers at {where}: {error}") from error
    # It is ASCII already. Given a text, Python would load its tables for others first.
    host = cast(str, endpoint.host.encode())
    try:
        sock = socket.create_connection((host, endpoint.port), timeout=_SECONDS)
    except OSError as error:
        raise Unreachable(
            f"nobody answers at {where}: {reason_of(error)}; is the relay running, and reachable from here?"
        ) from error
    try:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if endpoint.secure:
            import ssl  # takes longer than the rest of this file

            not_now = (*not_now, ssl.SSLWantReadError, ssl.SSLWantWriteError)
            sock = ssl.create_default_context().wrap_socket(sock, server_hostname=endpoint.host)
        early = _shake_hands(sock, endpoint, target, deadline)
        sock.setblocking(False)
    except OSError as error:
        sock.close()
        raise Unreachable(f"the connection to {where} could not be made: {reason_of(error)}") from error
    except BaseException:
        sock.close()
        raise
    return Link(sock, early, not_now=not_now, keep_alive=keep_alive)


def address_of(target: Target) -> str:
    """Return a target for people: without the query, which says nothing of where it is."""
    parts = urlsplit(target.uri)
    return f"{parts.scheme}://{parts.netloc}{parts.path}"


def _shake_hands(sock: socket.socket, endpoint: Endpoint, target: Target, deadline: float) -> bytes:
    """Upgrade the connection, and return what comes behind the answer."""
    key, come = new_key(), b""
    sock.sendall(request_for(endpoint, key, target.token))
    try:
        answer = None
        while answer is None:
            sock.settimeout(max(deadline - time.monotonic(), 0.001))
            data = sock.recv(65536)
            come += data
            answer = read_answer(come, ended=not data)
        if answer.status != HTTPStatus.SWITCHING_PROTOCOLS:
            raise _refusal(target, answer)
        check_answer(answer, key)
    except NoWebSocket as error:
        raise Unreachable(f"no relay answers at {address_of(target)}: {error}") from error
    return answer.rest


def _refusal(target: Target, answer: Answer) -> ClientError:
    where, status = address_of(target), answer.status
    said = _detail(answer.body)
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


def _detail(body: bytes) -> str:
    """Return what an RFC 9457 problem says to people."""
    try:
        problem = json.loads(body)
    except ValueError:
        return ""
    said = problem.get("detail") if isinstance(problem, dict) else None
    return said if isinstance(said, str) else ""
