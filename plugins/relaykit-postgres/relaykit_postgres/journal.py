"""PostgresJournal: what was said, in PostgreSQL."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from functools import partial
from typing import Any

from anyio.abc import TaskGroup

from relaykit.conversation import Entry, JournalState
from relaykit.errors import JournalError
from relaykit.ids import IdGenerator
from relaykit.session import Session, SessionFilter, decode_session, encode_session
from relaykit_postgres import NAME
from relaykit_postgres.appending import Appender
from relaykit_postgres.batches import Writer
from relaykit_postgres.connection import Connection, compiled
from relaykit_postgres.pool import Pool, T, Work
from relaykit_postgres.rows import entry_of
from relaykit_postgres.values import conditions, storable

_CHUNK = 10_000
"""How many entries one statement deletes: it ends in time, however long a transcript is."""


class PostgresJournal:
    """A `Journal` in PostgreSQL.

    :param schema: as `relaykit_postgres.schema.prepare` made it.
    :param tasks: where appends are written.
    """

    def __init__(self, pool: Pool, *, schema: str, ids: IdGenerator, tasks: TaskGroup) -> None:
        self._pool = pool
        self._ids = ids
        self._appender = Appender(pool, Writer(schema=schema), tasks=tasks)
        self._open = compiled(_OPEN, schema)
        self._read = compiled(_READ, schema)
        self._read_bounded = compiled(_READ_BOUNDED, schema)
        self._close = compiled(_CLOSE, schema)
        self._find = compiled(_SELECT + "WHERE session_id = %s AND ended_at IS NOT NULL", schema)
        self._ended = compiled(_SELECT, schema)
        self._trim = compiled(_TRIM, schema)
        self._delete = compiled(_DELETE, schema)
        self._deleted = compiled(
            "SELECT number, head FROM {schema}.journals WHERE session_id IS NULL", schema
        )
        self._delete_chunk = compiled(_DELETE_CHUNK, schema)
        self._forget = compiled("DELETE FROM {schema}.journals WHERE number = %s", schema)

    async def open(self, session: Session, /) -> JournalState:
        """Begin the session's journal, or find it again as it was; one that was closed is open again."""
        parameters = [session.id, self._ids.new_id()]

        def work(connection: Connection) -> JournalState:
            row = connection.execute(self._open, parameters, binary=True).fetchone()
            if row is None:
                raise JournalError(f"the journal of session {session.id!r} was not opened", plugin=NAME)
            epoch, trimmed, head = row
            return JournalState(epoch, trimmed + 1, head)

        return await self._run(work)

    async def append(self, session_id: str, epoch: str, entries: Sequence[Entry], /) -> None:
        """Record entries, all or none: written and committed together with those of other sessions."""
        await self._appender.append(session_id, epoch, entries)

    async def read(
        self, session_id: str, /, *, after: int, limit: int, max_bytes: int | None = None
    ) -> Sequence[Entry]:
        """Return up to `limit` entries behind `after`, and up to `max_bytes` of them."""
        if not storable(session_id):
            return ()
        parameters: dict[str, Any] = {"session_id": session_id, "after": after, "limit": limit}
        statement = self._read
        if max_bytes is not None:
            statement, parameters["max_bytes"] = self._read_bounded, max_bytes

        def work(connection: Connection) -> Sequence[Entry]:
            rows = connection.execute(statement, parameters, binary=True)
            return [entry_of(row) for row in rows]

        return await self._run(work)

    async def close(self, session: Session, /) -> None:
        """Keep the transcript, and the session as it ended."""
        if not storable(session.id):
            return
        parameters = {
            "session_id": session.id,
            "ended_at": session.ended_at or session.activity.last_active,
            "owner": session.owner,
            "project": session.project,
            "agent_id": session.agent_id,
            "node": session.node,
            "state": session.state.value,
            "session": encode_session(session),
        }

        def work(connection: Connection) -> None:
            connection.execute(self._close, parameters)

        await self._run(work)

    async def find(self, session_id: str, /) -> Session | None:
        """Return a session as it ended, or None."""
        if not storable(session_id):
            return None

        def work(connection: Connection) -> Session | None:
            row = connection.execute(self._find, [session_id], binary=True).fetchone()
            return None if row is None else _session(row)

        return await self._run(work)

    async def ended(
        self, where: SessionFilter, /, *, before: datetime, skip: int = 0, limit: int = 100
    ) -> Sequence[Session]:
        """Return sessions that ended before a moment, the latest first."""
        clauses, values = conditions(where)
        if values is None:
            return ()
        query = b"%sWHERE %s ORDER BY ended_at DESC, session_id LIMIT %%s OFFSET %%s" % (
            self._ended,
            b" AND ".join([b"session_id IS NOT NULL", b"ended_at < %s", *clauses]),
        )
        parameters = [before, *values, limit, skip]

        def work(connection: Connection) -> Sequence[Session]:
            # Planned for these values: what is rare is found by another index than what is not.
            rows = connection.execute(query, parameters, prepare=False, binary=True)
            return [_session(row) for row in rows]

        return await self._run(work)

    async def trim(self, session_id: str, /, *, through: int) -> None:
        """Forget the entries up to and including `through`: at once for readers, then in chunks on the disk."""
        if not storable(session_id):
            return

        def forget(connection: Connection) -> tuple[Any, ...] | None:
            return connection.execute(self._trim, [through, session_id]).fetchone()

        row = await self._run(forget)
        if row is not None:
            number, trimmed = row
            await self._delete_entries(number, through=trimmed)

    async def delete(self, session_id: str, /) -> None:
        """Forget the whole transcript: at once, then in chunks on the disk, with what an earlier one left there."""

        def forget(connection: Connection) -> Sequence[tuple[Any, ...]]:
            if storable(session_id):
                connection.execute(self._delete, [session_id])
            return connection.execute(self._deleted).fetchall()

        for number, head in await self._run(forget):
            await self._delete_entries(number, through=head)
            await self._run(partial(_execute, statement=self._forget, parameters=[number]))

    async def _delete_entries(self, number: int, *, through: int) -> None:
        parameters = {"number": number, "through": through, "chunk": _CHUNK}
        chunk = partial(_execute, statement=self._delete_chunk, parameters=parameters)
        while await self._run(chunk) == _CHUNK:
            pass

    async def _run(self, work: Work[T]) -> T:
        return await self._pool.run(work, error=JournalError)


