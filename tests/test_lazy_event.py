"""LazyEvent: as anyio's, but for what it takes while nobody waits."""

from __future__ import annotations

import anyio
import pytest

from relaykit.tasks import LazyEvent

pytestmark = pytest.mark.anyio


async def test_everybody_who_waits_goes_on_and_so_does_who_comes_later() -> None:
    event, gone_on = LazyEvent(), list[int]()

    async def wait(number: int) -> None:
        await event.wait()
        gone_on.append(number)

    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            for number in range(3):
                tasks.start_soon(wait, number)
            await anyio.wait_all_tasks_blocked()
            assert (event.is_set(), gone_on) == (False, [])
            event.set()
            event.set()
        await wait(3)
    assert event.is_set()
    assert sorted(gone_on) == [0, 1, 2, 3]


async def test_what_is_over_is_still_a_checkpoint() -> None:
    event = LazyEvent()
    event.set()
    with anyio.CancelScope() as scope:
        scope.cancel()
        await event.wait()
        pytest.fail("it was cancelled")
    assert scope.cancelled_caught


async def test_one_who_gives_up_disturbs_nobody() -> None:
    event = LazyEvent()
    with anyio.move_on_after(0):
        await event.wait()
    event.set()
    with anyio.fail_after(5):
        await event.wait()
