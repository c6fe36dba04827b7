"""describe: every setting, for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, fields, replace
from typing import get_type_hints

from relaykit.settings.declaration import Where
from relaykit.settings.kinds import kind_of, table_of, to_toml
from relaykit.settings.lists import LISTS
from relaykit.settings.permissions import PermissionRule
from relaykit.settings.settings import MASK, AgentSettings, ProjectSettings, RelaySettings, Settings
from relaykit.settings.sources import is_secret


@dataclass(frozen=True, slots=True, kw_only=True)
class SettingRow:
    """One key, for people. Values are written as in TOML; a secret's is ``***``, and what is unset is empty.

    :param origin: the file or the environment variable that says it, or ``default``.
    :param owner: ``relaykit``, or the plugin whose key it is.
    """

    key: str
    type: str
    value: str
    default: str
    origin: str
    owner: str
    help: str


def describe(settings: Settings, plugins: Mapping[str, type]) -> Sequence[SettingRow]:
    """Return a row for every key: core's, and those of each plugin's dataclass.

    Where no agent is configured, ``agents.NAME`` shows what could be.

    :param plugins: the settings dataclass of each plugin that has one.
    :raises SettingsError: a plugin's table is wrong.
    """
    relay = replace(settings.relay, state_dir=settings.state_dir)  # the effective one
    rows = _describe(settings, ("relay",), RelaySettings, relay, "relaykit")
    for name, project in settings.projects.items():
        rows += _describe(settings, ("projects", name), ProjectSettings, project, "relaykit")
    for name, agent in settings.agents.items():
        rows += _describe(settings, ("agents", name), AgentSettings, agent, "relaykit")
    if not settings.agents:
        rows += _describe(settings, ("agents", "NAME"), AgentSettings, None, "relaykit")
    rows += _describe_list(settings, ("permissions",), PermissionRule, settings.permissions, "relaykit")
    for name, cls in sorted(plugins.items()):
        rows += _describe(settings, ("plugins", name), cls, settings.plugin(name, cls), name)
    return rows


def _describe(
    settings: Settings, path: tuple[str, ...], cls: type, instance: object | None, owner: str
) -> list[SettingRow]:
    hints = get_type_hints(cls)
    rows = []
    for declaration in fields(cls):
        if hints[declaration.name] is Where:
            continue
        if (table := table_of(hints[declaration.name])) is not None:
            tables = () if instance is None else getattr(instance, declaration.name)
            rows += _describe_list(settings, (*path, declaration.name), table, tables, owner)
            continue
        default = declaration.default
        if declaration.default_factory is not MISSING:
            default = declaration.default_factory()
        default = None if default is MISSING else default
        given = settings.sources.find(path, declaration.name)
        value = default if instance is None else getattr(instance, declaration.name)
        shown = declaration.metadata.get("shown")
        if shown is not None and value is not None:
            value = shown(value)
        secret = is_secret(declaration)
        rows.append(
            SettingRow(
                key=".".join((*path, declaration.name)),
                type=kind_of(hints[declaration.name]).label,
                value=_shown(value, secret=secret),
                default=_shown(default, secret=secret),
                origin=given.origin if given else "default",
                owner=owner,
                help=declaration.metadata.get("help", ""),
            )
        )
    return rows


def _describe_list(
    settings: Settings, path: tuple[str, ...], cls: type, tables: Sequence[object], owner: str
) -> list[SettingRow]:
    """Describe a list of tables. Where there is none, ``hooks[N]`` shows what one could have."""
    if not tables:
        top = LISTS.get(path[-1]) == path[:-1]
        return _describe(settings, (*(() if top else path[:-1]), f"{path[-1]}[N]"), cls, None, owner)
    rows = []
    for place, table in zip(settings.sources.places(path), tables, strict=True):
        rows += _describe(settings, place, cls, table, owner)
    return rows


def _shown(value: object, *, secret: bool) -> str:
    return MASK if secret and value is not None and value != "" else to_toml(value)
