"""Background tasks that belong to a block."""

from __future__ import annotations

from types import TracebackType

import anyio
from anyio.abc import TaskGroup


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
