"""HoppingStore: any store, as slow to answer as one that does its work in a thread."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import anyio.lowlevel
from anyio import to_thread

from relaykit.session import Activity, Session, SessionFilter, Store


class HoppingStore:
    """A `Store` whose every method hops through a worker thread and a checkpoint, before and after its work.

    So each call can be overtaken by others, and cancelled both before and after it happened, as with a
    database.

    :param store: does the work, without a hop.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self.durable = store.durable

    async def create(self, session: Session, /) -> None:
        """See `Store.create`."""
        await _hop()
        await self._store.create(session)
        await _hop()

    async def save(self, session: Session, /, *, expected_version: int) -> None:
        """See `Store.save`."""
        await _hop()
        await self._store.save(session, expected_version=expected_version)
        await _hop()

    async def touch(self, activity: Mapping[str, Activity], /) -> None:
        """See `Store.touch`."""
        await _hop()
        await self._store.touch(activity)
        await _hop()

    async def get(self, session_id: str, /) -> Session | None:
        """See `Store.get`."""
        await _hop()
        session = await self._store.get(session_id)
        await _hop()
        return session

    async def get_by_role(self, agent_id: str, /, *, owner: str, project: str) -> Session | None:
        """See `Store.get_by_role`."""
        await _hop()
        session = await self._store.get_by_role(agent_id, owner=owner, project=project)
        await _hop()
        return session

    async def list(self, where: SessionFilter, /, *, after: str = "", limit: int = 100) -> Sequence[Session]:
        """See `Store.list`."""
        await _hop()
        found = await self._store.list(where, after=after, limit=limit)
        await _hop()
        return found

    async def count(self, where: SessionFilter, /) -> int:
        """See `Store.count`."""
        await _hop()
        number = await self._store.count(where)
        await _hop()
        return number

    async def delete(self, session_id: str, /) -> None:
        """See `Store.delete`."""
        await _hop()
        await self._store.delete(session_id)
        await _hop()


async def _hop() -> None:
    await to_thread.run_sync(_nothing)
    await anyio.lowlevel.checkpoint()


def _nothing() -> None:
    """Do nothing: the hop is the point."""
