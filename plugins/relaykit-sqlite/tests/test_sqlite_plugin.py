"""What the plugin registers, and a relay that keeps its sessions in it."""

from __future__ import annotations

from pathlib import Path

import pytest

import relaykit_sqlite
from relaykit.clock import SystemClock
from relaykit.errors import SettingsError
from relaykit.hooks.registration import PluginContext
from relaykit.ids import SystemIds
from relaykit.meter import NoMeter
from relaykit.testing.store_contract import make_session
from relaykit_sqlite.schema import MIGRATIONS
from relaykit_sqlite.settings import SqliteSettings, database_path
from support.plugin_sites import settings_from

README = Path(__file__).parents[1] / "README.md"


def context(state_dir: Path, settings: SqliteSettings | None) -> PluginContext:
    return PluginContext(
        name="sqlite",
        settings=settings,
        projects={},
        agents={},
        state_dir=state_dir,
        node="local",
        clock=SystemClock(),
        ids=SystemIds(),
        meter=NoMeter(),
    )


@pytest.mark.anyio
@pytest.mark.parametrize("path", [None, "own.db"])
async def test_its_storage_is_where_settings_say(tmp_path: Path, path: str | None) -> None:
    state_dir = tmp_path / "state"
    settings = SqliteSettings(path=tmp_path / path if path else None)
    offered = relaykit_sqlite.relaykit_register_storages(context=context(state_dir, settings))
    assert list(offered) == ["sqlite"]
    for _ in range(2):
        async with offered["sqlite"]() as (store, journal):
            await store.create(make_session())
            assert (await journal.open(make_session())).head == 0
    expected = state_dir / "sqlite" / "relay.db" if path is None else tmp_path / path
    assert database_path(settings, state_dir) == expected
    assert expected.is_file()
    assert state_dir.exists() is (path is None)


def test_it_registers_settings_and_a_command() -> None:
    assert relaykit_sqlite.relaykit_register_settings() is SqliteSettings
    assert [command.name for command in relaykit_sqlite.relaykit_register_commands()] == ["backup"]


@pytest.mark.parametrize(
    ("toml", "said"),
    [('synchronous = "off"', "synchronous"), ("busy_timeout = -1", "busy_timeout is 0 to 3600 seconds")],
)
def test_wrong_settings_are_named(tmp_path: Path, toml: str, said: str) -> None:
    settings = settings_from(tmp_path, f"[plugins.sqlite]\n{toml}\n")
    with pytest.raises(SettingsError, match=said):
        settings.plugin("sqlite", SqliteSettings)


def test_the_readme_has_every_table() -> None:
    text = README.read_text(encoding="utf-8")
    created = [
        statement.split()[2]
        for migration in MIGRATIONS
        for statement in migration
        if statement.split()[:2] == ["CREATE", "TABLE"]
    ]
    assert created == ["sessions", "journals", "entries"]
    for table in created:
        assert f"| `{table}` |" in text
