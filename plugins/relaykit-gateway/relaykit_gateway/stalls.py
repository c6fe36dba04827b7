"""Stalls: clients that take nothing while there is something for them are sent away, with their place."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import anyio

from relaykit.errors import SessionNotFound
from relaykit.meter import CLIENTS_STALLED

if TYPE_CHECKING:
    from relaykit.relay import Relay
    from relaykit_gateway.channel import Channel
    from relaykit_gateway.gateway import Gateway

TRY_AGAIN_LATER = 1013
PIPE = "relaykit.pipe"
"""The name of our extension of ASGI, with a `Pipe`."""

_MOST_BYTES = 123  # of the reason of a close (RFC 6455, section 5.5: 125, less two for the code)
_LOOK = 1.0


class Pipe(Protocol):
    """What a server does for a connection besides what ASGI has it do."""

    async def send_texts(self, texts: Sequence[str], /) -> None:
        """Send messages in one go, once there is room: all of them, or none if it is cancelled.

        :raises OSError: the client has gone.
        """
        ...

    def taken(self) -> int:
        """Return how many bytes the client has taken so far, as far as can be told."""
        ...

    def let_go(self, code: int, reason: str) -> None:
        """Close behind what was written, also if the client takes nothing; it is given a few seconds."""
        ...


def pipe_of(scope: Mapping[str, Any]) -> Pipe | None:
    """Return the pipe of a connection, if its server has one."""
    pipe: Pipe | None = (scope.get("extensions") or {}).get(PIPE)
    return pipe


class Progress:
    """Whether a client takes what it is sent: each send is a block within it. Looked at now and then."""

    __slots__ = ("_seen", "_sent", "_since", "pipe", "waiting")

    def __init__(self) -> None:
        self.waiting = 0
        """How many sends have begun and not ended."""
        self.pipe: Pipe | None = None
        self._sent = 0
        self._seen: tuple[int, int] | None = None
        self._since = 0.0

    def __enter__(self) -> None:
        self.waiting += 1

    def __exit__(self, *_: object) -> None:
        self.waiting -= 1
        self._sent += 1

    def stalled_for(self, now: float) -> float:
        """Return for how long, in seconds, nothing was taken while something waited, as far as was looked.

        A server that tells how much was taken knows those apart who take nothing from those who are slow: a send
        may wait for long until there is room again.
        """
        if not self.waiting:
            self._seen = None
            return 0.0
        seen = (self._sent, self.pipe.taken() if self.pipe is not None else 0)
        if seen != self._seen:
            self._seen, self._since = seen, now
        return now - self._since


class Stalls:
    """Looks at all clients of a gateway. Begins with the first of them, and ends with the relay.

    :param timeout: seconds, by the relay's clock.
    """

    def __init__(self, gateway: Gateway, timeout: float) -> None:
        self._gateway = gateway
        self._timeout = timeout
        self._started = False
        self._nominated: set[Channel[Any]] = set()

    def start(self) -> None:
        """Look from now on. Idempotent."""
        if not self._started:
            self._started = True
            self._gateway.relay.start(self._run)

    async def _run(self) -> None:
        while True:
            await anyio.sleep(min(_LOOK, self._timeout / 4))
            self.look()

    def look(self) -> None:
        """Send away who has stalled for too long, and had already when this was called last.

        In between each had its turn: that of a relay which was held up itself may be late.
        """
        relay = self._gateway.relay
        now = relay.clock.monotonic()
        due = {
            channel
            for channel in self._gateway.channels
            if channel.progress.stalled_for(now) >= self._timeout
        }
        for channel in due & self._nominated:
            if channel.send_away():
                relay.meter.count(CLIENTS_STALLED, protocol=channel.protocol)
        self._nominated = due


def place_of(relay: Relay, told: Iterable[tuple[str, int]]) -> str:
    """Return where a client is, as the reason of a close: ``stalled SESSION:SEQ …``, of which each fits whole.

    :param told: the sessions that it follows, each with the seq behind which to attach again. Those that it is
        furthest behind in come first; how many do not fit is said at the end: ``+2``.
    """
    places = sorted(told, key=lambda place: place[1] - _head(relay, place[0]))
    words = [f"{session_id}:{seq}" for session_id, seq in places]
    shown = len(words)
    while len(reason := _reason(words, shown)) > _MOST_BYTES:
        shown -= 1
    return reason


def _reason(words: Sequence[str], shown: int) -> str:
    more = [f"+{len(words) - shown}"] if shown < len(words) else []
    return " ".join(["stalled", *words[:shown], *more])


def _head(relay: Relay, session_id: str) -> int:
    try:
        return relay.live(session_id).conversation.head
    except SessionNotFound:
        return 0
