"""Deciders: who or what answered each question, and how. It is in the transcript, right behind the answer."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from relaykit.conversation.frame import Frame, Kind
from relaykit.conversation.journal import Entry
from relaykit.relay.notices import DECIDED, notice

ANSWERED = "answered"
"""By a client."""
ALLOWED = "allowed"
"""By a rule."""
REFUSED = "refused"
"""By a rule or a policy."""
EXPIRED = "expired"
"""By the relay, with a no: nobody had answered in time."""
CANCELLED = "cancelled"
"""The turn was cancelled or is over, or whoever closed the question had no answer."""

RELAY, AGENT = "relay", "agent"

_REMEMBERED = 64
"""Of how many questions it is known in memory who closed them."""


class Read(Protocol):
    """Reads a transcript, as `Conversation.read` does."""

    async def __call__(self, *, after: int, limit: int) -> Sequence[Entry]:
        """Return up to `limit` entries with seq > `after`."""
        ...


@dataclass(frozen=True, slots=True)
class Decider:
    """Who or what answered a question.

    :param by: for people: what the client goes by (the name of its token), a plugin's name, ``rule 2``, ``relay``, or
        ``agent``, which takes its question back.
    :param outcome: one of the words above.
    :param reason: for people, where there is one: what the policy says, or the rule.
    :param client_id: of the client that answered, by which it knows its own answer; empty if none did.
    """

    by: str
    outcome: str
    reason: str = ""
    client_id: str = ""


UNKNOWN = Decider("", "")
"""The transcript does not tell."""


def decided(decision: Frame, decider: Decider) -> Frame:
    """Return the NOTICE that stands behind a DECISION, in the same batch.

    The DECISION itself is what the agent gets, as whoever answered has written it.
    """
    more = {"client": decider.client_id, "reason": decider.reason}
    told = {key: value for key, value in more.items() if value}
    return notice(DECIDED, requestId=decision.ref, by=decider.by, outcome=decider.outcome, **told)


class Deciders:
    """Tells who or what closed a question of one session: one of the last from memory, any from the transcript.

    :param read: reads the transcript, as `Conversation.read` does.
    """

    def __init__(self, read: Read) -> None:
        self._read = read
        self._last: dict[str, Decider] = {}

    def remember(self, ref: str, decider: Decider) -> None:
        """Note who closes a question."""
        self._last[ref] = decider
        if len(self._last) > _REMEMBERED:
            del self._last[next(iter(self._last))]

    def forget(self, ref: str) -> None:
        """Take `remember` back: it could not be recorded."""
        self._last.pop(ref, None)

    def of(self, ref: str) -> Decider:
        """Return who closed a question; `UNKNOWN` if it is open, or was closed long ago."""
        return self._last.get(ref, UNKNOWN)

    async def find(self, decision: Entry) -> Decider:
        """Return who gave a DECISION; `UNKNOWN` if it was written by an older relay, which did not tell.

        :raises JournalError: it cannot be read.
        """
        known = self.of(decision.frame.ref)
        if known is not UNKNOWN:
            return known
        behind = await self._read(after=decision.seq, limit=1)
        return next((_told(entry.frame, decision.frame.ref) for entry in behind), UNKNOWN)


def _told(frame: Frame, ref: str) -> Decider:
    if frame.kind is not Kind.NOTICE or frame.method != DECIDED:
        return UNKNOWN
    body = json.loads(frame.body)
    if body["requestId"] != ref:
        return UNKNOWN
    return Decider(body["by"], body["outcome"], body.get("reason", ""), body.get("client", ""))
