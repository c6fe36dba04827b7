"""Hooks: in order, before the method returns, free to call back, and in nobody else's way."""

from __future__ import annotations

from functools import partial

import anyio
import anyio.lowlevel
import pytest

from relaykit.session import (
    Cause,
    Handle,
    MemoryStore,
    Outcome,
    Session,
    SessionFilter,
    SessionState,
    Transition,
)
from relaykit.testing import FakeConnection, RecordingCleaner, RecordingHooks
from support.managers import make_manager, session_in

pytestmark = pytest.mark.anyio

CREATED, SPAWNING, ACTIVE, TERMINATING, CLEANED = SessionState


async def test_own_hooks_have_run_when_the_method_returns() -> None:
    finished: list[SessionState] = []

    async def slowly(transition: Transition) -> None:
        for _ in range(5):
            await anyio.lowlevel.checkpoint()
        finished.append(transition.after.state)

    async with make_manager(hooks=RecordingHooks(when_transitioned=slowly)) as manager:
        session = await manager.create("auth", FakeConnection())
        assert finished == [CREATED]
        await manager.begin_spawn(session.id)
        assert finished == [CREATED, SPAWNING]
        await manager.attach_agent(session.id, "/work", FakeConnection())
        assert finished == [CREATED, SPAWNING, ACTIVE]
        await manager.mark_terminating(session.id, "asked")
        assert finished == [CREATED, SPAWNING, ACTIVE, TERMINATING]
        await manager.complete_cleanup(session.id)
        assert finished == [CREATED, SPAWNING, ACTIVE, TERMINATING, CLEANED]


async def test_hooks_of_a_session_are_told_in_version_order_one_at_a_time() -> None:
    """Also when all of its changes were made before the first hook was done."""
    inside, most = 0, 0
    go_on = anyio.Event()

    async def alone(transition: Transition) -> None:
        nonlocal inside, most
        inside += 1
        most = max(most, inside)
        if transition.after.state is SPAWNING:
            await go_on.wait()
        for _ in range(3):
            await anyio.lowlevel.checkpoint()
        inside -= 1

    hooks = RecordingHooks(when_transitioned=alone)
    with anyio.fail_after(5):
        async with make_manager(hooks=hooks) as manager, anyio.create_task_group() as tasks:
            session = await manager.create("auth", FakeConnection())
            for change in (
                partial(manager.begin_spawn, session.id),
                partial(manager.attach_agent, session.id, "/work", FakeConnection()),
                partial(manager.record, session.id, "git", {}),
                partial(manager.mark_terminating, session.id, "asked"),
                partial(manager.complete_cleanup, session.id),
            ):
                tasks.start_soon(change)
                await anyio.wait_all_tasks_blocked()
            assert await manager.get(session.id) is None
            assert len(hooks.transitions) == 2
            go_on.set()
    assert most == 1
    # The fourth version is the record: saved, and no transition.
    assert [transition.after.version for transition in hooks.transitions] == [1, 2, 3, 5, 6]


async def test_call_from_inside_a_hook_returns_after_the_commit() -> None:
    """It cannot wait for its own hooks, which are told after the one that it is called from."""
    returned: list[tuple[SessionState, int]] = []

    async def go_on(transition: Transition) -> None:
        session_id = transition.after.id
        if transition.after.state is CREATED:
            await manager.begin_spawn(session_id)
        elif transition.after.state is SPAWNING:
            await manager.attach_agent(session_id, "/work", FakeConnection())
        elif transition.after.state is ACTIVE:
            await manager.mark_terminating(session_id, "by a hook")
        elif transition.after.state is TERMINATING:
            await manager.complete_cleanup(session_id)
        returned.append((transition.after.state, len(hooks.transitions)))
        if transition.after.state is CLEANED:
            ended.set()

    ended = anyio.Event()
    hooks = RecordingHooks(when_transitioned=go_on)
    store = MemoryStore()
    with anyio.fail_after(5):
        async with make_manager(store=store, hooks=hooks) as manager:
            await manager.create("auth", FakeConnection())
            await ended.wait()
            assert await store.count(SessionFilter()) == 0
    states = [CREATED, SPAWNING, ACTIVE, TERMINATING, CLEANED]
    assert returned == [(state, number) for number, state in enumerate(states, start=1)]


