"""Bare psycopg: the same rows as relaykit-postgres writes, in the same tables, by one connection without an event loop.

Of the forms that were tried the fastest: one statement over arrays for all sessions of a commit.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import psycopg

from relaykit.conversation import Entry
from relaykit.session import Session, encode_session
from relaykit_postgres import schema
from relaykit_postgres.connection import Connection

_SCHEMA = "bare"
_JOURNAL = (
    b"INSERT INTO bare.journals (session_id, epoch) SELECT 's' || n, 'e' FROM generate_series(1, %s) AS n"
)
_HEADS = b"UPDATE bare.journals SET head = head + %s WHERE number <= %s"
_ENTRIES = b"""
    INSERT INTO bare.entries (journal, seq, at, kind, ref, method, failed, body)
    SELECT * FROM unnest(%b::bigint[], %b::bigint[], %b::timestamptz[], %b::text[], %b::bytea[], %b::bytea[],
        %b::boolean[], %b::bytea[])
"""
_SESSION = b"""
    INSERT INTO bare.sessions (id, owner, project, agent_id, node, state, version, last_active, message_count, session)
    VALUES (%s, '', '', %s, '', %s, %s, %s, 0, %b)
"""
_SAVES = b"""
    UPDATE bare.sessions AS session SET state = saved.state, version = saved.version,
        last_active = saved.last_active, session = saved.session
    FROM unnest(%b::text[], %b::text[], %b::bigint[], %b::timestamptz[], %b::bytea[])
        AS saved (id, state, version, last_active, session)
    WHERE session.id = saved.id AND session.version = saved.version - 1
"""


def appends(dsn: str, batches: Sequence[Sequence[Entry]], *, sessions: int) -> float:
    """Return how many entries a second are written: a batch of each session in a commit."""
    commits = []
    for batch in batches:
        rows = [
            (number, entry.seq, entry.at, "UPDATE", b"", b"session/update", False, entry.frame.body)
            for number in range(1, sessions + 1)
            for entry in batch
        ]
        commits.append((len(batch), [list(column) for column in zip(*rows, strict=True)]))
    with _open(dsn) as connection:
        connection.execute(_JOURNAL, [sessions])
        started = time.perf_counter()
        for each, columns in commits:
            with connection.transaction():
                connection.execute(_HEADS, [each, sessions])
                connection.execute(_ENTRIES, columns)
        seconds = time.perf_counter() - started
    return sum(each * sessions for each, _ in commits) / seconds


def saves(dsn: str, versions: Sequence[Sequence[Session]]) -> float:
    """Return how many sessions a second are saved: one version of each in a commit. They are encoded beforehand."""
    commits = [
        [
            [each.id for each in now],
            [each.state.value for each in now],
            [each.version for each in now],
            [each.activity.last_active for each in now],
            [encode_session(each) for each in now],
        ]
        for now in zip(*versions, strict=True)
    ]
    with _open(dsn) as connection:
        for each, state, version, last_active, body in zip(*commits[0], strict=True):
            connection.execute(_SESSION, [each, each, state, version, last_active, body])
        started = time.perf_counter()
        for columns in commits[1:]:
            connection.execute(_SAVES, columns)
        seconds = time.perf_counter() - started
    return (len(commits) - 1) * len(versions) / seconds


def _open(dsn: str) -> psycopg.Connection[tuple[object, ...]]:
    connection = Connection.connect(dsn, autocommit=True, prepare_threshold=2)
    connection.execute("SET client_min_messages = warning")
    connection.execute("DROP SCHEMA IF EXISTS bare CASCADE")
    schema.prepare(connection, schema=_SCHEMA)
    return connection
