"""BlockingManager: the Manager for threads."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial

from anyio.from_thread import BlockingPortal, start_blocking_portal

from relaykit.session.cleaner import CleanerResult, CleanupReport
from relaykit.session.manager import Manager
from relaykit.session.model import Cause, Closable, Json, Session, SessionFilter


class BlockingManager:
    """The methods of a `Manager`, each blocking its thread until the answer is there.

    Safe from any number of threads, but never from the Manager's own loop, which would wait for itself.
    Arguments, results and errors are those of `Manager`.

    :param portal: a portal into the loop in which `manager` was entered.
    """

    def __init__(self, manager: Manager, portal: BlockingPortal) -> None:
        self._manager = manager
        self._portal = portal

    def create(
        self,
        agent_id: str,
        connection: Closable,
        *,
        agent: str = "agent",
        owner: str = "local",
        project: str = "default",
        actor: str = "relay",
    ) -> Session:
        """See `Manager.create`."""
        call = partial(
            self._manager.create, agent_id, connection, agent=agent, owner=owner, project=project, actor=actor
        )
        return self._portal.call(call)

    def begin_spawn(self, session_id: str, *, actor: str = "relay") -> Session:
        """See `Manager.begin_spawn`."""
        return self._portal.call(partial(self._manager.begin_spawn, session_id, actor=actor))

    def attach_agent(
        self, session_id: str, worktree_dir: str, agent: Closable, *, actor: str = "relay"
    ) -> Session:
        """See `Manager.attach_agent`."""
        return self._portal.call(
            partial(self._manager.attach_agent, session_id, worktree_dir, agent, actor=actor)
        )

    def revive(self, ended: Session, connection: Closable, *, actor: str = "relay") -> Session:
        """See `Manager.revive`."""
        return self._portal.call(partial(self._manager.revive, ended, connection, actor=actor))

    def adopt(self, session_id: str, connection: Closable) -> Session:
        """See `Manager.adopt`."""
        return self._portal.call(self._manager.adopt, session_id, connection)

    def detach_agent(self, session_id: str) -> Sequence[CleanerResult]:
        """See `Manager.detach_agent`."""
        return self._portal.call(self._manager.detach_agent, session_id)

    def reattach_agent(self, session_id: str, agent: Closable) -> Session:
        """See `Manager.reattach_agent`."""
        return self._portal.call(self._manager.reattach_agent, session_id, agent)

    def release(self, session_id: str) -> None:
        """See `Manager.release`."""
        self._portal.call(self._manager.release, session_id)

    def record(self, session_id: str, plugin: str, facts: Json) -> Session:
        """See `Manager.record`."""
        return self._portal.call(self._manager.record, session_id, plugin, facts)

    def mark_terminating(
        self, session_id: str, reason: str, *, cause: Cause = Cause.REQUESTED, actor: str = "relay"
    ) -> None:
        """See `Manager.mark_terminating`."""
        self._portal.call(
            partial(self._manager.mark_terminating, session_id, reason, cause=cause, actor=actor)
        )

    def complete_cleanup(self, session_id: str, *, actor: str = "relay") -> CleanupReport:
        """See `Manager.complete_cleanup`."""
        return self._portal.call(partial(self._manager.complete_cleanup, session_id, actor=actor))

    def record_heartbeat(self, session_id: str) -> None:
        """See `Manager.record_heartbeat`."""
        self._portal.call(self._manager.record_heartbeat, session_id)

    def increment_message_count(self, session_id: str, *, by: int = 1) -> None:
        """See `Manager.increment_message_count`."""
        self._portal.call(partial(self._manager.increment_message_count, session_id, by=by))

    def flush_activity(self) -> None:
        """See `Manager.flush_activity`."""
        self._portal.call(self._manager.flush_activity)

    def get(self, session_id: str) -> Session | None:
        """See `Manager.get`."""
        return self._portal.call(self._manager.get, session_id)

    def get_by_role(self, agent_id: str, *, owner: str = "local", project: str = "default") -> Session | None:
        """See `Manager.get_by_role`."""
        return self._portal.call(partial(self._manager.get_by_role, agent_id, owner=owner, project=project))

    def list(
        self, where: SessionFilter | None = None, *, after: str = "", limit: int = 100
    ) -> Sequence[Session]:
        """See `Manager.list`."""
        return self._portal.call(partial(self._manager.list, where, after=after, limit=limit))

    def count(self, where: SessionFilter | None = None) -> int:
        """See `Manager.count`."""
        return self._portal.call(self._manager.count, where)


@contextmanager
def open_blocking_manager(manager: Manager, *, backend: str = "asyncio") -> Iterator[BlockingManager]:
    """Run `manager` on a loop in a thread of its own, for as long as the block lasts.

    :param manager: not entered yet; leaving the block ends its sessions.
    :param backend: ``asyncio`` or ``trio``.
    """
    with start_blocking_portal(backend) as portal, portal.wrap_async_context_manager(manager):
        yield BlockingManager(manager, portal)
