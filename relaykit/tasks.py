"""Background tasks that belong to a block."""

from __future__ import annotations

from types import TracebackType

import anyio
from anyio.abc import TaskGroup


class OwnedTasks:
    """A task group for the helpers of an object that is itself an async context manager.

    Leaving the block cancels what still runs and waits for it (a task that must reach its end is shielded).
    Unlike a bare task group it lets the block's own error out as it is, not wrapped in an exception group;
    only the error of a background task comes as a group.
    """

    def __init__(self) -> None:
        self._group = anyio.create_task_group()

    async def __aenter__(self) -> TaskGroup:
        return await self._group.__aenter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._group.cancel_scope.shield = True  # it waits for them, whatever cancels the host
        self._group.cancel_scope.cancel()
        await self._group.__aexit__(None, None, None)
