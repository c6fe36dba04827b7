"""The façade for threads."""

from __future__ import annotations

import inspect
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from random import Random
from threading import Barrier, Lock

import anyio
import pytest

from relaykit.errors import DuplicateRole, SessionNotFound, TransitionError
from relaykit.session import (
    BlockingManager,
    Cause,
    CleanupReport,
    Manager,
    MemoryStore,
    SessionFilter,
    SessionState,
    open_blocking_manager,
)
from relaykit.testing import FakeConnection, HoppingStore, RecordingCleaner, RecordingHooks
from support.managers import make_manager

pytestmark = pytest.mark.parametrize("backend", anyio.get_all_backends())

THREADS = 16
ROLES = ["auth", "db", "tests", "docs", "web"]
ALL = SessionFilter()


def test_it_has_every_method_of_the_manager(backend: str) -> None:
    del backend

    def methods(of: type) -> dict[str, list[inspect.Parameter]]:
        return {
            name: list(inspect.signature(method).parameters.values())
            for name, method in inspect.getmembers(of, inspect.isfunction)
            if not name.startswith("_") and name != "handle"  # a handle is for its own loop only
        }

    assert methods(BlockingManager) == methods(Manager)


def test_one_life(backend: str) -> None:
    store, hooks = MemoryStore(), RecordingHooks()
    connection, agent = FakeConnection(), FakeConnection()
    with open_blocking_manager(make_manager(store=store, hooks=hooks), backend=backend) as manager:
        created = manager.create(
            "auth", connection, agent="echo", owner="ann", project="shop", actor="client"
        )
        assert (created.agent, created.owner, created.project) == ("echo", "ann", "shop")
        assert manager.begin_spawn(created.id, actor="client").state is SessionState.SPAWNING
        assert manager.attach_agent(created.id, "/work", agent, actor="client").worktree_dir == "/work"
        assert manager.record(created.id, "git", {"branch": "b"}).resources == {"git": {"branch": "b"}}
        manager.record_heartbeat(created.id)
        manager.increment_message_count(created.id)
        manager.increment_message_count(created.id, by=2)
        manager.flush_activity()
        active = manager.get(created.id)
        assert active is not None
        assert active.activity.message_count == 3
        assert manager.get_by_role("auth", owner="ann", project="shop") == active
        assert manager.get_by_role("auth") is None
        assert manager.list() == manager.list(SessionFilter(owner="ann"), limit=1) == [active]
        assert manager.list(after=created.id) == []
        assert (manager.count(), manager.count(SessionFilter(owner="bob"))) == (1, 0)
        manager.mark_terminating(created.id, "asked", cause=Cause.IDLE, actor="client")
        report = manager.complete_cleanup(created.id, actor="client")
        assert report.session is not None
        assert report.session.cause is Cause.IDLE
        assert manager.complete_cleanup(created.id) == CleanupReport()
    assert agent.closed
    assert connection.closed
    assert {transition.actor for transition in hooks.transitions} == {"client"}


def test_errors_are_those_of_the_manager(backend: str) -> None:
    with open_blocking_manager(make_manager(), backend=backend) as manager:
        session = manager.create("auth", FakeConnection())
        with pytest.raises(DuplicateRole):
            manager.create("auth", FakeConnection())
        with pytest.raises(TransitionError):
            manager.complete_cleanup(session.id)
        with pytest.raises(SessionNotFound):
            manager.begin_spawn("nobody")


def test_leaving_the_block_ends_its_sessions(backend: str) -> None:
    cleaner = RecordingCleaner()

    def block() -> None:
        with open_blocking_manager(make_manager(cleaners=[cleaner]), backend=backend) as manager:
            manager.create("auth", FakeConnection())
            raise ValueError("the block's own")

    with pytest.raises(ValueError, match="the block's own"):
        block()
    assert len(cleaner.cleaned) == 1


class Hammer:
    """Random calls from many threads, against whatever session has a role at the time."""

    def __init__(self, manager: BlockingManager) -> None:
        self._manager = manager
        self._lock = Lock()
        self._start = Barrier(THREADS)
        self.closables: list[FakeConnection] = []
        self.made: list[str] = []
        self.won: Counter[str] = Counter()

    def strike(self, seed: int) -> None:
        random = Random(seed)
        self._start.wait(timeout=10)
        moves = [self.create, self.spawn, self.attach, self.hear, self.terminate, self.clean]
        for _ in range(25):
            for move in random.sample(moves, k=4):
                with suppress(DuplicateRole, SessionNotFound, TransitionError):
                    move(random.choice(ROLES))

    def closable(self) -> FakeConnection:
        connection = FakeConnection()
        with self._lock:
            self.closables.append(connection)
        return connection

    def find(self, role: str) -> str:
        session = self._manager.get_by_role(role)
        return "nobody" if session is None else session.id

    def create(self, role: str) -> None:
        connection = FakeConnection()
        session = self._manager.create(role, connection)
        with self._lock:
            self.made.append(session.id)
            self.closables.append(connection)

    def spawn(self, role: str) -> None:
        session_id = self.find(role)
        self._manager.begin_spawn(session_id)
        with self._lock:
            self.won[f"spawn {session_id}"] += 1

    def attach(self, role: str) -> None:
        session_id = self.find(role)
        self._manager.attach_agent(session_id, "/work", self.closable())
        with self._lock:
            self.won[f"attach {session_id}"] += 1

    def hear(self, role: str) -> None:
        self._manager.increment_message_count(self.find(role))
        self._manager.flush_activity()

    def terminate(self, role: str) -> None:
        self._manager.mark_terminating(self.find(role), "hammered")

    def clean(self, role: str) -> None:
        self._manager.complete_cleanup(self.find(role))


@pytest.mark.parametrize("hopping", [False, True], ids=["memory", "hopping"])
def test_sixteen_threads(backend: str, *, hopping: bool) -> None:
    memory = MemoryStore()
    cleaner, hooks = RecordingCleaner(), RecordingHooks()
    to_run = make_manager(store=HoppingStore(memory) if hopping else memory, cleaners=[cleaner], hooks=hooks)
    with open_blocking_manager(to_run, backend=backend) as manager, ThreadPoolExecutor(THREADS) as pool:
        hammer = Hammer(manager)
        running = [pool.submit(hammer.strike, seed) for seed in range(THREADS)]
        for thread in running:
            thread.result(timeout=30)
        assert manager.count() <= len(ROLES)

    assert anyio.run(memory.count, ALL, backend=backend) == 0
    assert len(hammer.made) > len(ROLES)
    assert set(hammer.won.values()) == {1}
    assert all(closable.closed for closable in hammer.closables)
    assert Counter(session.id for session, _ in cleaner.cleaned) == Counter(hammer.made)
    for session_id in hammer.made:
        states = [transition.after.state for transition in hooks.heard_of(session_id)]
        assert (states[0], states[-1]) == (SessionState.CREATED, SessionState.CLEANED)
        assert len(states) == len(set(states))
