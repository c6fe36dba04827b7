"""What the Manager does, method by method."""

from __future__ import annotations

from datetime import timedelta

import anyio
import pytest

from relaykit.errors import (
    DuplicateRole,
    DuplicateSession,
    InvalidAgentId,
    SessionNotFound,
    TransitionError,
)
from relaykit.meter import SESSION_TRANSITIONS, Figure, NoMeter
from relaykit.session import (
    NO_HOOKS,
    Activity,
    Cause,
    CleanupReport,
    Event,
    MemoryStore,
    Session,
    SessionFilter,
    SessionState,
)
from relaykit.testing import FakeClock, FakeConnection, FakeIds, RecordingCleaner, RecordingHooks
from support.managers import make_manager, session_in

pytestmark = pytest.mark.anyio

ALL = SessionFilter()
CREATED, SPAWNING, ACTIVE, TERMINATING, CLEANED = SessionState
LIVING = [CREATED, SPAWNING, ACTIVE, TERMINATING]


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


# ---------------------------------------------------------------- one life


async def test_one_life(store: MemoryStore) -> None:
    clock, hooks, cleaner = FakeClock(), RecordingHooks(), RecordingCleaner()
    connection, agent = FakeConnection(), FakeConnection()
    async with make_manager(store=store, clock=clock, hooks=hooks, cleaners=[cleaner]) as manager:
        created = await manager.create(
            "auth", connection, agent="echo", owner="ann", project="shop", actor="client"
        )
        assert created == Session(
            id="session-000001",
            agent_id="auth",
            agent="echo",
            owner="ann",
            project="shop",
            node="local",
            created_at=clock.now(),
            activity=Activity(clock.now()),
        )
        spawning = await manager.begin_spawn(created.id)
        assert (spawning.state, spawning.version) == (SPAWNING, 2)

        active = await manager.attach_agent(created.id, "/work/auth", agent)
        assert (active.state, active.version, active.worktree_dir) == (ACTIVE, 3, "/work/auth")
        handle = manager.handle(created.id)
        assert handle is not None
        assert (handle.connection, handle.agent) == (connection, agent)

        clock.advance(1)
        await manager.mark_terminating(created.id, "had enough", cause=Cause.IDLE, actor="expiry")
        terminating = await manager.get(created.id)
        assert terminating is not None
        assert (terminating.state, terminating.version) == (TERMINATING, 4)
        assert (terminating.reason, terminating.cause) == ("had enough", Cause.IDLE)
        assert await store.get(created.id) == terminating

        report = await manager.complete_cleanup(created.id)
        assert report.session is not None
        assert (report.session.state, report.session.version) == (CLEANED, 5)
        assert cleaner.cleaned == [(terminating, handle)]
        assert agent.closed
        assert connection.closed
        assert await manager.get(created.id) is None
        assert manager.handle(created.id) is None
        assert await store.count(ALL) == 0

    told = hooks.transitions
    assert [transition.after for transition in told] == [
        created,
        spawning,
        active,
        terminating,
        report.session,
    ]
    assert [transition.before for transition in told] == [None, created, spawning, active, terminating]
    assert [transition.event for transition in told] == [None, "SPAWN", "ACTIVATE", "TERMINATE", "CLEAN"]
    assert [transition.actor for transition in told] == ["client", "relay", "relay", "expiry", "relay"]
    assert [transition.report for transition in told] == [None, None, None, None, report]
    assert told[3].at - told[0].at == timedelta(seconds=1)


async def test_figures() -> None:
    counted: list[tuple[str, str]] = []

    class Counting(NoMeter):
        def count(self, figure: Figure, /, amount: float = 1, **labels: str) -> None:
            if figure is not SESSION_TRANSITIONS:
                return
            assert amount == 1
            assert all(labels[label] in values for label, values in figure.labels.items())
            counted.append((labels["event"], labels["outcome"]))

    async with make_manager(meter=Counting(), hooks=NO_HOOKS) as manager:
        session = await session_in(SPAWNING, manager)
        with pytest.raises(TransitionError):
            await manager.begin_spawn(session.id)
        with pytest.raises(DuplicateRole):
            await manager.create("auth", FakeConnection())
        await manager.mark_terminating(session.id, "done")
        await manager.mark_terminating(session.id, "done")
        await manager.complete_cleanup(session.id)
    assert counted == [
        ("CREATE", "done"),
        ("SPAWN", "done"),
        ("SPAWN", "illegal"),
        ("CREATE", "illegal"),
        ("TERMINATE", "done"),
        ("CLEAN", "done"),
    ]


# ---------------------------------------------------------------- create


@pytest.mark.parametrize("agent_id", ["", "-a", "_a", "a/b", "..", "a b", "ä", "a\n", "x" * 65])
async def test_invalid_role(store: MemoryStore, agent_id: str) -> None:
    async with make_manager(store=store) as manager:
        with pytest.raises(InvalidAgentId) as caught:
            await manager.create(agent_id, FakeConnection())
        assert caught.value.agent_id == agent_id
        assert await store.count(ALL) == 0


