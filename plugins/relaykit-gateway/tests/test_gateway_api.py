"""``/api``, the probes, and the application mounted under a prefix: on both event loops, without a server."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Mount

from relaykit.conversation import Kind
from relaykit.errors import RelaykitError
from relaykit.hooks import hookimpl
from relaykit.hooks.registration import Route
from relaykit.relay import Relay
from relaykit_gateway.app import gateway_app
from relaykit_gateway.token import token_path
from support.gateways import SECONDS, gateway_settings, open_gateway_relay

pytestmark = pytest.mark.anyio


class Routes:
    """A plugin with routes: one public, one not, one that breaks."""

    def __init__(self, *more: Route) -> None:
        self._more = more

    @hookimpl
    def relaykit_register_routes(self) -> Sequence[Route]:
        public = Starlette(routes=[Mount("/", PlainTextResponse("metrics"))])
        return [
            Route(path="/metrics", app=public, public=True),
            Route(path="/private", app=PlainTextResponse("private")),
            Route(path="/broken", app=_broken, public=True),
            *self._more,
        ]


async def _broken(_scope: Any, _receive: Any, _send: Any) -> None:
    raise ZeroDivisionError("inside")


@asynccontextmanager
async def open_http(relay: Relay, *, prefix: str = "") -> AsyncIterator[httpx.AsyncClient]:
    app = gateway_app(relay)
    mounted = Starlette(routes=[Mount(prefix, app)]) if prefix else app
    transport = httpx.ASGITransport(app=mounted, raise_app_exceptions=False)
    token = token_path(relay.settings.state_dir).read_text()
    async with httpx.AsyncClient(
        transport=transport,
        base_url=f"http://relay.test:7433{prefix}",
        headers={"Authorization": f"Bearer {token}"},
        timeout=SECONDS,
    ) as client:
        yield client


@pytest.fixture
async def relay(tmp_path: Path) -> AsyncIterator[Relay]:
    async with open_gateway_relay(
        gateway_settings(tmp_path), serve=False, extra={"routes": Routes()}
    ) as relay:
        yield relay


@pytest.fixture
async def http(relay: Relay) -> AsyncIterator[httpx.AsyncClient]:
    async with open_http(relay) as client:
        yield client


async def until_active(relay: Relay, session_id: str) -> None:
    """Wait until the session is ACTIVE, by its conversation."""
    with anyio.fail_after(SECONDS):
        async with relay.attach(session_id, client_id="test", protocol="test") as cursor:
            while not (await cursor.next()).entries:
                pass


async def until_turn_end(relay: Relay, session_id: str, turn: str) -> None:
    """Wait until the turn has ended, by the session's conversation."""
    with anyio.fail_after(SECONDS):
        async with relay.attach(session_id, client_id="test", protocol="test") as cursor:
            while True:
                for entry in (await cursor.next()).entries:
                    if (entry.frame.kind, entry.frame.ref) == (Kind.TURN_END, turn):
                        return


async def test_sessions_are_shown(relay: Relay, http: httpx.AsyncClient, tmp_path: Path) -> None:
    session = await relay.create("auth", agent="echo")
    await until_active(relay, session.id)
    listed = (await http.get("/api/sessions")).json()
    assert listed == {"sessions": [(await http.get(f"/api/sessions/{session.id}")).json()]}
    shown = listed["sessions"][0]
    assert list(shown) == [
        "id",
        "agentId",
        "agent",
        "owner",
        "project",
        "state",
        "presence",
        "worktreeDir",
        "createdAt",
        "lastActive",
        "messageCount",
        "clients",
        "controllers",
        "observers",
        "needsLogin",
        "turn",
        "queued",
        "questions",
    ]
    assert (shown["id"], shown["agentId"], shown["agent"]) == (session.id, "auth", "echo")
    assert (shown["state"], shown["worktreeDir"], shown["clients"]) == ("ACTIVE", str(tmp_path), 0)
    assert shown["createdAt"].endswith("Z")


async def test_sessions_are_filtered_and_paged(relay: Relay, http: httpx.AsyncClient) -> None:
    ids = sorted([(await relay.create(f"role{number}")).id for number in range(5)])
    for session_id in ids:
        await until_active(relay, session_id)
    seen: list[str] = []
    query: dict[str, Any] = {"limit": 2}
    for expected in (2, 2, 1):
        page = (await http.get("/api/sessions", params=query)).json()
        assert len(page["sessions"]) == expected
        seen += [session["id"] for session in page["sessions"]]
        query["after"] = page.get("next")
    assert seen == ids
    assert query["after"] is None

    async def count(**params: str) -> int:
        return len((await http.get("/api/sessions", params=params)).json()["sessions"])

    assert await count(agentId="role3") == 1
    assert await count(agentId="nobody") == 0
    assert await count(state="ACTIVE") == 5
    assert await count(state="active", agentId="role1") == 1
    assert await count(state="SPAWNING") == 0


