"""Announced commands: found by an entry point of their own, so that one that is called need not wait for all plugins.

A plugin that has ``relaykit_register_commands`` may announce any of its commands in its ``pyproject.toml`` too::

    [project.entry-points.relaykit]
    copies = "acme_copies.plugin"

    [project.entry-points."relaykit.commands"]
    backup = "acme_copies.backup:BACKUP"

``relaykit backup`` then imports ``acme_copies.backup`` (and the package around it, whose ``__init__`` is best kept
empty) and no plugin. The hook is what counts all the same: ``relaykit --help`` and everything that is not plain
goes by it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable

    from relaykit.hooks.registration import Command

GROUP = "relaykit.commands"
"""The group of the entry points with which distributions announce commands: ``NAME = "module:COMMAND"``."""

_PLUGINS = "relaykit"
_NEEDS = "relaykit.api"
_SUFFIXES = {".dist-info", ".egg-info"}


class _Announced(NamedTuple):
    distribution: str
    value: str
    plugins: Sequence[str]
    needs: Sequence[str]


def find_command(name: str, disabled: Callable[[], Sequence[str]]) -> Command | None:
    """Return the command of this name, if it is announced and nothing speaks against it; else None.

    Nothing is imported but the command's own module. These are left to the loading of all plugins, which says
    what is wrong: a command that two distributions announce, a plugin that two distributions have, a distribution
    that announces no plugin, or one that is disabled or needs newer hooks, and what cannot be imported. That another
    plugin offers a command of this name by its hook alone shows only then.

    :param disabled: returns the plugins that must not be imported; called if the command is announced.
    """
    found = _announced(name)
    if found is None or not found.plugins or not all(map(_is_new_enough, found.needs)):
        return None
    if not set(found.plugins).isdisjoint(disabled()):
        return None
    try:
        return _load(name, found.value)
    except Exception as error:  # noqa: BLE001 -- it is a plugin's code: what it raises may be anything
        import logging

        logging.getLogger(__name__).warning(
            "%s announces the command %r, which cannot be loaded: %r; all plugins are asked for it",
            found.distribution,
            name,
            error,
        )
        return None


def _announced(name: str) -> _Announced | None:
    """Return what is announced as this command; None if nothing is, or if names are taken twice."""
    found: _Announced | None = None
    owners: dict[str, str] = {}
    for distribution, text in _entry_points():
        groups = _read(text)
        plugins = tuple(groups.get(_PLUGINS, ()))
        if any(owners.setdefault(plugin, distribution) != distribution for plugin in plugins):
            return None
        if value := groups.get(GROUP, {}).get(name):
            if found is not None:
                return None
            found = _Announced(distribution, value, plugins, tuple(groups.get(_NEEDS, {}).values()))
    return found


def _is_new_enough(declared: str) -> bool:
    """Tell whether these hooks are what a plugin declares that it needs. What cannot be understood is not."""
    from relaykit.hooks.compatibility import API_VERSION, needed_version

    try:
        return needed_version(declared) <= API_VERSION
    except ValueError:
        return False


def _entry_points() -> Iterator[tuple[str, str]]:
    """Yield each installed distribution that has entry points, and the file that lists them.

    `importlib.metadata` does this too, for distributions in archives as well; but importing it takes longer than
    all that is done here: what is not seen here is found by loading all plugins. The format is that of
    https://packaging.python.org/en/latest/specifications/entry-points/.
    """
    seen: set[str] = set()
    for directory in dict.fromkeys(sys.path):
        try:
            found = [entry for entry in Path(directory).iterdir() if entry.suffix in _SUFFIXES]
        except OSError:
            continue
        for entry in found:
            distribution = entry.stem.partition("-")[0].replace("_", "-").replace(".", "-").lower()
            if distribution in seen:  # the first one on the path counts
                continue
            seen.add(distribution)
            try:
                yield distribution, (entry / "entry_points.txt").read_text(encoding="utf-8")
            except (OSError, UnicodeDecodeError):
                continue


def _read(text: str) -> dict[str, dict[str, str]]:
    groups: dict[str, dict[str, str]] = {}
    if _PLUGINS not in text:
        return groups
    group: dict[str, str] = {}
    for line in map(str.strip, text.splitlines()):
        if line.startswith("["):
            group = groups.setdefault(line.strip("[]").strip(), {})
        elif line and line[0] not in "#;":
            name, _, value = line.partition("=")
            group[name.strip()] = value.partition("[")[0].strip()  # without extras
    return groups


def _load(name: str, value: str) -> Command:
    """Import an entry point's object.

    :raises TypeError: it is no command, or another one.
    """
    from importlib import import_module

    from relaykit.hooks.registration import Command

    module, _, attributes = value.partition(":")
    loaded: object = import_module(module.strip())
    for attribute in filter(None, attributes.strip().split(".")):
        loaded = getattr(loaded, attribute)
    if not isinstance(loaded, Command) or loaded.name != name:
        raise TypeError(f"{value} is not the command {name!r}: {loaded!r}")
    return loaded