async def test_duplicate_role_leaves_both_as_they_were(store: MemoryStore) -> None:
    hooks, second = RecordingHooks(), FakeConnection()
    async with make_manager(store=store, hooks=hooks) as manager:
        session = await manager.create("auth", FakeConnection())
        with pytest.raises(DuplicateRole) as caught:
            await manager.create("auth", second)
        assert caught.value.session_id == session.id
        assert not second.closed
        assert manager.handle("session-000002") is None
        assert [found.id for found in await manager.list()] == [session.id]
        assert len(hooks.transitions) == 1
        await manager.create("auth", second, owner="ann")
        await manager.create("auth", second, project="site")


async def test_of_concurrent_creates_of_a_role_one_wins(store: MemoryStore) -> None:
    won: list[str] = []
    lost: list[str] = []
    async with make_manager(store=store) as manager:

        async def create() -> None:
            try:
                won.append((await manager.create("auth", FakeConnection())).id)
            except DuplicateRole as error:
                lost.append(error.session_id)

        async with anyio.create_task_group() as tasks:
            for _ in range(10):
                tasks.start_soon(create)
        assert len(won) == 1
        assert lost == won * 9


async def test_repeated_id(store: MemoryStore) -> None:
    async with make_manager(store=store, ids=FakeIds(["same", "same"])) as manager:
        first = await manager.create("auth", FakeConnection())
        with pytest.raises(DuplicateSession) as caught:
            await manager.create("db", FakeConnection())
        assert caught.value.session_id == "same"
        assert await manager.get("same") == first


async def test_role_is_free_again_after_cleanup(store: MemoryStore) -> None:
    async with make_manager(store=store) as manager:
        session = await session_in(TERMINATING, manager)
        with pytest.raises(DuplicateRole):
            await manager.create("auth", FakeConnection())
        await manager.complete_cleanup(session.id)
        assert await manager.get_by_role("auth") is None
        again = await manager.create("auth", FakeConnection())
        assert await manager.get_by_role("auth") == again


# ---------------------------------------------------------------- illegal and unknown


@pytest.mark.parametrize("state", [SPAWNING, ACTIVE, TERMINATING])
async def test_spawn_is_for_the_created(state: SessionState) -> None:
    async with make_manager() as manager:
        session = await session_in(state, manager)
        with pytest.raises(TransitionError) as caught:
            await manager.begin_spawn(session.id)
        assert (caught.value.session_id, caught.value.state, caught.value.event) == (
            session.id,
            state,
            "SPAWN",
        )
        assert await manager.get(session.id) == session


@pytest.mark.parametrize("state", [CREATED, ACTIVE, TERMINATING])
async def test_illegal_attach_attaches_nothing_and_closes_the_agent(state: SessionState) -> None:
    first, second = FakeConnection(), FakeConnection()
    hooks = RecordingHooks()
    async with make_manager(hooks=hooks) as manager:
        session = await session_in(state, manager, agent=first)
        told = list(hooks.transitions)
        with pytest.raises(TransitionError):
            await manager.attach_agent(session.id, "/elsewhere", second)
        assert second.closed
        assert not first.closed
        handle = manager.handle(session.id)
        assert handle is not None
        assert handle.agent is (None if state is CREATED else first)
        assert await manager.get(session.id) == session
        assert hooks.transitions == told


async def test_attach_to_the_unknown_closes_the_agent() -> None:
    agent = FakeConnection()
    async with make_manager() as manager:
        with pytest.raises(SessionNotFound):
            await manager.attach_agent("nobody", "/work", agent)
        assert agent.closed


async def test_the_unknown() -> None:
    async with make_manager() as manager:
        for change in (
            manager.begin_spawn("nobody"),
            manager.record("nobody", "git", {}),
            manager.record_heartbeat("nobody"),
            manager.increment_message_count("nobody"),
        ):
            with pytest.raises(SessionNotFound) as caught:
                await change
            assert caught.value.session_id == "nobody"
        assert await manager.get("nobody") is None
        assert await manager.get_by_role("nobody") is None
        assert manager.handle("nobody") is None
        await manager.mark_terminating("nobody", "why not")
        assert await manager.complete_cleanup("nobody") == CleanupReport()


# ---------------------------------------------------------------- terminating


@pytest.mark.parametrize("state", [CREATED, SPAWNING, ACTIVE])
async def test_terminating_cancels_the_scope_before_it_is_entered(state: SessionState) -> None:
    async with make_manager() as manager:
        session = await session_in(state, manager)
        handle = manager.handle(session.id)
        assert handle is not None
        before = handle.scope.cancel_called
        await manager.mark_terminating(session.id, "changed my mind")
        assert (before, handle.scope.cancel_called) == (False, True)
        with handle.scope:
            await anyio.sleep_forever()
        assert handle.scope.cancelled_caught