def _execute(connection: Connection, *, statement: bytes, parameters: Any) -> int:
    return connection.execute(statement, parameters).rowcount


def _session(row: tuple[Any, ...]) -> Session:
    try:
        return decode_session(row[0])
    except ValueError as error:
        raise JournalError(f"a session that ended cannot be read: {error}", plugin=NAME) from error


_SELECT = "SELECT session FROM {schema}.journals "

_OPEN = """
    INSERT INTO {schema}.journals AS journal (session_id, epoch) VALUES (%s, %s)
    ON CONFLICT (session_id) DO UPDATE SET ended_at = NULL, session = NULL
    RETURNING epoch, trimmed, head
"""

# A join would sort the whole transcript for each page.
_READ = """
    SELECT seq, at, kind, ref, method, failed, body FROM {schema}.entries
    WHERE journal = (SELECT number FROM {schema}.journals WHERE session_id = %(session_id)s)
        AND seq > greatest(%(after)s, (SELECT trimmed FROM {schema}.journals WHERE session_id = %(session_id)s))
    ORDER BY seq LIMIT %(limit)s
"""

# How long a body is stands beside it: it is not fetched for that.
_READ_BOUNDED = f"""
    SELECT seq, at, kind, ref, method, failed, body FROM (
        SELECT page.*, sum(octet_length(body)) OVER behind AS bytes, row_number() OVER behind AS place
        FROM ({_READ}) AS page WINDOW behind AS (ORDER BY seq ROWS UNBOUNDED PRECEDING)
    ) AS page
    WHERE place = 1 OR bytes <= %(max_bytes)s ORDER BY seq
"""  # noqa: S608 -- a statement of our own

_CLOSE = """
    UPDATE {schema}.journals SET ended_at = %(ended_at)s, owner = %(owner)s, project = %(project)s,
        agent_id = %(agent_id)s, node = %(node)s, state = %(state)s, session = %(session)b
    WHERE session_id = %(session_id)s
"""

_TRIM = """
    UPDATE {schema}.journals SET trimmed = least(greatest(trimmed, %s), head)
    WHERE session_id = %s RETURNING number, trimmed
"""

_DELETE = "UPDATE {schema}.journals SET session_id = NULL, ended_at = NULL WHERE session_id = %s"

_DELETE_CHUNK = """
    DELETE FROM {schema}.entries WHERE ctid = ANY (ARRAY(
        SELECT ctid FROM {schema}.entries WHERE journal = %(number)s AND seq <= %(through)s
        ORDER BY seq LIMIT %(chunk)s))
"""
