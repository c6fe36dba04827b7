"""The tables, and how a database of an older version becomes one of this."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

APPLICATION_ID = 0x524C594B
"""``RLYK``, at offset 68 of the file's header (https://www.sqlite.org/fileformat.html#application_id)."""

PAGE_SIZE = 2048
"""In bytes. Sessions that talk at once write to a page each: a commit of 50 writes half of what it does with 4096."""

SEQ_BITS = 36
"""``entries.id`` is ``journals.number << 36 | seq``: one B-tree, in which a transcript lies together."""

MAX_SEQ = (1 << SEQ_BITS) - 1

MIGRATIONS: Sequence[Sequence[str]] = (
    (
        """
        CREATE TABLE sessions (
            id TEXT NOT NULL PRIMARY KEY,
            agent_id TEXT NOT NULL,
            owner TEXT NOT NULL,
            project TEXT NOT NULL,
            node TEXT NOT NULL,
            state TEXT NOT NULL,
            version INTEGER NOT NULL,
            last_active INTEGER NOT NULL,
            message_count INTEGER NOT NULL,
            body BLOB NOT NULL
        )
        """,
        "CREATE UNIQUE INDEX sessions_by_role ON sessions (owner, project, agent_id)",
        "CREATE INDEX sessions_by_state ON sessions (state, id)",
        """
        CREATE TABLE journals (
            number INTEGER NOT NULL PRIMARY KEY CHECK (number < 1 << 27),
            session_id TEXT NOT NULL UNIQUE,
            epoch TEXT NOT NULL,
            trimmed INTEGER NOT NULL DEFAULT 0,
            ended_at INTEGER,
            state TEXT,
            agent_id TEXT,
            owner TEXT,
            project TEXT,
            node TEXT,
            ended BLOB
        )
        """,
        "CREATE INDEX journals_by_end ON journals (ended_at DESC, session_id) WHERE ended_at IS NOT NULL",
        """
        CREATE TABLE entries (
            id INTEGER NOT NULL PRIMARY KEY,
            at INTEGER NOT NULL,
            kind TEXT NOT NULL,
            body BLOB NOT NULL,
            ref TEXT NOT NULL,
            method TEXT NOT NULL,
            failed INTEGER NOT NULL
        )
        """,
    ),
    # A row is a run of entries, of which `id` has the newest; see `runs`. Those that are there are one entry each.
    ("ALTER TABLE entries ADD COLUMN sizes BLOB",),
)
"""The statements that lead from each version to the next. Never changed once released: add another."""


def migrate(connection: sqlite3.Connection, migrations: Sequence[Sequence[str]]) -> int:
    """Bring the tables to the latest version in one transaction, and return the version that they had.

    Forward only: a database of a later version stays as it is.

    :raises sqlite3.Error: it could not be done; nothing has changed.
    """
    connection.execute("BEGIN IMMEDIATE")
    try:
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        for statements in migrations[version:]:
            for statement in statements:
                connection.execute(statement)
        if version < len(migrations):
            connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            connection.execute(f"PRAGMA user_version = {len(migrations)}")
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
    return int(version)
