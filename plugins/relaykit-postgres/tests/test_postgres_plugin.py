"""What the plugin registers, and a relay that keeps its sessions with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import relaykit_postgres
from relaykit.clock import SystemClock
from relaykit.hooks.registration import PluginContext
from relaykit.ids import SystemIds
from relaykit.meter import NoMeter
from relaykit.session import SessionFilter, SessionState
from relaykit.testing.store_contract import make_session
from relaykit_postgres.settings import PostgresSettings
from relaykit_postgres.storage import open_postgres
from support.plugin_sites import load
from support.postgres import postgres, schema
from support.relays import active_session, ended, running_relay

__all__ = ["postgres", "schema"]  # fixtures

README = Path(__file__).parents[1] / "README.md"


def _context(tmp_path: Path, settings: PostgresSettings) -> PluginContext:
    return PluginContext(
        name="postgres",
        settings=settings,
        projects={},
        agents={},
        state_dir=tmp_path,
        node="local",
        clock=SystemClock(),
        ids=SystemIds(),
        meter=NoMeter(),
    )


@pytest.mark.anyio
async def test_it_registers_a_storage_of_its_name(tmp_path: Path, postgres: str, schema: str) -> None:
    context = _context(tmp_path, PostgresSettings(dsn=postgres, schema=schema))
    storages = relaykit_postgres.relaykit_register_storages(context=context)
    assert list(storages) == ["postgres"]
    async with storages["postgres"]() as (store, journal):
        await store.create(make_session())
        assert (await journal.open(make_session())).head == 0


@pytest.mark.anyio
async def test_a_relay_keeps_what_was_said_with_it(tmp_path: Path, postgres: str, schema: str) -> None:
    table = {"PLUGINS__POSTGRES__DSN": postgres, "PLUGINS__POSTGRES__SCHEMA": schema}
    async with running_relay(tmp_path, plugins=None, RELAY__STORAGE="postgres", **table) as relay:
        async with active_session(relay) as client:
            await client.say("hello", "t1")
            await client.until_said("hello")
            await client.until_turn_end("t1")
            await relay.stop(client.session_id, "done")
            await client.until_the_end()
        await ended(relay, client.session_id)
    async with open_postgres(PostgresSettings(dsn=postgres, schema=schema)) as (store, journal):
        assert await store.count(SessionFilter()) == 0
        session = await journal.find(client.session_id)
        assert session is not None
        assert (session.agent_id, session.state, session.reason) == ("auth", SessionState.CLEANED, "done")
        assert list(await journal.read(client.session_id, after=0, limit=1000)) == client.entries


@pytest.mark.parametrize(
    "wrong",
    [
        {"pool_size": 0},
        {"call_timeout": 0.0},
        {"connect_timeout": -1.0},
        {"statement_timeout": -1.0},
        {"schema": ""},
    ],
    ids=lambda wrong: next(iter(wrong)),
)
def test_settings_that_cannot_be(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(wrong))} must"):
        PostgresSettings(**wrong)


def test_its_table_is_read_and_its_dsn_is_secret(tmp_path: Path) -> None:
    table = '[plugins.postgres]\ndsn = "host=db password=s3cret"\npool_size = 3\ncall_timeout = 2.5\n'
    plugins = load(tmp_path, table, postgres=relaykit_postgres)
    settings = plugins.settings_for("postgres")
    assert settings == PostgresSettings(dsn="host=db password=s3cret", pool_size=3, call_timeout=2.5)
    assert "s3cret" not in repr(settings)
