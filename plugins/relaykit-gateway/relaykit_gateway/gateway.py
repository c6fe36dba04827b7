"""Gateway: what all connections of one relay's clients share."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import anyio

from relaykit.hooks.events import AccessRefused
from relaykit.meter import CLIENTS, Values
from relaykit.relay import Relay
from relaykit_gateway.acp.render import AcpRenderer
from relaykit_gateway.credentials import Caller, Credentials, Tickets
from relaykit_gateway.messages import MessageTable
from relaykit_gateway.problems import Problem
from relaykit_gateway.render import Renderer
from relaykit_gateway.rendering import PerSession
from relaykit_gateway.settings import GatewaySettings
from relaykit_gateway.stalls import Stalls
from relaykit_gateway.token import load_token
from relaykit_gateway.token_file import KnownTokens, TokenFile, tokens_path

if TYPE_CHECKING:
    from relaykit_gateway.channel import Channel

_LOOK_SECONDS = 0.25
"""How often it is looked whether clients' tokens are worth something still. A second is promised."""


class Gateway:
    """The clients of one relay. Used from the relay's loop alone.

    :param token: the relay's own; None if clients need none.
    :raises RelaykitError: the token cannot be kept, or two plugins want the same type of message.
    """

    def __init__(self, relay: Relay, settings: GatewaySettings) -> None:
        self.relay = relay
        self.settings = settings
        self.server_id = relay.ids.new_id()
        self.token = load_token(settings, relay.settings.state_dir)
        self.tickets = Tickets(relay.clock)
        known = KnownTokens(TokenFile(tokens_path(relay.settings.state_dir)), relay.clock)
        self.credentials = Credentials(self.token, known, self.tickets)
        self.messages = MessageTable(relay.messages)
        self.renderers = PerSession(Renderer)
        self.acp_renderers = PerSession(lambda live: AcpRenderer(live, live.asking.deciders))
        self.stalls = Stalls(self, settings.stall_timeout)
        self._channels: set[Channel[Any]] = set()
        self._places = 0
        self._watching = False
        relay.meter.watch(CLIENTS, self._by_protocol)

    def _by_protocol(self) -> Values:
        return Counter((channel.protocol, channel.access.role) for channel in self._channels)

    @property
    def has_room(self) -> bool:
        """One more client may come."""
        return not self.settings.max_clients or self._places < self.settings.max_clients

    @contextmanager
    def place(self) -> Iterator[None]:
        """Take up a client's place for as long as the block lasts, from before it is answered."""
        self._places += 1
        try:
            yield
        finally:
            self._places -= 1

    @contextmanager
    def connected(self, channel: Channel[Any]) -> Iterator[None]:
        """Know of a client for as long as the block lasts, and send it away when its token is worth nothing."""
        self._channels.add(channel)
        if channel.caller.token is not None and not self._watching:
            self._watching = True
            self.relay.start(self._watch_tokens)
        self.stalls.start()
        try:
            yield
        finally:
            self._channels.discard(channel)

    async def _watch_tokens(self) -> None:
        """Send away whose token was revoked or has expired, for as long as there are clients with named tokens."""
        while True:
            by_caller: dict[Caller, list[Channel[Any]]] = {}
            for channel in self._channels:
                if channel.caller.token is not None:
                    by_caller.setdefault(channel.caller, []).append(channel)
            if not by_caller:
                self._watching = False
                return
            for caller, channels in by_caller.items():
                if why := self.credentials.why_not(caller):
                    for channel in channels:
                        channel.dismiss(why)
            await anyio.sleep(_LOOK_SECONDS)

    async def tell_refused(self, where: str, address: str, problem: Problem) -> None:
        """Tell plugins that somebody is not let in."""
        await self.relay.tell_refused(
            AccessRefused(
                where=where,
                address=address,
                status=problem.status_code,
                reason=problem.detail,
                at=self.relay.clock.now(),
                by=problem.by,
            )
        )

    @property
    def channels(self) -> list[Channel[Any]]:
        """The clients that are connected now."""
        return list(self._channels)

    async def aclose(self) -> None:
        """Say goodbye to every client. Ends within a few seconds; idempotent."""
        async with anyio.create_task_group() as leaving:
            for channel in self.channels:
                leaving.start_soon(channel.say_goodbye)
