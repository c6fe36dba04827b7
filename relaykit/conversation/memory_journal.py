"""MemoryJournal: transcripts in this process, gone when it ends."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from operator import attrgetter

from relaykit.conversation.journal import Entry, JournalState
from relaykit.conversation.pages import fitting
from relaykit.errors import JournalConflict
from relaykit.ids import IdGenerator, SystemIds
from relaykit.session.model import Session, SessionFilter


@dataclass(slots=True)
class _Transcript:
    epoch: str
    trimmed: int = 0  # the newest seq that was forgotten
    entries: list[Entry] = field(default_factory=list)
    ended: Session | None = None

    @property
    def head(self) -> int:
        return self.trimmed + len(self.entries)


class MemoryJournal:
    """A `Journal` in memory, for one event loop. No method waits, so each is atomic."""

    def __init__(self, ids: IdGenerator | None = None) -> None:
        self._ids = ids or SystemIds()
        self._transcripts: dict[str, _Transcript] = {}

    async def open(self, session: Session, /) -> JournalState:
        """Begin the session's journal, or find it again."""
        transcript = self._transcripts.get(session.id)
        if transcript is None:
            transcript = self._transcripts[session.id] = _Transcript(self._ids.new_id())
        transcript.ended = None
        return JournalState(transcript.epoch, transcript.trimmed + 1, transcript.head)

    async def append(self, session_id: str, epoch: str, entries: Sequence[Entry], /) -> None:
        """Record entries, all or none."""
        transcript = self._transcripts.get(session_id)
        if transcript is None:
            raise JournalConflict(session_id, "it was never opened, or was deleted")
        if transcript.epoch != epoch:
            raise JournalConflict(session_id, f"it is of epoch {transcript.epoch}, the entries of {epoch}")
        if transcript.ended is not None:
            raise JournalConflict(session_id, "it is closed")
        if not entries:
            return
        head = transcript.head
        first = entries[0].seq
        if first != head + 1:
            known = transcript.entries[first - 1 - transcript.trimmed :] if first > transcript.trimmed else []
            if known != list(entries):
                raise JournalConflict(session_id, f"its head is {head}, the entries begin at {first}")
            return
        if entries[-1].seq != head + len(entries):
            raise JournalConflict(session_id, "the entries leave a hole")
        transcript.entries.extend(entries)

    async def read(
        self, session_id: str, /, *, after: int, limit: int, max_bytes: int | None = None
    ) -> Sequence[Entry]:
        """Return up to `limit` entries behind `after`, and up to `max_bytes` of them."""
        transcript = self._transcripts.get(session_id)
        if transcript is None:
            return ()
        start = max(after - transcript.trimmed, 0)
        return fitting(transcript.entries[start : start + limit], max_bytes)

    async def close(self, session: Session, /) -> None:
        """Keep the transcript, and the session as it ended."""
        transcript = self._transcripts.get(session.id)
        if transcript is not None:
            transcript.ended = session

    async def find(self, session_id: str, /) -> Session | None:
        """Return a session as it ended, or None."""
        transcript = self._transcripts.get(session_id)
        return transcript.ended if transcript is not None else None

    async def ended(
        self, where: SessionFilter, /, *, before: datetime, skip: int = 0, limit: int = 100
    ) -> Sequence[Session]:
        """Return sessions that ended before a moment, the latest first."""
        closed = [
            ended
            for transcript in self._transcripts.values()
            if (ended := transcript.ended) is not None and where.matches(ended) and _end_of(ended) < before
        ]
        closed.sort(key=attrgetter("id"))
        closed.sort(key=_end_of, reverse=True)
        return closed[skip : skip + limit]

    async def trim(self, session_id: str, /, *, through: int) -> None:
        """Forget the entries up to and including `through`."""
        transcript = self._transcripts.get(session_id)
        if transcript is not None:
            count = min(max(through - transcript.trimmed, 0), len(transcript.entries))
            del transcript.entries[:count]
            transcript.trimmed += count

    async def delete(self, session_id: str, /) -> None:
        """Forget the whole transcript."""
        self._transcripts.pop(session_id, None)


def _end_of(session: Session) -> datetime:
    return session.ended_at or session.activity.last_active
