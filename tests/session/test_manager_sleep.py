"""Sessions whose agent is not there, that another Manager takes over, and that begin again."""

from __future__ import annotations

from collections.abc import Callable

import anyio
import pytest

from relaykit.errors import (
    DuplicateRole,
    DuplicateSession,
    ManagerClosed,
    SessionError,
    SessionNotActive,
    SessionNotFound,
    StoreError,
)
from relaykit.session import (
    NO_HOOKS,
    CleanupReport,
    Manager,
    MemoryStore,
    Outcome,
    Phase,
    SessionState,
)
from relaykit.testing import (
    FakeClock,
    FakeConnection,
    FakeIds,
    HoppingStore,
    RecordingCleaner,
    RecordingHooks,
)
from support.managers import left_behind, make_manager, session_in
from support.session_stores import StagedStore

pytestmark = pytest.mark.anyio

CREATED, SPAWNING, ACTIVE, TERMINATING, CLEANED = SessionState


async def fail(*_: object) -> None:
    raise OSError("device busy")


# ---------------------------------------------------------------- an agent goes, and comes back


async def test_an_agent_is_stopped_by_its_cleaners_and_the_session_goes_on() -> None:
    agent_cleaner, workspace = RecordingCleaner("a"), RecordingCleaner("w", Phase.WORKSPACE)
    hooks, agent, connection = RecordingHooks(), FakeConnection(), FakeConnection()
    async with make_manager(cleaners=[agent_cleaner, workspace], hooks=hooks) as manager:
        session = await session_in(ACTIVE, manager, agent=agent, connection=connection)
        heard = len(hooks.transitions)
        results = await manager.detach_agent(session.id)
        assert [result.cleaner for result in results] == ["a", "close_agent"]
        assert agent.closed
        assert not connection.closed
        assert workspace.cleaned == []
        assert await manager.get(session.id) == session  # no transition, no version
        assert len(hooks.transitions) == heard

        another = FakeConnection()
        assert await manager.reattach_agent(session.id, another) == session
        handle = manager.handle(session.id)
        assert handle is not None
        assert handle.agent is another
        await manager.mark_terminating(session.id, "enough")
        await manager.complete_cleanup(session.id)
        assert (another.closed, connection.closed) == (True, True)
        assert workspace.runs_for(session.id) == 1


async def test_an_agent_that_no_cleaner_looks_after_is_closed_all_the_same() -> None:
    agent = FakeConnection()
    manager = Manager(store=MemoryStore(), ids=FakeIds(), clock=FakeClock(), cleaners=[], hooks=NO_HOOKS)
    async with manager:
        session = await session_in(ACTIVE, manager, agent=agent)
        assert list(await manager.detach_agent(session.id)) == []
        assert agent.closed


async def test_an_agent_that_could_not_be_stopped_stays_attached() -> None:
    agent = FakeConnection()
    hooks = RecordingHooks()
    async with make_manager(cleaners=[RecordingCleaner("a", when_cleaned=fail)], hooks=hooks) as manager:
        session = await session_in(ACTIVE, manager, agent=agent)
        results = await manager.detach_agent(session.id)
        assert results[0].outcome is Outcome.FAILED
        assert [result.cleaner for _, result in hooks.failures] == ["a"]
        late = FakeConnection()
        with pytest.raises(SessionError, match="has an agent"):
            await manager.reattach_agent(session.id, late)
        assert late.closed
        with pytest.raises(SessionError, match="still has an agent"):
            await manager.release(session.id)


@pytest.mark.parametrize("state", [CREATED, SPAWNING, TERMINATING])
async def test_only_what_is_active_sleeps(state: SessionState) -> None:
    cleaner, agent = RecordingCleaner(), FakeConnection()
    async with make_manager(cleaners=[cleaner]) as manager:
        session = await session_in(state, manager)
        for call in (manager.detach_agent, manager.release):
            with pytest.raises(SessionNotActive):
                await call(session.id)
        with pytest.raises(SessionNotActive):
            await manager.reattach_agent(session.id, agent)
        assert agent.closed
        assert cleaner.cleaned == []


async def test_the_unknown_neither_sleeps_nor_wakes() -> None:
    agent = FakeConnection()
    async with make_manager() as manager:
        with pytest.raises(SessionNotFound):
            await manager.detach_agent("nobody")
        with pytest.raises(SessionNotFound):
            await manager.reattach_agent("nobody", agent)
        assert agent.closed
        with pytest.raises(SessionNotFound):
            await manager.adopt("nobody", FakeConnection())
        await manager.release("nobody")
    with pytest.raises(ManagerClosed):
        await manager.adopt("nobody", FakeConnection())


# ---------------------------------------------------------------- in other hands


