"""Fixtures for the tests of plugins: opt in with ``pytest_plugins = "relaykit.testing.fixtures"``.

::

    @pytest.fixture
    def relay_plugins() -> Mapping[str, object]:
        return {"pager": installed_plugin("pager")}


    @pytest.mark.anyio
    async def test_it_pages(relay: Relay, fake_launcher: FakeLauncher) -> None:
        async with open_talk(relay) as talk:
            assert (await talk.prompt("hello")).text == "hello"
            await talk.end()

They need pytest and anyio's pytest plugin, and run on every event loop that this offers.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import pytest

from relaykit.relay import Relay
from relaykit.testing.fake_agent import FakeLauncher
from relaykit.testing.fakes import FakeClock, FakeConnection, RecordingHooks
from relaykit.testing.relays import open_test_relay

_CONTRACTS = ("store", "journal", "keeping", "storage", "cleaner", "launcher", "workspace")

# What contracts assert is shown when it fails, if this comes before they are imported.
for _name in (f"relaykit.testing.{contract}_contract" for contract in _CONTRACTS):
    if _name not in sys.modules:
        pytest.register_assert_rewrite(_name)


@pytest.fixture
def fake_clock() -> FakeClock:
    """Return the clock of `relay`, which stands still until the test advances it."""
    return FakeClock()


@pytest.fixture
def fake_connection() -> FakeConnection:
    """Return something that can be closed, and remembers it: for a Manager's session."""
    return FakeConnection()


@pytest.fixture
def fake_launcher() -> FakeLauncher:
    """Return what starts the agents of `relay`. Set its ``script``, before a turn begins."""
    return FakeLauncher()


@pytest.fixture
def recording_hooks() -> RecordingHooks:
    """Return what hears of the transitions in `relay`: see `assert_transitions`."""
    return RecordingHooks()


@pytest.fixture
def relay_plugins() -> Mapping[str, object]:
    """Return the plugins of `relay` by their names: override it with those under test."""
    return {}


@pytest.fixture
def relay_toml() -> str:
    """Return the settings of `relay`, as ``relaykit.toml`` has them: override it."""
    return ""


@pytest.fixture
async def relay(
    tmp_path: Path,
    relay_plugins: Mapping[str, object],
    relay_toml: str,
    fake_launcher: FakeLauncher,
    recording_hooks: RecordingHooks,
    fake_clock: FakeClock,
) -> AsyncIterator[Relay]:
    """Run a relay with `relay_plugins`, a fake agent, and everything in memory: see `open_test_relay`."""
    async with open_test_relay(
        tmp_path,
        plugins=relay_plugins,
        toml=relay_toml,
        launcher=fake_launcher,
        hooks=recording_hooks,
        clock=fake_clock,
    ) as opened:
        yield opened
