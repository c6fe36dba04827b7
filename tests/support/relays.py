"""Real relays with real agents, and clients that follow their sessions as a gateway would."""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio

from relaykit.clock import Clock
from relaykit.conversation import Cursor, Entry, Journal, Kind, MemoryJournal
from relaykit.hooks import hookimpl
from relaykit.hooks.loader import load_plugins
from relaykit.hooks.registration import StorageFactory
from relaykit.relay import Relay, open_relay
from relaykit.session import MemoryStore, Session, Store
from relaykit.settings import Settings, load_settings
from relaykit.testing import HoppingStore

PATIENCE = 20
GIVEN = "given"
"""Seconds that anything may take before a test gives up."""

ECHO = "echo"


def relay_settings(
    directory: Path, *, workspace: str = "in_place", toml: str = "", **environ: str
) -> Settings:
    """Return settings for a relay over the project ``directory/project``, with no gateway, no metrics and no audit.

    :param environ: ``PLUGINS__ACP__EOF_GRACE="1"``: what goes behind ``RELAYKIT_``.
    """
    project = directory / "project"
    project.mkdir(exist_ok=True)
    (project / "relaykit.toml").write_text(toml)
    given = {
        "RELAY__DISABLED": '["audit", "gateway", "prometheus"]',
        "RELAY__WORKSPACE": workspace,
        "RELAY__STATE_DIR": str(directory / "state"),
        "PLUGINS__ACP__KNOWN_AGENTS": "false",  # whatever is installed here
        **environ,
    }
    return load_settings(
        environ={"HOME": str(directory), **{f"RELAYKIT_{name}": value for name, value in given.items()}},
        cwd=project,
    )


def echo_with(*flags: str, name: str = "flagged") -> str:
    """Return the TOML of an agent that is the echo agent with flags."""
    import sys

    import relaykit_acp

    program = Path(relaykit_acp.__file__).with_name("echo_agent.py")
    command = [sys.executable, "-I", "-S", str(program), *flags]
    return f"[agents.{name}]\ncommand = {json.dumps(command)}\n"


@asynccontextmanager
async def running_relay(
    directory: Path,
    *,
    plugins: Mapping[str, object] | None = None,
    workspace: str = "in_place",
    toml: str = "",
    **environ: str,
) -> AsyncIterator[Relay]:
    """Run a relay with the installed plugins and these."""
    settings = relay_settings(directory, workspace=workspace, toml=toml, **environ)
    async with open_relay(settings, plugins=load_plugins(settings, extra=plugins)) as relay:
        yield relay


@asynccontextmanager
async def relay_by(
    clock: Clock, directory: Path, *, plugins: Mapping[str, object] | None = None, **environ: str
) -> AsyncIterator[Relay]:
    """Run a relay by another clock than the system's."""
    settings = relay_settings(directory, **environ)
    async with open_relay(settings, plugins=load_plugins(settings, extra=plugins), clock=clock) as relay:
        yield relay


class Storage:
    """A plugin with a storage of the test's own: ``[relay] storage`` names it `GIVEN`."""

    def __init__(self, journal: Journal | None = None, store: Store | None = None) -> None:
        self.journal = journal or MemoryJournal()
        self.store = store or MemoryStore()

    @hookimpl
    def relaykit_register_storages(self) -> Mapping[str, StorageFactory]:
        @asynccontextmanager
        async def opened() -> AsyncIterator[tuple[Store, Journal]]:
            yield self.store, self.journal

        return {GIVEN: opened}


def durable_storage() -> Storage:
    """Return one that is still there when the next relay of the test opens it."""
    store = MemoryStore()
    store.durable = True
    return Storage(MemoryJournal(), HoppingStore(store))


