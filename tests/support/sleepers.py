"""Relays that come and go over one storage, and agents that remember."""

from __future__ import annotations

import json
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import anyio

from relaykit.clock import Clock
from relaykit.conversation import MemoryJournal
from relaykit.hooks.loader import load_plugins
from relaykit.relay import Relay, open_relay
from relaykit.relay.expiry import Expiry
from relaykit.relay.rest import Presence
from relaykit.session import MemoryStore, SessionFilter
from relaykit.testing import HoppingStore
from support import remembering_agent
from support.relays import PATIENCE, Client, Storage, relay_settings

REMEMBERING = "remembering"
RESUME, ONLY_LOAD, FORGETFUL = (), ("--only-load",), ("--forgetful",)


class House:
    """A directory, and a storage in it that outlives its relays.

    :param flags: of the agent ``remembering``.
    """

    def __init__(self, directory: Path, *flags: str) -> None:
        self.directory = directory
        self.store = MemoryStore()
        self.store.durable = True
        self.journal = MemoryJournal()
        self.agent = directory / "agent"
        self.agent.mkdir()
        self.program = self.agent / "program"
        self.install(*flags)

    def install(self, *flags: str) -> None:
        """Put the agent in its place."""
        (self.agent / "memory").mkdir(exist_ok=True)
        command = (sys.executable, remembering_agent.__file__, str(self.agent / "memory"), *flags)
        self.program.write_text(f"#!/bin/sh\nexec {' '.join(command)}\n")
        self.program.chmod(0o755)

    @asynccontextmanager
    async def relay(
        self,
        *,
        clock: Clock | None = None,
        agents: bool = True,
        plugins: dict[str, object] | None = None,
        toml: str = "",
        **environ: str,
    ) -> AsyncIterator[Relay]:
        """Run a relay.

        :param agents: the agent is configured.
        :param toml: more settings, before that of the agent.
        """
        if agents:
            toml += f"[agents.{REMEMBERING}]\ncommand = {json.dumps([str(self.program)])}\n"
        storage = Storage(self.journal, HoppingStore(self.store))
        settings = relay_settings(self.directory, toml=toml, RELAY__STORAGE="given", **environ)
        loaded = load_plugins(settings, extra={"storage": storage, **(plugins or {})})
        async with open_relay(settings, plugins=loaded, clock=clock) as relay:
            yield relay

    async def snapshot(self) -> None:
        """Go on with the storage as it is now, whatever the relay that runs still writes: as if it were killed."""
        store, journal = MemoryStore(), MemoryJournal()
        store.durable = True
        for session in await self.store.list(SessionFilter()):
            await store.create(session)
            state = await self.journal.open(session)
            journal._transcripts[session.id] = type(self.journal._transcripts[session.id])(
                state.epoch, 0, list(await self.journal.read(session.id, after=0, limit=1_000_000))
            )
        self.store, self.journal = store, journal


async def look(relay: Relay) -> None:
    """Have the relay look at what is due, now."""
    expiry = Expiry(
        relay.manager, relay._sessions, relay._transcripts, settings=relay.settings.relay, clock=relay.clock
    )
    await expiry.look()


async def until(is_so: Callable[[], bool]) -> None:
    """Wait for what nobody tells of."""
    with anyio.fail_after(PATIENCE):
        while not is_so():  # noqa: ASYNC110 -- as said
            await anyio.sleep(0.01)


async def until_presence(relay: Relay, session_id: str, presence: Presence) -> None:
    """Wait until the session's agent is there."""
    rest = relay.live(session_id).rest
    with anyio.fail_after(PATIENCE):
        while rest.presence is not presence:
            await rest._changed.wait()


async def recalled(client: Client, turn: str = "recall") -> str:
    """Return what the agent says that it was told."""
    seen = len(client.entries)
    await client.say("/recall", turn)
    end = await client.until_turn_end(turn)
    said = [
        json.loads(entry.frame.body)["update"]["content"]["text"]
        for entry in client.entries[seen:]
        if entry.seq < end.seq and entry.frame.method == "session/update"
    ]
    return "".join(said)
