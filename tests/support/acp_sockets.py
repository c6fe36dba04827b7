"""Clients of ``/acp`` without a network, on either event loop."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, MutableMapping
from contextlib import asynccontextmanager
from math import inf
from typing import Any
from urllib.parse import urlencode

import anyio

from relaykit.relay import Relay
from relaykit_gateway.gateway import Gateway
from relaykit_gateway.token import token_path
from support.asgi_websocket import asgi_websocket
from support.gateways import SECONDS

Json = dict[str, Any]


class AcpSocket:
    """A client of ``/acp``. Every wait has a deadline.

    :param heard: everything that it was sent, in order.
    """

    def __init__(
        self, to_app: Callable[[MutableMapping[str, Any]], None], from_app: Callable[[], Any]
    ) -> None:
        self.heard: list[Json] = []
        self.headers: dict[bytes, bytes] = {}
        self._to_app = to_app
        self._from_app = from_app
        self._last_id = 0

    # ------------------------------------------------------------ saying

    def say_raw(self, text: str) -> None:
        """Send a frame of text."""
        self._to_app({"type": "websocket.receive", "text": text})

    def say_bytes(self, data: bytes) -> None:
        """Send a binary frame."""
        self._to_app({"type": "websocket.receive", "bytes": data})

    def say(self, message: Json) -> None:
        """Send a message."""
        self.say_raw(json.dumps({"jsonrpc": "2.0", **message}))

    def ask(self, method: str, params: Any = None, **fields: Any) -> int:
        """Send a request, and return its id."""
        self._last_id += 1
        params = {**(params or {}), **fields} if fields or params is None else params
        self.say({"id": self._last_id, "method": method, "params": params})
        return self._last_id

    def notify(self, method: str, **params: Any) -> None:
        """Send a notification."""
        self.say({"method": method, "params": params})

    def prompt(self, session_id: str, text: str, *, turn: str = "") -> int:
        """Send a prompt, and return its id."""
        meta = {"_meta": {"relaykit": {"turn": turn}}} if turn else {}
        return self.ask(
            "session/prompt", sessionId=session_id, prompt=[{"type": "text", "text": text}], **meta
        )

    def permit(self, ref: str, option: str = "yes") -> None:
        """Answer a request for permission."""
        self.say({"id": ref, "result": {"outcome": {"outcome": "selected", "optionId": option}}})

    # ------------------------------------------------------------ hearing

    async def event(self) -> MutableMapping[str, Any]:
        """Return the next ASGI event."""
        with anyio.fail_after(SECONDS):
            event: MutableMapping[str, Any] = await self._from_app()
        return event

    async def hear_raw(self) -> str:
        """Return the text of the next message."""
        event = await self.event()
        assert event["type"] == "websocket.send", event
        text: str = event["text"]
        self.heard.append(json.loads(text))
        return text

    async def hear(self) -> Json:
        """Return the next message."""
        await self.hear_raw()
        message = self.heard[-1]
        assert message["jsonrpc"] == "2.0"
        return message

    async def closed(self) -> int:
        """Return the code with which the connection is closed next."""
        event = await self.event()
        assert event["type"] == "websocket.close", event
        code: int = event["code"]
        return code

    async def skip_to(self, method: str) -> Json:
        """Return the next request or notification of this method."""
        while (message := await self.hear()).get("method") != method:
            pass
        return message

    async def answer_to(self, raw_id: Any) -> Json:
        """Return the next answer to this request."""
        while "method" in (message := await self.hear()) or message["id"] != raw_id:
            pass
        return message

    async def result_of(self, raw_id: Any) -> Json:
        """Return the result of this request."""
        answer = await self.answer_to(raw_id)
        assert "result" in answer, answer
        result: Json = answer["result"]
        return result

    async def error_of(self, raw_id: Any) -> Json:
        """Return the error of this request."""
        answer = await self.answer_to(raw_id)
        assert "error" in answer, answer
        error: Json = answer["error"]
        return error

    # ------------------------------------------------------------ both

    async def initialize(self, *, aware: bool | Json = False) -> Json:
        """Begin, and return what the relay says of itself."""
        capabilities: Json = {"_meta": {"relaykit": {} if aware is True else aware}} if aware else {}
        return await self.result_of(
            self.ask("initialize", protocolVersion=1, clientCapabilities=capabilities)
        )

    async def new(self, **relaykit: Any) -> str:
        """Create a session, and return its id."""
        meta = {"_meta": {"relaykit": relaykit}} if relaykit else {}
        result = await self.result_of(self.ask("session/new", cwd="/", mcpServers=[], **meta))
        session_id: str = result["sessionId"]
        return session_id

    async def open(self, method: str, session_id: str, **relaykit: Any) -> Json:
        """Load or resume a session, and return the result."""
        meta = {"_meta": {"relaykit": relaykit}} if relaykit else {}
        return await self.result_of(
            self.ask(f"session/{method}", sessionId=session_id, cwd="/", mcpServers=[], **meta)
        )

    async def told(self, session_id: str, text: str) -> Json:
        """Say something to the agent, and return the answer."""
        return await self.result_of(self.prompt(session_id, text))

    @property
    def chunks(self) -> list[str]:
        """The texts that it was sent, with whose they are."""
        updates = [
            message["params"]["update"] for message in self.heard if message.get("method") == "session/update"
        ]
        return [
            f"{update['sessionUpdate'].removesuffix('_message_chunk')}: {update['content']['text']}"
            for update in updates
            if update["sessionUpdate"].endswith("_message_chunk")
        ]


@asynccontextmanager
async def acp_socket(
    gateway: Gateway,
    *,
    token: str = "",
    room: float = inf,
    initialized: bool = True,
    aware: bool | Json = False,
    **query: str,
) -> AsyncIterator[AcpSocket]:
    """Connect a client, and leave with a disconnect.

    :param token: by default the relay's own.
    :param room: how many messages it may be sent before it hears one.
    """
    from relaykit_gateway.app import build_app

    token = token or token_path(gateway.relay.settings.state_dir).read_text()
    connected = asgi_websocket(
        build_app(gateway).__call__, "/acp", token=token, query=urlencode(query).encode(), room=room
    )
    async with connected as (say, hear):
        socket = AcpSocket(say, hear)
        accepted = await socket.event()
        assert accepted["type"] == "websocket.accept"
        socket.headers = dict(accepted["headers"])
        if initialized:
            await socket.initialize(aware=aware)
        yield socket


@asynccontextmanager
async def two_clients(gateway: Gateway) -> AsyncIterator[tuple[AcpSocket, AcpSocket, str]]:
    """Connect a plain client with a new session, and an aware one that follows it; return the session's id too."""
    async with acp_socket(gateway) as plain, acp_socket(gateway, aware=True) as aware:
        session_id = await plain.new()
        await aware.open("load", session_id)
        yield plain, aware, session_id


def gateway_of(relay: Relay) -> Gateway:
    """Return a gateway of the relay, shared by all clients that are given it."""
    from relaykit_gateway.settings import GatewaySettings

    return Gateway(relay, relay.settings.plugin("gateway", GatewaySettings))
