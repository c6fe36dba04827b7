"""Journal: what was said in each session, in order. The contract alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple, Protocol

from relaykit.conversation.frame import Frame
from relaykit.session.model import Session, SessionFilter


class Entry(NamedTuple):
    """A frame with its place in the conversation. A tuple, as the frame is.

    :param seq: 1 for the first entry of an epoch, one more for each, without holes.
    :param at: when it was recorded, in UTC.
    """

    seq: int
    at: datetime
    frame: Frame


@dataclass(frozen=True, slots=True)
class JournalState:
    """Where a journal stands.

    :param epoch: minted once, when the journal of a session begins; another epoch means another numbering.
    :param first: the oldest seq that is still there, or head + 1 if none is.
    :param head: the newest seq, 0 if nothing was said yet.
    """

    epoch: str
    first: int
    head: int


class Journal(Protocol):
    """Keeps transcripts. Each session has one writer: its conversation.

    Any method may raise `JournalError`, with the plugin's name, when the storage cannot be reached in
    time. A call that is cancelled either happened or did not. Different sessions never wait for each other
    longer than one commit.
    """

    async def open(self, session: Session, /) -> JournalState:
        """Begin the session's journal, or find it again as it was.

        One that was closed is open again, and goes on behind its head under the same epoch.
        """
        ...

    async def append(self, session_id: str, epoch: str, entries: Sequence[Entry], /) -> None:
        """Record entries head + 1 …, all or none; when this returns they are as durable as the plugin says.

        The same batch again (its answer was lost) succeeds and changes nothing.

        :raises JournalConflict: the epoch is another, the entries leave a hole, or differ from what is there.
        """
        ...

    async def read(
        self, session_id: str, /, *, after: int, limit: int, max_bytes: int | None = None
    ) -> Sequence[Entry]:
        """Return up to `limit` entries with seq > `after`, in order. Unknown session or nothing there: empty.

        :param max_bytes: return fewer, if the bodies would have more bytes together; but at least one. What is left
            out is not held in memory either, or for a moment, one at a time.
        """
        ...

    async def close(self, session: Session, /) -> None:
        """Keep the transcript, and the session as it ended. Nothing can be appended any more. Idempotent."""
        ...

    async def find(self, session_id: str, /) -> Session | None:
        """Return a session as it ended, or None: nothing of it is kept, or its journal is open."""
        ...

    async def ended(
        self, where: SessionFilter, /, *, before: datetime, skip: int = 0, limit: int = 100
    ) -> Sequence[Session]:
        """Return up to `limit` closed sessions that match and that ended before a moment, the latest first.

        Which ended at the same moment stand in order of id. A session without `ended_at` ended when it was last
        active.

        :param skip: leave out so many of the first: the next page.
        """
        ...

    async def trim(self, session_id: str, /, *, through: int) -> None:
        """Forget the entries with seq ≤ `through`. Head and numbering stay."""
        ...

    async def delete(self, session_id: str, /) -> None:
        """Forget the whole transcript. Absent: nothing happens."""
        ...
