"""Cancellation at every await: of the caller, at each suspension of its own and at each of the work it waits for.

Whatever the moment, what was asked for happened or did not, and what `get` says, what the store holds, what
the hooks heard and what the cleaners did agree on which; nothing that was handed in is lost.
"""

from __future__ import annotations

import asyncio  # noqa: TID251 -- a host application cancels natively, which anyio cannot
from collections.abc import Awaitable, Callable
from contextlib import suppress

import anyio
import anyio.lowlevel
import pytest

from relaykit.errors import SessionError
from relaykit.session import Session, SessionFilter, SessionState
from relaykit.testing import Interruption
from support.cancelled_calls import CASES, LEFT_BEHIND, MADE_HERE, Call, Cancel, Case, World
from support.managers import left_behind, session_in

pytestmark = pytest.mark.anyio

CREATED, SPAWNING, ACTIVE, TERMINATING, CLEANED = SessionState
MANY = 200

Arm = Callable[[Call, Cancel], Awaitable[object]]
"""Awaits the call, and has it cancelled somewhere on its way."""


every_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
every_store = pytest.mark.parametrize("hopping", [False, True], ids=["memory", "hopping"])
every_place = pytest.mark.parametrize("place", ["caller", "work"])


@every_place
@every_store
@every_case
async def test_cancelled_by_anyio(case: Case, *, hopping: bool, place: str) -> None:
    await cancel_everywhere(case, hopping=hopping, place=place, run=run_in_a_scope)


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@every_place
@every_store
@every_case
async def test_cancelled_natively(case: Case, *, hopping: bool, place: str) -> None:
    await cancel_everywhere(case, hopping=hopping, place=place, run=run_in_a_native_task)


@every_store
async def test_closing_cancelled_by_anyio(*, hopping: bool) -> None:
    await cancel_closing_everywhere(hopping=hopping, run=run_in_a_scope)


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@every_store
async def test_closing_cancelled_natively(*, hopping: bool) -> None:
    await cancel_closing_everywhere(hopping=hopping, run=run_in_a_native_task)


# ---------------------------------------------------------------- two ways to cancel


async def run_in_a_scope(call: Call, arm: Arm) -> bool:
    """Return whether the call was cancelled."""
    with anyio.CancelScope() as scope:
        await arm(call, scope.cancel)
    return scope.cancelled_caught


async def run_in_a_native_task(call: Call, arm: Arm) -> bool:
    async def run() -> None:
        task = asyncio.current_task()
        assert task is not None
        await arm(call, task.cancel)

    task = asyncio.create_task(run())
    await asyncio.wait([task])
    if not task.cancelled():
        task.result()
    return task.cancelled()


Run = Callable[[Call, Arm], Awaitable[bool]]


# ---------------------------------------------------------------- everywhere


async def cancel_everywhere(case: Case, *, hopping: bool, place: str, run: Run) -> None:
    for at in range(1, MANY):
        with anyio.fail_after(20):
            world = World(hopping=hopping)
            async with world.manager:
                await prepare(world, case)
                if not await cancel_at(at, world, case, place=place, run=run):
                    assert at > 1 or not case.waits or place == "work"
                    return
    pytest.fail(f"{case.name} is suspended more than {MANY} times")


async def cancel_at(at: int, world: World, case: Case, *, place: str, run: Run) -> bool:
    """Cancel the call there, check everything, and return whether it got that far."""
    before = await world.held()
    heard_before = world.states_heard()
    reached = False

    async def arm(call: Call, cancel: Cancel) -> None:
        nonlocal reached
        if place == "work":
            world.ticks.arm(at, cancel)
            try:
                await call
            finally:
                reached = world.ticks.count >= at
                world.ticks.disarm()
        else:
            interruption = Interruption(call, at=at, cancel=cancel)
            try:
                await interruption
            finally:
                reached = interruption.happened

    cancelled, raised = False, None
    try:
        cancelled = await run(case.call(world), arm)
    except SessionError as error:
        raised = error
    assert raised is None or isinstance(raised, case.error or ())
    if not reached:
        assert not cancelled
        assert (raised is None) == (case.error is None)

    await settle(world, case)
    after = await world.held()
    if case.target is not None:
        happened = await check_change(world, case, before, after, heard_before)
        assert cancelled or happened
    else:
        check_no_change(world, case, before, after, heard_before)
        assert cancelled or did_its_work(case, before, await world.manager.get(world.session_id))
    await check_agent(world, case)
    await end(world)
    return reached


async def prepare(world: World, case: Case) -> None:
    if case.left:
        assert case.begin is not None
        world.session_id = (await left_behind(world.memory, case.begin, session_id=LEFT_BEHIND)).id
    elif case.begin is not None:
        agent = world.agent if case.begin in {ACTIVE, TERMINATING} else None
        session = await session_in(case.begin, world.manager, connection=world.connection, agent=agent)
        assert session.id == world.session_id
    if case.name == "flush_activity":
        await world.manager.increment_message_count(world.session_id)


