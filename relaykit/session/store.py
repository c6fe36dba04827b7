"""Store: where sessions are kept. The contract alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from relaykit.session.model import Activity, Session, SessionFilter


class Store(Protocol):
    """Keeps the sessions that have not ended.

    Sessions are frozen and nothing is aliased: what was handed in or out never changes. All methods may
    be called concurrently, also for one session. A call that is cancelled either happened or did not;
    nothing is half done. Any method may raise `StoreError`, with the plugin's name, when the storage
    cannot be reached in time; `create` and `save` are then safe to repeat with the same session.
    """

    @property
    def durable(self) -> bool:
        """What it holds is still there after this process has ended, however it ends."""
        ...

    async def create(self, session: Session, /) -> None:
        """Add a session at version 1. Atomic on both its id and its role.

        An equal session that is already there is no error, so that a create whose answer was lost can be repeated.

        :raises DuplicateSession: another session has this id.
        :raises DuplicateRole: another session has this owner, project and agent_id.
        """
        ...

    async def save(self, session: Session, /, *, expected_version: int) -> None:
        """Replace the session if the store holds `expected_version` of it (compare and set).

        Identity (id, agent_id, owner, project) never changes. If the store already holds an equal
        session, nothing happens and nothing is raised.

        :raises StaleVersion: the store holds another version, or nothing.
        """
        ...

    async def touch(self, activity: Mapping[str, Activity], /) -> None:
        """Write activity by session id, without a new version. Ids that are absent are ignored."""
        ...

    async def get(self, session_id: str, /) -> Session | None:
        """Return the session, or None if there is none."""
        ...

    async def get_by_role(self, agent_id: str, /, *, owner: str, project: str) -> Session | None:
        """Return the one session that plays this role, or None."""
        ...

    async def list(self, where: SessionFilter, /, *, after: str = "", limit: int = 100) -> Sequence[Session]:
        """Return up to `limit` matching sessions in order of id, those behind `after` only.

        The next page is asked for with the last id of this one; fewer than `limit` means there is no more.
        """
        ...

    async def count(self, where: SessionFilter, /) -> int:
        """Return how many sessions match."""
        ...

    async def delete(self, session_id: str, /) -> None:
        """Forget the session and free its role. Absent: nothing happens."""
        ...
