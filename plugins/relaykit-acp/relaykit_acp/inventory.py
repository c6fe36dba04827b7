"""The agents that settings name and those that are known, as people want to see them."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from relaykit.relay.defaults import default_agent
from relaykit.settings import AgentSettings, Settings
from relaykit_acp.finding import ECHO, Login, find_agents, login_command, login_state, offered_agents
from relaykit_acp.known_agents import KNOWN_AGENTS, KnownAgent, known_agent
from relaykit_acp.npx import parse_npx


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedAgent:
    """One agent, for people. What cannot be told is empty.

    :param configured: settings have it; else it is a known one, or echo.
    :param found: it can be started: its program is on PATH, or npx is.
    :param path: of its program.
    :param package: what npx fetches at first use, where it comes through npx.
    :param variables: what it commonly needs to have named in ``[agents.NAME] env``.
    :param default: it is the agent of sessions that name none.
    """

    name: str
    title: str
    configured: bool
    command: tuple[str, ...]
    found: bool
    path: str | None
    package: str | None
    login: Login
    login_command: str
    install: str
    variables: tuple[str, ...]
    default: bool
    version: str = ""


def list_agents(
    settings: Settings, environment: Mapping[str, str], *, offer_known: bool
) -> Sequence[ListedAgent]:
    """Return the configured agents, and behind them the known ones in their table's order, and echo.

    :param environment: whose ``PATH``, ``HOME`` and variables count.
    :param offer_known: the known ones are offered to clients; else they are left out.
    """
    offered = offered_agents(environment) if offer_known else {ECHO.name: ECHO}
    default = default_agent(settings, offered)
    listed = [
        _configured(name, agent, environment, default=name == default)
        for name, agent in settings.agents.items()
    ]
    if offer_known:
        found = {agent.known.name: agent.spec.command for agent in find_agents(environment)}
        listed += [
            _listed(
                known.name,
                found.get(known.name, known.command),
                known,
                environment,
                configured=False,
                default=known.name == default,
            )
            for known in KNOWN_AGENTS
            if known.name not in settings.agents
        ]
    if ECHO.name not in settings.agents:
        listed.append(
            _listed(
                ECHO.name, ECHO.command, None, environment, configured=False, default=ECHO.name == default
            )
        )
    return listed


def _configured(
    name: str, agent: AgentSettings, environment: Mapping[str, str], *, default: bool
) -> ListedAgent:
    granted = {variable: environment[variable] for variable in agent.env if variable in environment}
    return _listed(
        name,
        agent.command,
        known_agent(agent.command),
        environment,
        granted=granted,
        login=agent.login,
        configured=True,
        default=default,
    )


def _listed(
    name: str,
    command: tuple[str, ...],
    known: KnownAgent | None,
    environment: Mapping[str, str],
    *,
    configured: bool,
    default: bool,
    granted: Mapping[str, str] | None = None,
    login: str | None = None,
) -> ListedAgent:
    granted = granted or {}
    path = shutil.which(command[0], path={**environment, **granted}.get("PATH", os.defpath))
    npx = parse_npx(command)
    state = Login.UNTOLD
    if known is not None:
        login = login or login_command(known, environment)
        state = login_state(known, granted, Path(environment.get("HOME") or Path.home()))
    title = known.title if known else ""
    return ListedAgent(
        name=name,
        title="Echo" if command == ECHO.command else title,
        configured=configured,
        command=command,
        found=path is not None,
        path=path if npx is None else None,
        package=npx.package if npx and path else None,
        login=state,
        login_command=login or "",
        install=known.install if known else f"correct `command` in [agents.{name}]",
        variables=known.variables if known else (),
        default=default,
    )
