"""A WebSocket to an ASGI application without a network, so that it runs on both loops."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping, MutableMapping, Sequence
from contextlib import asynccontextmanager, suppress
from math import inf
from typing import Any

import anyio

Event = MutableMapping[str, Any]
Say = Callable[[Event], None]
Hear = Callable[[], Awaitable[Event]]


@asynccontextmanager
async def asgi_websocket(
    app: Callable[[Any, Any, Any], Coroutine[Any, Any, None]],
    path: str,
    *,
    token: str,
    query: bytes = b"",
    protocols: Sequence[str] = (),
    room: float = inf,
) -> AsyncIterator[tuple[Say, Hear]]:
    """Ask for an upgrade, and leave with a disconnect. What is said and heard are ASGI's events.

    :param token: empty for none.
    :param protocols: the subprotocols that are offered.
    :param room: how many events the application may send before one is heard.
    """
    to_app, app_receives = anyio.create_memory_object_stream[Event](inf)
    app_sends, from_app = anyio.create_memory_object_stream[Event](room)
    scope: Mapping[str, Any] = {
        "type": "websocket",
        "scheme": "ws",
        "path": path,
        "query_string": query,
        "headers": [
            (b"host", b"127.0.0.1:7433"),
            *([(b"authorization", f"Bearer {token}".encode())] if token else []),
            *([(b"sec-websocket-protocol", ", ".join(protocols).encode())] if protocols else []),
        ],
        "server": ("127.0.0.1", 7433),
        "subprotocols": list(protocols),
    }

    async def send(event: Event) -> None:
        try:
            await app_sends.send(event)
        except anyio.BrokenResourceError:
            raise OSError("the client has gone") from None  # as ASGI has it

    with to_app, app_receives, app_sends, from_app:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(app, dict(scope), app_receives.receive, send)
            to_app.send_nowait({"type": "websocket.connect"})
            try:
                yield to_app.send_nowait, from_app.receive
            finally:
                from_app.close()
                with suppress(anyio.BrokenResourceError):
                    to_app.send_nowait({"type": "websocket.disconnect", "code": 1000})
