"""Turns: which one of a session runs, which wait, and how the last ones ended."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from relaykit.conversation.frame import Frame, Kind
from relaykit.conversation.journal import Entry

_REMEMBERED = 64
"""How many ended turns are known again: far more than a client sends while it is away."""

_CANCELLED = b'{"stopReason":"cancelled"}'


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt that waits for its turn."""

    turn: str
    body: bytes
    client_id: str
    by: str


@dataclass(slots=True)
class Turn:
    """The turn that runs.

    :param started: on the clock's monotonic seconds.
    :param heard: the agent has said something since.
    """

    ref: str
    started: float
    cancelled: bool = False
    heard: bool = False


class Turns:
    """The turns of one session, by the ids that clients give them: an id names one turn, however often it comes.

    Everything here is synchronous, so that of two equal ids on one loop exactly one begins a turn.
    """

    def __init__(self) -> None:
        self.running: Turn | None = None
        self.waiting: list[Prompt] = []  # it is short, and an empty deque takes 600 bytes
        self._ended: dict[str, Entry] = {}

    def knows(self, ref: str) -> bool:
        """Tell whether this turn runs, waits, or is one of the last that ended."""
        return (
            ref in self._ended
            or (self.running is not None and self.running.ref == ref)
            or any(prompt.turn == ref for prompt in self.waiting)
        )

    def end_of(self, ref: str) -> Entry | None:
        """Return how a turn ended, or None: it has not, or it is not known (any more)."""
        return self._ended.get(ref)

    def withdraw(self, ref: str, *, at: datetime) -> Entry | None:
        """Take back a prompt that waits, and return how its turn ended; None if it does not wait (any more)."""
        waiting = [prompt for prompt in self.waiting if prompt.turn == ref]
        if not waiting:
            return None
        for prompt in waiting:
            self.waiting.remove(prompt)
        end = Entry(0, at, Frame(Kind.TURN_END, _CANCELLED, ref, "session/prompt"))
        self.remember(end)
        return end

    def remember(self, end: Entry) -> None:
        """Keep a TURN_END, and forget the oldest over the limit."""
        self._ended[end.frame.ref] = end
        if len(self._ended) > _REMEMBERED:
            del self._ended[next(iter(self._ended))]
