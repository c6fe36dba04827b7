"""MemoryStore: sessions in this process, gone when it ends."""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Mapping, Sequence

from relaykit.errors import DuplicateRole, DuplicateSession, StaleVersion
from relaykit.session.model import Activity, Session, SessionFilter, SessionState

_Role = tuple[str, str, str]


class MemoryStore:
    """A `Store` in memory, for one event loop. No method waits, so each is atomic.

    Ids are kept sorted, in all and by state, so that listing the few sessions of a state costs by what is
    returned, not by what is stored.
    """

    durable = False

    def __init__(self) -> None:
        self._sessions: dict[str, Session] = {}
        self._by_role: dict[_Role, str] = {}
        self._ids: list[str] = []
        self._ids_by_state: dict[SessionState, list[str]] = {state: [] for state in SessionState}

    async def create(self, session: Session, /) -> None:
        """Add a session."""
        existing = self._sessions.get(session.id)
        if existing is not None:
            if existing == session:
                return
            raise DuplicateSession(session.id)
        role = _role(session)
        holder = self._by_role.get(role)
        if holder is not None:
            raise DuplicateRole(
                session.agent_id, owner=session.owner, project=session.project, session_id=holder
            )
        self._sessions[session.id] = session
        self._by_role[role] = session.id
        insort(self._ids, session.id)
        insort(self._ids_by_state[session.state], session.id)

    async def save(self, session: Session, /, *, expected_version: int) -> None:
        """Replace a session, if it is still the expected version."""
        existing = self._sessions.get(session.id)
        if existing == session:
            return
        if existing is None or existing.version != expected_version:
            found = existing.version if existing else None
            raise StaleVersion(session.id, expected=expected_version, found=found)
        self._sessions[session.id] = session
        if existing.state is not session.state:
            _remove(self._ids_by_state[existing.state], session.id)
            insort(self._ids_by_state[session.state], session.id)

    async def touch(self, activity: Mapping[str, Activity], /) -> None:
        """Write activity, without a new version."""
        for session_id, latest in activity.items():
            existing = self._sessions.get(session_id)
            if existing is not None:
                self._sessions[session_id] = existing.with_activity(latest)

    async def get(self, session_id: str, /) -> Session | None:
        """Return the session, or None."""
        return self._sessions.get(session_id)

    async def get_by_role(self, agent_id: str, /, *, owner: str, project: str) -> Session | None:
        """Return the session that plays this role, or None."""
        session_id = self._by_role.get((owner, project, agent_id))
        return None if session_id is None else self._sessions[session_id]

    async def list(self, where: SessionFilter, /, *, after: str = "", limit: int = 100) -> Sequence[Session]:
        """Return up to `limit` matching sessions behind `after`, in order of id."""
        ids = self._candidates(where)
        found: list[Session] = []
        for index in range(bisect_right(ids, after), len(ids)):
            if len(found) >= limit:
                break
            session = self._sessions[ids[index]]
            if where.matches(session):
                found.append(session)
        return found

    async def count(self, where: SessionFilter, /) -> int:
        """Return how many sessions match."""
        ids = self._candidates(where)
        if where == SessionFilter(state=where.state):
            return len(ids)
        return sum(where.matches(self._sessions[session_id]) for session_id in ids)

    async def delete(self, session_id: str, /) -> None:
        """Forget the session and free its role."""
        session = self._sessions.pop(session_id, None)
        if session is not None:
            del self._by_role[_role(session)]
            _remove(self._ids, session_id)
            _remove(self._ids_by_state[session.state], session_id)

    def _candidates(self, where: SessionFilter) -> Sequence[str]:
        return self._ids if where.state is None else self._ids_by_state[where.state]


def _role(session: Session) -> _Role:
    return session.owner, session.project, session.agent_id


def _remove(ids: list[str], session_id: str) -> None:
    del ids[bisect_left(ids, session_id)]
