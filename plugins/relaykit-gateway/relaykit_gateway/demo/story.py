"""The demo itself: a relay, a client, one session, and a look at what is left of them."""

from __future__ import annotations

import signal
from collections.abc import AsyncIterable, AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from importlib import metadata
from typing import Any

import anyio
from anyio import to_thread

from relaykit.errors import RelaykitError
from relaykit.hooks.loader import GROUP, load_plugins
from relaykit.relay import open_relay
from relaykit.session import SessionState
from relaykit.settings import ProjectSettings, RelaySettings, Settings
from relaykit_gateway.address import find_relay
from relaykit_gateway.demo.narrator import Narrator
from relaykit_gateway.demo.scratch import DemoFailed, Scratch, open_scratch
from relaykit_gateway.demo.witness import Witness
from relaykit_gateway.http_client import HttpClient
from relaykit_gateway.terminal.screen import Screen, Style
from relaykit_gateway.ws_client import RelayClient, connect

FAILED = 1
INTERRUPTED = 130  # 128 + SIGINT, as shells have it

_PLUGINS = ("acp", "gateway", "prometheus", "worktree")
_SECONDS = 30.0
_UPDATES = 5
_LIFE = tuple(SessionState)  # in the order of a life without accidents
_METRICS = ("relaykit_sessions{", "relaykit_session_transitions_total{")


async def run_demo(screen: Screen) -> int:
    """Play the demo, and return the exit code of its command: 0 if everything was as it should be."""
    narrator = Narrator(screen, anyio.current_time)
    witness = Witness(narrator)
    problem = None
    with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM, signal.SIGHUP) as signals:
        async with anyio.create_task_group() as tasks:
            scope = anyio.CancelScope()
            tasks.start_soon(_cancel_at_signal, signals, scope)
            try:
                with scope, anyio.fail_after(_SECONDS):
                    await _play(narrator, witness)
            except TimeoutError:
                problem = f"it took longer than {_SECONDS:.0f} s"
            except (RelaykitError, OSError) as error:
                problem = str(error)
            tasks.cancel_scope.cancel()
    if left := witness.processes():
        problem = f"{problem or 'it ended'}; and these processes are left: {left}"
    if problem:
        narrator.end(f"The demo failed: {problem}", Style.RED)
        return FAILED
    if scope.cancelled_caught:
        narrator.end("Interrupted. Nothing is left.", Style.YELLOW)
        return INTERRUPTED
    narrator.end(
        "That was one session. Next: `relaykit serve` in a repository of yours, and `relaykit chat`.",
        Style.BOLD,
    )
    return 0


async def _cancel_at_signal(signals: AsyncIterable[signal.Signals], scope: anyio.CancelScope) -> None:
    async for _ in signals:
        scope.cancel()


async def _play(narrator: Narrator, witness: Witness) -> None:
    narrator.heading("A relay, on a scratch repository")
    async with open_scratch() as scratch:
        narrator.fact("git", f"made {scratch.repository}")
        async with _open_client(scratch, narrator, witness) as (client, http):
            narrator.heading("A client, on a real WebSocket: it creates a session")
            session_id = await _begin(client, scratch, witness)
            narrator.heading("A conversation with the agent, and a permission that it asks for")
            await _converse(client, session_id)
            narrator.heading("GET /metrics")
            await _scrape(http, narrator)
            narrator.heading("The end of the session")
            await _end(client, session_id)
            narrator.heading("What is left")
            await _look_for_leftovers(narrator, scratch, witness)
    if await anyio.Path(scratch.root).exists():
        raise DemoFailed(f"the scratch directory {str(scratch.root)!r} is left")
    narrator.proof(f"{scratch.root} is removed")


@asynccontextmanager
async def _open_client(
    scratch: Scratch, narrator: Narrator, witness: Witness
) -> AsyncIterator[tuple[_Client, HttpClient]]:
    """Run a relay of the demo's own settings, and connect to it as any client does."""
    settings = Settings(
        relay=RelaySettings(workspace="worktree", default_agent="echo"),
        projects={"scratch": ProjectSettings(path=scratch.repository)},
        agents={},
        state_dir=scratch.state_dir,
    ).with_plugin("gateway", {"host": "127.0.0.1", "port": 0}, origin="the demo")
    plugins = load_plugins(settings, entry_points=_installed(), extra={"demo": witness})
    async with open_relay(settings, plugins=plugins, serve=True):
        address = await to_thread.run_sync(find_relay, settings)
        narrator.fact("relay", f"listens on {address.url}")
        async with connect(address) as connection:
            yield _Client(connection, narrator), HttpClient(address)


