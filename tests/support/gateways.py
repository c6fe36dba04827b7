"""A relay with its gateway on a real port, and clients of the relay protocol."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
from websockets.asyncio.client import ClientConnection, connect

from relaykit.hooks import hookimpl
from relaykit.hooks.loader import load_plugins
from relaykit.relay import Relay, open_relay
from relaykit.relay.running import read_running
from relaykit.settings import Settings, load_settings

SECONDS = 20
"""The deadline of every wait: far more than anything takes."""

BACKENDS = [
    ("asyncio", {"use_uvloop": True}),
    ("asyncio", {"use_uvloop": False}),
]
"""uvicorn runs on asyncio alone: tests that serve run on both of its loops."""

ECHO = [sys.executable, "-m", "relaykit_acp.echo_agent"]


def gateway_settings(directory: Path, *, relay: str = "", gateway: str = "", agents: str = "") -> Settings:
    """Return settings for a relay in `directory`, with an echo agent and one that cannot be started.

    :param relay: more of ``[relay]``, as TOML.
    :param gateway: more of ``[plugins.gateway]``.
    :param agents: more tables.
    """
    lines = [
        "[relay]",
        'workspace = "in_place"',
        'disabled = ["audit", "prometheus", "worktree"]',
        'default_agent = "echo"',
        relay,
        "[plugins.gateway]",
        "" if "port =" in gateway else "port = 0",
        gateway,
        "[agents.echo]",
        f"command = {json.dumps(ECHO)}",
        "[agents.missing]",
        'command = ["there-is-no-such-program"]',
        agents,
    ]
    (directory / "relaykit.toml").write_text("\n".join(lines))
    environ = {"HOME": str(directory), "XDG_STATE_HOME": str(directory / "state"), "PATH": os.environ["PATH"]}
    return load_settings(environ=environ, cwd=directory)


@asynccontextmanager
async def open_gateway_relay(
    settings: Settings, *, serve: bool = True, extra: Mapping[str, object] | None = None
) -> AsyncIterator[Relay]:
    """Run a relay; with `serve`, its gateway listens.

    :param extra: more plugins, by name.
    """
    async with open_relay(settings, plugins=load_plugins(settings, extra=extra), serve=serve) as relay:
        yield relay


def address_of(relay: Relay) -> tuple[str, str]:
    """Return the URL at which a relay serves, and its token; empty if it needs none."""
    running = read_running(relay.settings.state_dir)
    assert running is not None
    return running.url, relay.announcements[0].partition("/?token=")[2]


class Presence:
    """A plugin that knows when clients attach and detach."""

    def __init__(self) -> None:
        self._changed = anyio.Event()

    @hookimpl
    async def relaykit_on_client_attached(self) -> None:
        """Wake who waits."""
        self._wake()

    @hookimpl
    async def relaykit_on_client_detached(self) -> None:
        """Wake who waits."""
        self._wake()

    async def until(self, relay: Relay, session_id: str, count: int) -> None:
        """Wait until so many clients follow the session."""
        with anyio.fail_after(SECONDS):
            while relay.clients(session_id) != count:
                await self._changed.wait()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = anyio.Event()


class Client:
    """One client of ``/ws``. Every wait has a deadline."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket

    async def say(self, type_: str, /, **fields: Any) -> None:
        """Send a message of our version."""
        await self.say_raw(json.dumps({"version": "1.0", "type": type_, **fields}))

    async def say_raw(self, message: str | bytes) -> None:
        """Send any frame."""
        with anyio.fail_after(SECONDS):
            await self.socket.send(message)

    async def hear(self) -> dict[str, Any]:
        """Return the next message."""
        with anyio.fail_after(SECONDS):
            message = json.loads(await self.socket.recv())
        assert isinstance(message, dict)
        assert message["version"] == "1.0"
        return message

    async def expect(self, type_: str) -> dict[str, Any]:
        """Return the next message, which must be of this type."""
        message = await self.hear()
        assert message["type"] == type_, message
        return message

    async def skip_to(self, type_: str) -> dict[str, Any]:
        """Return the next message of this type, and drop those before it."""
        with anyio.fail_after(SECONDS):
            while (message := await self.hear())["type"] != type_:
                pass
        return message

    async def error(self) -> dict[str, Any]:
        """Return the next message, which must be an error."""
        return await self.expect("error")

    async def create(self, agent_id: str = "auth", **fields: Any) -> str:
        """Create a session, wait until it is ready, and return its id."""
        await self.say("session:create", agentId=agent_id, **fields)
        created = await self.expect("session:created")
        await self.expect("session:ready")
        session_id = created["sessionId"]
        assert isinstance(session_id, str)
        return session_id

    async def prompt(self, session_id: str, content: Any) -> dict[str, Any]:
        """Say something to the agent, and return its whole answer."""
        await self.say("agent:message", sessionId=session_id, content=content)
        return await self.skip_to("agent:response")

    async def attach(self, session_id: str, **fields: Any) -> dict[str, Any]:
        """Attach, read up to having caught up, and return ``session:attached``."""
        await self.say("session:attach", sessionId=session_id, **fields)
        attached = await self.expect("session:attached")
        await self.skip_to("session:caught_up")
        return attached


@asynccontextmanager
async def connected(relay: Relay, **options: Any) -> AsyncIterator[Client]:
    """Connect a client, past ``connection:established``."""
    url, token = address_of(relay)
    bearer = {"Authorization": f"Bearer {token}"}
    # Without a limit of its own it always reads: it answers pings, and closes at once.
    options = {"additional_headers": bearer, "compression": None, "max_queue": None, **options}
    with anyio.fail_after(SECONDS):
        socket = await connect(url.replace("http", "ws", 1) + "/ws", proxy=None, **options)
    try:
        client = Client(socket)
        await client.expect("connection:established")
        yield client
    finally:
        with anyio.CancelScope(shield=True), anyio.fail_after(SECONDS):
            await socket.close()
