"""Background tasks that belong to a block, calls that are kept in a task of their own, and events that cost nothing."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import TypeVar

import anyio
import anyio.lowlevel
from anyio.abc import TaskGroup

from relaykit.errors import Leaked

T = TypeVar("T")


class LazyEvent:
    """An `anyio.Event` that takes 0.8 kB only while somebody waits: of what thousands of idle sessions have."""

    __slots__ = ("_event", "_is_set")

    def __init__(self) -> None:
        self._event: anyio.Event | None = None
        self._is_set = False

    def is_set(self) -> bool:
        """Tell whether it has happened."""
        return self._is_set

    def set(self) -> None:
        """Let everybody go on who waits, and who will."""
        self._is_set = True
        if self._event is not None:
            self._event.set()

    async def wait(self) -> None:
        """Wait until it has happened."""
        if self._is_set:
            await anyio.lowlevel.checkpoint()
            return
        if self._event is None:
            self._event = anyio.Event()
        await self._event.wait()


class OwnedTasks:
    """A task group for the helpers of an object that is itself an async context manager.

    Leaving the block cancels what still runs and waits for it (a task that must reach its end is shielded).
    Unlike a bare task group it lets errors out as they are: the block's own, and that of a background task
    (only several of them come as an exception group).
    """

    _group: TaskGroup

    async def __aenter__(self) -> TaskGroup:
        self._group = anyio.create_task_group()
        return await self._group.__aenter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._group.cancel_scope.shield = True  # it waits for them, whatever cancels the host
        self._group.cancel_scope.cancel()
        try:
            await self._group.__aexit__(None, None, None)
        except BaseExceptionGroup as group:
            if len(group.exceptions) > 1:
                raise
            raise group.exceptions[0] from group.exceptions[0].__cause__


async def contained(
    call: Callable[[], Awaitable[T]], *, lost: Callable[[T], Awaitable[None]] | None = None
) -> T:
    """Await somebody else's call in a task of its own: what it leaves open there cannot break the caller's task.

    Cancelled, it cancels the call.

    :param lost: awaited, shielded, with a result that cannot be returned: of a call that came to its end although it
        was cancelled, or that leaked.
    :raises Exception: what the call raises.
    :raises Leaked: it left a task group or a cancel scope open, or let a cancellation out that was its own.
    """
    results: list[T] = []
    failures: list[Exception] = []

    async def run() -> None:
        try:
            results.append(await call())
        except Exception as error:  # noqa: BLE001 -- raised below, out of the task group, which would wrap it
            failures.append(error)

    try:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(run)
    except BaseException as error:
        if results and lost is not None:
            with anyio.CancelScope(shield=True):
                await lost(results[0])
        if isinstance(error, Exception):
            raise Leaked("it left a task group or a cancel scope open") from error
        raise
    if failures:
        raise failures[0]
    if not results:
        raise Leaked("it let out a cancellation that was its own")
    return results[0]
