"""Leaving the Manager's block, and finding what another relay left behind."""

from __future__ import annotations

import anyio
import pytest

from relaykit.errors import ManagerClosed, SessionError, SessionNotFound, TransitionError
from relaykit.session import (
    Cause,
    CleanupReport,
    Manager,
    MemoryStore,
    SessionFilter,
    SessionState,
)
from relaykit.testing import FakeConnection, RecordingCleaner, RecordingHooks
from support.managers import left_behind, make_manager, session_in

pytestmark = pytest.mark.anyio

ALL = SessionFilter()
CREATED, SPAWNING, ACTIVE, TERMINATING, CLEANED = SessionState
LIVING = [CREATED, SPAWNING, ACTIVE, TERMINATING]


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


# ---------------------------------------------------------------- left behind by a relay that died


async def test_session_left_behind_is_terminated_and_cleaned_without_a_handle(store: MemoryStore) -> None:
    left = await left_behind(store, ACTIVE)
    cleaner, hooks = RecordingCleaner(), RecordingHooks()
    async with make_manager(store=store, cleaners=[cleaner], hooks=hooks) as manager:
        assert await manager.get(left.id) == left
        assert manager.handle(left.id) is None
        await manager.mark_terminating(left.id, "the relay died", cause=Cause.RESTART)
        report = await manager.complete_cleanup(left.id)
        assert [(session.version, handle) for session, handle in cleaner.cleaned] == [(3, None)]
        assert report.session is not None
        assert (report.session.version, report.session.cause) == (4, Cause.RESTART)
        assert [transition.after.state for transition in hooks.transitions] == [TERMINATING, CLEANED]
        assert await manager.complete_cleanup(left.id) == CleanupReport()
    assert await store.count(ALL) == 0


async def test_session_left_behind_takes_no_agent(store: MemoryStore) -> None:
    left = await left_behind(store, SPAWNING)
    agent = FakeConnection()
    async with make_manager(store=store) as manager:
        with pytest.raises(SessionError, match="did not create it"):
            await manager.attach_agent(left.id, "/work", agent)
        assert agent.closed
        assert await manager.get(left.id) == left


async def test_session_left_cleaned_is_deleted(store: MemoryStore) -> None:
    left = await left_behind(store, CLEANED)
    cleaner, hooks = RecordingCleaner(), RecordingHooks()
    async with make_manager(store=store, cleaners=[cleaner], hooks=hooks) as manager:
        with pytest.raises(TransitionError):
            await manager.mark_terminating(left.id, "again")
        with pytest.raises(SessionNotFound):
            await manager.record(left.id, "git", {})
        assert await manager.complete_cleanup(left.id) == CleanupReport(left)
        assert await store.count(ALL) == 0
        assert cleaner.cleaned == []
        assert hooks.transitions == []


async def test_closing_leaves_alone_what_it_never_ran(store: MemoryStore) -> None:
    left = await left_behind(store, ACTIVE)
    async with make_manager(store=store) as manager:
        assert await manager.get(left.id) == left
    assert await store.get(left.id) == left


# ---------------------------------------------------------------- closing


async def test_a_manager_that_is_not_open_takes_nothing() -> None:
    manager = make_manager()
    await refuses_everything(manager)
    async with manager:
        with pytest.raises(ManagerClosed):
            await manager.__aenter__()
    await refuses_everything(manager)
    with pytest.raises(ManagerClosed):
        await manager.__aenter__()


async def refuses_everything(manager: Manager) -> None:
    agent = FakeConnection()
    for call in (
        manager.create("auth", FakeConnection()),
        manager.begin_spawn("session-000001"),
        manager.attach_agent("session-000001", "/work", agent),
        manager.record("session-000001", "git", {}),
        manager.mark_terminating("session-000001", "asked"),
        manager.complete_cleanup("session-000001"),
    ):
        with pytest.raises(ManagerClosed):
            await call
    assert agent.closed


async def test_new_work_is_refused_while_closing(store: MemoryStore) -> None:
    refused: list[type[Exception]] = []
    agent = FakeConnection()

    async def call(*_: object) -> None:
        for attempt in (
            manager.create("late", FakeConnection()),
            manager.begin_spawn("session-000002"),
            manager.attach_agent("session-000002", "/work", agent),
        ):
            with pytest.raises(ManagerClosed) as caught:
                await attempt
            refused.append(caught.type)

    async with make_manager(store=store, cleaners=[RecordingCleaner(when_cleaned=call)]) as manager:
        await session_in(ACTIVE, manager)
    assert refused == [ManagerClosed] * 3
    assert agent.closed
    assert await store.count(ALL) == 0


async def test_closing_ends_every_session_in_order(store: MemoryStore) -> None:
    hooks, cleaner = RecordingHooks(), RecordingCleaner()
    async with make_manager(store=store, hooks=hooks, cleaners=[cleaner]) as manager:
        made = [await session_in(state, manager, agent_id=state) for state in LIVING]
    assert await store.count(ALL) == 0
    for session in made:
        assert cleaner.runs_for(session.id) == 1
        *_, terminating, cleaned = (transition.after for transition in hooks.heard_of(session.id))
        assert (terminating.state, cleaned.state) == (TERMINATING, CLEANED)
        if session.state is not TERMINATING:
            assert (cleaned.cause, cleaned.reason) == (Cause.SHUTDOWN, "the relay is shutting down")


async def test_closing_ends_the_sessions_of_a_block_that_is_cancelled(store: MemoryStore) -> None:
    cleaner = RecordingCleaner()
    with anyio.fail_after(5), anyio.CancelScope() as scope:
        async with make_manager(store=store, cleaners=[cleaner]) as manager:
            session = await session_in(ACTIVE, manager)
            scope.cancel()
            await anyio.sleep_forever()
    assert scope.cancelled_caught
    assert await store.count(ALL) == 0
    assert cleaner.runs_for(session.id) == 1


async def test_error_of_the_block_comes_out_as_it_is(store: MemoryStore) -> None:
    async def block() -> None:
        async with make_manager(store=store) as manager:
            await session_in(ACTIVE, manager)
            raise ValueError("the block's own")

    with pytest.raises(ValueError, match="the block's own"):
        await block()
    assert await store.count(ALL) == 0


@pytest.mark.parametrize("state", LIVING)
async def test_session_that_ends_while_the_manager_closes_ends_once(
    store: MemoryStore, state: SessionState
) -> None:
    cleaner = RecordingCleaner()
    async with anyio.create_task_group() as tasks, make_manager(store=store, cleaners=[cleaner]) as manager:
        session = await session_in(state, manager)
        tasks.start_soon(manager.mark_terminating, session.id, "at the same time")
        tasks.start_soon(manager.mark_terminating, session.id, "and again")
    assert await store.count(ALL) == 0
    assert cleaner.runs_for(session.id) == 1