async def test_terminating_cancels_the_scope_that_its_task_is_in() -> None:
    async with make_manager() as manager, anyio.create_task_group() as tasks:
        session = await session_in(ACTIVE, manager)
        handle = manager.handle(session.id)
        assert handle is not None
        inside, outside = anyio.Event(), anyio.Event()

        async def run() -> None:
            with handle.scope:
                inside.set()
                await anyio.sleep_forever()
            outside.set()

        tasks.start_soon(run)
        with anyio.fail_after(5):
            await inside.wait()
            await manager.mark_terminating(session.id, "asked")
            await outside.wait()


async def test_terminating_is_idempotent_and_the_first_reason_stays() -> None:
    hooks = RecordingHooks()
    async with make_manager(hooks=hooks) as manager:
        session = await session_in(ACTIVE, manager)
        await manager.mark_terminating(session.id, "first", cause=Cause.AGENT_EXITED)
        first = await manager.get(session.id)
        await manager.mark_terminating(session.id, "second")
        assert await manager.get(session.id) == first
        assert first is not None
        assert (first.reason, first.cause) == ("first", Cause.AGENT_EXITED)
        assert [transition.event for transition in hooks.transitions].count(Event.TERMINATE) == 1


# ---------------------------------------------------------------- recorded, heard of, counted


async def test_record_saves_before_it_returns_and_leaves_no_hole_in_the_versions(store: MemoryStore) -> None:
    hooks = RecordingHooks()
    async with make_manager(store=store, hooks=hooks) as manager:
        session = await manager.create("auth", FakeConnection())
        facts = {"pids": [1]}
        recorded = await manager.record(session.id, "acp", facts)
        facts["pids"].append(2)
        assert recorded.version == 2
        assert recorded.resources == {"acp": {"pids": (1,)}}
        assert await store.get(session.id) == recorded == await manager.get(session.id)

        await manager.record(session.id, "git", {"branch": "relaykit/auth"})
        replaced = await manager.record(session.id, "acp", {"pid": 3})
        assert replaced.version == 4
        assert replaced.resources == {"acp": {"pid": 3}, "git": {"branch": "relaykit/auth"}}

        spawning = await manager.begin_spawn(session.id)
        assert (spawning.version, spawning.resources) == (5, replaced.resources)
        await manager.mark_terminating(session.id, "asked")
        assert (await manager.record(session.id, "git", {"kept": True})).version == 7
        assert [transition.after.version for transition in hooks.transitions] == [1, 5, 6]


async def test_activity_is_shown_at_once_and_written_by_a_flush(store: MemoryStore) -> None:
    clock = FakeClock()
    async with make_manager(store=store, clock=clock) as manager:
        session = await session_in(ACTIVE, manager)
        other = await manager.create("db", FakeConnection())
        heard = clock.advance(60)
        await manager.increment_message_count(session.id, by=4)
        await manager.increment_message_count(session.id)
        await manager.record_heartbeat(other.id)

        active, beating = Activity(heard, 5), Activity(heard, 0)
        assert await manager.get(session.id) == session.with_activity(active)
        assert await manager.get_by_role("auth") == session.with_activity(active)
        assert await manager.list() == [session.with_activity(active), other.with_activity(beating)]
        assert await store.get(session.id) == session

        await manager.flush_activity()
        assert await store.get(session.id) == session.with_activity(active)
        assert await store.get(other.id) == other.with_activity(beating)


async def test_transitions_carry_the_latest_activity(store: MemoryStore) -> None:
    clock, hooks = FakeClock(), RecordingHooks()
    async with make_manager(store=store, clock=clock, hooks=hooks) as manager:
        session = await session_in(ACTIVE, manager)
        heard = clock.advance(60)
        await manager.increment_message_count(session.id, by=7)
        await manager.mark_terminating(session.id, "asked")
        stored = await store.get(session.id)
        assert stored is not None
        assert stored.activity == hooks.transitions[-1].after.activity == Activity(heard, 7)


async def test_a_flush_is_one_batch_and_none_without_news() -> None:
    batches: list[set[str]] = []

    class Watched(MemoryStore):
        async def touch(self, activity: object, /) -> None:
            assert isinstance(activity, dict)
            batches.append(set(activity))

    async with make_manager(store=Watched()) as manager:
        await manager.flush_activity()
        first, second = [await manager.create(role, FakeConnection()) for role in ("auth", "db")]
        for session in (first, second, first):
            await manager.increment_message_count(session.id)
        await manager.flush_activity()
        await manager.flush_activity()
        assert batches == [{first.id, second.id}]


async def test_list_and_count(store: MemoryStore) -> None:
    async with make_manager(store=store) as manager:
        made = [await session_in(state, manager, agent_id=state) for state in LIVING]
        assert await manager.list() == made
        assert await manager.list(SessionFilter(state=ACTIVE)) == [made[2]]
        assert await manager.list(after=made[0].id, limit=2) == made[1:3]
        assert await manager.count() == 4
        assert await manager.count(SessionFilter(agent_id="CREATED")) == 1
