"""A storage that outlives a relay within a test, and agents that come and go when the test says so."""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Self

import anyio

from relaykit.agent.launcher import AgentSpec
from relaykit.conversation import Journal, MemoryJournal
from relaykit.hooks import hookimpl
from relaykit.hooks.registration import StorageFactory
from relaykit.relay import LiveSession, Relay
from relaykit.relay.rest import Presence
from relaykit.session import MemoryStore, Store
from relaykit.testing.hopping_store import HoppingStore
from support.gateways import ECHO, SECONDS

NAME = "lasting"
"""What ``[relay] storage`` calls it."""


class DurableStorage:
    """A plugin with a storage that is still there when the next relay of the test opens it."""

    def __init__(self) -> None:
        self.journal: Journal = MemoryJournal()
        self.store = HoppingStore(MemoryStore())
        self.store.durable = True

    @hookimpl
    def relaykit_register_storages(self) -> Mapping[str, StorageFactory]:
        @asynccontextmanager
        async def opened() -> AsyncIterator[tuple[Store, Journal]]:
            yield self.store, self.journal

        return {NAME: opened}


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


async def until(relay: Relay, session_id: str, presence: Presence) -> None:
    """Wait until the session's agent is there."""
    rest = relay.live(session_id).rest
    with anyio.fail_after(SECONDS):
        while rest.presence is not presence:
            await rest._changed.wait()
