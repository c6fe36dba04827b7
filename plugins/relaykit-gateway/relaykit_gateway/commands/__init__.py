"""What the gateway adds to the ``relaykit`` command. Nothing heavy is imported here."""

from __future__ import annotations

from collections.abc import Sequence

from relaykit.hooks.registration import Command
from relaykit_gateway.commands.chat import CHAT
from relaykit_gateway.commands.connect import CONNECT
from relaykit_gateway.commands.demo import DEMO
from relaykit_gateway.commands.run import RUN
from relaykit_gateway.commands.sessions import SESSIONS

COMMANDS: Sequence[Command] = (CHAT, CONNECT, DEMO, RUN, SESSIONS)

__all__ = ["COMMANDS"]
