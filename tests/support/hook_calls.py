"""Where hooks are called in these tests."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from anyio.abc import TaskGroup

from relaykit.tasks import OwnedTasks


@pytest.fixture
async def hook_calls() -> AsyncIterator[TaskGroup]:
    """Yield a group for a `Dispatcher`, as a relay has one: its tasks outlive who calls hooks."""
    async with OwnedTasks() as tasks:
        yield tasks
