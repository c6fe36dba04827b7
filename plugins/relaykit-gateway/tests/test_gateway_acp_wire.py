"""/acp over real WebSockets: the upgrade, long messages, slow readers, and the relay's shutdown; on uvicorn."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import anyio
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from relaykit.relay import Relay
from support.gateways import BACKENDS, SECONDS, address_of, gateway_settings, open_gateway_relay

pytestmark = pytest.mark.anyio

LIMIT = 16 * 1024 * 1024


@pytest.fixture(params=BACKENDS, ids=["uvloop", "asyncio"])
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture
async def relay(tmp_path: Path) -> AsyncIterator[Relay]:
    async with open_gateway_relay(gateway_settings(tmp_path)) as relay:
        yield relay


class Client:
    """A client of ``/acp`` on a real socket. Every wait has a deadline."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket
        self._last_id = 0

    async def ask(self, method: str, **params: Any) -> int:
        self._last_id += 1
        message = {"jsonrpc": "2.0", "id": self._last_id, "method": method, "params": params}
        with anyio.fail_after(SECONDS):
            await self.socket.send(json.dumps(message))
        return self._last_id

    async def hear(self) -> dict[str, Any]:
        with anyio.fail_after(SECONDS):
            message: dict[str, Any] = json.loads(await self.socket.recv())
        return message

    async def answer_to(self, raw_id: int) -> dict[str, Any]:
        while "method" in (message := await self.hear()) or message["id"] != raw_id:
            pass
        return message

    async def new(self) -> str:
        created = await self.answer_to(await self.ask("session/new", cwd="/", mcpServers=[]))
        session_id: str = created["result"]["sessionId"]
        return session_id

    async def prompt(self, session_id: str, *blocks: dict[str, Any]) -> int:
        return await self.ask("session/prompt", sessionId=session_id, prompt=list(blocks))

    async def closed(self) -> int | None:
        """Read to the end, and return the code with which it was closed."""
        with anyio.fail_after(SECONDS):
            try:
                while True:
                    await self.socket.recv()
            except ConnectionClosed as closed:
                return closed.rcvd.code if closed.rcvd else None


def text(said: str) -> dict[str, Any]:
    return {"type": "text", "text": said}


@asynccontextmanager
async def connected(
    relay: Relay, query: str = "", *, aware: bool = False, **options: Any
) -> AsyncIterator[Client]:
    url, token = address_of(relay)
    options = {
        "additional_headers": {"Authorization": f"Bearer {token}"},
        "compression": None,
        "max_queue": None,
        "max_size": None,
        **options,
    }
    with anyio.fail_after(SECONDS):
        socket = await connect(url.replace("http", "ws", 1) + "/acp" + query, proxy=None, **options)
    try:
        client = Client(socket)
        capabilities: dict[str, Any] = {"_meta": {"relaykit": {}}} if aware else {}
        begun = await client.ask("initialize", protocolVersion=1, clientCapabilities=capabilities)
        assert "result" in await client.answer_to(begun)
        yield client
    finally:
        with anyio.CancelScope(shield=True), anyio.fail_after(SECONDS):
            await socket.close()


async def test_the_upgrade_names_the_connection(relay: Relay) -> None:
    async with connected(relay, "?agent=echo&role=auth&project=default") as client:
        assert client.socket.response is not None
        assert client.socket.response.headers["Acp-Connection-Id"]
        session = await relay.require(await client.new())
        assert (session.agent_id, session.agent, session.project) == ("auth", "echo", "default")


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 401),
        ({"Authorization": "Bearer wrong"}, 401),
        ({"Origin": "https://evil.example"}, 403),
    ],
)
async def test_who_may_not_come_in_is_told_before_the_upgrade(
    relay: Relay, headers: dict[str, str], status: int
) -> None:
    if "Authorization" not in headers and status == 403:
        headers = {**headers, "Authorization": f"Bearer {address_of(relay)[1]}"}
    with pytest.raises(InvalidStatus) as refused:
        async with connected(relay, additional_headers=headers):
            pass
    assert refused.value.response.status_code == status


