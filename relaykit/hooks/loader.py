"""Finds plugins, checks them, and keeps what became of each."""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Iterable, Mapping
from importlib import metadata
from typing import TYPE_CHECKING

import pluggy

from relaykit.clock import SystemClock
from relaykit.errors import DuplicatePlugin, PluginError, PluginLoadError
from relaykit.hooks import builtin, specs
from relaykit.hooks.compatibility import check_version, deprecated_uses
from relaykit.hooks.plugin_set import BUILTIN, Plugin, PluginSet, PluginState
from relaykit.hooks.validation import check_hooks

if TYPE_CHECKING:
    from relaykit.settings import Settings

logger = logging.getLogger(__name__)

GROUP = "relaykit"
"""The group of the entry points with which distributions announce their plugins."""

SLOW_IMPORT = 1.0
"""Seconds that the import of a plugin may take until that is worth a word."""


def load_plugins(
    settings: Settings,
    *,
    entry_points: Iterable[metadata.EntryPoint] | None = None,
    extra: Mapping[str, object] | None = None,
    forgiving: bool = False,
) -> PluginSet:
    """Load every installed plugin that the settings do not disable, sorted by name, into a set of its own.

    A plugin that is installed, but cannot be loaded, is recorded as broken and skipped; so long as the
    settings have no table for it. One that is disabled is not imported, nor is one that needs newer hooks.
    Deprecated hooks and arguments are warned of, in the log and as `DeprecationWarning`, and work.

    A plugin is a module, an object with hooks as methods, or a class: each set has an instance of its own.

    :param entry_points: instead of those of the environment.
    :param extra: plugins by name that no distribution announces. One that cannot be loaded is always an error.
    :param forgiving: record also what the settings name and what cannot be loaded or is not installed: for
        commands that show what is wrong.
    :raises DuplicatePlugin: two distributions use one name.
    :raises PluginLoadError: a plugin that the settings name, or one of `extra`, cannot be imported.
    :raises IncompatiblePlugin: a plugin that the settings name needs newer hooks.
    :raises InvalidHook: the same, because of one of its hooks.
    :raises SettingsError: the settings name a plugin that is not installed.
    """
    found = _discover(metadata.entry_points(group=GROUP) if entry_points is None else entry_points)
    given: dict[str, object] = {BUILTIN: builtin, **(extra or {})}
    if clash := sorted(found.keys() & given.keys()):
        other = "relaykit itself" if clash[0] == BUILTIN else "the application"
        raise DuplicatePlugin(clash[0], [_distribution(found[clash[0]]), other])
    if not forgiving:
        settings.check_plugins([*found, *given])

    manager = pluggy.PluginManager("relaykit")
    manager.add_hookspecs(specs)
    plugins = []
    for name in [BUILTIN, *sorted({*found, *given} - {BUILTIN})]:
        plugin = Plugin(name, found[name].dist if name in found else None)
        plugins.append(plugin)
        if name in settings.relay.disabled:
            plugin.state, plugin.reason = PluginState.BLOCKED, "disabled in [relay]"
            for listed in settings.lists_of(name):  # where nothing says that they are this plugin's
                plugin.reason += (
                    f", and with it every table of [[{listed}]] in the settings: none of them does anything"
                )
            continue
        try:
            _load(manager, plugin, found[name] if name in found else given[name])
        except PluginError as error:
            if name in given or (settings.names_plugin(name) and not forgiving):
                raise
            plugin.state = PluginState.BROKEN
            plugin.reason = str(error).removeprefix(f"plugin {name!r}: ")
            logger.warning("%s; it is skipped", error)
    return PluginSet(manager, plugins, settings)


def _discover(entry_points: Iterable[metadata.EntryPoint]) -> dict[str, metadata.EntryPoint]:
    found: dict[str, metadata.EntryPoint] = {}
    for entry_point in entry_points:
        other = found.setdefault(entry_point.name, entry_point)
        # One distribution may be seen twice, when its directory is twice on the path: the first one counts.
        if other is not entry_point and _distribution(other) != _distribution(entry_point):
            raise DuplicatePlugin(entry_point.name, [_distribution(other), _distribution(entry_point)])
    return found


def _distribution(entry_point: metadata.EntryPoint) -> str:
    if entry_point.dist is None:
        return entry_point.value
    return re.sub(r"[-_.]+", "-", entry_point.dist.name).lower()


def _load(manager: pluggy.PluginManager, plugin: Plugin, source: object) -> None:
    if isinstance(source, metadata.EntryPoint):
        check_version(source)
    started = SystemClock().monotonic()
    try:
        implementations = source.load() if isinstance(source, metadata.EntryPoint) else source
        if isinstance(implementations, type):
            implementations = implementations()  # what it keeps is this set's alone
    except Exception as error:
        raise PluginLoadError(f"it cannot be imported: {error!r}", plugin=plugin.name) from error
    if (seconds := SystemClock().monotonic() - started) > SLOW_IMPORT:
        logger.warning(
            "plugin %r: its import took %.1f s, for which every command waits: import what is heavy in the hooks",
            plugin.name,
            seconds,
        )
    hooks = check_hooks(manager, plugin.name, implementations)
    try:
        manager.register(implementations, plugin.name)
    except ValueError as error:
        raise PluginLoadError(
            "the same object is registered under another name", plugin=plugin.name
        ) from error
    plugin.hooks = hooks
    for use in deprecated_uses(manager, plugin.name, hooks):
        plugin.reason = "; ".join(filter(None, (plugin.reason, use)))
        logger.warning("plugin %r: %s; it still works", plugin.name, use)
        warnings.warn(f"plugin {plugin.name!r}: {use}", DeprecationWarning, stacklevel=3)