class Client:
    """One client of a session: what it was shown, and what it says.

    :ivar patience: seconds that its waits may take.
    """

    def __init__(self, relay: Relay, session_id: str, client_id: str, cursor: Cursor) -> None:
        self.relay = relay
        self.patience: float = PATIENCE
        self.session_id = session_id
        self.id = client_id
        self.entries: list[Entry] = []
        self.ended = False
        self._cursor = cursor
        self._changed = anyio.Event()

    async def follow(self) -> None:
        """Read until the conversation is over."""
        while True:
            try:
                batch = await self._cursor.next()
            except anyio.EndOfStream:
                self.ended = True
                self._changed.set()
                return
            self.entries += batch.entries
            self._changed.set()
            self._changed = anyio.Event()

    async def until(self, wanted: Callable[[Entry], bool]) -> Entry:
        """Wait for the first entry that is wanted, among those that came already too."""
        seen = 0
        with anyio.fail_after(self.patience):
            while True:
                for entry in self.entries[seen:]:
                    if wanted(entry):
                        return entry
                seen = len(self.entries)
                assert not self.ended, f"it never came: {self.told}"
                await self._changed.wait()

    async def until_notice(self, word: str) -> dict[str, Any]:
        """Wait for a NOTICE, and return its body."""
        entry = await self.until(lambda e: e.frame.kind is Kind.NOTICE and e.frame.method == word)
        body: dict[str, Any] = json.loads(entry.frame.body)
        return body

    async def until_turn_end(self, turn: str) -> Entry:
        """Wait for the end of a turn."""
        return await self.until(lambda e: e.frame.kind is Kind.TURN_END and e.frame.ref == turn)

    async def until_said(self, text: str) -> Entry:
        """Wait for an update that says this."""
        return await self.until(lambda e: e.frame.kind is Kind.UPDATE and text.encode() in e.frame.body)

    async def until_asked(self, number: int = 1) -> Entry:
        """Wait for the n-th question."""
        asked: list[int] = []

        def is_nth(entry: Entry) -> bool:
            if entry.frame.kind is Kind.REQUEST:
                asked.append(entry.seq)
            return len(asked) == number

        return await self.until(is_nth)

    async def until_the_end(self) -> None:
        """Wait for the end of the conversation."""
        with anyio.fail_after(self.patience):
            while not self.ended:
                await self._changed.wait()

    async def until_decided(self, ref: str) -> dict[str, Any]:
        """Wait until it is told who or what answered a question, and return that; see `notices.DECIDED`."""
        decision = await self.until(lambda e: e.frame.kind is Kind.DECISION and e.frame.ref == ref)
        told = await self.until(lambda e: e.seq == decision.seq + 1)
        assert (told.frame.kind, told.frame.method) == (Kind.NOTICE, "decided")
        body: dict[str, Any] = json.loads(told.frame.body)
        assert body["requestId"] == ref
        return {key: value for key, value in body.items() if key != "requestId"}

    async def say(self, text: str, turn: str) -> None:
        """Prompt the agent."""
        await self.relay.prompt(self.session_id, prompt(text), client_id=self.id, turn=turn)

    async def answer(self, ref: str, option: str = "yes") -> None:
        """Answer a question for a permission."""
        await self.relay.answer(self.session_id, ref, permission(option), client_id=self.id)

    @property
    def told(self) -> list[str]:
        """What it was shown, in short: ``PROMPT t1``, ``NOTICE active``, ``UPDATE session/update``."""
        return [shorthand(entry) for entry in self.entries]


def shorthand(entry: Entry) -> str:
    """Return an entry's kind, with its ref or, where refs are made up by the relay, its method."""
    frame = entry.frame
    turn = frame.kind in {Kind.PROMPT, Kind.TURN_END}
    return f"{frame.kind} {frame.ref if turn else frame.method}"


def prompt(text: str) -> bytes:
    """Return the body of a prompt."""
    return json.dumps({"prompt": [{"type": "text", "text": text}]}).encode()


def permission(option: str) -> bytes:
    """Return the body of an answer to a question for a permission."""
    return json.dumps({"outcome": {"outcome": "selected", "optionId": option}}).encode()


@asynccontextmanager
async def following(
    relay: Relay, session_id: str, *, client_id: str = "c1", after: int = 0
) -> AsyncIterator[Client]:
    """Follow a session for as long as the block lasts."""
    async with relay.attach(session_id, client_id=client_id, protocol="ws", after=after) as cursor:
        client = Client(relay, session_id, client_id, cursor)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(client.follow)
            yield client
            tasks.cancel_scope.cancel()


@asynccontextmanager
async def active_session(relay: Relay, agent_id: str = "auth", *, agent: str = ECHO) -> AsyncIterator[Client]:
    """Create a session, follow it, and wait until its agent takes prompts."""
    session = await relay.create(agent_id, agent=agent)
    async with following(relay, session.id) as client:
        await client.until_notice("active")
        yield client


async def ended(relay: Relay, session_id: str) -> None:
    """Wait until a session is CLEANED."""
    with anyio.fail_after(PATIENCE):
        await relay.wait_ended(session_id)


async def nothing_is_left(relay: Relay, *sessions: Session) -> None:
    """Check that these sessions have ended, and have left neither a role nor a process."""
    for session in sessions:
        assert await relay.get(session.id) is None
        assert processes_of(session.id) == []


def processes_of(session_id: str) -> list[int]:
    """Return the processes that were started for a session, where the system shows them."""
    found = []
    for directory in Path("/proc").glob("[0-9]*"):
        try:
            environment = (directory / "environ").read_bytes()
        except OSError:
            continue  # it ended, or is another user's
        if f"RELAYKIT_SESSION={session_id}".encode() in environment.split(b"\0"):
            found.append(int(directory.name))
    return [pid for pid in found if pid != os.getpid()]
