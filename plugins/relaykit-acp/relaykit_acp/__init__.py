"""Launches and stops agents that speak ACP, for relaykit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from relaykit.hooks import hookimpl

if TYPE_CHECKING:
    from relaykit.agent.launcher import AgentSpec, LauncherFactory
    from relaykit.hooks.registration import Check, Command, PluginContext
    from relaykit.session.cleaner import Cleaner


@hookimpl
def relaykit_register_settings() -> type:
    """Declare ``[plugins.acp]``."""
    from relaykit_acp.settings import AcpSettings

    return AcpSettings


@hookimpl
def relaykit_register_commands() -> Sequence[Command]:
    """Add ``relaykit agents``."""
    from relaykit_acp.commands import COMMANDS

    return COMMANDS


@hookimpl
def relaykit_register_checks(context: PluginContext) -> Sequence[Check]:
    """Have ``relaykit doctor`` look at logins, and at processes that are left."""
    from relaykit_acp.checks import checks

    return checks(context)


@hookimpl
def relaykit_register_agents(context: PluginContext) -> Mapping[str, AgentSpec]:
    """Offer the known agents that are found here, and the echo agent."""
    import os

    from relaykit_acp.finding import ECHO, offered_agents

    return offered_agents(os.environ) if context.settings.known_agents else {ECHO.name: ECHO}


@hookimpl
def relaykit_register_launchers(context: PluginContext) -> Mapping[str, LauncherFactory]:
    """Offer the launcher ``acp``."""
    from relaykit_acp.figures import FIGURES
    from relaykit_acp.launcher import open_acp_launcher

    for figure in FIGURES:
        context.meter.expect(figure)
    return {
        "acp": lambda: open_acp_launcher(
            context.settings,
            ids=context.ids,
            node=context.node,
            directory=context.state_dir / context.name,
            meter=context.meter,
        )
    }


@hookimpl
def relaykit_register_cleaners(context: PluginContext) -> Sequence[Cleaner]:
    """Offer the cleaner ``acp``."""
    from relaykit_acp.cleaner import AcpCleaner

    return [AcpCleaner(context.settings, meter=context.meter)]
