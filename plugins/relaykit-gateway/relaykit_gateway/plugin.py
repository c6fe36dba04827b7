"""The gateway's hooks."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from relaykit.hooks import hookimpl

if TYPE_CHECKING:
    from collections.abc import Sequence

    from relaykit.hooks.registration import Check, Command, PluginContext, Service


@hookimpl
def relaykit_register_settings() -> type:
    """Declare ``[plugins.gateway]``."""
    from relaykit_gateway.settings import GatewaySettings

    return GatewaySettings


@hookimpl
def relaykit_register_services(context: PluginContext) -> Sequence[Service]:
    """Listen, in ``relaykit serve``."""
    from relaykit.hooks.registration import Service
    from relaykit_gateway.serving import serve_gateway

    return [Service(name="gateway", open=partial(serve_gateway, settings=context.settings), listens=True)]


@hookimpl
def relaykit_register_checks(context: PluginContext) -> Sequence[Check]:
    """Look at the tokens, in ``relaykit doctor``."""
    from relaykit_gateway.checks import TokenCheck

    return [TokenCheck(context.state_dir, context.clock).check()]


@hookimpl
def relaykit_register_commands() -> Sequence[Command]:
    """Add those that talk to a relay; ``connect`` has an entry point too."""
    from relaykit_gateway.commands.chat import CHAT
    from relaykit_gateway.commands.connect import CONNECT
    from relaykit_gateway.commands.demo import DEMO
    from relaykit_gateway.commands.run import RUN
    from relaykit_gateway.commands.sessions import SESSIONS
    from relaykit_gateway.commands.tokens import TOKENS
    from relaykit_gateway.commands.transcript import TRANSCRIPT

    return [CHAT, CONNECT, DEMO, RUN, SESSIONS, TOKENS, TRANSCRIPT]
