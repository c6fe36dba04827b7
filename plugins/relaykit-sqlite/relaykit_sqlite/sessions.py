"""Sessions: the table of live sessions. Used in the database's thread, within its transaction."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping, Sequence

from relaykit.errors import DuplicateRole, DuplicateSession, StaleVersion, StoreError
from relaykit.session import Activity, Session, SessionFilter, decode_session
from relaykit_sqlite.problems import NAME
from relaykit_sqlite.values import microseconds, moment, storable

_Row = tuple[bytes, int, int]

_INSERT = """
INSERT INTO sessions (id, agent_id, owner, project, node, state, version, last_active, message_count, body)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING
"""
_UPDATE = """
UPDATE sessions SET node = ?, state = ?, version = ?, last_active = ?, message_count = ?, body = ?
WHERE id = ? AND version = ?
"""
_TOUCH = """
UPDATE sessions SET last_active = told.last_active, message_count = told.message_count
FROM (
    SELECT json_extract(value, '$[0]') AS id,
           json_extract(value, '$[1]') AS last_active,
           json_extract(value, '$[2]') AS message_count
    FROM json_each(?)
) AS told
WHERE sessions.id = told.id
"""
_SELECT = "SELECT body, last_active, message_count FROM sessions"
_ROLE = " WHERE owner = ? AND project = ? AND agent_id = ?"


class Sessions:
    """What a `Store` does, one statement where that is enough."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._execute = connection.execute

    def create(self, session: Session, body: bytes) -> None:
        """Add a session, which is `body` when encoded."""
        activity = session.activity
        values = (
            storable(session.id),
            storable(session.agent_id),
            storable(session.owner),
            storable(session.project),
            storable(session.node),
            session.state.value,
            session.version,
            microseconds(activity.last_active),
            activity.message_count,
            body,
        )
        if self._execute(_INSERT, values).rowcount:
            return
        existing = self.get(session.id)
        if existing == session:
            return
        if existing is not None:
            raise DuplicateSession(session.id)
        holder = self.get_by_role(session.agent_id, owner=session.owner, project=session.project)
        assert holder is not None  # noqa: S101 -- no third thing is unique
        raise DuplicateRole(
            session.agent_id, owner=session.owner, project=session.project, session_id=holder.id
        )

    def save(self, session: Session, body: bytes, *, expected_version: int) -> None:
        """Replace a session, which is `body` when encoded."""
        activity = session.activity
        values = (
            storable(session.node),
            session.state.value,
            session.version,
            microseconds(activity.last_active),
            activity.message_count,
            body,
            storable(session.id),
            expected_version,
        )
        if self._execute(_UPDATE, values).rowcount:
            return
        existing = self.get(session.id)
        if existing != session:
            found = existing.version if existing else None
            raise StaleVersion(session.id, expected=expected_version, found=found, plugin=NAME)

    def touch(self, activity: Mapping[str, Activity]) -> None:
        """Write activity.

        One statement for all: each that is executed gives the interpreter's lock away and waits to get it back.
        """
        told = [
            (session_id, microseconds(latest.last_active), latest.message_count)
            for session_id, latest in activity.items()
        ]
        self._execute(_TOUCH, (json.dumps(told),))

    def get(self, session_id: str) -> Session | None:
        """Return the session, or None."""
        row = self._execute(f"{_SELECT} WHERE id = ?", (storable(session_id),)).fetchone()
        return None if row is None else _session(row)

    def get_by_role(self, agent_id: str, *, owner: str, project: str) -> Session | None:
        """Return the session that plays this role, or None."""
        role = storable(owner), storable(project), storable(agent_id)
        row = self._execute(f"{_SELECT}{_ROLE}", role).fetchone()
        return None if row is None else _session(row)

    def list(self, where: SessionFilter, *, after: str, limit: int) -> Sequence[Session]:
        """Return a page of those that match, in order of id."""
        conditions, values = conditions_of(where)
        rows = self._execute(
            f"{_SELECT} WHERE id > ? AND {conditions} ORDER BY id LIMIT ?",
            (storable(after), *values, max(limit, 0)),
        )
        return [_session(row) for row in rows.fetchall()]

    def count(self, where: SessionFilter) -> int:
        """Return how many match."""
        conditions, values = conditions_of(where)
        (number,) = self._execute(
            f"SELECT count(*) FROM sessions WHERE {conditions}",  # noqa: S608 -- column names of our own
            values,
        ).fetchone()
        return int(number)

    def delete(self, session_id: str) -> None:
        """Forget a session."""
        self._execute("DELETE FROM sessions WHERE id = ?", (storable(session_id),))


def conditions_of(where: SessionFilter) -> tuple[str, Sequence[str | bytes]]:
    """Return the filter as SQL, and its values.

    States are found by their index, all else by looking at what is left, in order (``+`` hides a column from the
    planner): an index on what nearly all sessions share, as their owner, would only add a sort.
    """
    wanted = {
        "agent_id": where.agent_id,
        "owner": where.owner,
        "project": where.project,
        "node": where.node,
    }
    conditions = [f"+{column} = ?" for column, value in wanted.items() if value is not None]
    values = [storable(value) for value in wanted.values() if value is not None]
    if where.state is not None:
        conditions.append("state = ?")
        values.append(where.state.value)
    return " AND ".join(conditions) or "TRUE", values


def _session(row: _Row) -> Session:
    body, last_active, message_count = row
    try:
        return decode_session(body, activity=Activity(moment(last_active), message_count))
    except ValueError as error:
        raise StoreError(f"a session cannot be read: {error}", plugin=NAME) from error
