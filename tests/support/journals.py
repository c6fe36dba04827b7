"""StagedJournal: a journal whose calls a test can fail, hold or follow, one by one."""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from typing import Self

import anyio

from relaykit.conversation import Entry, Journal, JournalState
from relaykit.errors import JournalError
from relaykit.session import Session, SessionFilter

Act = Callable[[], Awaitable[None]]


class Hold:
    """Keeps one call where it is, until it is released; also a block, whose end releases it.

    :param error: raised by the call then.
    """

    def __init__(self) -> None:
        self.error: Exception | None = None
        self.reached = anyio.Event()
        self.released = anyio.Event()

    async def __call__(self) -> None:
        self.reached.set()
        await self.released.wait()
        if self.error is not None:
            raise self.error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.released.set()


class StagedJournal:
    """A `Journal` that does as `journal` does, but for what was staged.

    Each act that is staged for a method is used up by one call of it, in the order of staging.

    :param always: awaited before and after the work of every append and every read.
    """

    def __init__(self, journal: Journal, *, always: Act | None = None) -> None:
        self._journal = journal
        self._always = always
        self._before: defaultdict[str, deque[Act]] = defaultdict(deque)
        self._after: defaultdict[str, deque[Act]] = defaultdict(deque)
        self.down = False
        """While it is set, every method fails and does nothing."""
        self.calls: Counter[str] = Counter()

    def before(self, method: str, act: Act) -> None:
        """Await `act` before the method does its work: what it raises, the method raises, and does nothing."""
        self._before[method].append(act)

    def after(self, method: str, act: Act) -> None:
        """Await `act` when the method's work is done: what it raises, the method raises all the same."""
        self._after[method].append(act)

    def fail(self, method: str) -> None:
        """Have the next call of the method raise, and do nothing."""
        self.before(method, _fail)

    def lose_answer(self, method: str) -> None:
        """Have the next call of the method do its work, and raise."""
        self.after(method, _fail)

    def hold(self, method: str) -> Hold:
        """Keep the next call of the method before its work."""
        hold = Hold()
        self.before(method, hold)
        return hold

    def hold_answer(self, method: str) -> Hold:
        """Keep the next call of the method behind its work."""
        hold = Hold()
        self.after(method, hold)
        return hold

    async def open(self, session: Session, /) -> JournalState:
        self.calls["open"] += 1
        await self._play(self._before["open"])
        state = await self._journal.open(session)
        await self._play(self._after["open"])
        return state

    async def append(self, session_id: str, epoch: str, entries: Sequence[Entry], /) -> None:
        self.calls["append"] += 1
        await self._play(self._before["append"], self._always)
        await self._journal.append(session_id, epoch, entries)
        await self._play(self._after["append"], self._always)

    async def read(
        self, session_id: str, /, *, after: int, limit: int, max_bytes: int | None = None
    ) -> Sequence[Entry]:
        if limit < 1:
            raise ValueError(f"limit {limit}: a database would understand that as it likes")
        self.calls["read"] += 1
        await self._play(self._before["read"], self._always)
        entries = await self._journal.read(session_id, after=after, limit=limit, max_bytes=max_bytes)
        await self._play(self._after["read"], self._always)
        return entries

    async def close(self, session: Session, /) -> None:
        self.calls["close"] += 1
        await self._play(self._before["close"])
        await self._journal.close(session)
        await self._play(self._after["close"])

    async def find(self, session_id: str, /) -> Session | None:
        return await self._journal.find(session_id)

    async def ended(
        self, where: SessionFilter, /, *, before: datetime, skip: int = 0, limit: int = 100
    ) -> Sequence[Session]:
        return await self._journal.ended(where, before=before, skip=skip, limit=limit)

    async def trim(self, session_id: str, /, *, through: int) -> None:
        await self._journal.trim(session_id, through=through)

    async def delete(self, session_id: str, /) -> None:
        await self._journal.delete(session_id)

    async def _play(self, acts: deque[Act], always: Act | None = None) -> None:
        if self.down:
            await _fail()
        if always is not None:
            await always()
        if acts:
            await acts.popleft()()


async def _fail() -> None:
    raise JournalError("the disk is full", plugin="staged")
