"""A Manager with fakes all around, and sessions brought to the state that a test begins from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from relaykit.clock import Clock
from relaykit.ids import IdGenerator
from relaykit.meter import NO_METER, Meter
from relaykit.session import (
    Activity,
    Cleaner,
    Closable,
    CloseAgent,
    CloseConnection,
    Manager,
    MemoryStore,
    Session,
    SessionHooks,
    SessionState,
    Store,
)
from relaykit.testing import FakeClock, FakeConnection, FakeIds, RecordingHooks


def make_manager(
    *,
    store: Store | None = None,
    ids: IdGenerator | None = None,
    clock: Clock | None = None,
    cleaners: Sequence[Cleaner] = (),
    hooks: SessionHooks | None = None,
    meter: Meter = NO_METER,
    cleaner_timeout: float = 5.0,
) -> Manager:
    """Return a Manager, not entered, that closes agent and connection after `cleaners` of the same phase."""
    return Manager(
        store=MemoryStore() if store is None else store,
        ids=FakeIds() if ids is None else ids,
        clock=FakeClock() if clock is None else clock,
        cleaners=[*cleaners, CloseAgent(), CloseConnection()],
        hooks=RecordingHooks() if hooks is None else hooks,
        meter=meter,
        cleaner_timeout=cleaner_timeout,
    )


async def session_in(
    state: SessionState,
    manager: Manager,
    *,
    agent_id: str = "auth",
    connection: Closable | None = None,
    agent: Closable | None = None,
) -> Session:
    """Create a session and bring it to `state`, any but CLEANED, through ACTIVE where that is behind it."""
    session = await manager.create(agent_id, FakeConnection() if connection is None else connection)
    if state is SessionState.CREATED:
        return session
    session = await manager.begin_spawn(session.id)
    if state is SessionState.SPAWNING:
        return session
    session = await manager.attach_agent(session.id, "/work", FakeConnection() if agent is None else agent)
    if state is SessionState.ACTIVE:
        return session
    await manager.mark_terminating(session.id, "asked by the test")
    ended = await manager.get(session.id)
    assert ended is not None
    return ended


async def left_behind(store: Store, state: SessionState, *, session_id: str = "session-left") -> Session:
    """Return a session in the role ``auth`` that a relay left in the store when it died in that state."""
    now = FakeClock().now()
    created = Session(
        id=session_id,
        agent_id="auth",
        agent="agent",
        owner="local",
        project="default",
        node="local",
        created_at=now,
        activity=Activity(now),
    )
    await store.create(created)
    if state is SessionState.CREATED:
        return created
    left = replace(created, state=state, version=2)
    await store.save(left, expected_version=1)
    return left
