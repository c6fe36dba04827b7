"""Gateway: what all connections of one relay's clients share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import anyio

from relaykit.relay import LiveSession, Relay
from relaykit_gateway.messages import MessageTable
from relaykit_gateway.render import Renderer
from relaykit_gateway.settings import GatewaySettings
from relaykit_gateway.token import load_token

if TYPE_CHECKING:
    from relaykit_gateway.connection import Connection


class Gateway:
    """The clients of one relay. Used from the relay's loop alone.

    :param token: what clients must know; None if they need nothing.
    :raises RelaykitError: the token cannot be kept, or two plugins want the same type of message.
    """

    def __init__(self, relay: Relay, settings: GatewaySettings) -> None:
        self.relay = relay
        self.settings = settings
        self.server_id = relay.ids.new_id()
        self.token = load_token(settings, relay.settings.state_dir)
        self.messages = MessageTable(relay.messages)
        self._connections: set[Connection] = set()
        self._renderers: dict[str, Renderer] = {}

    @contextmanager
    def connected(self, connection: Connection) -> Iterator[None]:
        """Know of a connection for as long as the block lasts."""
        self._connections.add(connection)
        try:
            yield
        finally:
            self._connections.discard(connection)

    @contextmanager
    def renderer(self, live: LiveSession) -> Iterator[Renderer]:
        """Give the renderer of a session, one for all that follow it."""
        renderer = self._renderers.setdefault(live.id, Renderer(live))
        renderer.followers += 1
        try:
            yield renderer
        finally:
            renderer.followers -= 1
            if not renderer.followers:
                del self._renderers[live.id]

    async def aclose(self) -> None:
        """Say goodbye to every client. Ends within a few seconds; idempotent."""
        async with anyio.create_task_group() as leaving:
            for connection in list(self._connections):
                leaving.start_soon(connection.say_goodbye)
