"""open_test_relay: a whole relay in this process, with the plugins under test, a fake agent, and nothing else."""

from __future__ import annotations

import tomllib
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from importlib import metadata
from pathlib import Path

from relaykit.clock import Clock
from relaykit.hooks.loader import GROUP, load_plugins
from relaykit.relay import Relay, open_relay
from relaykit.settings import Settings, load_settings
from relaykit.testing.fake_agent import NAME, FakeLauncher
from relaykit.testing.fakes import FakeClock, RecordingHooks

RECORDING = "recording"
"""The name of the plugin that `RecordingHooks` are in such a relay."""


@asynccontextmanager
async def open_test_relay(
    directory: Path,
    *,
    plugins: Mapping[str, object] | None = None,
    toml: str = "",
    launcher: FakeLauncher | None = None,
    hooks: RecordingHooks | None = None,
    clock: Clock | None = None,
) -> AsyncIterator[Relay]:
    """Run a relay for as long as the block lasts: no port, no file outside of `directory`, sessions in memory.

    :param directory: an existing one; the project and the relay's state are below it.
    :param plugins: by name: modules, objects or classes; see `installed_plugin`. No other that is installed is loaded.
    :param toml: settings, as ``relaykit.toml`` has them.
    :param launcher: by default one whose agent says again what it is told.
    :param hooks: hear of the transitions of all sessions.
    :param clock: by default one that stands still.
    :raises PluginError: as `open_relay`.
    :raises SettingsError: the settings are wrong.
    """
    settings = make_settings(directory, toml)
    loaded = load_plugins(
        settings,
        entry_points=(),
        extra={**(plugins or {}), NAME: launcher or FakeLauncher(), RECORDING: hooks or RecordingHooks()},
    )
    async with open_relay(settings, plugins=loaded, clock=clock or FakeClock(), environ={}) as relay:
        yield relay


def make_settings(directory: Path, toml: str = "") -> Settings:
    """Return the settings of `open_test_relay`: those that `toml` does not say are chosen to need nothing installed.

    :raises SettingsError: they are wrong.
    """
    project = directory / "project"
    project.mkdir(exist_ok=True)
    (project / "relaykit.toml").write_text(toml, encoding="utf-8")
    environ = {"HOME": str(directory), "RELAYKIT_RELAY__STATE_DIR": str(directory / "state")}
    if "workspace" not in tomllib.loads(toml).get("relay", {}):
        environ["RELAYKIT_RELAY__WORKSPACE"] = "directory"
    return load_settings(environ=environ, cwd=project)


def installed_plugin(name: str) -> object:
    """Return an installed plugin by the name of its entry point, for `open_test_relay` or the fixture `relay_plugins`.

    :raises LookupError: there is none, or there are several.
    """
    found = list(metadata.entry_points(group=GROUP, name=name))
    if len(found) != 1:
        raise LookupError(
            f"{len(found) or 'no'} installed packages have an entry point {name!r} in the group {GROUP!r}: "
            "install the package under test (`pip install --editable .`), and no other of that name"
        )
    plugin: object = found[0].load()
    return plugin
