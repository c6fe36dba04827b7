"""``relaykit agents``: which agents there are, which could be, and what is missing."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, cast

from relaykit.commands.table import print_table
from relaykit.hooks.registration import Command

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from relaykit.commands.invocation import Invocation
    from relaykit_acp.inventory import ListedAgent

_NOT_FOUND = "not found"


def _configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument(
        "--versions", action="store_true", help="ask each agent that is found for its version; takes seconds"
    )


def _run(arguments: argparse.Namespace) -> int:
    import os

    from relaykit_acp.inventory import list_agents
    from relaykit_acp.settings import AcpSettings

    settings = cast("Invocation", arguments).load_settings()
    offer_known = settings.plugin("acp", AcpSettings).known_agents
    agents = list_agents(settings, os.environ, offer_known=offer_known)
    if arguments.versions:
        import anyio

        from relaykit_acp.versions import with_versions

        agents = anyio.run(with_versions, agents, os.environ)
    if arguments.json:
        import json
        from dataclasses import asdict

        sys.stdout.write(json.dumps([asdict(agent) for agent in agents], indent=2) + "\n")
        return 0
    _print(agents, versions=arguments.versions)
    return 0


def _print(agents: Sequence[ListedAgent], *, versions: bool) -> None:
    header = ["NAME", "FOUND", "LOGIN", "INSTALL OR LOG IN"]
    rows = [[_name(agent), _found(agent), agent.login, _to_do(agent)] for agent in agents]
    if versions:
        header.insert(2, "VERSION")
        for row, agent in zip(rows, agents, strict=True):
            row.insert(2, agent.version)
    print_table(header, rows)
    if any(agent.default for agent in agents):
        sys.stdout.write("\n* the agent of sessions that name none\n")


def _name(agent: ListedAgent) -> str:
    return f"{agent.name} *" if agent.default else agent.name


def _found(agent: ListedAgent) -> str:
    if agent.package is not None:
        return f"through npx, fetched at first use: {agent.package}"
    return agent.path or _NOT_FOUND


def _to_do(agent: ListedAgent) -> str:
    from relaykit_acp.finding import Login

    if not agent.found:
        return agent.install
    return "" if agent.login is Login.DONE else agent.login_command


AGENTS = Command(
    name="agents",
    help="list the known and the configured agents: found or not, logged in or not, and what to do",
    configure=_configure,
    run=_run,
)
