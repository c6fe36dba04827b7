"""Lists of tables: which there are at the top of the file, and where in it their tables are."""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from relaykit.errors import SettingsError

LISTS: Mapping[str, tuple[str, ...]] = MappingProxyType({"permissions": (), "hooks": ("plugins", "actions")})
"""Every list of tables at the top of the file, and the plugin's table that it is a key of; of core's own, nothing.

The file alone can have lists: their order says which table goes first.
"""

_NUMBERED = re.compile(r"(.+)\[([1-9][0-9]*)\]")
_HEADER = re.compile(r"[ \t]*\[\[[ \t]*([A-Za-z0-9_-]+)[ \t]*\]\]")


def place_in(name: str, number: int) -> str:
    """Return what a table of a list is called: ``permissions[2]`` is the second."""
    return f"{name}[{number}]"


def member(table: Mapping[str, Any], name: str) -> object:
    """Return what a table has under a name, or the table of a list that it has: ``hooks[2]``. None if nothing."""
    if name in table or (numbered := _NUMBERED.fullmatch(name)) is None:
        return table.get(name)
    tables, number = table.get(numbered[1]), int(numbered[2])
    return tables[number - 1] if isinstance(tables, list) and number <= len(tables) else None


def lines_of(text: str, tables: Mapping[str, Any]) -> Mapping[str, int]:
    """Return the lines at which the tables of `LISTS` begin, which the parser does not tell.

    Of lists that are written with a header for each table; of one where something else looks like a header, none.
    """
    found: dict[str, list[int]] = {name: [] for name in LISTS}
    for number, line in enumerate(text.split("\n"), 1):
        if (header := _HEADER.match(line)) and header[1] in found:
            found[header[1]].append(number)
    return {
        place_in(name, place): number
        for name, numbers in found.items()
        if isinstance(tables.get(name), list) and len(numbers) == len(tables[name])
        for place, number in enumerate(numbers, 1)
    }


def no_variable(path: tuple[str, ...], origin: str) -> SettingsError:
    """Return the error for an environment variable that would set a list."""
    name = path[0] if path[0] in LISTS else ".".join(path)
    return SettingsError(
        f"[[{name}]] is a list of tables: write it into the file, as no variable can say its order",
        key=".".join(path),
        origin=origin,
    )
