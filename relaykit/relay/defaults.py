"""What a session gets that names nothing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from relaykit.agent.launcher import AgentSpec
from relaykit.errors import UnknownAgent, UnknownProject
from relaykit.settings import Settings


def default_agent(settings: Settings, offered: Iterable[str]) -> str:
    """Return the name of the agent of a session that names none; empty if nobody can tell.

    It is ``[relay] default_agent``, else the only one that is configured; where none is, the first that is offered.

    :param offered: the names of all agents, those of plugins in each plugin's order of preference.
    """
    if settings.relay.default_agent or len(settings.agents) > 1:
        return settings.relay.default_agent
    return next(iter(settings.agents or offered), "")


def chosen_agent(settings: Settings, agents: Mapping[str, AgentSpec], name: str) -> AgentSpec:
    """Return an agent by its name, or the default one.

    :raises UnknownAgent: no such agent, or no default among several.
    """
    chosen = name or default_agent(settings, agents)
    if chosen not in agents:
        raise UnknownAgent(chosen, agents)
    return agents[chosen]


def chosen_project(settings: Settings, name: str) -> str:
    """Return the name of a project that is configured: this one, or the default one.

    :raises UnknownProject: no such project, or no default among several.
    """
    projects = settings.projects
    only = next(iter(projects)) if len(projects) == 1 else ""
    chosen = name or settings.relay.default_project or only
    if chosen not in projects:
        raise UnknownProject(chosen, projects)
    return chosen
