"""``/metrics``, as an ASGI application."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, MutableMapping, Sequence
from typing import Any

from prometheus_client import CollectorRegistry, make_asgi_app
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from relaykit.hooks.registration import ASGIApp


def scrape_app(registry: CollectorRegistry) -> ASGIApp:
    """Return an application that answers with the registry's metrics, in the format that the client prefers.

    It may be mounted, or served by itself; a WebSocket is refused.
    """
    answer = make_asgi_app(_Scraped(registry))

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


class _Scraped(Collector):
    """A registry as it is shown: without the time at which each series was made, which would be a third of them all."""

    def __init__(self, registry: Any) -> None:
        self._registry = registry

    def collect(self) -> Iterable[Metric]:
        for family in self._registry.collect():
            family.samples = [sample for sample in family.samples if not sample.name.endswith("_created")]
            yield family

    def restricted_registry(self, names: Sequence[str]) -> _Scraped:
        """Return what of it has these names, as ``?name[]=`` asks for."""
        return _Scraped(self._registry.restricted_registry(names))
