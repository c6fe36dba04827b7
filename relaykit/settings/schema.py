"""relaykit.toml as a JSON Schema, for editors that complete and check it (draft 7, which they all know)."""

from __future__ import annotations

import types
from collections.abc import Collection, Mapping
from dataclasses import MISSING, Field, fields
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from relaykit.settings.declaration import Where
from relaykit.settings.kinds import table_of
from relaykit.settings.lists import LISTS
from relaykit.settings.permissions import PermissionRule
from relaykit.settings.settings import AgentSettings, ProjectSettings, RelaySettings
from relaykit.settings.sources import is_secret

Json = Mapping[str, Any]

_STRINGS = {"type": "array", "items": {"type": "string"}}

_SIMPLE: Mapping[object, Json] = {
    str: {"type": "string"},
    bool: {"type": "boolean"},
    int: {"type": "integer"},
    float: {"type": "number"},
    Path: {"type": "string"},
    tuple[str, ...]: _STRINGS,
    Mapping[str, str]: {"type": "object", "additionalProperties": {"type": "string"}},
    tuple[Mapping[str, Any], ...]: {"type": "array", "items": {"type": "object"}},
}


def json_schema(plugins: Mapping[str, type]) -> Json:
    """Return the schema of a whole settings file.

    :param plugins: the settings dataclass of each plugin that has one.
    """
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "relaykit.toml",
        "type": "object",
        "additionalProperties": False,
        "properties": {
            "relay": _table(RelaySettings),
            "projects": {"type": "object", "additionalProperties": _table(ProjectSettings)},
            "agents": {"type": "object", "additionalProperties": _table(AgentSettings)},
            "permissions": {"type": "array", "items": _table(PermissionRule)},
            **_lists_of(plugins),
            "plugins": {
                "type": "object",
                "properties": {name: _table(cls, _at_the_top(name)) for name, cls in sorted(plugins.items())},
            },
        },
    }


def _lists_of(plugins: Mapping[str, type]) -> Json:
    """Return the lists of tables that plugins have at the top of the file."""
    found = {}
    for name, place in LISTS.items():
        for cls in (plugins[plugin] for plugin in place[1:] if plugin in plugins):
            hint = get_type_hints(cls).get(name)
            if hint is not None:
                found[name] = _kind(hint)
    return found


def _at_the_top(plugin: str) -> set[str]:
    """Return the keys that are not written in a plugin's own table."""
    return {name for name, place in LISTS.items() if place == ("plugins", plugin)}


def _table(cls: type, elsewhere: Collection[str] = ()) -> Json:
    hints = get_type_hints(cls)
    declared = [each for each in fields(cls) if hints[each.name] is not Where and each.name not in elsewhere]
    required = [each.name for each in declared if each.default is MISSING and each.default_factory is MISSING]
    return {
        "type": "object",
        "additionalProperties": False,
        "properties": {each.name: _key(each, hints[each.name]) for each in declared},
        **({"required": required} if required else {}),
    }


def _key(declaration: Field[Any], hint: object) -> Json:
    default = declaration.default
    if default is MISSING and declaration.default_factory is not MISSING:
        default = declaration.default_factory()
    shown = default is not MISSING and default is not None and not is_secret(declaration)
    return {
        **_kind(hint),
        "description": declaration.metadata.get("help", ""),
        **({"default": _plain(default)} if shown else {}),
    }


def _kind(hint: object) -> Json:
    """Return what a field takes, as `kind_of` does for who reads it."""
    if (simple := _SIMPLE.get(hint)) is not None:
        return simple
    if (table := table_of(hint)) is not None:
        return {"type": "array", "items": _table(table)}
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in {Union, types.UnionType}:
        (other,) = [argument for argument in arguments if argument is not types.NoneType]
        return _kind(other)
    if origin is Literal:
        return {"enum": list(arguments)}
    if isinstance(hint, type) and issubclass(hint, StrEnum):
        return {"enum": [member.value for member in hint]}
    return {}  # something that it does not know is left to who reads it


def _plain(value: object) -> object:
    match value:
        case Mapping():
            return {str(key): _plain(item) for key, item in value.items()}
        case tuple() | list():
            return [_plain(item) for item in value]
        case bool() | int() | float():
            return value
        case _:
            return str(value)
