"""How a database gets its tables, and what is said where it cannot."""

from __future__ import annotations

import re
from collections.abc import Iterator
from uuid import UUID

import anyio
import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from relaykit.errors import StoreError
from relaykit.session import SessionFilter
from relaykit.testing.store_contract import make_session
from relaykit_postgres import schema as schema_module
from relaykit_postgres.schema import MIGRATIONS
from relaykit_postgres.settings import PostgresSettings
from relaykit_postgres.storage import open_postgres
from support.postgres import all_gone, ask, named, postgres, schema

__all__ = ["postgres", "schema"]  # fixtures

pytestmark = pytest.mark.anyio

PATIENCE = 60.0
SECRET = "s3cret-word"


async def opening(dsn: str, schema: str = "relaykit") -> None:
    """Open a storage and use it once."""
    with anyio.fail_after(PATIENCE):
        async with open_postgres(PostgresSettings(dsn=dsn, schema=schema)) as (store, _):
            assert await store.count(SessionFilter()) >= 0


async def refusal(dsn: str, schema: str = "relaykit") -> str:
    """Return why a storage cannot be opened; the secret is nowhere in it, nor in what it was raised from."""
    with pytest.raises(StoreError) as caught:
        await opening(dsn, schema)
    assert caught.value.plugin == "postgres"
    assert caught.value.__cause__ is None or SECRET not in str(caught.value.__cause__)
    assert SECRET not in str(caught.value.__context__)
    text = str(caught.value)
    assert SECRET not in text
    return text


# ---------------------------------------------------------------- connecting


async def test_a_wrong_password_is_told(postgres: str) -> None:
    facts = conninfo_to_dict(postgres)
    if not ask(postgres, "SELECT 1 FROM pg_hba_file_rules WHERE auth_method = 'scram-sha-256'"):
        pytest.skip("this server takes any password")
    text = await refusal(make_conninfo(postgres, password=SECRET))
    assert f"cannot connect to {facts['host']}, port {facts['port']}, database {facts['dbname']}" in text
    assert "password authentication failed" in text


async def test_an_unknown_database_is_told(postgres: str) -> None:
    assert 'database "nowhere" does not exist' in await refusal(make_conninfo(postgres, dbname="nowhere"))


async def test_a_port_where_nobody_listens_is_told() -> None:
    text = await refusal(f"postgresql://ann:{SECRET}@127.0.0.1:1/shop")
    assert "cannot connect to 127.0.0.1, port 1, database shop: " in text
    assert "refused" in text


@pytest.mark.parametrize(
    "dsn",
    [
        f"postgresql://ann:x@{SECRET}@localhost/shop",
        f"postgresql://ann:x/{SECRET}@localhost/shop",
        f"postgresql://ann:{SECRET}/x@localhost/shop",
        f"postgresql://ann:12/{SECRET}@localhost/shop",
        f"postgresql://ann:x@{SECRET}:12@localhost/shop",
        f"postgresql://ann:%{SECRET}@localhost/shop",
        f"host=localhost password={SECRET} {SECRET}",
    ],
)
async def test_a_dsn_that_is_none_is_not_repeated(dsn: str) -> None:
    assert "percent-encode" in await refusal(dsn)


def test_settings_show_no_dsn() -> None:
    assert SECRET not in repr(PostgresSettings(dsn=f"postgresql://ann:{SECRET}@localhost/shop"))


