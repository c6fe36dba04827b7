"""``relaykit plugins``: what is installed, and what became of it."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any, cast

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
    import json

    file = state_dir / "running.json"
    try:
        running: Any = json.loads(file.read_bytes())
        pid, switched_off = running["pid"], running.get("switched_off", {})
        return {str(name): str(why) for name, why in switched_off.items()} if _lives(pid) else {}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        print(f"relaykit: {file} cannot be understood, and is ignored: {error!r}", file=sys.stderr)
        return {}


def _lives(pid: int) -> bool:
    if pid <= 0:  # would mean a whole group of processes
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


PLUGINS = Command(
    name="plugins",
    help="list the installed plugins: version, state, hooks, and why one is not loaded",
    configure=_configure,
    run=_run,
)