async def test_a_session_is_stopped(relay: Relay, http: httpx.AsyncClient) -> None:
    session = await relay.create("auth")
    await until_active(relay, session.id)
    live = relay.live(session.id)
    response = await http.delete(f"/api/sessions/{session.id}", params={"reason": "tidying up"})
    assert response.status_code == 202
    with anyio.fail_after(SECONDS):
        await relay.wait_ended(session.id)
    ended = (await live.conversation.read(after=0, limit=100))[-1]
    assert b"tidying up" in ended.frame.body
    assert (await http.get(f"/api/sessions/{session.id}")).json()["reason"] == "tidying up"
    assert (await http.delete(f"/api/sessions/{session.id}")).status_code == 404


@pytest.mark.parametrize(
    ("method", "path", "status", "detail"),
    [
        ("GET", "/api/sessions?state=DANCING", 400, "CREATED, SPAWNING, ACTIVE, TERMINATING, CLEANED"),
        ("GET", "/api/sessions?limit=0", 400, "limit must be 1 to 500"),
        ("GET", "/api/sessions?limit=501", 400, "limit must be 1 to 500"),
        ("GET", "/api/sessions?limit=²", 400, "limit must be 1 to 500"),
        ("GET", "/api/sessions/nobody", 404, "no session 'nobody'"),
        ("DELETE", "/api/sessions/nobody", 404, "no session 'nobody'"),
        ("POST", "/api/sessions", 405, "Method Not Allowed"),
        ("GET", "/nowhere", 404, "Not Found"),
        ("GET", "/broken", 500, "the relay failed"),
    ],
)
async def test_what_is_wrong_is_a_problem(
    http: httpx.AsyncClient, method: str, path: str, status: int, detail: str
) -> None:
    response = await http.request(method, path)
    assert response.status_code == status
    assert response.headers["content-type"] == "application/problem+json"
    problem = response.json()
    assert (problem["type"], problem["status"]) == ("about:blank", status)
    assert problem["title"]
    assert detail in problem["detail"]


async def test_plugins_are_listed(http: httpx.AsyncClient) -> None:
    plugins = {plugin["name"]: plugin for plugin in (await http.get("/api/plugins")).json()["plugins"]}
    assert plugins["gateway"]["state"] == "loaded"
    assert "relaykit_register_services" in plugins["gateway"]["hooks"]
    assert plugins["worktree"]["state"] == "blocked"
    assert plugins["worktree"]["reason"]


async def test_the_probes_need_nothing(relay: Relay, http: httpx.AsyncClient) -> None:
    anybody = {"Authorization": "", "Host": "10.0.0.7"}
    assert (await http.get("/healthz", headers=anybody)).status_code == 200
    assert (await http.get("/readyz", headers=anybody)).status_code == 200
    await relay.aclose()
    assert (await http.get("/healthz", headers=anybody)).status_code == 200
    assert (await http.get("/readyz", headers=anybody)).status_code == 503


async def test_routes_of_plugins(http: httpx.AsyncClient) -> None:
    nobody = {"Authorization": ""}
    for path in ("/metrics", "/metrics/", "/metrics/deeper"):
        response = await http.get(path, headers=nobody)
        assert (response.status_code, response.text) == (200, "metrics")
    assert (await http.get("/metricsandmore", headers=nobody)).status_code == 401
    assert (await http.get("/private", headers=nobody)).status_code == 401
    assert (await http.get("/private")).text == "private"


@pytest.mark.parametrize("path", ["/ws", "/api", "/api/mine", "/healthz", "/"])
async def test_a_route_that_clashes_is_an_error(tmp_path: Path, path: str) -> None:
    routes = Routes(Route(path=path, app=PlainTextResponse("mine")))
    async with open_gateway_relay(gateway_settings(tmp_path), serve=False, extra={"routes": routes}) as relay:
        with pytest.raises(RelaykitError, match="route"):
            gateway_app(relay)


async def test_mounted_under_a_prefix(relay: Relay) -> None:
    token = token_path(relay.settings.state_dir)
    async with open_http(relay, prefix="/agents") as http:
        assert (await http.get("/healthz", headers={"Authorization": ""})).status_code == 200
        assert (await http.get("/api/sessions")).json() == {"sessions": []}
        assert (await http.get("/api/sessions", headers={"Authorization": ""})).status_code == 401
        assert (await http.get("/metrics", headers={"Authorization": ""})).text == "metrics"
        welcome = await http.get("/", params={"token": token.read_text()}, headers={"Authorization": ""})
        assert (welcome.status_code, welcome.headers["location"]) == (303, "/agents/")
        assert "Path=/agents/" in welcome.headers["set-cookie"]


async def test_a_session_whose_agent_wants_a_login_is_shown_as_such(
    relay: Relay, http: httpx.AsyncClient
) -> None:
    session = await relay.create("auth", agent="echo")
    await until_active(relay, session.id)
    shown = []
    for turn, text in enumerate(("/login", "hello")):
        body = json.dumps({"prompt": [{"type": "text", "text": text}]}).encode()
        await relay.prompt(session.id, body, client_id="test", turn=f"t{turn}")
        await until_turn_end(relay, session.id, f"t{turn}")
        shown.append((await http.get(f"/api/sessions/{session.id}")).json()["needsLogin"])
    assert shown == [True, False]
