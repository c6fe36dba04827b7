"""A storage with a stopwatch: seconds and errors of each operation. Put in front only where somebody meters."""

from __future__ import annotations

from collections.abc import Awaitable, Mapping, Sequence
from datetime import datetime
from typing import TypeVar

from relaykit.clock import Clock
from relaykit.conversation.journal import Entry, Journal, JournalState
from relaykit.errors import CursorAhead, DuplicateRole, DuplicateSession, JournalConflict, StaleVersion
from relaykit.meter import STORAGE_ERRORS, STORAGE_SECONDS, Meter
from relaykit.session.model import Activity, Session, SessionFilter
from relaykit.session.store import Store

T = TypeVar("T")

_ANSWERS = (DuplicateSession, DuplicateRole, StaleVersion, JournalConflict, CursorAhead)
"""What a storage raises although all is well with it."""


class Stopwatch:
    """Measures what is awaited. An operation that is cancelled is measured, and is no error."""

    def __init__(self, clock: Clock, meter: Meter) -> None:
        self._clock = clock
        self._meter = meter

    async def __call__(self, operation: str, awaitable: Awaitable[T]) -> T:
        """Await it, and return what it returns."""
        started = self._clock.monotonic()
        try:
            return await awaitable
        except _ANSWERS:
            raise
        except Exception:
            self._meter.count(STORAGE_ERRORS, operation=operation)
            raise
        finally:
            seconds = self._clock.monotonic() - started
            self._meter.observe(STORAGE_SECONDS, seconds, operation=operation)


class MeasuredStore:
    """A `Store` that does what another does."""

    def __init__(self, store: Store, measured: Stopwatch) -> None:
        self._store = store
        self._measured = measured

    @property
    def durable(self) -> bool:
        """As the other is."""
        return self._store.durable

    async def create(self, session: Session, /) -> None:
        """Do as the other does."""
        await self._measured("store_create", self._store.create(session))

    async def save(self, session: Session, /, *, expected_version: int) -> None:
        """Do as the other does."""
        await self._measured("store_save", self._store.save(session, expected_version=expected_version))

    async def touch(self, activity: Mapping[str, Activity], /) -> None:
        """Do as the other does."""
        await self._measured("store_touch", self._store.touch(activity))

    async def get(self, session_id: str, /) -> Session | None:
        """Do as the other does."""
        return await self._measured("store_get", self._store.get(session_id))

    async def get_by_role(self, agent_id: str, /, *, owner: str, project: str) -> Session | None:
        """Do as the other does."""
        found = self._store.get_by_role(agent_id, owner=owner, project=project)
        return await self._measured("store_get_by_role", found)

    async def list(self, where: SessionFilter, /, *, after: str = "", limit: int = 100) -> Sequence[Session]:
        """Do as the other does."""
        return await self._measured("store_list", self._store.list(where, after=after, limit=limit))

    async def count(self, where: SessionFilter, /) -> int:
        """Do as the other does."""
        return await self._measured("store_count", self._store.count(where))

    async def delete(self, session_id: str, /) -> None:
        """Do as the other does."""
        await self._measured("store_delete", self._store.delete(session_id))


class MeasuredJournal:
    """A `Journal` that does what another does."""

    def __init__(self, journal: Journal, measured: Stopwatch) -> None:
        self._journal = journal
        self._measured = measured

    async def open(self, session: Session, /) -> JournalState:
        """Do as the other does."""
        return await self._measured("journal_open", self._journal.open(session))

    async def append(self, session_id: str, epoch: str, entries: Sequence[Entry], /) -> None:
        """Do as the other does."""
        await self._measured("journal_append", self._journal.append(session_id, epoch, entries))

    async def read(
        self, session_id: str, /, *, after: int, limit: int, max_bytes: int | None = None
    ) -> Sequence[Entry]:
        """Do as the other does."""
        found = self._journal.read(session_id, after=after, limit=limit, max_bytes=max_bytes)
        return await self._measured("journal_read", found)

    async def close(self, session: Session, /) -> None:
        """Do as the other does."""
        await self._measured("journal_close", self._journal.close(session))

    async def find(self, session_id: str, /) -> Session | None:
        """Do as the other does."""
        return await self._measured("journal_find", self._journal.find(session_id))

    async def ended(
        self, where: SessionFilter, /, *, before: datetime, skip: int = 0, limit: int = 100
    ) -> Sequence[Session]:
        """Do as the other does."""
        found = self._journal.ended(where, before=before, skip=skip, limit=limit)
        return await self._measured("journal_ended", found)

    async def trim(self, session_id: str, /, *, through: int) -> None:
        """Do as the other does."""
        await self._measured("journal_trim", self._journal.trim(session_id, through=through))

    async def delete(self, session_id: str, /) -> None:
        """Do as the other does."""
        await self._measured("journal_delete", self._journal.delete(session_id))


def measured(store: Store, journal: Journal, *, clock: Clock, meter: Meter) -> tuple[Store, Journal]:
    """Return the two with a stopwatch in front of each operation."""
    stopwatch = Stopwatch(clock, meter)
    return MeasuredStore(store, stopwatch), MeasuredJournal(journal, stopwatch)