async def test_hook_may_create_and_end_other_sessions() -> None:
    async def follow(transition: Transition) -> None:
        if transition.after.agent_id == "auth" and transition.after.state is CREATED:
            other = await session_in(TERMINATING, manager, agent_id="db")
            await manager.complete_cleanup(other.id)

    hooks = RecordingHooks(when_transitioned=follow)
    with anyio.fail_after(5):
        async with make_manager(hooks=hooks) as manager:
            await manager.create("auth", FakeConnection())
            assert await manager.count() == 1
        assert len(hooks.heard_of("session-000002")) == 5


async def test_cleaners_of_a_session_that_a_hook_made_wait_for_hooks() -> None:
    """What runs inside a hook is marked; the mark must not stay with the worker that was started there."""
    finished: list[str] = []

    async def follow(transition: Transition) -> None:
        if transition.after.agent_id == "auth" and transition.after.state is CREATED:
            await manager.create("db", FakeConnection())
        for _ in range(5):
            await anyio.lowlevel.checkpoint()
        finished.append(transition.after.agent_id)

    async def create_another(session: Session, _: Handle | None) -> None:
        if session.agent_id == "db":
            await manager.create("third", FakeConnection())
            assert "third" in finished

    cleaner = RecordingCleaner(when_cleaned=create_another)
    hooks = RecordingHooks(when_transitioned=follow)
    with anyio.fail_after(5):
        async with make_manager(hooks=hooks, cleaners=[cleaner]) as manager:
            await manager.create("auth", FakeConnection())
            await manager.mark_terminating("session-000002", "asked")
            report = await manager.complete_cleanup("session-000002")
    assert Outcome.FAILED not in {result.outcome for result in report.results}


async def test_slow_hook_of_one_session_does_not_delay_another() -> None:
    held, go_on = anyio.Event(), anyio.Event()

    async def hold(transition: Transition) -> None:
        if transition.after.agent_id == "slow":
            held.set()
            await go_on.wait()

    hooks = RecordingHooks(when_transitioned=hold)
    with anyio.fail_after(5):
        async with make_manager(hooks=hooks) as manager, anyio.create_task_group() as tasks:
            tasks.start_soon(manager.create, "slow", FakeConnection())
            await held.wait()
            quick = await session_in(TERMINATING, manager, agent_id="quick")
            await manager.complete_cleanup(quick.id)
            assert len(hooks.heard_of(quick.id)) == 5
            assert not go_on.is_set()
            go_on.set()


async def test_slow_hook_delays_neither_the_next_change_of_its_session_nor_what_others_see() -> None:
    held, go_on = anyio.Event(), anyio.Event()

    async def hold(transition: Transition) -> None:
        if transition.after.state is SPAWNING:
            held.set()
            await go_on.wait()

    hooks = RecordingHooks(when_transitioned=hold)
    with anyio.fail_after(5):
        async with make_manager(hooks=hooks) as manager, anyio.create_task_group() as tasks:
            session = await manager.create("auth", FakeConnection())
            tasks.start_soon(manager.begin_spawn, session.id)
            await held.wait()
            tasks.start_soon(manager.mark_terminating, session.id, "meanwhile")
            await anyio.wait_all_tasks_blocked()
            seen = await manager.get(session.id)
            assert seen is not None
            assert seen.state is TERMINATING
            assert hooks.transitions[-1].after.state is SPAWNING
            go_on.set()
        assert [transition.after.version for transition in hooks.transitions] == [1, 2, 3, 4]


async def test_hook_that_raises_breaks_nothing() -> None:
    async def fail(_: Transition) -> None:
        raise OSError("no space left")

    hooks = RecordingHooks(when_transitioned=fail)
    async with make_manager(hooks=hooks) as manager:
        session = await session_in(TERMINATING, manager)
        await manager.complete_cleanup(session.id)
    assert len(hooks.transitions) == 5


async def test_closing_waits_for_the_hooks() -> None:
    finished: list[Cause | None] = []

    async def slowly(transition: Transition) -> None:
        for _ in range(20):
            await anyio.lowlevel.checkpoint()
        finished.append(transition.after.cause)

    async with make_manager(hooks=RecordingHooks(when_transitioned=slowly)) as manager:
        await session_in(CREATED, manager)
    assert finished == [None, Cause.SHUTDOWN, Cause.SHUTDOWN]
