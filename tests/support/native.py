"""Cancellation as a host application on asyncio does it, which anyio cannot."""

from __future__ import annotations

import asyncio  # noqa: TID251 -- a native cancellation is what this is for
from collections.abc import Callable, Coroutine
from typing import Any

from relaykit.testing import Interruption


async def interrupt_natively(call: Coroutine[Any, Any, Any], *, at: int) -> tuple[bool, bool]:
    """Run a call in a task that is cancelled at the call's n-th suspension.

    :return: whether it got that far, and whether it ended cancelled.
    """
    interruption: Interruption[Any] | None = None

    async def run() -> None:
        nonlocal interruption
        task = asyncio.current_task()
        assert task is not None
        interruption = Interruption(call, at=at, cancel=task.cancel)
        await interruption

    task = asyncio.create_task(run())
    await asyncio.wait([task])
    if not task.cancelled():
        task.result()
    assert interruption is not None
    return interruption.happened, task.cancelled()


async def run_cancellable(
    call: Coroutine[Any, Any, Any], started: Callable[[Callable[[], object]], None]
) -> bool:
    """Run a call in a task, give away the means to cancel it, and return whether it ended cancelled."""
    task = asyncio.create_task(call)
    started(task.cancel)
    await asyncio.wait([task])
    if not task.cancelled():
        task.result()
    return task.cancelled()