async def test_what_the_dsn_leaves_out_is_taken_from_the_environment(
    postgres: str, schema: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    facts = conninfo_to_dict(postgres)
    for name, key in {
        "HOST": "host",
        "PORT": "port",
        "USER": "user",
        "PASSWORD": "password",
        "DATABASE": "dbname",
    }.items():
        monkeypatch.setenv(f"PG{name}", str(facts.get(key) or ""))
    await opening("", schema)
    monkeypatch.setenv("PGDATABASE", "nowhere")
    assert f"cannot connect to {facts['host']}, port {facts['port']}, database nowhere" in await refusal(
        "", schema
    )


# ---------------------------------------------------------------- a database that will not do


@pytest.fixture
def role(postgres: str) -> Iterator[str]:
    """Return the dsn of a role that may do nothing but connect."""
    name = "relaykit_test_nobody"
    ask(postgres, f"CREATE ROLE {name} LOGIN PASSWORD '{SECRET}'")
    try:
        yield make_conninfo(postgres, user=name, password=SECRET)
    finally:
        ask(postgres, f"DROP OWNED BY {name}")
        ask(postgres, f"DROP ROLE {name}")


def identifier(name: str) -> str:
    return sql.Identifier(name).as_string()


async def test_a_role_that_may_make_no_schema_is_told_what_to_ask_for(
    postgres: str, schema: str, role: str
) -> None:
    text = await refusal(role, schema)
    (advice,) = re.findall(r"CREATE SCHEMA .*", text)
    assert ask(postgres, "SELECT 1 FROM pg_namespace WHERE nspname = %s", schema) == []
    ask(postgres, advice)  # just as it is told
    await opening(role, schema)
    await opening(role, schema)


async def test_a_schema_of_somebody_elses_is_told(postgres: str, schema: str, role: str) -> None:
    ask(postgres, f"CREATE SCHEMA {identifier(schema)}")
    assert "may not prepare the schema" in await refusal(role, schema)
    await opening(postgres, schema)
    assert "may not prepare the schema" in await refusal(role, schema)


async def test_other_tables_of_our_names_are_left_alone(postgres: str, schema: str) -> None:
    ask(postgres, f"CREATE SCHEMA {identifier(schema)}")
    ask(postgres, f"CREATE TABLE {identifier(schema)}.sessions (mine integer)")
    assert "tables of somebody else" in await refusal(postgres, schema)
    assert tables(postgres, schema) == ["sessions"]


async def test_an_old_server_is_refused(postgres: str, schema: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schema_module, "OLDEST", 99)
    assert "the oldest that works is 99" in await refusal(postgres, schema)
    assert tables(postgres, schema) == []


async def test_another_encoding_is_refused(postgres: str) -> None:
    name = f"relaykit_latin_{UUID(int=7).hex[:6]}"
    ask(postgres, f"CREATE DATABASE {name} ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0")
    try:
        assert "encoded in LATIN1" in await refusal(make_conninfo(postgres, dbname=name))
    finally:
        ask(postgres, f"DROP DATABASE {name}")


# ---------------------------------------------------------------- migrations


def tables(dsn: str, schema: str) -> list[object]:
    rows = ask(dsn, "SELECT tablename FROM pg_tables WHERE schemaname = %s ORDER BY 1", schema)
    return [name for (name,) in rows]


def versions(dsn: str, schema: str) -> list[object]:
    return [
        version
        for (version,) in ask(dsn, f"SELECT version FROM {identifier(schema)}.relaykit_schema ORDER BY 1")
    ]


async def test_of_many_that_open_at_once_one_migrates(postgres: str, schema: str) -> None:
    async with anyio.create_task_group() as tasks:
        for _ in range(6):
            tasks.start_soon(opening, postgres, schema)
    assert versions(postgres, schema) == list(range(1, len(MIGRATIONS) + 1))


async def test_who_waits_for_another_that_migrates_gives_up(
    postgres: str, schema: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schema_module, "PATIENCE", 0.3)
    with psycopg.connect(postgres) as other:
        other.execute("SELECT pg_advisory_xact_lock(hashtext('relaykit_postgres'), hashtext(%s))", [schema])
        assert "another relay has been preparing the schema" in await refusal(postgres, schema)
        assert tables(postgres, schema) == []
    await opening(postgres, schema)


async def test_a_newer_schema_is_refused_and_left_as_it_is(postgres: str, schema: str) -> None:
    async with open_postgres(PostgresSettings(dsn=postgres, schema=schema)) as (store, _):
        await store.create(make_session("s1"))
    ask(postgres, f"INSERT INTO {identifier(schema)}.relaykit_schema VALUES (%s)", 99)
    text = await refusal(postgres, schema)
    assert "is of version 99" in text
    assert "Upgrade relaykit-postgres" in text
    assert versions(postgres, schema) == [*range(1, len(MIGRATIONS) + 1), 99]
    assert ask(postgres, f"SELECT id FROM {identifier(schema)}.sessions") == [("s1",)]


async def test_a_later_migration_is_run_on_what_is_there(
    postgres: str, schema: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_postgres(PostgresSettings(dsn=postgres, schema=schema)) as (store, _):
        await store.create(make_session("s1"))
    more = (*MIGRATIONS, "ALTER TABLE {schema}.sessions ADD COLUMN more integer DEFAULT 7;")
    monkeypatch.setattr(schema_module, "MIGRATIONS", more)
    async with open_postgres(PostgresSettings(dsn=postgres, schema=schema)) as (store, _):
        assert await store.get("s1") == make_session("s1")
    assert versions(postgres, schema) == list(range(1, len(more) + 1))
    assert ask(postgres, f"SELECT more FROM {identifier(schema)}.sessions") == [(7,)]


async def test_a_migration_that_fails_leaves_nothing(
    postgres: str, schema: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schema_module, "MIGRATIONS", (*MIGRATIONS, "SELECT 1 / 0;"))
    assert "division by zero" in await refusal(postgres, schema)
    assert tables(postgres, schema) == []


# ---------------------------------------------------------------- kept, and closed


async def test_what_was_stored_is_there_when_it_is_opened_again(postgres: str, schema: str) -> None:
    settings = PostgresSettings(dsn=named(postgres, "opening-test"), schema=schema)
    async with open_postgres(settings) as (store, journal):
        assert store.durable
        await store.create(make_session("s1"))
        state = await journal.open(make_session("s1"))
    with anyio.fail_after(10):
        await all_gone(postgres, "opening-test")  # the server takes a moment to see that they were closed
    async with open_postgres(settings) as (store, journal):
        assert await store.get("s1") == make_session("s1")
        assert await journal.open(make_session("s1")) == state


async def test_a_closed_storage_says_so(postgres: str, schema: str) -> None:
    async with open_postgres(PostgresSettings(dsn=postgres, schema=schema)) as (store, _):
        pass
    with pytest.raises(StoreError, match="the storage is closed"):
        await store.get("s1")
