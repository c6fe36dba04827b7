"""Launches and stops agents that speak ACP, for relaykit."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from relaykit.hooks import hookimpl

if TYPE_CHECKING:
    from relaykit.agent.launcher import AgentSpec, LauncherFactory
    from relaykit.hooks.registration import PluginContext
    from relaykit.session.cleaner import Cleaner

# By its path, isolated and without site-packages: it starts in half the time that `-m` would take.
_ECHO = (sys.executable, "-I", "-S", str(Path(__file__).with_name("echo_agent.py")))


@hookimpl
def relaykit_register_settings() -> type:
    """Declare ``[plugins.acp]``."""
    from relaykit_acp.settings import AcpSettings

    return AcpSettings


@hookimpl
def relaykit_register_agents() -> Mapping[str, AgentSpec]:
    """Offer the echo agent."""
    from relaykit.agent.launcher import AgentSpec

    return {"echo": AgentSpec(name="echo", command=_ECHO)}


@hookimpl
def relaykit_register_launchers(context: PluginContext) -> Mapping[str, LauncherFactory]:
    """Offer the launcher ``acp``."""
    from relaykit_acp.launcher import open_acp_launcher

    return {"acp": lambda: open_acp_launcher(context.settings, ids=context.ids, node=context.node)}


@hookimpl
def relaykit_register_cleaners(context: PluginContext) -> Sequence[Cleaner]:
    """Offer the cleaner ``acp``."""
    from relaykit_acp.cleaner import AcpCleaner

    return [AcpCleaner(context.settings)]
