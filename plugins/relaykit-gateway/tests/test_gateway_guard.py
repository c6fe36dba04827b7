"""Who may come in: the token, the Host and the Origin, at requests and at upgrades of a real server."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus
from websockets.typing import Origin

from relaykit.hooks import hookimpl
from relaykit.hooks.events import AccessRefused
from relaykit.relay import Relay
from support.gateways import BACKENDS, address_of, connected, gateway_settings, open_gateway_relay

pytestmark = pytest.mark.anyio

PUBLIC = "https://relay.example.com"
FRIEND = "https://friend.example.org:8443"
CONFIG = f'public_url = "{PUBLIC}"\norigins = ["{FRIEND}"]'


@pytest.fixture(scope="module", params=BACKENDS)
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture(scope="module")
async def relay(tmp_path_factory: pytest.TempPathFactory, anyio_backend: Any) -> AsyncIterator[Relay]:
    """One for all tests here: none of them leaves anything in it that another could see."""
    assert anyio_backend
    directory = tmp_path_factory.mktemp("relay")
    async with open_gateway_relay(gateway_settings(directory, gateway=CONFIG)) as relay:
        yield relay


def here(relay: Relay) -> tuple[str, str, int]:
    """Return where the relay listens, its token and its port."""
    url, token = address_of(relay)
    return url, token, int(url.rpartition(":")[2])


async def status_of_upgrade(url: str, headers: dict[str, str], *, path: str = "/ws") -> int:
    """Return the HTTP status with which an upgrade is answered; a refusal is a problem."""
    extra = dict(headers)
    origin = extra.pop("Origin", None)
    host, _, port = url.removeprefix("http://").partition(":")
    try:
        async with connect(
            f"ws://{extra.pop('Host', f'{host}:{port}')}{path}",
            additional_headers=extra,
            origin=Origin(origin) if origin else None,
            compression=None,
            host=host,
            port=int(port),
            proxy=None,
        ):
            return 101
    except InvalidStatus as refused:
        response = refused.response
    assert response.headers["Content-Type"] == "application/problem+json"
    return response.status_code


MATRIX = [
    # headers, status of GET /api/sessions, of DELETE /api/sessions/x, of the upgrade
    pytest.param({}, 401, 401, 401, id="nothing"),
    pytest.param({"Authorization": "Bearer {wrong}"}, 401, 401, 401, id="a wrong token"),
    pytest.param({"Authorization": "Bearer"}, 401, 401, 401, id="an empty token"),
    pytest.param({"Authorization": "Bearer ü"}, 401, 401, 401, id="no ASCII"),
    pytest.param({"Authorization": "Basic {token}"}, 401, 401, 401, id="another scheme"),
    pytest.param({"Authorization": "Bearer {token}"}, 200, 404, 101, id="the token"),
    pytest.param({"Authorization": "bearer {token}"}, 200, 404, 101, id="the token, lower case"),
    pytest.param({"Cookie": "{cookie}"}, 200, 403, 403, id="the cookie without an Origin"),
    pytest.param({"Cookie": "{cookie}", "Origin": "{url}"}, 200, 404, 101, id="the cookie from our page"),
    pytest.param(
        {"Cookie": "{cookie}", "Origin": "http://localhost:{port}"},
        200,
        404,
        101,
        id="the cookie from localhost",
    ),
    pytest.param(
        {"Cookie": "{cookie}", "Origin": "http://localhost:1"}, 403, 403, 403, id="from another port of ours"
    ),
    pytest.param(
        {"Cookie": "{cookie}", "Origin": "https://evil.example"}, 403, 403, 403, id="a foreign page"
    ),
    pytest.param({"Cookie": "{cookie}", "Origin": "null"}, 403, 403, 403, id="a page without an Origin"),
    pytest.param({"Cookie": "{wrong_cookie}", "Origin": "{url}"}, 401, 401, 401, id="a wrong cookie"),
    pytest.param(
        {"Authorization": "Bearer {token}", "Origin": "https://evil.example"},
        403,
        403,
        403,
        id="token, bad Origin",
    ),
    pytest.param({"Authorization": "Bearer {token}", "Origin": PUBLIC}, 200, 404, 101, id="public_url"),
    pytest.param(
        {"Authorization": "Bearer {token}", "Origin": PUBLIC + ":443"},
        200,
        404,
        101,
        id="public_url, its port",
    ),
    pytest.param(
        {"Authorization": "Bearer {token}", "Origin": FRIEND}, 200, 404, 101, id="a page in origins"
    ),
    pytest.param(
        {"Authorization": "Bearer {token}", "Origin": PUBLIC.replace("https", "http")},
        403,
        403,
        403,
        id="not TLS",
    ),
    pytest.param(
        {"Authorization": "Bearer {token}", "Host": "evil.example:{port}"}, 403, 403, 403, id="rebinding"
    ),
    pytest.param(
        {"Authorization": "Bearer {token}", "Host": "localhost.evil.example:{port}"},
        403,
        403,
        403,
        id="a lookalike",
    ),
    pytest.param({"Authorization": "Bearer {token}", "Host": "127.0.0.1"}, 403, 403, 403, id="another port"),
    pytest.param(
        {"Authorization": "Bearer {token}", "Host": "LOCALHOST:{port}"}, 200, 404, 101, id="localhost"
    ),
    pytest.param(
        {"Authorization": "Bearer {token}", "Host": "[::1]:{port}"}, 200, 404, 101, id="IPv6 loopback"
    ),
    pytest.param(
        {"Authorization": "Bearer {token}", "Host": "relay.example.com"}, 200, 404, 101, id="behind a proxy"
    ),
    pytest.param(
        {"Host": "evil.example", "Cookie": "{cookie}", "Origin": "{url}"}, 403, 403, 403, id="all but Host"
    ),
]


@pytest.mark.parametrize(("headers", "get", "delete", "upgrade"), MATRIX)
async def test_who_may_come_in(
    relay: Relay, headers: dict[str, str], get: int, delete: int, upgrade: int
) -> None:
    url, token, port = here(relay)
    wrong = token[:-1] + ("A" if token[-1] != "A" else "B")
    values = {
        "url": url,
        "token": token,
        "wrong": wrong,
        "port": port,
        "cookie": f"other=1; relaykit_{port}={token}",
        "wrong_cookie": f"relaykit_{port}={wrong}",
    }
    sent = {name: value.format_map(values) for name, value in headers.items()}
    raw = {name.encode(): value.encode("latin-1") for name, value in sent.items()}
    async with httpx.AsyncClient(base_url=url, trust_env=False) as client:
        for method, path, expected in (("GET", "/api/sessions", get), ("DELETE", "/api/sessions/x", delete)):
            response = await client.request(method, path, headers=raw)
            assert response.status_code == expected, response.text
            assert response.headers["cache-control"] == "no-store"
            assert response.headers["referrer-policy"] == "no-referrer"
            if expected >= 400:
                assert response.headers["content-type"] == "application/problem+json"
                assert response.json()["status"] == expected
                assert token not in response.text
    if "ü" not in str(headers):  # the client library sends no such header
        assert await status_of_upgrade(url, sent) == upgrade


async def test_the_link_sets_a_cookie_and_takes_the_token_out_of_the_address(relay: Relay) -> None:
    url, token, port = here(relay)
    async with httpx.AsyncClient(base_url=url, trust_env=False) as client:
        assert (await client.get("/")).status_code == 401
        assert (await client.get("/", params={"token": "no"})).status_code == 401
        welcome = await client.get("/", params={"token": token})
        assert (welcome.status_code, welcome.headers["location"]) == (303, "/")
        cookie = welcome.headers["set-cookie"]
        assert cookie.startswith(f"relaykit_{port}={token};")
        for attribute in ("HttpOnly", "SameSite=lax", "Path=/", "Secure"):  # public_url is https
            assert attribute in cookie
        page = await client.get("/", headers={"Cookie": f"relaykit_{port}={token}"})
        assert page.status_code == 200
        assert page.headers["content-type"].startswith("text/html")
        assert "default-src 'none'" in page.headers["content-security-policy"]
        assert token not in page.text


async def test_over_plain_http_the_cookie_is_not_secure(tmp_path: Path) -> None:
    async with open_gateway_relay(gateway_settings(tmp_path)) as relay:
        url, token, _ = here(relay)
        async with httpx.AsyncClient(base_url=url, trust_env=False) as client:
            cookie = (await client.get("/", params={"token": token})).headers["set-cookie"]
            assert "Secure" not in cookie
            assert (await client.get("/")).status_code == 200  # the client kept it


async def test_the_page_shows_sessions_and_escapes(relay: Relay) -> None:
    url, token, _ = here(relay)
    async with (
        connected(relay) as client,
        httpx.AsyncClient(
            base_url=url, trust_env=False, headers={"Authorization": f"Bearer {token}"}
        ) as browser,
    ):
        session_id = await client.create("auth")
        page = (await browser.get("/")).text
        assert "<td>auth<td>echo" in page
        assert "ACTIVE" in page
        assert "http" not in page  # nothing is loaded from anywhere
        await client.say("session:stop", sessionId=session_id)
        await client.expect("session:terminated")


async def test_the_token_is_not_logged(relay: Relay, caplog: pytest.LogCaptureFixture) -> None:
    url, token, _ = here(relay)
    with caplog.at_level(logging.DEBUG):
        async with httpx.AsyncClient(base_url=url, trust_env=False) as client:
            await client.get("/", params={"token": token})
            await client.get("/api/sessions", headers={"Authorization": f"Bearer {token}"})
            await client.get(
                "/nowhere", params={"token": token}, headers={"Authorization": f"Bearer {token}"}
            )
        await status_of_upgrade(url, {}, path=f"/ws?token={token}")
        await status_of_upgrade(url, {"Authorization": f"Bearer {token}"}, path=f"/ws?token={token}")
    ours = [
        record.getMessage()
        for record in caplog.records
        if not record.name.startswith(("httpx", "httpcore", "websockets.client"))  # these are the client's
    ]
    assert len(caplog.records) > len(ours)  # something was heard, if only of the client
    assert not [message for message in ours if token in message]


class Refusals:
    """A plugin that keeps who was not let in."""

    def __init__(self) -> None:
        self.heard: list[AccessRefused] = []

    @hookimpl
    async def relaykit_on_access_refused(self, refusal: AccessRefused) -> None:
        self.heard.append(refusal)


async def test_plugins_hear_who_was_not_let_in_before_the_answer(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    refusals = Refusals()
    settings = gateway_settings(tmp_path, gateway=CONFIG)
    async with open_gateway_relay(settings, extra={"refusals": refusals}) as relay:
        url, token, _ = here(relay)
        bearer = {"Authorization": f"Bearer {token}"}
        wrong = {"Authorization": "Bearer hush-hush"}
        assert await status_of_upgrade(url, wrong, path="/acp") == 401
        assert await status_of_upgrade(url, bearer | {"Origin": "https://elsewhere.example"}) == 403
        assert await status_of_upgrade(url, {}, path=f"/acp?token={token}") == 403
        async with httpx.AsyncClient() as http:
            assert (await http.get(f"{url}/api/sessions?token=hush-hush", headers=wrong)).status_code == 401
            assert (await http.get(f"{url}/?token=hush-hush")).status_code == 401
            assert (await http.get(f"{url}/api/nothing", headers=bearer)).status_code == 404
            assert (await http.get(f"{url}/healthz")).status_code == 200
    assert [(each.where, each.status, each.address) for each in refusals.heard] == [
        ("/acp", 401, "127.0.0.1"),
        ("/ws", 403, "127.0.0.1"),
        ("/acp", 403, "127.0.0.1"),
        ("/api/sessions", 401, "127.0.0.1"),
        ("/", 401, "127.0.0.1"),
    ]
    assert [record.getMessage() for record in caplog.records if record.levelno > logging.INFO] == []
    assert "elsewhere.example" in refusals.heard[1].reason
    assert [each.by for each in refusals.heard] == ["", "", "the relay's own token", "", ""]
    assert "hush" not in repr(refusals.heard)
    assert token not in repr(refusals.heard)


async def test_without_auth_host_and_origin_are_checked_still(tmp_path: Path) -> None:
    async with open_gateway_relay(gateway_settings(tmp_path, gateway="auth = false")) as relay:
        assert relay.announcements[0].endswith("/")
        url = relay.announcements[0].rstrip("/")
        async with httpx.AsyncClient(base_url=url, trust_env=False) as client:
            assert (await client.get("/api/sessions")).status_code == 200
            assert (await client.get("/api/sessions", headers={"Host": "evil.example"})).status_code == 403
        assert await status_of_upgrade(url, {}) == 101
        assert await status_of_upgrade(url, {"Origin": "https://evil.example"}) == 403
