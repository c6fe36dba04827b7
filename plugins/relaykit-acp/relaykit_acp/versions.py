"""Which version of an agent there is, as the agent itself tells it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace

import anyio

from relaykit.errors import SpawnError
from relaykit.ids import SystemIds
from relaykit_acp.environment import child_environment, marker
from relaykit_acp.errand import run_errand
from relaykit_acp.household import Household, open_household
from relaykit_acp.inventory import ListedAgent
from relaykit_acp.known_agents import known_agent
from relaykit_acp.scratch import empty_directory

_VERSION = re.compile(r"\d+\.\d+[\w.+-]*")
_SECONDS = 5.0
_GRACE = 0.5


async def with_versions(
    agents: Sequence[ListedAgent], environment: Mapping[str, str]
) -> Sequence[ListedAgent]:
    """Return the agents with the versions that those on PATH tell, all asked at once.

    Only programs of known agents are asked: of an interpreter it would be the interpreter's. What takes longer
    than a few seconds, or says nothing like a version, stays without one.
    """
    told: dict[str, str] = {}
    async with open_household(eof_grace=_GRACE, term_grace=_GRACE, ids=SystemIds()) as household:

        async def ask(agent: ListedAgent, path: str) -> None:
            told[agent.name] = await _version(agent.name, path, household, environment)

        async with anyio.create_task_group() as asking:
            for agent in agents:
                if agent.path is not None and known_agent(agent.command) is not None:
                    asking.start_soon(ask, agent, agent.path)
    return [replace(agent, version=told.get(agent.name, "")) for agent in agents]


async def _version(name: str, path: str, household: Household, environment: Mapping[str, str]) -> str:
    run = f"version-{SystemIds().new_id()}"
    async with empty_directory(None) as directory:
        try:
            outcome = await run_errand(
                (path, "--version"),
                household,
                seconds=_SECONDS,
                environment=child_environment(environment, granted={}, session_id=run, node=""),
                cwd=directory,
                agent=name,
                label=f"version of agent {name!r}",
                marker=marker(run),
            )
        except SpawnError:  # as if it were not found: what is wrong is said when it is to be used
            return ""
    found = _VERSION.search(outcome.said.decode(errors="replace"))
    return found[0] if found and not outcome.exit_code else ""
