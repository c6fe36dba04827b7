"""``/metrics``, as an ASGI application."""

from __future__ import annotations

import gzip
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any
from urllib.parse import parse_qs

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder, gzip_accepted
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from relaykit.hooks.registration import ASGIApp
from relaykit_prometheus.exposition import encode

_OPENMETRICS = "application/openmetrics-text"
_RENAMED = ("escaping=dots", "escaping=values")
"""With these, ordinary names are written in another way too."""


def scrape_app(registry: CollectorRegistry) -> ASGIApp:
    """Return an application that answers with the registry's metrics, in the format that the client prefers.

    ``?name[]=`` asks for some of them. It may be mounted, or served by itself; a WebSocket is refused.
    """

    async def app(
        scope: MutableMapping[str, Any],
        receive: Callable[[], Awaitable[Any]],
        send: Callable[[Any], Awaitable[None]],
    ) -> None:
        if scope["type"] == "http":
            headers, body = _answer(registry, scope)
            await receive()
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            await send({"type": "http.response.body", "body": body})
        elif scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close"})
        else:  # by the specification: not supported here
            raise ValueError(f"/metrics knows no {scope['type']!r}")

    return app


def _answer(
    registry: CollectorRegistry, scope: MutableMapping[str, Any]
) -> tuple[list[tuple[bytes, bytes]], bytes]:
    """Return headers and body."""
    names = parse_qs(scope["query_string"].decode(errors="replace")).get("name[]")
    scraped = _Scraped(registry.restricted_registry(names) if names else registry)
    encoder, content_type = choose_encoder(_header(scope, b"accept"))
    ours = content_type.startswith(_OPENMETRICS) and not content_type.endswith(_RENAMED)
    body = encode(scraped.collect(), encoder) if ours else encoder(scraped)
    headers = [(b"content-type", content_type.encode())]
    if gzip_accepted(_header(scope, b"accept-encoding")):
        headers.append((b"content-encoding", b"gzip"))
        body = gzip.compress(body, compresslevel=1)
    return headers, body


def _header(scope: MutableMapping[str, Any], name: bytes) -> str:
    return ",".join(value.decode("latin-1") for key, value in scope["headers"] if key.lower() == name)


class _Scraped(Collector):
    """A registry as it is shown: without the time at which each series was made, which would be a third of them all."""

    def __init__(self, registry: Collector) -> None:
        self._registry = registry

    def collect(self) -> Iterable[Metric]:
        for family in self._registry.collect():
            family.samples = [sample for sample in family.samples if not sample.name.endswith("_created")]
            yield family
