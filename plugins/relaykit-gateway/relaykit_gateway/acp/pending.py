"""Pending: the requests of one client about one session that are not answered yet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from relaykit_gateway.acp.envelope import key_of


@dataclass(slots=True)
class Opening:
    """A request that opens a session, answered when it has been opened.

    :param creates: it is ``session/new``, and not about a session that there was.
    """

    raw_id: bytes
    creates: bool = False


@dataclass(slots=True)
class Pending:
    """Who waits for what. It outlives the follower that answers, when the client loads the session again.

    :param opening: what is answered once the session is open to the client.
    :param turns: raw ids of prompts, by turn.
    :param calls: the raw id of each call, by ref.
    :param answered: refs of questions that this client answered: it need not be told that they are closed.
    """

    opening: Opening | None = None
    turns: dict[str, list[bytes]] = field(default_factory=dict)
    calls: dict[str, bytes] = field(default_factory=dict)
    answered: set[str] = field(default_factory=set)

    def await_turn(self, turn: str, raw_id: bytes) -> None:
        """Note that a request is to be answered when the turn ends."""
        self.turns.setdefault(turn, []).append(raw_id)

    def give_up_turn(self, turn: str, raw_id: bytes) -> bool:
        """Forget that; False if it was answered meanwhile."""
        waiting = self.turns.get(turn, [])
        if raw_id not in waiting:
            return False
        waiting.remove(raw_id)
        if not waiting:
            del self.turns[turn]
        return True

    def take_answered(self, ref: str) -> Sequence[bytes]:
        """Return who waits for the turn or the call of this ref; from now on nobody does."""
        if (call := self.calls.pop(ref, None)) is not None:
            return (call,)
        return self.turns.pop(ref, ())

    def take_opening(self) -> Opening | None:
        """Return what waits for the opening; from now on nothing does."""
        opening, self.opening = self.opening, None
        return opening

    def take_all(self) -> Sequence[bytes]:
        """Return the raw ids of everything that waits; from now on nothing does."""
        opening = self.take_opening()
        raw_ids = [opening.raw_id] if opening else []
        raw_ids += [raw_id for waiting in self.turns.values() for raw_id in waiting]
        raw_ids += self.calls.values()
        self.turns.clear()
        self.calls.clear()
        return raw_ids

    def turn_of(self, key: object) -> str:
        """Return the turn that the prompt with this id waits for; empty if there is none such."""
        return next(
            (
                turn
                for turn, waiting in self.turns.items()
                if any(key_of(raw_id) == key for raw_id in waiting)
            ),
            "",
        )

    def call_of(self, key: object) -> str:
        """Return the ref of the call with this id; empty if there is none such."""
        return next((ref for ref, raw_id in self.calls.items() if key_of(raw_id) == key), "")
