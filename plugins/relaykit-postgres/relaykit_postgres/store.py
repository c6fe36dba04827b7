"""PostgresStore: the sessions that have not ended, in PostgreSQL."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from relaykit.errors import DuplicateRole, DuplicateSession, StaleVersion, StoreError
from relaykit.session import Activity, Session, SessionFilter, decode_session, encode_session
from relaykit_postgres import NAME
from relaykit_postgres.connection import Connection, compiled
from relaykit_postgres.pool import Pool, T, Work
from relaykit_postgres.values import conditions, storable

_Row = tuple[bytes, Any, int]


class PostgresStore:
    """A `Store` in PostgreSQL. Every method is one statement, but where there is something to refuse.

    :param schema: as `relaykit_postgres.schema.prepare` made it.
    """

    durable = True

    def __init__(self, pool: Pool, *, schema: str) -> None:
        self._pool = pool
        self._create = compiled(_CREATE, schema)
        self._save = compiled(_SAVE, schema)
        self._touch = compiled(_TOUCH, schema)
        self._delete = compiled(_DELETE, schema)
        self._get = compiled(_SELECT + "WHERE id = %s", schema)
        self._get_by_role = compiled(_SELECT + "WHERE owner = %s AND project = %s AND agent_id = %s", schema)
        self._list = compiled(_SELECT, schema)
        self._count = compiled("SELECT count(*) FROM {schema}.sessions ", schema)

    async def create(self, session: Session, /) -> None:
        """Add a session, atomically on its id and its role."""
        facts = _facts(session)

        def work(connection: Connection) -> None:
            # What is in the way may be gone when it is looked at: then it is tried again, until the deadline.
            while not connection.execute(self._create, facts, binary=True).rowcount:
                if self._is_there(connection, session):
                    return

        await self._run(work)

    async def save(self, session: Session, /, *, expected_version: int) -> None:
        """Replace a session, if it is still the expected version."""
        facts = _facts(session) | {"expected": expected_version}

        def work(connection: Connection) -> None:
            if connection.execute(self._save, facts, binary=True).rowcount:
                return
            existing = self._one(connection, self._get, session.id)
            if existing != session:
                found = existing.version if existing else None
                raise StaleVersion(session.id, expected=expected_version, found=found, plugin=NAME)

        await self._run(work)

    async def touch(self, activity: Mapping[str, Activity], /) -> None:
        """Write activity, without a new version, in one statement."""
        known = {session_id: latest for session_id, latest in activity.items() if storable(session_id)}
        if not known:
            return
        # In one order, so that two that touch the same sessions do not wait for each other crosswise.
        ids = sorted(known)
        moments = [known[session_id].last_active for session_id in ids]
        counts = [known[session_id].message_count for session_id in ids]

        def work(connection: Connection) -> None:
            connection.execute(self._touch, [ids, moments, counts])

        await self._run(work)

    async def get(self, session_id: str, /) -> Session | None:
        """Return the session, or None."""
        if not storable(session_id):
            return None
        return await self._run(lambda connection: self._one(connection, self._get, session_id))

    async def get_by_role(self, agent_id: str, /, *, owner: str, project: str) -> Session | None:
        """Return the session that plays this role, or None."""
        if not storable(agent_id, owner, project):
            return None
        return await self._run(
            lambda connection: self._one(connection, self._get_by_role, owner, project, agent_id)
        )

    async def list(self, where: SessionFilter, /, *, after: str = "", limit: int = 100) -> Sequence[Session]:
        """Return up to `limit` matching sessions behind `after`, in order of id."""
        clauses, values = conditions(where)
        if values is None:
            return ()
        query = self._list + b"WHERE " + b" AND ".join([b"id > %s", *clauses]) + b" ORDER BY id LIMIT %s"
        parameters = [after, *values, limit]

        def work(connection: Connection) -> Sequence[Session]:
            # Planned for these values: for a rare state as for one that most sessions are in.
            rows = connection.execute(query, parameters, prepare=False, binary=True)
            return [_session(row) for row in rows]

        return await self._run(work)

    async def count(self, where: SessionFilter, /) -> int:
        """Return how many sessions match."""
        clauses, values = conditions(where)
        if values is None:
            return 0
        query = self._count + (b"WHERE " + b" AND ".join(clauses) if clauses else b"")

        def work(connection: Connection) -> int:
            row = connection.execute(query, values, binary=True).fetchone()
            return int(row[0]) if row is not None else 0

        return await self._run(work)

    async def delete(self, session_id: str, /) -> None:
        """Forget the session and free its role."""
        if not storable(session_id):
            return

        def work(connection: Connection) -> None:
            connection.execute(self._delete, [session_id])

        await self._run(work)

    async def _run(self, work: Work[T]) -> T:
        return await self._pool.run(work, error=StoreError)

    def _is_there(self, connection: Connection, session: Session) -> bool:
        """Tell whether an equal session is stored.

        :raises DuplicateSession: another one has its id.
        :raises DuplicateRole: another one has its role.
        """
        existing = self._one(connection, self._get, session.id)
        if existing is not None:
            if existing == session:
                return True
            raise DuplicateSession(session.id)
        role = (session.owner, session.project, session.agent_id)
        holder = self._one(connection, self._get_by_role, *role)
        if holder is not None and holder.id != session.id:
            raise DuplicateRole(
                session.agent_id, owner=session.owner, project=session.project, session_id=holder.id
            )
        return False

    @staticmethod
    def _one(connection: Connection, query: bytes, *parameters: str) -> Session | None:
        row = connection.execute(query, parameters, binary=True).fetchone()
        return None if row is None else _session(row)


def _facts(session: Session) -> dict[str, Any]:
    return {
        "id": session.id,
        "owner": session.owner,
        "project": session.project,
        "agent_id": session.agent_id,
        "node": session.node,
        "state": session.state.value,
        "version": session.version,
        "last_active": session.activity.last_active,
        "message_count": session.activity.message_count,
        "session": encode_session(session),
    }


def _session(row: tuple[Any, ...]) -> Session:
    data, last_active, message_count = row
    try:
        return decode_session(data, activity=Activity(last_active, message_count))
    except ValueError as error:
        raise StoreError(f"a stored session cannot be read: {error}", plugin=NAME) from error


_SELECT = "SELECT session, last_active, message_count FROM {schema}.sessions "

_CREATE = """
    INSERT INTO {schema}.sessions
        (id, owner, project, agent_id, node, state, version, last_active, message_count, session)
    VALUES (%(id)s, %(owner)s, %(project)s, %(agent_id)s, %(node)s, %(state)s, %(version)s, %(last_active)s,
        %(message_count)s, %(session)b)
    ON CONFLICT DO NOTHING
"""

_SAVE = """
    UPDATE {schema}.sessions SET node = %(node)s, state = %(state)s, version = %(version)s,
        last_active = %(last_active)s, message_count = %(message_count)s, session = %(session)b
    WHERE id = %(id)s AND version = %(expected)s
"""

_TOUCH = """
    UPDATE {schema}.sessions AS session
    SET last_active = heard.last_active, message_count = heard.message_count
    FROM unnest(%s::text[], %s::timestamptz[], %s::bigint[]) AS heard (id, last_active, message_count)
    WHERE session.id = heard.id
"""

_DELETE = "DELETE FROM {schema}.sessions WHERE id = %s"
