"""The tables, by version, and how a database gets them."""

from __future__ import annotations

from typing import LiteralString

import psycopg

from relaykit.errors import StoreError
from relaykit_postgres import NAME
from relaykit_postgres.connection import OLDEST, Connection, compiled

PATIENCE = 60.0
"""Seconds that a relay waits, at its start, for another one that is migrating; and that a migration may take."""

# Each is run once, in order, in one transaction with all that are missing. What was released is never changed:
# a change is another migration.
#
# Text is ordered by code point (COLLATE "C"), as the contracts say. What may hold any text of an agent's, a NUL
# too, is bytea, which PostgreSQL's text cannot hold.
#
# `entries` has no foreign key: it would lock the journal's row and look it up once for every entry. A journal that
# was deleted has no session_id any more, and goes when its entries have gone.
MIGRATIONS: tuple[LiteralString, ...] = (
    """
    CREATE TABLE {schema}.sessions (
        id text COLLATE "C" PRIMARY KEY,
        owner text COLLATE "C" NOT NULL,
        project text COLLATE "C" NOT NULL,
        agent_id text COLLATE "C" NOT NULL,
        node text COLLATE "C" NOT NULL,
        state text COLLATE "C" NOT NULL,
        version bigint NOT NULL,
        last_active timestamptz NOT NULL,
        message_count bigint NOT NULL,
        session bytea NOT NULL,
        CONSTRAINT sessions_role UNIQUE (agent_id, owner, project)
    ) WITH (fillfactor = 70);
    CREATE INDEX sessions_by_state ON {schema}.sessions (state, id);
    CREATE TABLE {schema}.journals (
        number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        session_id text COLLATE "C" UNIQUE,
        epoch text COLLATE "C" NOT NULL,
        trimmed bigint NOT NULL DEFAULT 0,
        head bigint NOT NULL DEFAULT 0,
        ended_at timestamptz,
        owner text COLLATE "C",
        project text COLLATE "C",
        agent_id text COLLATE "C",
        node text COLLATE "C",
        state text COLLATE "C",
        session bytea
    ) WITH (fillfactor = 70);
    CREATE INDEX journals_ended ON {schema}.journals (ended_at DESC, session_id) WHERE ended_at IS NOT NULL;
    CREATE INDEX journals_ended_by_owner ON {schema}.journals (owner, ended_at DESC, session_id)
        WHERE ended_at IS NOT NULL;
    CREATE INDEX journals_deleted ON {schema}.journals (number) WHERE session_id IS NULL;
    CREATE TABLE {schema}.entries (
        journal bigint NOT NULL,
        seq bigint NOT NULL,
        at timestamptz NOT NULL,
        kind text COLLATE "C" NOT NULL,
        ref bytea NOT NULL,
        method bytea NOT NULL,
        failed boolean NOT NULL,
        body bytea NOT NULL,
        PRIMARY KEY (journal, seq)
    );
    """,
)


def prepare(connection: Connection, *, schema: str) -> None:
    """Bring the schema to the version of this package, in a worker thread; or refuse, and change nothing.

    Several relays may do so at once: one migrates, the others wait for it.

    :raises StoreError: the server is too old or not in UTF-8, the schema is newer, or it cannot be made.
    """
    server = connection.info.server_version
    if server < OLDEST * 10_000:
        raise _refusal(f"the server is PostgreSQL {server // 10_000}; the oldest that works is {OLDEST}")
    encoding = connection.info.parameter_status("server_encoding")
    if encoding != "UTF8":
        raise _refusal(f"the database is encoded in {encoding}: make one with ENCODING 'UTF8'")
    try:
        if _version(connection, schema) != len(MIGRATIONS):
            _migrate(connection, schema)
    except psycopg.errors.LockNotAvailable:
        text = f"another relay has been preparing the schema {schema!r} for {PATIENCE:g} s: see what it waits for"
        raise _refusal(text) from None
    except psycopg.errors.InsufficientPrivilege as error:
        role = connection.info.user
        text = (
            f"the role {role!r} may not prepare the schema {schema!r} ({error.diag.message_primary}): as an "
            f'administrator, run CREATE SCHEMA "{schema}" AUTHORIZATION "{role}"'
        )
        raise _refusal(text) from None
    except psycopg.errors.DuplicateTable as error:
        text = f"the schema {schema!r} has tables of somebody else's ({error.diag.message_primary}): name another"
        raise _refusal(text) from None


def _version(connection: Connection, schema: str) -> int:
    """Return the schema's version: 0 if there is none.

    :raises StoreError: it is newer than this package.
    """
    # Not by to_regclass, which may answer from a cache: of what was before the wait for the lock.
    is_there = "SELECT 1 FROM pg_tables WHERE schemaname = %s AND tablename = 'relaykit_schema'"
    if connection.execute(is_there, [schema]).fetchone() is None:
        return 0
    row = connection.execute(compiled("SELECT max(version) FROM {schema}.relaykit_schema", schema)).fetchone()
    version = int(row[0] or 0) if row is not None else 0
    if version > len(MIGRATIONS):
        raise _refusal(
            f"the schema {schema!r} is of version {version}, and this relaykit-postgres knows {len(MIGRATIONS)}: "
            "a newer one made it. Upgrade relaykit-postgres, or name another schema; nothing was changed"
        )
    return version


def _migrate(connection: Connection, schema: str) -> None:
    with connection.transaction():
        connection.execute(
            "SELECT set_config('lock_timeout', %s, true), set_config('statement_timeout', '0', true)",
            [f"{PATIENCE * 1000:.0f}"],
        )
        # One key for every schema: two relays that share one have to wait, and others hardly do.
        connection.execute(
            "SELECT pg_advisory_xact_lock(hashtext('relaykit_postgres'), hashtext(%s))", [schema]
        )
        version = _version(connection, schema)
        if version == len(MIGRATIONS):
            return
        there = connection.execute("SELECT 1 FROM pg_namespace WHERE nspname = %s", [schema]).fetchone()
        if there is None:  # `IF NOT EXISTS` would want the permission also where it is there
            connection.execute(compiled("CREATE SCHEMA {schema}", schema))
        if version == 0:
            connection.execute(
                compiled(
                    "CREATE TABLE IF NOT EXISTS {schema}.relaykit_schema "
                    "(version integer PRIMARY KEY, since timestamptz NOT NULL DEFAULT now())",
                    schema,
                )
            )
        for number, migration in enumerate(MIGRATIONS[version:], version + 1):
            connection.execute(compiled(migration, schema))
            connection.execute(compiled("INSERT INTO {schema}.relaykit_schema VALUES (%s)", schema), [number])


def _refusal(text: str) -> StoreError:
    return StoreError(text, plugin=NAME)
