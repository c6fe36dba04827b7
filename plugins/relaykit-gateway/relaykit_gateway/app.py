"""gateway_app: the whole gateway as one ASGI application."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from starlette.applications import Starlette
from starlette.datastructures import QueryParams
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Mount, Route, WebSocketRoute
from starlette.types import Receive, Scope, Send

from relaykit.errors import RelaykitError
from relaykit.hooks.registration import ASGIApp
from relaykit.relay import Relay
from relaykit_gateway.acp.connection import AcpConnection
from relaykit_gateway.api import Api
from relaykit_gateway.channel import Channel
from relaykit_gateway.connection import Connection
from relaykit_gateway.gateway import Gateway
from relaykit_gateway.guard import Guard
from relaykit_gateway.limits import refuse
from relaykit_gateway.page import StatusPage
from relaykit_gateway.problems import Problem
from relaykit_gateway.settings import GatewaySettings
from relaykit_gateway.stalls import pipe_of

logger = logging.getLogger(__name__)


def gateway_app(relay: Relay, settings: GatewaySettings | None = None) -> Starlette:
    """Return the gateway of an open relay, to be served or mounted anywhere, also under a prefix.

    It needs no lifespan of its own, and runs on asyncio and on trio. Clients may call it by the address on
    which the server says they reached it, by ``public_url``, or by one of ``origins``.

    :param settings: by default ``[plugins.gateway]``.
    :raises RelaykitError: two routes or two types of message clash, or the token cannot be kept.
    """
    return build_app(Gateway(relay, settings or relay.settings.plugin("gateway", GatewaySettings)))


def build_app(gateway: Gateway) -> Starlette:
    """Return the application of a gateway.

    :raises RelaykitError: a plugin's route clashes with one of ours.
    """
    api = Api(gateway.relay, gateway.tickets)
    own = [
        Route("/", StatusPage(gateway.relay).show, methods=["GET"]),
        Route("/healthz", api.healthy, methods=["GET"]),
        Route("/readyz", api.ready, methods=["GET"]),
        Route("/api/sessions", api.list_sessions, methods=["GET"]),
        Route("/api/sessions/{session_id}", api.show_session, methods=["GET"]),
        Route("/api/sessions/{session_id}", api.stop_session, methods=["DELETE"]),
        Route("/api/sessions/{session_id}/resume", api.resume_session, methods=["POST"]),
        Route("/api/sessions/{session_id}/transcript", api.show_transcript, methods=["GET"]),
        Route("/api/plugins", api.list_plugins, methods=["GET"]),
        Route("/api/tickets", api.issue_ticket, methods=["POST"]),
        WebSocketRoute("/ws", _Socket(gateway, _ws)),
        WebSocketRoute("/acp", _Socket(gateway, _acp)),
    ]
    guard = Middleware(
        Guard,
        settings=gateway.settings,
        credentials=gateway.credentials,
        public=[route.path for route in gateway.relay.routes if route.public],
        tell_refused=gateway.tell_refused,
    )
    return Starlette(
        routes=[*own, *_plugin_routes(gateway.relay)],
        middleware=[guard],
        exception_handlers={HTTPException: _on_http_exception, Exception: _on_exception},
    )


def _ws(gateway: Gateway, scope: Scope, receive: Receive, send: Send) -> Channel[Any]:
    return Connection(gateway, scope, receive, send)


def _acp(gateway: Gateway, scope: Scope, receive: Receive, send: Send) -> Channel[Any]:
    return AcpConnection(gateway, scope, receive, send, QueryParams(scope["query_string"]))


class _Socket:
    """Serves clients of one protocol, as long as there is room."""

    def __init__(
        self, gateway: Gateway, make: Callable[[Gateway, Scope, Receive, Send], Channel[Any]]
    ) -> None:
        self._gateway = gateway
        self._make = make

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if not self._gateway.has_room:
            why = f"{self._gateway.settings.max_clients} clients are connected, and no more may be"
            await refuse(scope, receive, send, why=why)
            return
        with self._gateway.place():
            await self._make(self._gateway, scope, receive, send).run(pipe_of(scope))


class _Exact:
    """Serves a mounted application at the path itself as it is served at the path with a slash behind."""

    def __init__(self, path: str, app: ASGIApp) -> None:
        self._path = path
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        root = scope.get("root_path", "") + self._path
        await self._app({**scope, "root_path": root, "path": root + "/"}, receive, send)


_TAKEN = ("/ws", "/acp", "/api", "/healthz", "/readyz")


def _plugin_routes(relay: Relay) -> list[BaseRoute]:
    routes: list[BaseRoute] = []
    for route in relay.routes:
        path = route.path.rstrip("/")
        if not path.startswith("/") or any(path == taken or path.startswith(f"{taken}/") for taken in _TAKEN):
            raise RelaykitError(
                f"a plugin registers the route {route.path!r}: it must begin with /, and not lie in {', '.join(_TAKEN)}"
            )
        routes += [Route(path, _Exact(path, route.app)), Mount(path, route.app)]
    return routes


async def _on_http_exception(_request: Request, error: Exception) -> Response:
    if not isinstance(error, HTTPException):
        raise error
    return Problem(error.status_code, error.detail, headers=error.headers)


async def _on_exception(_request: Request, _error: Exception) -> Response:
    return Problem(500, "the relay failed; its log says how")