@pytest.mark.parametrize("wrap", [lambda store: store, HoppingStore], ids=["memory", "hopping"])
async def test_a_session_goes_from_one_manager_to_the_next(
    wrap: Callable[[MemoryStore], MemoryStore],
) -> None:
    memory = MemoryStore()
    store = wrap(memory)
    clock = FakeClock()
    connection = FakeConnection()
    async with make_manager(store=store, clock=clock) as manager:
        session = await session_in(ACTIVE, manager, connection=connection)
        clock.advance(5)
        await manager.increment_message_count(session.id, by=3)
        await manager.detach_agent(session.id)
        await manager.release(session.id)
        assert manager.handle(session.id) is None
        stored = await manager.get(session.id)
        assert stored is not None
        assert (stored.state, stored.activity.message_count) == (ACTIVE, 3)
        assert stored.activity.last_active == clock.now()
    assert not connection.closed  # it is its owner's again
    assert (await memory.get(session.id)) == stored

    cleaner = RecordingCleaner()
    async with make_manager(store=store, cleaners=[cleaner]) as manager:
        with pytest.raises(SessionError, match="no connection here"):
            await manager.reattach_agent(session.id, FakeConnection())
        assert await manager.adopt(session.id, FakeConnection()) == stored
        with pytest.raises(SessionError, match="run here already"):
            await manager.adopt(session.id, FakeConnection())
        await manager.detach_agent(session.id)  # what is left of the last one
        assert cleaner.runs_for(session.id) == 1
        await manager.reattach_agent(session.id, agent := FakeConnection())
    assert agent.closed  # and this Manager ends what it runs
    assert await memory.get(session.id) is None


async def test_a_store_that_fails_does_not_keep_a_session_from_being_let_go() -> None:
    store = StagedStore(MemoryStore())
    async with make_manager(store=store) as manager:
        session = await session_in(ACTIVE, manager)
        await manager.detach_agent(session.id)
        store.fail("touch", StoreError("no room", plugin="staged"))
        with pytest.raises(StoreError):
            await manager.release(session.id)
        assert manager.handle(session.id) is None
    assert await store.get(session.id) is not None


@pytest.mark.parametrize("state", [CREATED, SPAWNING, ACTIVE])
async def test_what_was_adopted_is_ended_like_any_other(state: SessionState) -> None:
    store, connection = MemoryStore(), FakeConnection()
    session = await left_behind(store, state)
    async with make_manager(store=store) as manager:
        await manager.adopt(session.id, connection)
        handle = manager.handle(session.id)
        assert handle is not None
        await manager.mark_terminating(session.id, "the relay was restarted")
        assert handle.scope.cancel_called
        report = await manager.complete_cleanup(session.id)
        assert report.session is not None
        assert report.session.state is CLEANED
        assert connection.closed


# ---------------------------------------------------------------- once more from the beginning


async def test_a_session_that_has_ended_begins_again() -> None:
    clock = FakeClock()
    async with make_manager(clock=clock) as manager:
        session = await session_in(ACTIVE, manager)
        await manager.record(session.id, "acp", {"pid": 7})
        clock.advance(60)
        await manager.mark_terminating(session.id, "enough")
        ended = (await manager.complete_cleanup(session.id)).session
        assert ended is not None
        assert ended.ended_at == clock.now()
        clock.advance(60)
        revived = await manager.revive(ended, FakeConnection())
        assert (revived.id, revived.agent_id, revived.version) == (session.id, session.agent_id, 1)
        assert (revived.state, revived.cause, revived.reason, revived.ended_at) == (CREATED, None, None, None)
        assert revived.resources["acp"] == {"pid": 7}
        assert (revived.created_at, revived.activity.last_active) == (session.created_at, clock.now())
        with pytest.raises(DuplicateSession):
            await manager.revive(ended, FakeConnection())
        await manager.begin_spawn(session.id)


async def test_a_role_that_is_played_meanwhile_is_not_taken_back() -> None:
    async with make_manager() as manager:
        session = await session_in(TERMINATING, manager)
        ended = (await manager.complete_cleanup(session.id)).session
        assert ended is not None
        await manager.create(session.agent_id, FakeConnection())
        with pytest.raises(DuplicateRole):
            await manager.revive(ended, FakeConnection())


# ---------------------------------------------------------------- before it is deleted


async def test_what_is_to_be_done_before_the_deletion_is_done_while_the_store_holds_the_session() -> None:
    store = MemoryStore()
    seen: list[tuple[SessionState, bool]] = []
    failing = True

    async def before_delete(report: CleanupReport) -> None:
        assert report.session is not None
        stored = await store.get(report.session.id)
        seen.append((report.session.state, stored is not None))
        if failing:
            raise StoreError("not now", plugin="test")

    cleaner = RecordingCleaner()
    manager = Manager(
        store=store,
        ids=FakeIds(),
        clock=FakeClock(),
        cleaners=[cleaner],
        hooks=NO_HOOKS,
        before_delete=before_delete,
    )
    async with manager:
        session = await session_in(TERMINATING, manager)
        with pytest.raises(StoreError):
            await manager.complete_cleanup(session.id)
        failing = False
        with anyio.fail_after(5):
            await manager.complete_cleanup(session.id)
        assert seen == [(CLEANED, True)] * 2
        assert cleaner.runs_for(session.id) == 1
        assert await store.get(session.id) is None
