"""Manager and MemoryStore against a model in plain Python, over random sequences of calls, on both loops."""

from __future__ import annotations

from collections.abc import Coroutine
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, ClassVar, TypeVar

import anyio
import pytest
from anyio.from_thread import start_blocking_portal
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    invariant,
    multiple,
    rule,
    run_state_machine_as_test,
)

from relaykit.errors import DuplicateRole, SessionNotFound, TransitionError
from relaykit.session import (
    CleanupReport,
    Handle,
    MemoryStore,
    Phase,
    Session,
    SessionFilter,
    SessionState,
)
from relaykit.testing import FakeClock, FakeConnection, RecordingCleaner, RecordingHooks
from support.managers import make_manager

T = TypeVar("T")

CREATED, SPAWNING, ACTIVE, TERMINATING, CLEANED = SessionState
NEXT = {
    (CREATED, "SPAWN"): SPAWNING,
    (CREATED, "TERMINATE"): TERMINATING,
    (SPAWNING, "ACTIVATE"): ACTIVE,
    (SPAWNING, "TERMINATE"): TERMINATING,
    (ACTIVE, "TERMINATE"): TERMINATING,
    (TERMINATING, "CLEAN"): CLEANED,
}

ROLES = st.sampled_from(["auth", "db", "tests"])
OWNERS = st.sampled_from(["local", "ann"])
STATES = st.sampled_from([None, *SessionState])
PLUGINS = st.sampled_from(["git", "acp"])


@dataclass
class Expected:
    """What the model knows of one session."""

    id: str
    agent_id: str
    owner: str
    connection: FakeConnection
    last_active: datetime
    flushed: tuple[datetime, int]
    state: SessionState = CREATED
    version: int = 1
    messages: int = 0
    worktree_dir: str | None = None
    reason: str | None = None
    resources: dict[str, Any] = field(default_factory=dict)
    agent: FakeConnection | None = None
    handle: Handle | None = None
    heard: list[tuple[SessionState, int]] = field(default_factory=lambda: [(CREATED, 1)])
    cleaned: int = 0

    def matches(self, session: Session | None) -> bool:
        return session is not None and (
            session.id,
            session.agent_id,
            session.owner,
            session.state,
            session.version,
            session.activity.message_count,
            session.activity.last_active,
            session.worktree_dir,
            session.reason,
            dict(session.resources),
        ) == (
            self.id,
            self.agent_id,
            self.owner,
            self.state,
            self.version,
            self.messages,
            self.last_active,
            self.worktree_dir,
            self.reason,
            self.resources,
        )

    def move(self, state: SessionState) -> None:
        self.state = state
        self.version += 1
        self.heard.append((state, self.version))
        self.saved()

    def saved(self) -> None:
        self.flushed = (self.last_active, self.messages)