async def settle(world: World, case: Case) -> None:
    """Wait until the worker has made every change that it was given, and the hooks have heard of each."""
    with suppress(SessionError):
        await case.settle(world.manager, world.session_id)
    session = await world.held()
    if session is None:
        finished = CLEANED if world.states_heard() or case.target is CLEANED else None
    else:
        finished = session.state if case.target is session.state else None
    while finished is not None and finished not in world.states_heard():
        await anyio.lowlevel.checkpoint()


async def check_change(
    world: World, case: Case, before: Session | None, after: Session | None, heard_before: list[SessionState]
) -> bool:
    """Check that it happened or did not, and return which."""
    state = CLEANED if after is None and before is not None else after and after.state
    assert state in (case.begin, case.target)
    happened = state is case.target
    assert world.states_heard() == heard_before + ([case.target] if happened else [])
    assert world.cleaner.runs_for(world.session_id) == int(state is CLEANED)
    assert await world.manager.get(world.session_id) == after
    if after is not None and before is not None:
        assert after.version == before.version + int(happened)
    handle = world.manager.handle(world.session_id)
    if handle is not None:
        assert handle.scope.cancel_called == (state is TERMINATING)
    if happened:
        last = world.hooks.heard_of(world.session_id)[-1]
        assert (last.report is not None) == (state is CLEANED)
        if after is not None:
            assert last.after == after
    return happened


def check_no_change(
    world: World, case: Case, before: Session | None, after: Session | None, heard_before: list[SessionState]
) -> None:
    assert before is not None
    assert after is not None
    assert world.states_heard() == heard_before
    assert world.cleaner.runs_for(world.session_id) == 0
    assert after.state is case.begin
    if case.name.startswith("record "):
        recorded = dict(after.resources) == {"git": {"branch": "b"}}
        assert recorded or not after.resources
        assert after.version == before.version + int(recorded)
    else:
        assert after.with_activity(before.activity) == before


def did_its_work(case: Case, before: Session | None, seen: Session | None) -> bool:
    """Tell whether a call that was not cancelled left what it was to leave, where that is no transition."""
    assert before is not None
    assert seen is not None
    if case.name.startswith("record "):
        return seen.version == before.version + 1
    if case.name.startswith("increment_message_count"):
        return seen.activity.message_count == before.activity.message_count + 1
    return True


async def check_agent(world: World, case: Case) -> None:
    """Check that an agent that was handed in is attached, or closed, and never both."""
    if not case.name.startswith("attach_agent"):
        return
    handle = world.manager.handle(world.session_id)
    attached = handle is not None and handle.agent is world.agent
    assert attached != world.agent.closed
    assert attached == (case.target is ACTIVE and world.states_heard()[-1] is ACTIVE)


async def end(world: World) -> None:
    """Show that the Manager still works: activity is written, the session ends, its role is free again."""
    manager, session_id = world.manager, world.session_id
    viewed = await manager.get(session_id)
    await manager.flush_activity()
    assert await world.held() == viewed
    if viewed is not None:
        await manager.mark_terminating(session_id, "the end")
        report = await manager.complete_cleanup(session_id)
        assert report.session is not None
        assert report.session.version == viewed.version + (1 if viewed.state is TERMINATING else 2)
    assert await world.memory.count(SessionFilter()) == 0
    if world.states_heard():
        assert world.states_heard()[-1] is CLEANED
        assert world.cleaner.runs_for(session_id) == 1
        assert world.connection.closed == (session_id == MADE_HERE)
    again = await session_in(ACTIVE, manager)
    assert again.agent_id == "auth"
    await manager.mark_terminating(again.id, "the end")
    await manager.complete_cleanup(again.id)
    assert await world.memory.count(SessionFilter()) == 0
    assert world.cleaner.runs_for(again.id) == 1


async def cancel_closing_everywhere(*, hopping: bool, run: Run) -> None:
    for at in range(1, MANY):
        world = World(hopping=hopping)

        async def arm(block: Call, cancel: Cancel, world: World = world, at: int = at) -> None:
            async with world.manager:
                await block
                world.ticks.arm(at, cancel)  # a second time, in the midst of closing
                cancel()
                await anyio.lowlevel.checkpoint()

        with anyio.fail_after(20):
            block = session_in(ACTIVE, world.manager, connection=world.connection, agent=world.agent)
            await run(block, arm)
        assert await world.memory.count(SessionFilter()) == 0
        assert world.states_heard() == [CREATED, SPAWNING, ACTIVE, TERMINATING, CLEANED]
        assert world.cleaner.runs_for(world.session_id) == 1
        assert world.agent.closed
        assert world.connection.closed
        if world.ticks.count < at:
            assert at > 1
            return
    pytest.fail(f"closing is suspended more than {MANY} times")
