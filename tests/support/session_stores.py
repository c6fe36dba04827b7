"""StagedStore: a store whose calls a test can fail, hold or follow, one by one."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Awaitable, Callable, Mapping, Sequence

from relaykit.session import Activity, Session, SessionFilter, Store

Act = Callable[[], Awaitable[None]]


class StagedStore:
    """A `Store` that does as `store` does, but for what was staged.

    Each act that is staged for a method is used up by one call of it, in the order of staging.

    :param always: awaited before and after the work of every call of every method.
    """

    def __init__(self, store: Store, *, always: Act | None = None) -> None:
        self._store = store
        self.durable = store.durable
        self._always = always
        self._before: defaultdict[str, deque[Act]] = defaultdict(deque)
        self._after: defaultdict[str, deque[Act]] = defaultdict(deque)

    def before(self, method: str, act: Act) -> None:
        """Await `act` before the method does its work: what it raises, the method raises, and does nothing."""
        self._before[method].append(act)

    def after(self, method: str, act: Act) -> None:
        """Await `act` when the method's work is done: what it raises, the method raises all the same."""
        self._after[method].append(act)

    def fail(self, method: str, error: BaseException) -> None:
        """Have the next call of the method raise, and do nothing."""
        self.before(method, _raising(error))

    def lose_answer(self, method: str, error: BaseException) -> None:
        """Have the next call of the method do its work, and raise."""
        self.after(method, _raising(error))

    async def create(self, session: Session, /) -> None:
        await self._play(self._before["create"])
        await self._store.create(session)
        await self._play(self._after["create"])

    async def save(self, session: Session, /, *, expected_version: int) -> None:
        await self._play(self._before["save"])
        await self._store.save(session, expected_version=expected_version)
        await self._play(self._after["save"])

    async def touch(self, activity: Mapping[str, Activity], /) -> None:
        await self._play(self._before["touch"])
        await self._store.touch(activity)
        await self._play(self._after["touch"])

    async def get(self, session_id: str, /) -> Session | None:
        await self._play(self._before["get"])
        session = await self._store.get(session_id)
        await self._play(self._after["get"])
        return session

    async def get_by_role(self, agent_id: str, /, *, owner: str, project: str) -> Session | None:
        await self._play(self._before["get_by_role"])
        session = await self._store.get_by_role(agent_id, owner=owner, project=project)
        await self._play(self._after["get_by_role"])
        return session

    async def list(self, where: SessionFilter, /, *, after: str = "", limit: int = 100) -> Sequence[Session]:
        await self._play(self._before["list"])
        found = await self._store.list(where, after=after, limit=limit)
        await self._play(self._after["list"])
        return found

    async def count(self, where: SessionFilter, /) -> int:
        await self._play(self._before["count"])
        number = await self._store.count(where)
        await self._play(self._after["count"])
        return number

    async def delete(self, session_id: str, /) -> None:
        await self._play(self._before["delete"])
        await self._store.delete(session_id)
        await self._play(self._after["delete"])

    async def _play(self, acts: deque[Act]) -> None:
        if self._always is not None:
            await self._always()
        if acts:
            await acts.popleft()()


def _raising(error: BaseException) -> Act:
    async def act() -> None:
        raise error

    return act
