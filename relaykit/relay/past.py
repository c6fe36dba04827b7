"""Past: what a transcript tells of the turns and questions that a relay left behind when it was killed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from relaykit.conversation.conversation import Conversation
from relaykit.conversation.frame import Frame, Kind
from relaykit.conversation.journal import Entry

_PAGE = 1024
_FAR_ENOUGH = 4096
"""Entries that are looked at in any case, for the turns that ended, whose ids clients may say again."""


@dataclass(frozen=True, slots=True)
class Past:
    """How the talk stood.

    :param turn: the id of the turn that runs; empty if none does.
    :param questions: the REQUESTs that wait for a DECISION, in order.
    :param ends: the last TURN_ENDs, in order.
    """

    turn: str = ""
    questions: Sequence[Entry] = ()
    ends: Sequence[Entry] = ()


async def look_back(conversation: Conversation) -> Past:
    """Read a transcript from its end as far back as it takes: to the last turn's begin or end, and some more.

    :raises JournalError: it cannot be read.
    """
    entries: list[Entry] = []  # those that matter
    before = conversation.head + 1
    settled = False
    while before > 1 and not (settled and conversation.head - before >= _FAR_ENOUGH):
        oldest, after = before, max(before - 1 - _PAGE, 0)
        found: list[Entry] = []
        while page := await conversation.page(after=after, through=before - 1):
            oldest, after = min(oldest, page[0].seq), page[-1].seq
            found += [entry for entry in page if entry.frame.kind in _TELLING]
        if oldest == before:
            break  # the rest was trimmed
        before = oldest
        settled = settled or any(entry.frame.kind in _TURNS for entry in found)
        entries = found + entries
    return _read(entries)


_TURNS = frozenset({Kind.PROMPT, Kind.TURN_END})
_TELLING = _TURNS | {Kind.REQUEST, Kind.DECISION}


def _read(entries: Sequence[Entry]) -> Past:
    turn = ""
    questions: dict[str, Entry] = {}
    ends: list[Entry] = []
    for entry in entries:
        frame: Frame = entry.frame
        match frame.kind:
            case Kind.PROMPT:
                turn = frame.ref
            case Kind.TURN_END:
                turn = ""
                ends.append(entry)
            case Kind.REQUEST:
                questions[frame.ref] = entry
            case Kind.DECISION:
                questions.pop(frame.ref, None)
    return Past(turn, tuple(questions.values()), tuple(ends))