async def test_a_photo_goes_to_the_agent_and_to_the_others(relay: Relay) -> None:
    photo = base64.b64encode(os.urandom(11 * 1024 * 1024)).decode()
    async with connected(relay) as one, connected(relay, aware=True) as other:
        session_id = await one.new()
        await other.answer_to(await other.ask("session/resume", sessionId=session_id))
        prompt = await one.prompt(session_id, {"type": "image", "mimeType": "image/png", "data": photo})
        assert (await one.hear())["params"]["update"]["content"]["text"] == "[image]"
        assert (await one.answer_to(prompt))["result"]["stopReason"] == "end_turn"
        content = (await other.hear())["params"]["update"]["content"]
        assert content == {"type": "image", "mimeType": "image/png", "data": photo}


async def test_a_message_may_be_16_mib_long_and_no_longer(relay: Relay) -> None:
    async with connected(relay) as client:
        head = '{"jsonrpc":"2.0","id":7,"method":"session/list","params":{"x":"'
        for size, told in ((LIMIT, True), (LIMIT + 1, False)):
            with (
                anyio.fail_after(SECONDS),
                suppress(ConnectionClosed),
            ):  # it may be closed while we still send
                await client.socket.send(head + "x" * (size - len(head) - 3) + '"}}')
            if told:
                assert "sessions" in (await client.answer_to(7))["result"]
        assert await client.closed() == 1009


async def test_the_other_protocol_keeps_its_limit(relay: Relay) -> None:
    url, token = address_of(relay)
    headers = {"Authorization": f"Bearer {token}"}
    with anyio.fail_after(SECONDS):
        async with connect(
            url.replace("http", "ws", 1) + "/ws", proxy=None, additional_headers=headers, compression=None
        ) as socket:
            with suppress(ConnectionClosed):
                await socket.send("x" * (3 * 1024 * 1024))
            assert await Client(socket).closed() == 1009


async def test_a_client_that_does_not_read_holds_nobody_up(relay: Relay) -> None:
    # It takes a few messages, and then the sockets' buffers, which hold a small part of all, are all there is.
    slow_client = connected(relay, max_queue=2, ping_interval=None)
    async with slow_client as slow, connected(relay) as quick:
        session_id = await quick.new()
        await slow.answer_to(await slow.ask("session/load", sessionId=session_id))
        prompt = await quick.prompt(session_id, text("/stream 2000 10000"))
        assert (await quick.answer_to(prompt))["result"]["stopReason"] == "end_turn"
        heard = [await slow.hear() for _ in range(2001)]
        seqs = [message["params"]["_meta"]["relaykit"]["seq"] for message in heard]
        assert seqs == list(range(2, 2003))


async def test_a_shutdown_answers_what_is_open_and_closes(tmp_path: Path) -> None:
    async with connected_for(tmp_path) as (client, session_id, stop):
        prompt = await client.prompt(session_id, text("/sleep 600"))
        started = await client.hear()
        assert started["method"] == "_relaykit/turn_started"
        stop.set()
        error = (await client.answer_to(prompt))["error"]
        assert "the relay is shutting down" in error["message"]
        ended = await client.hear()
        assert ended["method"] == "_relaykit/session_ended"
        assert ended["params"]["cause"] == "SHUTDOWN"
        assert await client.closed() == 1001


@asynccontextmanager
async def connected_for(directory: Path) -> AsyncIterator[tuple[Client, str, anyio.Event]]:
    """Run a relay until the event is set; give a client with a session in it."""
    stop = anyio.Event()
    async with anyio.create_task_group() as tasks:
        client, session_id = await tasks.start(_run_until, directory, stop)
        try:
            yield client, session_id, stop
        finally:
            stop.set()


async def _run_until(
    directory: Path, stop: anyio.Event, *, task_status: anyio.abc.TaskStatus[tuple[Client, str]]
) -> None:
    # Whether sessions sleep or end then, who follows them hears of it before the connection is closed.
    async with open_gateway_relay(gateway_settings(directory, relay='on_shutdown = "end"')) as relay:
        url, token = address_of(relay)
        headers = {"Authorization": f"Bearer {token}"}
        socket = await connect(
            url.replace("http", "ws", 1) + "/acp", proxy=None, additional_headers=headers, compression=None
        )
        client = Client(socket)
        capabilities: dict[str, Any] = {"_meta": {"relaykit": {}}}
        await client.answer_to(await client.ask("initialize", clientCapabilities=capabilities))
        task_status.started((client, await client.new()))
        await stop.wait()
