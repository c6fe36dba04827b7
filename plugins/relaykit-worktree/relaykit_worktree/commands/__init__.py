"""What worktrees add to the ``relaykit`` command. Nothing heavy is imported here."""

from __future__ import annotations

from collections.abc import Sequence

from relaykit.hooks.registration import Command
from relaykit_worktree.commands.work import APPLY, COMMIT, DIFF, PUSH

COMMANDS: Sequence[Command] = (DIFF, COMMIT, PUSH, APPLY)

__all__ = ["COMMANDS"]
