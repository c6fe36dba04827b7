"""RelayClient: a client of the relay protocol, for asyncio and trio."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import msgspec

from relaykit_gateway.address import Address, ClientError
from relaykit_gateway.websocket_client import WebSocketClient, connect_websocket
from relaykit_gateway.wire import compose


class RelayClient:
    """One connection to ``/ws``. Made by `connect`.

    One task may receive while others send. Pings are answered while somebody waits in `receive`.
    """

    def __init__(self, socket: WebSocketClient) -> None:
        self._socket = socket

    async def send(self, type_: str, /, **fields: Any) -> None:
        """Send a message of this type; cancelled or not, it is sent whole or the connection is over.

        :raises Disconnected: the connection has ended.
        """
        await self._socket.send(compose(type_, **fields).encode())

    async def receive(self) -> Mapping[str, Any]:
        """Return the next message. Cancelled, it has taken none.

        :raises Disconnected: there is none, and the connection has ended.
        :raises ClientError: what came is no message.
        """
        try:
            return msgspec.json.decode(await self._socket.receive(), type=dict[str, Any])
        except msgspec.MsgspecError as error:
            raise ClientError(f"the relay sent what is no message: {error}") from error


@asynccontextmanager
async def connect(address: Address) -> AsyncIterator[RelayClient]:
    """Connect to a relay's ``/ws`` for as long as the block lasts.

    :raises Unreachable: nobody answers within 10 seconds.
    :raises UpgradeRefused: the relay let us not in.
    """
    async with connect_websocket(address, "/ws") as socket:
        yield RelayClient(socket)
