"""Who somebody is that comes in: by a token, by a cookie that holds one, or by a ticket."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import MutableMapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote_plus

from relaykit.clock import Clock
from relaykit.errors import RelaykitError
from relaykit.relay.access import EVERYTHING, Access, Role
from relaykit_gateway.token_file import KnownTokens, NamedToken

TICKET_SECONDS = 60
SUBPROTOCOL = "relaykit"
"""What a client offers beside its ticket: a browser wants the answer to name one of those that it offers."""

TICKET_PROTOCOL = "relaykit.ticket."
"""What the ticket stands behind, in a subprotocol that is offered and never chosen."""

_TICKETS_EACH = 64
_SCOPE = "relaykit.caller"


@dataclass(frozen=True, slots=True)
class Caller:
    """Who has come in.

    :param name: what it goes by, for people and in transcripts: its token's name. What stands for none has spaces,
        so that no token is called so.
    :param token: by which; None for the relay's own, and where none is wanted.
    """

    access: Access
    name: str
    token: NamedToken | None = None


OWN = Caller(EVERYTHING, "the relay's own token")
"""Who knows the relay's own token."""

ANYBODY = Caller(EVERYTHING, "anybody, without a token")
"""Who comes where no token is wanted."""

NOBODY = Caller(Access(role=Role.OBSERVER, sessions=frozenset()), "nobody in particular")
"""Who is let in, unknown, where everybody is: it sees nothing."""


def caller_of(scope: MutableMapping[str, Any]) -> Caller:
    """Return who makes a request that the guard has let in."""
    caller = scope[_SCOPE]  # none: it came past the guard, and is answered with an error
    assert isinstance(caller, Caller)  # noqa: S101 -- nobody else writes it
    return caller


def called_by(scope: MutableMapping[str, Any], caller: Caller) -> MutableMapping[str, Any]:
    """Return the ASGI scope of a request with who makes it."""
    return {**scope, _SCOPE: caller}


def ticket_in(scope: MutableMapping[str, Any]) -> str | None:
    """Return the ticket that an upgrade brings, or None."""
    for protocol in scope.get("subprotocols", ()):
        if protocol.startswith(TICKET_PROTOCOL):
            return str(protocol.removeprefix(TICKET_PROTOCOL))
    return None


def forget_secrets(scope: MutableMapping[str, Any]) -> None:
    """Take the token out of a request's query, and the tickets that it offers.

    It is done to the server's own scope, because servers log addresses with their queries, some of them later.
    """
    query = scope["query_string"]
    scope["query_string"] = b"&".join(part for part in query.split(b"&") if not _names_token(part))
    if scope["type"] == "websocket":
        offered = [each for each in scope.get("subprotocols", ()) if not each.startswith(TICKET_PROTOCOL)]
        scope["subprotocols"] = offered
        scope["headers"] = [
            (name, ", ".join(offered).encode("ascii", "surrogateescape"))
            if name == b"sec-websocket-protocol"
            else (name, value)
            for name, value in scope["headers"]
        ]


def _names_token(part: bytes) -> bool:
    name = part.partition(b"=")[0].decode("ascii", "replace")
    return unquote_plus(name) == "token"


class TooManyTickets(RelaykitError):
    """Somebody has asked for tickets, and does not use them."""


class Tickets:
    """Stand for a token once, within a minute: for browsers, which cannot send one when they open a WebSocket.

    They live in this process alone. What is kept of one does not tell it.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._waiting: dict[bytes, tuple[float, Caller]] = {}

    def issue(self, caller: Caller) -> str:
        """Return a ticket that stands for who asks.

        :raises TooManyTickets: too many of its tickets wait to be used.
        """
        now = self._clock.monotonic()
        self._waiting = {key: each for key, each in self._waiting.items() if each[0] > now}
        if sum(each == caller for _, each in self._waiting.values()) >= _TICKETS_EACH:
            raise TooManyTickets(
                f"{_TICKETS_EACH} tickets wait to be used already: use them, or wait a minute"
            )
        ticket = secrets.token_urlsafe(32)
        self._waiting[_key(ticket)] = (now + TICKET_SECONDS, caller)
        return ticket

    def take(self, ticket: str) -> Caller | None:
        """Return whom a ticket stands for, which it does no more; None: it is no ticket, was used, or is too old."""
        deadline, caller = self._waiting.pop(_key(ticket), (0.0, None))
        return caller if self._clock.monotonic() < deadline else None


def _key(ticket: str) -> bytes:
    return hashlib.sha256(ticket.encode("utf-8", "surrogatepass")).digest()


class Credentials:
    """Knows whom tokens and tickets belong to.

    :param own: the relay's own token; None lets in everybody, with everything.
    """

    def __init__(self, own: str | None, known: KnownTokens, tickets: Tickets) -> None:
        self._own = own
        self._known = known
        self._tickets = tickets

    @property
    def wanted(self) -> bool:
        """Nobody comes in without."""
        return self._own is not None

    def of_token(self, token: str) -> Caller | None:
        """Return whose token this is, or None.

        :raises TokenFileError: it is not the relay's own, and the others cannot be read.
        """
        if self._own is not None and hmac.compare_digest(
            token.encode("utf-8", "surrogatepass"), self._own.encode()
        ):
            return OWN
        named = self._known.find(token) if token else None
        return None if named is None else Caller(named.access, named.name, named)

    def of_ticket(self, ticket: str) -> Caller | None:
        """Return whom a ticket stands for, once; None also if its token is worth nothing any more."""
        caller = self._tickets.take(ticket)
        return None if caller is None or self.why_not(caller) else caller

    def why_not(self, caller: Caller) -> str:
        """Return why somebody who has come in may not stay; empty if it may."""
        return "" if caller.token is None else self._known.why_not(caller.token)