def _installed() -> Sequence[metadata.EntryPoint]:
    """Return the plugins that the demo is made of: it is the same demo whatever else is installed."""
    found = [point for point in metadata.entry_points(group=GROUP) if point.name in _PLUGINS]
    if missing := sorted(set(_PLUGINS) - {point.name for point in found}):
        packages = ", ".join(f"relaykit-{name}" for name in missing)
        raise DemoFailed(f"it needs {packages} too: pip install 'relaykit[standard]'")
    return found


class _Client:
    """Says everything aloud that it sends and receives."""

    def __init__(self, connection: RelayClient, narrator: Narrator) -> None:
        self._connection = connection
        self._narrator = narrator

    async def send(self, type_: str, /, **fields: Any) -> None:
        self._narrator.sent(type_, fields)
        await self._connection.send(type_, **fields)

    async def hear(self, type_: str) -> Mapping[str, Any]:
        """Return the next message of this type.

        :raises DemoFailed: an error comes before it.
        """
        while True:
            message = await self._connection.receive()
            self._narrator.received(message)
            if message["type"] == "error":
                raise DemoFailed(
                    f"the relay answered {message['error']['code']}: {message['error']['message']}"
                )
            if message["type"] == type_:
                return message


async def _begin(client: _Client, scratch: Scratch, witness: Witness) -> str:
    await client.hear("connection:established")
    await client.send("session:create", agentId="demo")
    session_id: str = (await client.hear("session:created"))["sessionId"]
    await client.hear("session:ready")
    # What is to be gone in the end must be there now: else its absence would prove nothing.
    if not await to_thread.run_sync(witness.processes):
        raise DemoFailed("the session is ACTIVE, but no process of its agent is found")
    if len(await scratch.worktrees()) != 1 or len(await scratch.branches()) != 1:
        raise DemoFailed("the session is ACTIVE, but has no worktree with a branch")
    return session_id


async def _converse(client: _Client, session_id: str) -> None:
    await _say(client, session_id, "hello")
    _require("hello", (await client.hear("agent:response"))["content"])

    await _say(client, session_id, "/ask")
    question = await client.hear("permission:request")
    option = question["options"][0]["optionId"]
    await client.send(
        "permission:response", sessionId=session_id, requestId=question["requestId"], optionId=option
    )
    _require(f"permission: {option}", (await client.hear("agent:response"))["content"])

    await _say(client, session_id, f"/stream {_UPDATES} 12")
    for _ in range(_UPDATES):
        await client.hear("agent:update")
    await client.hear("agent:response")


async def _say(client: _Client, session_id: str, text: str) -> None:
    await client.send("agent:message", sessionId=session_id, content=text)


def _require(expected: str, found: str) -> None:
    if found != expected:
        raise DemoFailed(f"the agent was to answer {expected!r}, and answered {found!r}")


async def _scrape(http: HttpClient, narrator: Narrator) -> None:
    scraped = await to_thread.run_sync(http.get, "/metrics", abandon_on_cancel=True)
    lines = [line for line in scraped.splitlines() if line.startswith(_METRICS) and not line.endswith(" 0.0")]
    if 'relaykit_sessions{state="ACTIVE"} 1.0' not in lines:
        raise DemoFailed("the metrics do not show the session")
    narrator.excerpt("\n".join(lines))


async def _end(client: _Client, session_id: str) -> None:
    await client.send("session:stop", sessionId=session_id, reason="the demo is over")
    await client.hear("session:terminated")


async def _look_for_leftovers(narrator: Narrator, scratch: Scratch, witness: Witness) -> None:
    if tuple(witness.path) != _LIFE:
        raise DemoFailed(f"the session went {' → '.join(witness.path)}, instead of {' → '.join(_LIFE)}")
    narrator.proof(" → ".join(witness.path))
    if left := await to_thread.run_sync(witness.processes):
        raise DemoFailed(f"processes of the session are left: {left}")
    narrator.proof("no process of the session is left")
    if worktrees := await scratch.worktrees():
        raise DemoFailed(f"worktrees are left: {', '.join(map(str, worktrees))}")
    if branches := await scratch.branches():
        raise DemoFailed(f"branches are left: {', '.join(branches)}")
    narrator.proof("no worktree and no branch is left")
