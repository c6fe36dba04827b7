"""SqliteStore: sessions in the database."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from relaykit.errors import StoreError
from relaykit.session import Activity, Session, SessionFilter, encode_session
from relaykit_sqlite.database import Database
from relaykit_sqlite.thread import DatabaseThread

T = TypeVar("T")


class SqliteStore:
    """A `Store` in a SQLite file.

    Every method returns once what it did is committed, as durably as ``synchronous`` says. Calls from one event
    loop alone; made at once, they share a commit.
    """

    durable = True

    def __init__(self, thread: DatabaseThread) -> None:
        self._thread = thread

    async def create(self, session: Session, /) -> None:
        """Add a session."""
        body = encode_session(session)
        await self._write(lambda database: database.sessions.create(session, body))

    async def save(self, session: Session, /, *, expected_version: int) -> None:
        """Replace a session, if it is still the expected version."""
        body = encode_session(session)
        await self._write(
            lambda database: database.sessions.save(session, body, expected_version=expected_version)
        )

    async def touch(self, activity: Mapping[str, Activity], /) -> None:
        """Write activity, without a new version."""
        if activity:
            told = dict(activity)
            await self._write(lambda database: database.sessions.touch(told))

    async def get(self, session_id: str, /) -> Session | None:
        """Return the session, or None."""
        return await self._read(lambda database: database.sessions.get(session_id))

    async def get_by_role(self, agent_id: str, /, *, owner: str, project: str) -> Session | None:
        """Return the session that plays this role, or None."""
        return await self._read(
            lambda database: database.sessions.get_by_role(agent_id, owner=owner, project=project)
        )

    async def list(self, where: SessionFilter, /, *, after: str = "", limit: int = 100) -> Sequence[Session]:
        """Return up to `limit` matching sessions behind `after`, in order of id."""
        return await self._read(lambda database: database.sessions.list(where, after=after, limit=limit))

    async def count(self, where: SessionFilter, /) -> int:
        """Return how many sessions match."""
        return await self._read(lambda database: database.sessions.count(where))

    async def delete(self, session_id: str, /) -> None:
        """Forget the session and free its role."""
        await self._write(lambda database: database.sessions.delete(session_id))

    async def _read(self, work: Callable[[Database], T]) -> T:
        return await self._thread.run(work, writes=False, failure=StoreError)

    async def _write(self, work: Callable[[Database], T]) -> T:
        return await self._thread.run(work, writes=True, one_statement=True, failure=StoreError)
