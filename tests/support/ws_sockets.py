"""Clients of ``/ws`` without a network, on either event loop."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, MutableMapping
from contextlib import asynccontextmanager
from math import inf
from typing import Any

import anyio

from relaykit_gateway.gateway import Gateway
from relaykit_gateway.token import token_path
from support.asgi_websocket import asgi_websocket
from support.gateways import SECONDS

Json = dict[str, Any]


class WsSocket:
    """A client of ``/ws``. Every wait has a deadline."""

    def __init__(
        self, to_app: Callable[[MutableMapping[str, Any]], None], from_app: Callable[[], Any]
    ) -> None:
        self.heard: list[Json] = []
        self._to_app = to_app
        self._from_app = from_app

    def say(self, type_: str, **fields: Any) -> None:
        """Send a message."""
        message = {"version": "1.0", "type": type_, **fields}
        self._to_app({"type": "websocket.receive", "text": json.dumps(message)})

    async def event(self) -> MutableMapping[str, Any]:
        """Return the next ASGI event."""
        with anyio.fail_after(SECONDS):
            event: MutableMapping[str, Any] = await self._from_app()
        return event

    async def hear(self) -> Json:
        """Return the next message."""
        event = await self.event()
        assert event["type"] == "websocket.send", event
        message: Json = json.loads(event["text"])
        self.heard.append(message)
        return message

    async def expect(self, type_: str) -> Json:
        """Return the next message, which is of this type."""
        message = await self.hear()
        assert message["type"] == type_, message
        return message

    async def skip_to(self, type_: str) -> Json:
        """Return the next message of this type."""
        while (message := await self.hear())["type"] != type_:
            pass
        return message

    async def closed(self) -> int:
        """Return the code with which the connection is closed, past everything that is still said."""
        while (event := await self.event())["type"] != "websocket.close":
            self.heard.append(json.loads(event["text"]))
        code: int = event["code"]
        return code

    @property
    def types(self) -> list[str]:
        """The types of what it was sent."""
        return [message["type"] for message in self.heard]


@asynccontextmanager
async def ws_socket(gateway: Gateway, *, token: str = "", room: float = inf) -> AsyncIterator[WsSocket]:
    """Connect a client, and leave with a disconnect.

    :param token: by default the relay's own.
    :param room: how many messages it may be sent before it hears one.
    """
    from relaykit_gateway.app import build_app

    token = token or token_path(gateway.relay.settings.state_dir).read_text()
    async with asgi_websocket(build_app(gateway).__call__, "/ws", token=token, room=room) as (say, hear):
        socket = WsSocket(say, hear)
        assert (await socket.event())["type"] == "websocket.accept"
        await socket.expect("connection:established")
        yield socket
