"""The Manager when somebody else writes to its store."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import anyio
import pytest

from relaykit.errors import StaleVersion
from relaykit.session import (
    Activity,
    MemoryStore,
    Session,
    SessionFilter,
    SessionState,
)
from relaykit.testing import FakeClock, FakeConnection, RecordingCleaner
from support.managers import left_behind, make_manager, session_in
from support.session_stores import StagedStore

pytestmark = pytest.mark.anyio

ALL = SessionFilter()


@pytest.fixture
def memory() -> MemoryStore:
    return MemoryStore()


@pytest.fixture
def store(memory: MemoryStore) -> StagedStore:
    return StagedStore(memory)


async def written_elsewhere(memory: MemoryStore, session: Session, **changes: Any) -> Session:
    theirs = replace(session, version=session.version + 1, **changes)
    await memory.save(theirs, expected_version=session.version)
    return theirs


async def test_stale_version_reloads(memory: MemoryStore) -> None:
    async with make_manager(store=memory) as manager:
        session = await session_in(SessionState.CREATED, manager)
        theirs = await written_elsewhere(memory, session, resources={"worktree": {"path": "/w"}})
        with pytest.raises(StaleVersion) as caught:
            await manager.begin_spawn(session.id)
        assert (caught.value.expected, caught.value.found) == (1, 2)
        assert await manager.get(session.id) == theirs
        spawning = await manager.begin_spawn(session.id)
        assert spawning.version == 3
        assert spawning.resources == {"worktree": {"path": "/w"}}


async def test_stale_version_keeps_the_activity_of_this_manager(memory: MemoryStore) -> None:
    clock = FakeClock()
    async with make_manager(store=memory, clock=clock) as manager:
        session = await session_in(SessionState.CREATED, manager)
        heard = clock.advance(9)
        await manager.increment_message_count(session.id, by=5)
        await written_elsewhere(memory, session, resources={})
        with pytest.raises(StaleVersion):
            await manager.begin_spawn(session.id)
        reloaded = await manager.get(session.id)
        assert reloaded is not None
        assert reloaded.activity == Activity(heard, 5)


async def test_scope_is_cancelled_when_somebody_else_terminated_the_session(memory: MemoryStore) -> None:
    async with make_manager(store=memory) as manager, make_manager(store=memory) as other:
        session = await session_in(SessionState.ACTIVE, manager)
        handle = manager.handle(session.id)
        assert handle is not None
        await other.mark_terminating(session.id, "asked elsewhere")
        with pytest.raises(StaleVersion):
            await manager.mark_terminating(session.id, "asked here")
        await manager.mark_terminating(session.id, "asked here again")
        assert handle.scope.cancel_called
        stored = await memory.get(session.id)
        assert stored is not None
        assert stored.reason == "asked elsewhere"


async def test_session_deleted_by_somebody_else_ends_here_too(memory: MemoryStore) -> None:
    agent, connection = FakeConnection(), FakeConnection()
    async with make_manager(store=memory) as manager:
        session = await session_in(SessionState.ACTIVE, manager, connection=connection, agent=agent)
        handle = manager.handle(session.id)
        assert handle is not None
        await memory.delete(session.id)
        with pytest.raises(StaleVersion) as caught:
            await manager.mark_terminating(session.id, "asked")
        assert caught.value.found is None
        assert handle.scope.cancel_called
        assert await manager.get(session.id) is None
        assert manager.handle(session.id) is None
        await manager.mark_terminating(session.id, "asked again")
    assert agent.closed
    assert connection.closed


async def test_two_that_find_a_stored_session_clean_it_once(memory: MemoryStore, store: StagedStore) -> None:
    """The slower one still holds what it read when the faster one has already deleted the session."""
    session = await left_behind(memory, SessionState.TERMINATING)
    cleaner = RecordingCleaner()
    read, go_on = anyio.Event(), anyio.Event()

    async def hold() -> None:
        read.set()
        await go_on.wait()

    async with make_manager(store=store, cleaners=[cleaner]) as manager, anyio.create_task_group() as tasks:
        store.after("get", hold)
        tasks.start_soon(manager.complete_cleanup, session.id)
        with anyio.fail_after(5):
            await read.wait()
            faster = anyio.Event()

            async def clean() -> None:
                await manager.complete_cleanup(session.id)
                faster.set()

            tasks.start_soon(clean)
            await anyio.wait_all_tasks_blocked()
            go_on.set()
            await faster.wait()
    assert cleaner.runs_for(session.id) == 1


async def test_session_cleaned_by_somebody_else_leaves_nothing_open_here(memory: MemoryStore) -> None:
    agent, connection = FakeConnection(), FakeConnection()
    async with make_manager(store=memory) as manager:
        session = await session_in(SessionState.ACTIVE, manager, connection=connection, agent=agent)
        await written_elsewhere(memory, session, state=SessionState.CLEANED)
        with pytest.raises(StaleVersion):
            await manager.mark_terminating(session.id, "asked")
        await manager.complete_cleanup(session.id)
        assert await memory.count(ALL) == 0
    assert agent.closed
    assert connection.closed


async def test_lookup_that_is_overtaken_by_the_creation_finds_the_live_session(
    memory: MemoryStore, store: StagedStore
) -> None:
    """Else there would be two workers for one session, the second without its handle."""
    reading, go_on = anyio.Event(), anyio.Event()

    async def hold() -> None:
        reading.set()
        await go_on.wait()

    async def heartbeat(session_id: str) -> None:
        await manager.record_heartbeat(session_id)

    store.before("get", hold)
    with anyio.fail_after(5):
        async with make_manager(store=store) as manager, anyio.create_task_group() as tasks:
            tasks.start_soon(heartbeat, "session-000001")
            await reading.wait()
            session = await session_in(SessionState.ACTIVE, manager)
            handle = manager.handle(session.id)
            assert handle is not None
            go_on.set()
            await anyio.wait_all_tasks_blocked()
            assert manager.handle(session.id) is handle
    assert await memory.count(ALL) == 0
