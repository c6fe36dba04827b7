"""What the launcher of ACP agents adds to the ``relaykit`` command. Nothing heavy is imported here."""

from __future__ import annotations

from collections.abc import Sequence

from relaykit.hooks.registration import Command
from relaykit_acp.commands.agents import AGENTS

COMMANDS: Sequence[Command] = (AGENTS,)

__all__ = ["COMMANDS"]
