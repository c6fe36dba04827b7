"""Gateway: what all connections of one relay's clients share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import anyio

from relaykit.relay import Relay
from relaykit_gateway.acp.render import AcpRenderer
from relaykit_gateway.messages import MessageTable
from relaykit_gateway.render import Renderer
from relaykit_gateway.rendering import PerSession
from relaykit_gateway.settings import GatewaySettings
from relaykit_gateway.stalls import Stalls
from relaykit_gateway.token import load_token

if TYPE_CHECKING:
    from relaykit_gateway.channel import Channel


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
        self.renderers = PerSession(Renderer)
        self.acp_renderers = PerSession(AcpRenderer)
        self.stalls = Stalls(self, settings.stall_timeout)
        self._channels: set[Channel[Any]] = set()

    @contextmanager
    def connected(self, channel: Channel[Any]) -> Iterator[None]:
        """Know of a client for as long as the block lasts."""
        self._channels.add(channel)
        self.stalls.start()
        try:
            yield
        finally:
            self._channels.discard(channel)

    @property
    def channels(self) -> list[Channel[Any]]:
        """The clients that are connected now."""
        return list(self._channels)

    async def aclose(self) -> None:
        """Say goodbye to every client. Ends within a few seconds; idempotent."""
        async with anyio.create_task_group() as leaving:
            for channel in self.channels:
                leaving.start_soon(channel.say_goodbye)
