"""Cancellation at every await: of the caller, at each suspension of its own and at each of the work it waits for.

Whatever the moment, what was asked for happened or did not, and what `get` says, what the store holds, what
the hooks heard and what the cleaners did agree on which; nothing that was handed in is lost.
"""

from __future__ import annotations

import asyncio  # noqa: TID251 -- a host application cancels natively, which anyio cannot
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from relaykit.errors import SessionError, SessionNotFound
from relaykit.session import Manager, MemoryStore, Session, SessionFilter, SessionState, Store
from relaykit.testing import FakeConnection, HoppingStore, Interruption, RecordingCleaner, RecordingHooks
from support.managers import left_behind, make_manager, session_in
from support.session_stores import StagedStore

pytestmark = pytest.mark.anyio

CREATED, SPAWNING, ACTIVE, TERMINATING, CLEANED = SessionState
MADE_HERE, LEFT_BEHIND = "session-000001", "session-left"
MANY = 200

Cancel = Callable[[], object]
Call = Coroutine[Any, Any, object]
Arm = Callable[[Call, Cancel], Awaitable[object]]
"""Awaits the call, and has it cancelled somewhere on its way."""


class Ticks:
    """Counts the awaits of the work itself (store, hooks, cleaners), and cancels at one of them."""

    def __init__(self) -> None:
        self.count = 0
        self._at = 0
        self._cancel: Cancel | None = None

    def arm(self, at: int, cancel: Cancel) -> None:
        self.count, self._at, self._cancel = 0, at, cancel

    def disarm(self) -> None:
        self._cancel = None

    async def __call__(self, *_: object) -> None:
        if self._cancel is not None:
            self.count += 1
            if self.count == self._at:
                self._cancel()
        await anyio.lowlevel.checkpoint()


class World:
    """A Manager, and everything around it that must agree with it."""

    def __init__(self, *, hopping: bool) -> None:
        self.ticks = Ticks()
        self.memory = MemoryStore()
        store: Store = HoppingStore(self.memory) if hopping else self.memory
        self.hooks = RecordingHooks(when_transitioned=self.ticks)
        self.cleaner = RecordingCleaner(when_cleaned=self.ticks)
        self.manager = make_manager(
            store=StagedStore(store, always=self.ticks), hooks=self.hooks, cleaners=[self.cleaner]
        )
        self.connection = FakeConnection()
        self.agent = FakeConnection()
        self.session_id = MADE_HERE

    def states_heard(self) -> list[SessionState]:
        return [transition.after.state for transition in self.hooks.heard_of(self.session_id)]

    async def held(self) -> Session | None:
        return await self.memory.get(self.session_id)


@dataclass(frozen=True)
class Case:
    """One method in one situation.

    :param begin: the session's state before the call; None: there is no session.
    :param target: its state once the call happened; None: the state does not change.
    :param left: the session is known to the store alone.
    :param error: the call, if it is not cancelled, raises this.
    :param waits: the call is suspended at least once.
    """

    name: str
    call: Callable[[World], Call]
    begin: SessionState | None = ACTIVE
    target: SessionState | None = None
    left: bool = False
    error: type[SessionError] | None = None
    waits: bool = True
    settle: Callable[[Manager, str], Awaitable[object]] = field(default=Manager.complete_cleanup)


CASES = [
    Case("create", lambda w: w.manager.create("auth", w.connection), begin=None, target=CREATED),
    Case("begin_spawn", lambda w: w.manager.begin_spawn(w.session_id), begin=CREATED, target=SPAWNING),
    Case(
        "attach_agent",
        lambda w: w.manager.attach_agent(w.session_id, "/work", w.agent),
        begin=SPAWNING,
        target=ACTIVE,
    ),
    Case(
        "attach_agent to no such state",
        lambda w: w.manager.attach_agent(w.session_id, "/work", w.agent),
        begin=CREATED,
        error=SessionError,
    ),
    Case(
        "attach_agent to nobody",
        lambda w: w.manager.attach_agent("nobody", "/work", w.agent),
        begin=CREATED,
        error=SessionNotFound,
    ),
    Case("record", lambda w: w.manager.record(w.session_id, "git", {"branch": "b"})),
    Case("record_heartbeat", lambda w: w.manager.record_heartbeat(w.session_id), waits=False),
    Case("increment_message_count", lambda w: w.manager.increment_message_count(w.session_id), waits=False),
    Case("flush_activity", lambda w: w.manager.flush_activity()),
    Case("get", lambda w: w.manager.get(w.session_id), waits=False),
    Case("get_by_role", lambda w: w.manager.get_by_role("auth")),
    Case("list", lambda w: w.manager.list()),
    Case("count", lambda w: w.manager.count()),
    Case(
        "mark_terminating",
        lambda w: w.manager.mark_terminating(w.session_id, "asked"),
        target=TERMINATING,
        settle=Manager.begin_spawn,
    ),
    Case(
        "complete_cleanup",
        lambda w: w.manager.complete_cleanup(w.session_id),
        begin=TERMINATING,
        target=CLEANED,
        settle=Manager.begin_spawn,
    ),
    Case(
        "begin_spawn of a session left behind",
        lambda w: w.manager.begin_spawn(w.session_id),
        begin=CREATED,
        target=SPAWNING,
        left=True,
    ),
    Case(
        "attach_agent to a session left behind",
        lambda w: w.manager.attach_agent(w.session_id, "/work", w.agent),
        begin=SPAWNING,
        left=True,
        error=SessionError,
    ),
    Case(
        "record for a session left behind",
        lambda w: w.manager.record(w.session_id, "git", {"branch": "b"}),
        left=True,
    ),
    Case(
        "increment_message_count of a session left behind",
        lambda w: w.manager.increment_message_count(w.session_id),
        left=True,
    ),
    Case("get of a session left behind", lambda w: w.manager.get(w.session_id), left=True),
    Case(
        "mark_terminating of a session left behind",
        lambda w: w.manager.mark_terminating(w.session_id, "asked"),
        target=TERMINATING,
        left=True,
        settle=Manager.begin_spawn,
    ),
    Case(
        "complete_cleanup of a session left behind",
        lambda w: w.manager.complete_cleanup(w.session_id),
        begin=TERMINATING,
        target=CLEANED,
        left=True,
        settle=Manager.begin_spawn,
    ),
]

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
    """Wait until the worker has made every change that it was given, and the hooks have heard of each.

    A change that is not possible is made in its turn as others are, and has no effect.
    """
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
    if case.name.startswith("record for") or case.name == "record":
        assert (after.version, dict(after.resources)) in [
            (before.version, {}),
            (before.version + 1, {"git": {"branch": "b"}}),
        ]
    else:
        assert after.with_activity(before.activity) == before


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
