"""What a session gets that names nothing."""

from __future__ import annotations

from collections.abc import Iterable

from relaykit.settings import Settings


def default_agent(settings: Settings, offered: Iterable[str]) -> str:
    """Return the name of the agent of a session that names none; empty if nobody can tell.

    It is ``[relay] default_agent``, else the only one that is configured; where none is, the first that is offered.

    :param offered: the names of all agents, those of plugins in each plugin's order of preference.
    """
    if settings.relay.default_agent or len(settings.agents) > 1:
        return settings.relay.default_agent
    return next(iter(settings.agents or offered), "")
