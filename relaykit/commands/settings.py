"""``relaykit settings``: every key, its value, and where that comes from."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, cast

from relaykit.commands.table import print_table
from relaykit.hooks.registration import Command

if TYPE_CHECKING:
    import argparse

    from relaykit.commands.invocation import Invocation

LONGEST = 48
"""Characters of a value that the table shows; JSON has it whole."""


def _configure(parser: argparse.ArgumentParser) -> None:
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--json", action="store_true", help="print JSON, with each key's explanation")
    how.add_argument(
        "--json-schema", action="store_true", help="print a JSON Schema of relaykit.toml, for editors"
    )


def _run(arguments: argparse.Namespace) -> int:
    from relaykit.settings import describe

    invocation = cast("Invocation", arguments)
    if arguments.json_schema:
        return _print_schema(invocation)
    settings = invocation.load_settings()
    rows = describe(settings, invocation.load_plugins(forgiving=False).settings_types())
    if arguments.json:
        import json

        print(json.dumps([asdict(row) for row in rows], indent=2))
        return 0
    print_table(
        ("KEY", "TYPE", "VALUE", "DEFAULT", "ORIGIN", "OWNER"),
        [(row.key, row.type, _short(row.value), _short(row.default), row.origin, row.owner) for row in rows],
    )
    return 0


def _print_schema(invocation: Invocation) -> int:
    import json

    from relaykit.settings.schema import json_schema

    print(json.dumps(json_schema(invocation.load_plugins().settings_types()), indent=2))
    return 0


def _short(value: str) -> str:
    return value if len(value) <= LONGEST else f"{value[: LONGEST - 1]}…"


SETTINGS = Command(
    name="settings",
    help="list every setting: type, value, default, where the value comes from, and whose it is",
    configure=_configure,
    run=_run,
)
