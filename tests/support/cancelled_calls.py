"""Every method of a Manager in the situations in which it is to be cancelled, and the world around it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import Any

import anyio.lowlevel

from relaykit.errors import SessionError, SessionNotFound
from relaykit.session import Manager, MemoryStore, Session, SessionState, Store
from relaykit.testing import FakeConnection, HoppingStore, RecordingCleaner, RecordingHooks
from support.managers import make_manager
from support.session_stores import StagedStore

CREATED, SPAWNING, ACTIVE, TERMINATING, CLEANED = SessionState
MADE_HERE, LEFT_BEHIND = "session-000001", "session-left"

Cancel = Callable[[], object]
Call = Coroutine[Any, Any, object]


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
    :param settle: a call that is not possible in any state that the session may be in by then. It is made in its
        turn, has no effect, and so waits for the changes before it.
    """

    name: str
    call: Callable[[World], Call]
    begin: SessionState | None = ACTIVE
    target: SessionState | None = None
    left: bool = False
    error: type[SessionError] | None = None
    waits: bool = True
    settle: Callable[[Manager, str], Awaitable[object]] = Manager.complete_cleanup


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
    Case("record of facts", lambda w: w.manager.record(w.session_id, "git", {"branch": "b"})),
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
        "record of facts for a session left behind",
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
