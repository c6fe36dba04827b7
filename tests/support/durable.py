"""Agents that come and go when the test says so."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Self

from relaykit.agent.launcher import AgentSpec
from relaykit.relay import LiveSession
from support.gateways import ECHO


class Gate:
    """A file at which a program waits until the test opens it; each opening lets one wait pass."""

    def __init__(self, path: Path) -> None:
        self.path = path
        os.mkfifo(path)
        self._descriptor = os.open(path, os.O_RDWR)

    def open(self) -> None:
        """Let whoever waits go on, or who comes next."""
        os.write(self._descriptor, b"\n")

    @classmethod
    @contextmanager
    def at(cls, path: Path) -> Iterator[Self]:
        """Make one for as long as the block lasts."""
        gate = cls(path)
        try:
            yield gate
        finally:
            os.close(gate._descriptor)


def slow_to_start(gate: Gate) -> list[str]:
    """Return the command of an echo agent that does not begin before the gate is opened."""
    return ["sh", "-c", 'read _ < "$0" && exec "$@"', str(gate.path), *ECHO]


def slow_to_stop(gate: Gate) -> list[str]:
    """Return the command of an echo agent that is not gone before the gate is opened."""
    return ["sh", "-c", '"$@"; read _ < "$0"', str(gate.path), *ECHO]


def agent_tables(**commands: list[str]) -> str:
    """Return the TOML of agents by name."""
    return "\n".join(
        f"[agents.{name}]\ncommand = {json.dumps(command)}" for name, command in commands.items()
    )


def change_command(live: LiveSession, command: list[str]) -> AgentSpec:
    """Have the agent be another program when it is started next; return what it was."""
    before = live.spec
    live.spec = replace(before, command=tuple(command))
    return before
