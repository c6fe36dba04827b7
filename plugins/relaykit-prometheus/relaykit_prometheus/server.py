"""serve_metrics: ``/metrics`` on a port of its own, for a relay with no gateway. On asyncio and trio."""

from __future__ import annotations

import logging
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, cast

import anyio
import h11
from anyio.abc import SocketAttribute, SocketListener, SocketStream, TaskGroup

from relaykit.errors import SettingsError
from relaykit.hooks.registration import ASGIApp
from relaykit.relay import Relay
from relaykit.tasks import OwnedTasks
from relaykit_prometheus.settings import PrometheusSettings

logger = logging.getLogger(__name__)

PATH = "/metrics"

_MOST_CONNECTIONS = 32
_IDLE = 180.0
"""Seconds that a connection may be silent; Prometheus scrapes every 15 to 60."""
_SLOW = 10.0
"""Seconds that a client may take to take an answer."""
_PAUSE = 1.0
"""Seconds before the next try, where no connection can be taken: the process has no file descriptor left."""
_CHUNK = 65536


@asynccontextmanager
async def serve_metrics(relay: Relay, *, app: ASGIApp, settings: PrometheusSettings) -> AsyncIterator[None]:
    """Answer ``/metrics`` for as long as the block lasts.

    :param app: answers it.
    :param settings: with a port.
    :raises SettingsError: the address cannot be listened on.
    """
    host, port = settings.host, settings.port
    try:
        listener = await anyio.create_tcp_listener(local_host=host, local_port=port or 0)
    except socket.gaierror as error:
        raise SettingsError(
            f"metrics cannot be served on {host!r}: {error.strerror or error}; correct `host` in [plugins.prometheus]",
            key="plugins.prometheus.host",
        ) from error
    except OSError as error:
        raise SettingsError(
            f"metrics cannot be served on port {port} of {host}: {error.strerror or error}; stop what listens "
            "there, or choose another `port` in [plugins.prometheus] (0 for any free one)",
            key="plugins.prometheus.port",
        ) from error
    server = _Server(app)
    async with listener, OwnedTasks() as tasks:
        for each in listener.listeners:
            tasks.start_soon(
                server.listen, cast(SocketListener, each), tasks
            )  # its type leaves open what they are
        port = listener.extra(SocketAttribute.local_port)  # noqa: S610 -- it is not Django's
        shown = f"[{host}]" if ":" in host else host
        relay.announce(f"metrics: http://{shown}:{port}{PATH}")
        yield


class _Server:
    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._connections = 0

    async def listen(self, listener: SocketListener, tasks: TaskGroup) -> None:
        """Take connections until it is cancelled."""
        while True:
            try:
                stream = await listener.accept()
            except OSError as error:
                logger.warning("no connection can be taken for metrics: %s", error)
                await anyio.sleep(_PAUSE)
                continue
            tasks.start_soon(self._serve, stream)

    async def _serve(self, stream: SocketStream) -> None:
        """Serve one client until it goes, is silent for long, or does what it must not."""
        self._connections += 1
        try:
            async with stream:
                if self._connections <= _MOST_CONNECTIONS:
                    await _Client(stream, self._app).run()
        except (h11.ProtocolError, anyio.BrokenResourceError, anyio.ClosedResourceError) as error:
            logger.debug("a client of metrics has gone: %s", error)
        except Exception:  # one client's trouble is not the relay's
            logger.exception("serving metrics to one client failed")
        finally:
            self._connections -= 1


class _Client:
    """One connection. Its requests are answered one after the other."""

    def __init__(self, stream: SocketStream, app: ASGIApp) -> None:
        self._stream = stream
        self._app = app
        self._http = h11.Connection(h11.SERVER)

    async def run(self) -> None:
        """Answer requests until there are no more.

        :raises h11.RemoteProtocolError: the client does not speak HTTP.
        :raises BrokenResourceError: (anyio's) it has gone.
        """
        while True:
            request: h11.Request | None = None
            with anyio.move_on_after(_IDLE):
                request = await self._next_request()
            if request is None:
                return
            with anyio.move_on_after(_SLOW) as slow:
                await self._answer(request)
            if slow.cancelled_caught or self._http.our_state is not h11.DONE:
                return
            self._http.start_next_cycle()

    async def _next_request(self) -> h11.Request | None:
        """Return the next request once all of it has come, or None: the client closes."""
        request = None
        while True:
            event = self._http.next_event()
            if event is h11.NEED_DATA:
                try:
                    data = await self._stream.receive(_CHUNK)
                except anyio.EndOfStream:
                    data = b""
                self._http.receive_data(data)
            elif isinstance(event, h11.Request):
                request = event
            elif isinstance(event, h11.EndOfMessage):
                return request
            elif not isinstance(event, h11.Data):  # it has closed
                return None

    async def _answer(self, request: h11.Request) -> None:
        path, _, query = request.target.partition(b"?")
        if path != PATH.encode():
            await self._send(404, [], f"There is {PATH} alone.\n".encode(), request)
        elif request.method not in {b"GET", b"HEAD"}:
            await self._send(405, [(b"allow", b"GET, HEAD")], b"", request)
        else:
            scope = {
                "type": "http",
                "method": request.method.decode(),
                "path": PATH,
                "query_string": query,
                "headers": list(request.headers),
            }
            said: list[Any] = []

            async def send(event: Any) -> None:
                said.append(event)

            await self._app(scope, _receive, send)
            start, body = said
            await self._send(start["status"], start["headers"], body["body"], request)

    async def _send(
        self, status: int, headers: list[tuple[bytes, bytes]], body: bytes, request: h11.Request
    ) -> None:
        headers = [*headers, (b"content-length", str(len(body)).encode())]
        data = self._http.send(h11.Response(status_code=status, headers=headers)) or b""
        if request.method != b"HEAD":
            data += self._http.send(h11.Data(data=body)) or b""
        data += self._http.send(h11.EndOfMessage()) or b""
        await self._stream.send(data)


async def _receive() -> Any:
    return {"type": "http.request", "body": b"", "more_body": False}
