"""What the plugin registers, and a relay that keeps its sessions with it."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest

import relaykit_postgres
from relaykit.clock import SystemClock
from relaykit.hooks.registration import PluginContext
from relaykit.ids import SystemIds
from relaykit.meter import NoMeter
from relaykit.testing.store_contract import make_session
from relaykit_postgres.settings import PostgresSettings
from support.plugin_sites import load
from support.postgres import postgres, schema

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


def test_its_table_is_read_and_its_dsn_is_secret(tmp_path: Path) -> None:
    table = '[plugins.postgres]\ndsn = "host=db password=s3cret"\npool_size = 3\ncall_timeout = 2.5\n'
    plugins = load(tmp_path, table, postgres=relaykit_postgres)
    settings = plugins.settings_for("postgres")
    assert settings == PostgresSettings(dsn="host=db password=s3cret", pool_size=3, call_timeout=2.5)
    assert "s3cret" not in repr(settings)


def test_the_readme_has_every_setting() -> None:
    text = README.read_text(encoding="utf-8")
    for field in fields(PostgresSettings):
        assert f"| `{field.name}` | `{field.default!r}` |".replace("'", '"') in text
