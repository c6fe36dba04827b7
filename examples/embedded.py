"""The gateway mounted in a FastAPI application, and relaykit's metrics in the application's own registry."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import anyio
import httpx
from fastapi import FastAPI
from prometheus_client import CollectorRegistry, Counter, generate_latest

from relaykit.hooks import load_plugins
from relaykit.relay import open_relay
from relaykit.settings import load_settings
from relaykit_gateway.app import gateway_app
from relaykit_prometheus import PrometheusPlugin

registry = CollectorRegistry()
visits = Counter("shop_visits", "Visits of the shop.", registry=registry)


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    with TemporaryDirectory() as scratch:
        environ = {
            "HOME": scratch,
            "RELAYKIT_RELAY__STATE_DIR": f"{scratch}/state",
            "RELAYKIT_RELAY__DISABLED": '["prometheus"]',  # ours takes its place
            "RELAYKIT_PLUGINS__GATEWAY__PUBLIC_URL": "http://shop.example",
            "RELAYKIT_PLUGINS__GATEWAY__TOKEN": "a-token-that-the-application-knows",
        }
        settings = load_settings(environ=environ, cwd=Path(scratch))
        plugins = load_plugins(settings, extra={"metrics": PrometheusPlugin(registry)})
        async with open_relay(settings, plugins=plugins) as relay:
            app.mount("/agents", gateway_app(relay))
            yield


app = FastAPI(lifespan=lifespan)


@app.get("/")
async def shop() -> str:
    visits.inc()
    return "welcome"


async def main() -> None:
    """Visit it, as a server and its clients would."""
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://shop.example") as visitor,
    ):
        print((await visitor.get("/")).json())
        print((await visitor.get("/agents/api/sessions")).status_code)
        token = {"Authorization": "Bearer a-token-that-the-application-knows"}
        print((await visitor.get("/agents/api/sessions", headers=token)).json())
    shown = generate_latest(registry).decode()
    print([name for name in ("shop_visits_total", "relaykit_sessions") if name in shown])


if __name__ == "__main__":
    anyio.run(main)
