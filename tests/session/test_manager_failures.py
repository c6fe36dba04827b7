"""The Manager when the store, a cleaner, a hook, an agent or its own host fails it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import anyio
import pytest

from relaykit.errors import ReentrantCall, StoreError, TransitionError
from relaykit.session import (
    Handle,
    Manager,
    MemoryStore,
    Outcome,
    Session,
    SessionFilter,
    SessionState,
    Transition,
)
from relaykit.testing import FakeConnection, RecordingCleaner, RecordingHooks
from support.managers import make_manager, session_in
from support.session_stores import StagedStore

pytestmark = pytest.mark.anyio

ALL = SessionFilter()


class Fatal(BaseException):
    """What no code of ours may catch: as KeyboardInterrupt, SystemExit, or a stray CancelledError."""


@pytest.fixture
def memory() -> MemoryStore:
    return MemoryStore()


@pytest.fixture
def store(memory: MemoryStore) -> StagedStore:
    return StagedStore(memory)


# ---------------------------------------------------------------- the store fails


async def test_create_that_the_store_refuses_leaves_nothing(memory: MemoryStore, store: StagedStore) -> None:
    hooks = RecordingHooks()
    connection = FakeConnection()
    async with make_manager(store=store, hooks=hooks) as manager:
        store.fail("create", StoreError("out of order"))
        with pytest.raises(StoreError, match="out of order"):
            await manager.create("auth", connection)
        assert await memory.count(ALL) == 0
        assert await manager.get("session-000001") is None
        assert manager.handle("session-000001") is None
        assert not connection.closed
        assert hooks.transitions == []
        assert (await manager.create("auth", connection)).id == "session-000002"


@pytest.mark.parametrize(
    ("state", "change"),
    [
        (SessionState.CREATED, lambda manager, key: manager.begin_spawn(key)),
        (SessionState.ACTIVE, lambda manager, key: manager.record(key, "worktree", {"path": "/w"})),
        (SessionState.ACTIVE, lambda manager, key: manager.mark_terminating(key, "asked")),
        (SessionState.TERMINATING, lambda manager, key: manager.complete_cleanup(key)),
    ],
    ids=["begin_spawn", "record", "mark_terminating", "complete_cleanup"],
)
async def test_change_that_the_store_refuses_leaves_the_session_as_it_was(
    memory: MemoryStore,
    store: StagedStore,
    state: SessionState,
    change: Callable[[Manager, str], Awaitable[object]],
) -> None:
    hooks = RecordingHooks()
    async with make_manager(store=store, hooks=hooks) as manager:
        session = await session_in(state, manager)
        told = list(hooks.transitions)
        store.fail("save", StoreError("out of order"))
        with pytest.raises(StoreError, match="out of order"):
            await change(manager, session.id)
        assert await manager.get(session.id) == session == await memory.get(session.id)
        assert hooks.transitions == told
        handle = manager.handle(session.id)
        assert handle is not None
        assert handle.scope.cancel_called == (state is SessionState.TERMINATING)

        await change(manager, session.id)
        stored = await memory.get(session.id)
        assert stored is None or stored.version == session.version + 1


async def test_attach_that_the_store_refuses_closes_the_agent(
    memory: MemoryStore, store: StagedStore
) -> None:
    async with make_manager(store=store) as manager:
        session = await session_in(SessionState.SPAWNING, manager)
        refused, welcome = FakeConnection(), FakeConnection()
        store.fail("save", StoreError("out of order"))
        with pytest.raises(StoreError):
            await manager.attach_agent(session.id, "/work", refused)
        assert refused.closed
        assert await manager.get(session.id) == session == await memory.get(session.id)
        await manager.attach_agent(session.id, "/work", welcome)
        handle = manager.handle(session.id)
        assert handle is not None
        assert handle.agent is welcome
        assert not welcome.closed


@pytest.mark.parametrize("method", ["save", "delete"])
async def test_cleanup_tried_again_after_a_failed_write_does_not_clean_again(
    memory: MemoryStore, store: StagedStore, method: str
) -> None:
    cleaner = RecordingCleaner()
    hooks = RecordingHooks()
    async with make_manager(store=store, cleaners=[cleaner], hooks=hooks) as manager:
        session = await session_in(SessionState.TERMINATING, manager)
        store.fail(method, StoreError("out of order"))
        with pytest.raises(StoreError):
            await manager.complete_cleanup(session.id)
        report = await manager.complete_cleanup(session.id)
        assert cleaner.runs_for(session.id) == 1
        assert report.session is not None
        assert report.session.state is SessionState.CLEANED
        assert [result.cleaner for result in report.results] == [
            "recording",
            "close_agent",
            "close_connection",
        ]
        assert await memory.count(ALL) == 0
        assert [transition.after.state for transition in hooks.heard_of(session.id)].count(
            SessionState.CLEANED
        ) == 1


async def test_closing_finishes_a_cleanup_whose_delete_failed(
    memory: MemoryStore, store: StagedStore
) -> None:
    async with make_manager(store=store) as manager:
        session = await session_in(SessionState.TERMINATING, manager)
        store.fail("delete", StoreError("out of order"))
        with pytest.raises(StoreError):
            await manager.complete_cleanup(session.id)
    assert await memory.count(ALL) == 0


async def test_closing_says_what_it_could_not_end(memory: MemoryStore, store: StagedStore) -> None:
    manager = make_manager(store=store)
    with pytest.RaisesGroup(pytest.RaisesExc(StoreError, match="out of order")):
        async with manager:
            for role in ("auth", "db"):
                await session_in(SessionState.ACTIVE, manager, agent_id=role)
            store.fail("save", StoreError("out of order"))
    (stuck,) = await memory.list(ALL)
    assert stuck.state in {SessionState.ACTIVE, SessionState.TERMINATING}


async def test_a_lost_answer_is_asked_for_again(memory: MemoryStore, store: StagedStore) -> None:
    hooks = RecordingHooks()
    async with make_manager(store=store, hooks=hooks) as manager:
        for method in ("create", "save", "save"):
            store.lose_answer(method, StoreError("the answer was lost"))
        agent = FakeConnection()
        session = await session_in(SessionState.ACTIVE, manager, agent=agent)
        assert await memory.get(session.id) == session == await manager.get(session.id)
        assert [transition.after.version for transition in hooks.transitions] == [1, 2, 3]
        assert not agent.closed


async def test_a_lost_answer_does_not_keep_closing_from_ending_the_session(
    memory: MemoryStore, store: StagedStore
) -> None:
    cleaner = RecordingCleaner()
    async with make_manager(store=store, cleaners=[cleaner]) as manager:
        session = await session_in(SessionState.SPAWNING, manager)
        agent = FakeConnection()
        store.lose_answer("save", StoreError("the answer was lost"))
        store.fail("get", StoreError("out of order"))
        with pytest.raises(StoreError, match="lost"):
            await manager.attach_agent(session.id, "/work", agent)
        assert agent.closed
    assert await memory.count(ALL) == 0
    assert cleaner.runs_for(session.id) == 1


async def test_a_failing_touch_keeps_the_batch(memory: MemoryStore, store: StagedStore) -> None:
    async with make_manager(store=store) as manager:
        first = await session_in(SessionState.ACTIVE, manager, agent_id="auth")
        second = await session_in(SessionState.ACTIVE, manager, agent_id="db")
        for session in (first, second):
            await manager.increment_message_count(session.id, by=3)

        async def count_and_fail() -> None:
            await manager.increment_message_count(second.id)
            raise StoreError("out of order")

        store.before("touch", count_and_fail)
        with pytest.raises(StoreError):
            await manager.flush_activity()
        await manager.flush_activity()
        counts = {session.id: session.activity.message_count for session in await memory.list(ALL)}
        assert counts == {first.id: 3, second.id: 4}


# ---------------------------------------------------------------- agents that do not close


async def test_error_of_a_refused_attach_is_not_hidden_by_the_agent(memory: MemoryStore) -> None:
    async with make_manager(store=memory) as manager:
        session = await session_in(SessionState.CREATED, manager)
        with pytest.raises(TransitionError):
            await manager.attach_agent(session.id, "/work", FakeConnection(error=OSError("will not close")))


async def test_refused_agent_that_never_closes_does_not_hold_up_its_session(memory: MemoryStore) -> None:
    class Stubborn:
        async def aclose(self) -> None:
            await anyio.sleep_forever()

    with anyio.fail_after(10):
        async with make_manager(store=memory, cleaner_timeout=0.05) as manager:
            session = await session_in(SessionState.CREATED, manager)
            with pytest.raises(TransitionError):
                await manager.attach_agent(session.id, "/work", Stubborn())
            assert (await manager.begin_spawn(session.id)).state is SessionState.SPAWNING


# ---------------------------------------------------------------- what must not be caught


def a_fatal_error() -> pytest.RaisesGroup[Fatal]:
    return pytest.RaisesGroup(Fatal, flatten_subgroups=True, allow_unwrapped=True)


async def test_cleaner_that_ends_the_program_hangs_nobody() -> None:
    async def die(*_: object) -> None:
        raise Fatal

    manager = make_manager(cleaners=[RecordingCleaner(when_cleaned=die)])
    with anyio.fail_after(5), pytest.RaisesGroup(Fatal, flatten_subgroups=True, allow_unwrapped=True):
        async with manager:
            session = await session_in(SessionState.TERMINATING, manager)
            await manager.complete_cleanup(session.id)


async def test_hook_that_ends_the_program_hangs_nobody(memory: MemoryStore) -> None:
    async def die(transition: Transition) -> None:
        if transition.after.state is SessionState.SPAWNING:
            raise Fatal

    manager = make_manager(store=memory, hooks=RecordingHooks(when_transitioned=die))
    with anyio.fail_after(5), pytest.RaisesGroup(Fatal, flatten_subgroups=True, allow_unwrapped=True):
        async with manager:
            session = await manager.create("auth", FakeConnection())
            await manager.begin_spawn(session.id)
    assert await memory.count(ALL) == 0


async def test_waiter_in_another_group_hears_of_a_worker_that_died() -> None:
    async def die(*_: object) -> None:
        raise Fatal

    manager = make_manager(cleaners=[RecordingCleaner(when_cleaned=die)])
    heard: list[BaseException] = []

    async def wait_for_cleanup(session_id: str) -> None:
        with pytest.raises(Exception) as caught:  # noqa: PT011 -- any error will do; none would hang
            await manager.complete_cleanup(session_id)
        heard.append(caught.value)

    with anyio.fail_after(5):
        async with anyio.create_task_group() as others:
            with pytest.RaisesGroup(Fatal, flatten_subgroups=True, allow_unwrapped=True):
                async with manager:
                    session = await session_in(SessionState.TERMINATING, manager)
                    others.start_soon(wait_for_cleanup, session.id)
                    await anyio.sleep_forever()
    assert len(heard) == 1


# ---------------------------------------------------------------- the host of the Manager


async def test_error_of_a_block_that_is_cancelled_at_the_same_time_is_kept(memory: MemoryStore) -> None:
    async def block(scope: anyio.CancelScope) -> None:
        async with make_manager(store=memory) as manager:
            await session_in(SessionState.ACTIVE, manager)
            scope.cancel()
            raise ValueError("the block's own")

    with anyio.CancelScope() as scope:
        with pytest.raises(ValueError, match="the block's own"):
            await block(scope)
    assert await memory.count(ALL) == 0


# ---------------------------------------------------------------- cleaners that call back


async def test_reentrant_call() -> None:
    errors: list[ReentrantCall] = []

    async def call_back(session: Session, _: Handle | None) -> None:
        agent = FakeConnection()
        for call in (
            manager.begin_spawn(session.id),
            manager.attach_agent(session.id, "/work", agent),
            manager.record(session.id, "me", {}),
            manager.mark_terminating(session.id, "again"),
            manager.complete_cleanup(session.id),
        ):
            with pytest.raises(ReentrantCall) as caught:
                await call
            errors.append(caught.value)
        assert agent.closed

    async with make_manager(cleaners=[RecordingCleaner(when_cleaned=call_back)]) as manager:
        session = await session_in(SessionState.TERMINATING, manager)
        with anyio.fail_after(5):
            report = await manager.complete_cleanup(session.id)
        assert [error.session_id for error in errors] == [session.id] * 5
        assert {result.outcome for result in report.results} == {Outcome.DONE}
