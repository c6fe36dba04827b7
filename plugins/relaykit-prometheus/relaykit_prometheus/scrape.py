"""``/metrics``, as an ASGI application."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from prometheus_client import CollectorRegistry, make_asgi_app

from relaykit.hooks.registration import ASGIApp


def scrape_app(registry: CollectorRegistry) -> ASGIApp:
    """Return an application that answers with the registry's metrics, in the format that the client prefers.

    It may be mounted, or served by itself; a WebSocket is refused.
    """
    answer = make_asgi_app(registry)

    async def app(
        scope: MutableMapping[str, Any],
        receive: Callable[[], Awaitable[Any]],
        send: Callable[[Any], Awaitable[None]],
    ) -> None:
        # prometheus_client's own application asserts that whatever comes is http.
        if scope["type"] == "http":
            await answer(scope, receive, send)
        elif scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close"})
        else:
            raise ValueError(
                f"/metrics knows no {scope['type']!r}"
            )  # by the specification: not supported here

    return app
