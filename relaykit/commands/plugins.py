"""``relaykit plugins``: what is installed, and what became of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, cast

from relaykit.commands.table import print_table
from relaykit.hooks.registration import Command

if TYPE_CHECKING:
    import argparse
    from pathlib import Path

    from relaykit.commands.invocation import Invocation


def _configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON")


def _run(arguments: argparse.Namespace) -> int:
    from relaykit.hooks.plugin_set import PluginState

    invocation = cast("Invocation", arguments)
    switched_off = _switched_off(invocation.load_settings().state_dir)
    records = [
        replace(record, state=PluginState.SWITCHED_OFF, reason=switched_off[record.name])
        if record.name in switched_off
        else record
        for record in invocation.load_plugins().records
    ]
    if arguments.json:
        import json

        print(json.dumps([asdict(record) for record in records], indent=2))
        return 0
    print_table(
        ("NAME", "VERSION", "STATE", "HOOKS", "WHY"),
        [
            (
                record.name,
                record.version,
                record.state,
                ", ".join(hook.removeprefix("relaykit_") for hook in record.hooks),
                record.reason,
            )
            for record in records
        ],
    )
    return 0


def _switched_off(state_dir: Path) -> Mapping[str, str]:
    """Return the plugins that the running relay has switched off, and why; none if no relay runs."""
    from relaykit.relay.running import read_running

    running = read_running(state_dir)
    return running.switched_off if running else {}


PLUGINS = Command(
    name="plugins",
    help="list the installed plugins: version, state, hooks, and why one is not loaded",
    configure=_configure,
    run=_run,
)