class ManagerMachine(RuleBasedStateMachine):
    """Each rule makes one call and checks its answer; the invariants check everything else."""

    backend: ClassVar[str]
    sessions = Bundle("sessions")

    def __init__(self) -> None:
        super().__init__()
        self.store = MemoryStore()
        self.clock = FakeClock()
        self.hooks = RecordingHooks()
        self.stop = RecordingCleaner("stop", Phase.AGENT)
        self.remove = RecordingCleaner("remove", Phase.WORKSPACE)
        self.manager = make_manager(
            store=self.store, clock=self.clock, hooks=self.hooks, cleaners=[self.remove, self.stop]
        )
        self.known: dict[str, Expected] = {}
        self.resources = ExitStack()
        self.portal = self.resources.enter_context(start_blocking_portal(self.backend))
        self.resources.enter_context(self.portal.wrap_async_context_manager(self.manager))

    def teardown(self) -> None:
        self.resources.close()
        assert anyio.run(self.store.count, SessionFilter(), backend=self.backend) == 0
        for expected in self.known.values():
            if expected.state is not CLEANED:
                if expected.state is not TERMINATING:
                    expected.reason = "the relay is shutting down"
                    expected.move(TERMINATING)
                expected.move(CLEANED)
                expected.cleaned += 1
            self.check_told(expected)
            assert expected.connection.closed
            assert expected.agent is None or expected.agent.closed

    def run(self, call: Coroutine[Any, Any, T]) -> T:
        async def bounded() -> T:
            with anyio.fail_after(10):
                return await call

        return self.portal.call(bounded)

    def living(self) -> list[Expected]:
        return [expected for expected in self.known.values() if expected.state is not CLEANED]

    def role_holder(self, agent_id: str, owner: str) -> Expected | None:
        return next((e for e in self.living() if (e.agent_id, e.owner) == (agent_id, owner)), None)

    def change(self, call: Coroutine[Any, Any, T], session_id: str, event: str) -> tuple[Expected, T] | None:
        """Make a call that is one transition; None if, as expected, it was refused."""
        expected = self.known[session_id]
        if expected.state is CLEANED:
            with pytest.raises(SessionNotFound):
                self.run(call)
            return None
        target = NEXT.get((expected.state, event))
        if target is None:
            with pytest.raises(TransitionError) as caught:
                self.run(call)
            assert (caught.value.state, caught.value.event) == (expected.state, event)
            return None
        result = self.run(call)
        expected.move(target)
        return expected, result

    # ------------------------------------------------------------ changes

    @rule(target=sessions, agent_id=ROLES, owner=OWNERS)
    def create(self, agent_id: str, owner: str) -> Any:
        connection = FakeConnection()
        call = self.manager.create(agent_id, connection, owner=owner)
        holder = self.role_holder(agent_id, owner)
        if holder is not None:
            with pytest.raises(DuplicateRole) as caught:
                self.run(call)
            assert caught.value.session_id == holder.id
            assert not connection.closed
            return multiple()
        session = self.run(call)
        now = self.clock.now()
        expected = Expected(session.id, agent_id, owner, connection, now, (now, 0))
        assert expected.matches(session)
        assert session.id not in self.known
        expected.handle = self.manager.handle(session.id)
        self.known[session.id] = expected
        return session.id

    @rule(session_id=sessions)
    def begin_spawn(self, session_id: str) -> None:
        changed = self.change(self.manager.begin_spawn(session_id), session_id, "SPAWN")
        if changed is not None:
            expected, session = changed
            assert expected.matches(session)

    @rule(session_id=sessions)
    def attach_agent(self, session_id: str) -> None:
        agent = FakeConnection()
        changed = self.change(self.manager.attach_agent(session_id, "/work", agent), session_id, "ACTIVATE")
        assert agent.closed == (changed is None)
        if changed is not None:
            expected, session = changed
            expected.agent, expected.worktree_dir = agent, "/work"
            assert expected.matches(session)

    @rule(session_id=sessions, plugin=PLUGINS, pid=st.integers(0, 9))
    def record(self, session_id: str, plugin: str, pid: int) -> None:
        expected = self.known[session_id]
        call = self.manager.record(session_id, plugin, {"pid": pid})
        if expected.state is CLEANED:
            with pytest.raises(SessionNotFound):
                self.run(call)
            return
        expected.version += 1
        expected.resources[plugin] = {"pid": pid}
        expected.saved()
        assert expected.matches(self.run(call))

    @rule(session_id=sessions, by=st.integers(0, 3), seconds=st.integers(0, 60))
    def hear(self, session_id: str, by: int, seconds: int) -> None:
        """Count messages, or, where there are none, a heartbeat."""
        now = self.clock.advance(seconds)
        call = (
            self.manager.increment_message_count(session_id, by=by)
            if by
            else self.manager.record_heartbeat(session_id)
        )
        expected = self.known[session_id]
        if expected.state is CLEANED:
            with pytest.raises(SessionNotFound):
                self.run(call)
            return
        self.run(call)
        expected.messages += by
        expected.last_active = now

    @rule()
    def flush_activity(self) -> None:
        self.run(self.manager.flush_activity())
        for expected in self.living():
            expected.saved()

    @rule(session_id=sessions, reason=st.sampled_from(["asked", "idle"]))
    def mark_terminating(self, session_id: str, reason: str) -> None:
        self.run(self.manager.mark_terminating(session_id, reason))
        expected = self.known[session_id]
        if expected.state in {CREATED, SPAWNING, ACTIVE}:
            expected.reason = reason
            expected.move(TERMINATING)

    @rule(session_id=sessions)
    def complete_cleanup(self, session_id: str) -> None:
        call = self.manager.complete_cleanup(session_id)
        if self.known[session_id].state is CLEANED:
            assert self.run(call) == CleanupReport()
            return
        changed = self.change(call, session_id, "CLEAN")
        if changed is not None:
            expected, report = changed
            expected.cleaned += 1
            assert expected.matches(report.session)
            assert [result.cleaner for result in report.results] == [
                "stop",
                "close_agent",
                "remove",
                "close_connection",
            ]

    # ------------------------------------------------------------ lookups

    @rule(session_id=sessions)
    def get(self, session_id: str) -> None:
        expected = self.known[session_id]
        session = self.run(self.manager.get(session_id))
        assert session is None if expected.state is CLEANED else expected.matches(session)

    @rule(agent_id=ROLES, owner=OWNERS)
    def get_by_role(self, agent_id: str, owner: str) -> None:
        holder = self.role_holder(agent_id, owner)
        session = self.run(self.manager.get_by_role(agent_id, owner=owner))
        assert session is None if holder is None else holder.matches(session)

    @rule(
        state=STATES,
        agent_id=st.none() | ROLES,
        owner=st.none() | OWNERS,
        limit=st.integers(1, 7),
        skip=st.booleans(),
    )
    def list_and_count(
        self, state: SessionState | None, agent_id: str | None, owner: str | None, limit: int, *, skip: bool
    ) -> None:
        where = SessionFilter(state=state, agent_id=agent_id, owner=owner)
        matching = [
            expected
            for expected in self.living()
            if state in {None, expected.state}
            and agent_id in {None, expected.agent_id}
            and owner in {None, expected.owner}
        ]
        assert self.run(self.manager.count(where)) == len(matching)
        after = ""
        if skip and matching:
            after = matching.pop(0).id
        found = self.run(self.manager.list(where, after=after, limit=limit))
        assert len(found) == len(matching[:limit])
        assert all(expected.matches(session) for expected, session in zip(matching, found, strict=False))

    @rule()
    def nobody(self) -> None:
        for call in (
            self.manager.begin_spawn("nobody"),
            self.manager.record("nobody", "git", {}),
            self.manager.record_heartbeat("nobody"),
        ):
            with pytest.raises(SessionNotFound):
                self.run(call)
        self.run(self.manager.mark_terminating("nobody", "asked"))
        assert self.run(self.manager.complete_cleanup("nobody")) == CleanupReport()

    # ------------------------------------------------------------ always

    @invariant()
    def everything_agrees(self) -> None:
        self.run(self.check())

    async def check(self) -> None:
        for expected in self.known.values():
            self.check_told(expected)
            self.check_handle(expected)
        stored = {session.id: session for session in await self.store.list(SessionFilter())}
        assert list(stored) == [expected.id for expected in self.living()]
        for expected in self.living():
            session = stored[expected.id]
            assert (session.state, session.version) == (expected.state, expected.version)
            assert (session.activity.last_active, session.activity.message_count) == expected.flushed

    def check_told(self, expected: Expected) -> None:
        told = self.hooks.heard_of(expected.id)
        assert [(transition.after.state, transition.after.version) for transition in told] == expected.heard
        assert [cleaner.runs_for(expected.id) for cleaner in (self.stop, self.remove)] == [
            expected.cleaned
        ] * 2

    def check_handle(self, expected: Expected) -> None:
        assert expected.handle is not None
        gone = expected.state is CLEANED
        assert self.manager.handle(expected.id) is (None if gone else expected.handle)
        assert expected.handle.connection is expected.connection
        assert expected.handle.agent is expected.agent
        assert expected.handle.scope.cancel_called == (expected.state in {TERMINATING, CLEANED})
        assert expected.connection.closed == gone
        assert expected.agent is None or expected.agent.closed == gone


class AsyncioMachine(ManagerMachine):
    backend = "asyncio"


class TrioMachine(ManagerMachine):
    backend = "trio"


@pytest.mark.parametrize("machine", [AsyncioMachine, TrioMachine])
def test_manager_behaves_as_its_model(machine: type[ManagerMachine]) -> None:
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=60,
            stateful_step_count=40,
            deadline=None,
            database=None,
            suppress_health_check=[HealthCheck.too_slow],
        ),
    )
