"""How many clients there may be, and how fast each may speak."""

from __future__ import annotations

from starlette.types import Receive, Scope, Send

from relaykit.clock import Clock
from relaykit_gateway.problems import Problem

TRY_AGAIN_LATER = 1013
FLOOD_SECONDS = 10.0
"""So long may a client go on as fast as it is let."""

_RETRY_SECONDS = "5"


class MessageRate:
    """A bucket of tokens: one a message, refilled evenly, with room for a second's worth.

    :param per_second: 0 for as many as there are.
    """

    def __init__(self, per_second: int, clock: Clock) -> None:
        self._per_second = per_second
        self._clock = clock
        self._left = float(per_second)
        self._at = clock.monotonic()
        self._behind_since: float | None = None

    @property
    def is_flooded(self) -> bool:
        """The client is over the rate, and has not paused for half a second in so long: it does not mean to stop."""
        return self._behind_since is not None and self._at - self._behind_since > FLOOD_SECONDS

    def take(self) -> float:
        """Count a message, and return how many seconds are to pass before the next is read."""
        if not self._per_second:
            return 0.0
        now = self._clock.monotonic()
        self._left = min(self._left + (now - self._at) * self._per_second, self._per_second)
        self._at = now
        if (
            self._left * 2 >= self._per_second
        ):  # a little is refilled also because a loop is late: that is no pause
            self._behind_since = None
        self._left -= 1
        if self._left >= 0:
            return 0.0
        if self._behind_since is None:
            self._behind_since = now
        return -self._left / self._per_second


async def refuse(scope: Scope, receive: Receive, send: Send, *, why: str) -> None:
    """Answer an upgrade for which there is no room: 503, or a close where the server can answer nothing else."""
    await receive()  # websocket.connect
    if "websocket.http.response" in scope.get("extensions", {}):
        await Problem(503, why, headers={"retry-after": _RETRY_SECONDS})(scope, receive, send)
        return
    await send({"type": "websocket.accept"})  # else the client would hear a 403 without a reason
    await send({"type": "websocket.close", "code": TRY_AGAIN_LATER, "reason": why})
