"""SqliteJournal: transcripts in the database."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import TypeVar

from relaykit.conversation import Entry, JournalState
from relaykit.errors import JournalError
from relaykit.session import Session, SessionFilter, encode_session
from relaykit_sqlite.database import Database
from relaykit_sqlite.runs import WIDTH, rows_of
from relaykit_sqlite.thread import DatabaseThread
from relaykit_sqlite.transcripts import ONE_STATEMENT

T = TypeVar("T")


class SqliteJournal:
    """A `Journal` in a SQLite file.

    Every method returns once what it did is committed, as durably as ``synchronous`` says. Calls from one event
    loop alone; made at once, they share a commit, whichever sessions they are of.
    """

    def __init__(self, thread: DatabaseThread) -> None:
        self._thread = thread

    async def open(self, session: Session, /) -> JournalState:
        """Begin the session's journal, or find it again."""
        return await self._write(lambda database: database.transcripts.open(session))

    async def append(self, session_id: str, epoch: str, entries: Sequence[Entry], /) -> None:
        """Record entries, all or none."""
        batch = tuple(entries)  # the caller's list is the caller's
        rows = rows_of(batch)
        await self._thread.run(
            lambda database: database.transcripts.append(session_id, epoch, batch, rows),
            writes=True,
            one_statement=len(rows) <= ONE_STATEMENT * WIDTH,
            failure=JournalError,
        )

    async def read(
        self, session_id: str, /, *, after: int, limit: int, max_bytes: int | None = None
    ) -> Sequence[Entry]:
        """Return up to `limit` entries behind `after`, and up to `max_bytes` of them."""
        return await self._read(
            lambda database: database.transcripts.read(
                session_id, after=after, limit=limit, max_bytes=max_bytes
            )
        )

    async def close(self, session: Session, /) -> None:
        """Keep the transcript, and the session as it ended."""
        body = encode_session(session)
        await self._write(lambda database: database.transcripts.close(session, body))

    async def find(self, session_id: str, /) -> Session | None:
        """Return a session as it ended, or None."""
        return await self._read(lambda database: database.transcripts.find(session_id))

    async def ended(
        self, where: SessionFilter, /, *, before: datetime, skip: int = 0, limit: int = 100
    ) -> Sequence[Session]:
        """Return sessions that ended before a moment, the latest first."""
        return await self._read(
            lambda database: database.transcripts.ended(where, before=before, skip=skip, limit=limit)
        )

    async def trim(self, session_id: str, /, *, through: int) -> None:
        """Forget the entries up to and including `through`."""
        await self._write(lambda database: database.transcripts.trim(session_id, through=through))

    async def delete(self, session_id: str, /) -> None:
        """Forget the whole transcript."""
        await self._write(lambda database: database.transcripts.delete(session_id))

    async def _read(self, work: Callable[[Database], T]) -> T:
        return await self._thread.run(work, writes=False, failure=JournalError)

    async def _write(self, work: Callable[[Database], T]) -> T:
        return await self._thread.run(work, writes=True, failure=JournalError)
