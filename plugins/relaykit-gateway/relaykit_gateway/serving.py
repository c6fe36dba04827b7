"""serve_gateway: the gateway on a port of its own, by uvicorn."""

from __future__ import annotations

import asyncio  # noqa: TID251 -- uvicorn runs on asyncio alone: here it is checked, and said
import logging
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial

import anyio
import uvicorn

from relaykit.errors import RelaykitError, SettingsError
from relaykit.relay import Relay
from relaykit_gateway.app import build_app
from relaykit_gateway.gateway import Gateway
from relaykit_gateway.settings import GatewaySettings
from relaykit_gateway.websocket_protocol import WebSocketProtocol

logger = logging.getLogger(__name__)

_HARD_LIMIT = 2
"""Messages up to this many times `max_message_bytes` are read, and answered; longer ones close with 1009."""

_STOP_SECONDS = 3
_WILDCARDS = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 -- compared with, not bound to


@asynccontextmanager
async def serve_gateway(relay: Relay, *, settings: GatewaySettings | None = None) -> AsyncIterator[None]:
    """Serve the gateway for as long as the block lasts; leaving it says goodbye to the clients.

    The relay's running file gets the address, its announcements the link with the token.

    :param settings: by default ``[plugins.gateway]``.
    :raises RelaykitError: the loop is not asyncio's, or the gateway cannot be made.
    :raises SettingsError: the address cannot be listened on.
    """
    _require_asyncio()
    settings = settings or relay.settings.plugin("gateway", GatewaySettings)
    gateway = Gateway(relay, settings)
    app = build_app(gateway)
    with _listen(settings.host, settings.port) as listener:
        server = _Server(
            uvicorn.Config(
                app,
                http="h11",
                ws=WebSocketProtocol,
                ws_max_size=_HARD_LIMIT * settings.max_message_bytes,
                ws_ping_interval=settings.ping_interval,
                ws_ping_timeout=settings.pong_timeout,
                ws_per_message_deflate=False,
                lifespan="off",
                log_config=None,
                log_level="warning",  # below that it logs addresses with their queries, and headers
                access_log=False,
                proxy_headers=False,
                server_header=False,
                timeout_graceful_shutdown=_STOP_SECONDS,
            )
        )
        relay.start(partial(server.run_until_stopped, listener))
        await server.listening.wait()
        url = _url(settings.host, listener.getsockname()[1])
        logger.info("listening on %s", url)
        if relay.running is not None:
            relay.running.set_url(url)
        link = f"{(settings.public_url or url).rstrip('/')}/"
        relay.announce(f"{link}?token={gateway.token}" if gateway.token else link)
        try:
            yield
        finally:
            with anyio.CancelScope(shield=True):
                await gateway.aclose()
                await server.stop()


class _Server(uvicorn.Server):
    """uvicorn's own, without signal handlers, and with events to wait for."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.listening = anyio.Event()
        self._stopped = anyio.Event()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals to the application."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, and say so."""
        await super().startup(sockets)
        self.listening.set()

    async def run_until_stopped(self, listener: socket.socket) -> None:
        """Serve until `stop`."""
        try:
            await self.serve([listener])
        finally:
            self._stopped.set()

    async def stop(self) -> None:
        """Serve no more. Clients that do not let go in time are dropped."""
        self.should_exit = True
        with anyio.move_on_after(_STOP_SECONDS):
            await self._stopped.wait()
            return
        for connection in list(self.server_state.connections):
            connection.transport.abort()
        await self._stopped.wait()


def _require_asyncio() -> None:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        raise RelaykitError(
            "the gateway's server, uvicorn, runs on asyncio alone: open the relay on asyncio, "
            "or mount gateway_app(relay) in a server for this event loop"
        ) from None


@contextmanager
def _listen(host: str, port: int) -> Iterator[socket.socket]:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        raise SettingsError(
            f"{host!r} is no address to listen on: {error.strerror}", key="plugins.gateway.host"
        ) from error
    family, kind, protocol, _, address = found[0]
    with socket.socket(family, kind, protocol) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(address)
            listener.listen()
        except OSError as error:
            raise SettingsError(
                f"cannot listen on port {port} of {host}: {error.strerror}; stop what listens there, or choose "
                "another port: `relaykit serve --port N`, or `port` in [plugins.gateway] (0 for any free one)",
                key="plugins.gateway.port",
            ) from error
        listener.setblocking(False)
        yield listener


def _url(host: str, port: int) -> str:
    host = _WILDCARDS.get(host, host)
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
