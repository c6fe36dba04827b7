"""Named tokens and tickets at a real server: let in, revoked, expired, in URLs, and never told to anybody."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from time import monotonic
from typing import Any

import anyio
import httpx
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.typing import Subprotocol

from relaykit.clock import SystemClock
from relaykit.relay import Relay
from relaykit.relay.access import Access, Role
from relaykit.session import SessionFilter
from relaykit_gateway.token_file import digest_of, tokens_path
from support.gateways import (
    BACKENDS,
    SECONDS,
    Presence,
    address_of,
    connected,
    gateway_settings,
    open_gateway_relay,
)
from support.tokens import ANN, OBSERVER, add_token, revoke_token

pytestmark = pytest.mark.anyio

SOON = 1.0
"""Within so many seconds a revoked token's sockets are closed."""

Json = dict[str, Any]


@pytest.fixture(params=BACKENDS)
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture
def presence() -> Presence:
    return Presence()


@pytest.fixture
async def relay(tmp_path: Path, anyio_backend: Any, presence: Presence) -> AsyncIterator[Relay]:
    assert anyio_backend
    async with open_gateway_relay(gateway_settings(tmp_path), extra={"presence": presence}) as relay:
        yield relay


class Names:
    """Gives names to tokens."""

    def __init__(self, relay: Relay) -> None:
        self.state_dir = relay.settings.state_dir
        self.count = 0

    def token(self, access: Access | None = None, name: str = "", **options: Any) -> str:
        self.count += 1
        return add_token(self.state_dir, name or f"t{self.count}", access, **options)


@pytest.fixture
def names(relay: Relay) -> Names:
    return Names(relay)


@asynccontextmanager
async def socket(
    relay: Relay,
    path: str = "/ws",
    *,
    token: str = "",
    protocols: tuple[str, ...] = (),
    headers: dict[str, str] | None = None,
    called: str = "127.0.0.1",
) -> AsyncIterator[ClientConnection]:
    """Open a WebSocket, and close it.

    :param called: the name by which the relay is called.
    """
    host, port = address_of(relay)[0].removeprefix("http://").split(":")
    bearer = {"Authorization": f"Bearer {token}"} if token else {}
    with anyio.fail_after(SECONDS):
        opened = await connect(
            f"ws://{called}:{port}{path}",
            host=host,
            port=int(port),
            additional_headers={**bearer, **(headers or {})},
            subprotocols=[Subprotocol(each) for each in protocols] or None,
            compression=None,
            proxy=None,
        )
    try:
        yield opened
    finally:
        with anyio.CancelScope(shield=True), anyio.fail_after(SECONDS):
            await opened.close()


async def refusal(relay: Relay, path: str = "/ws", **options: Any) -> tuple[int, str]:
    """Return with what status an upgrade is refused, and why."""
    with pytest.raises(InvalidStatus) as refused:
        async with socket(relay, path, **options):
            pytest.fail("it was let in")
    response = refused.value.response
    assert response.headers["content-type"] == "application/problem+json"
    return response.status_code, (response.body or b"").decode()


async def closed(opened: ClientConnection, *, within: float = SECONDS) -> tuple[int, str]:
    """Return with what a socket is closed, in time, past what is still said."""
    with anyio.fail_after(within):
        async for _ in _all_of(opened):
            pass
    assert opened.close_code is not None
    return opened.close_code, opened.close_reason or ""


async def _all_of(opened: ClientConnection) -> AsyncIterator[str | bytes]:
    try:
        while True:
            yield await opened.recv()
    except ConnectionClosed:
        return


def http(relay: Relay, token: str = "", **options: Any) -> httpx.AsyncClient:
    url, _ = address_of(relay)
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    return httpx.AsyncClient(base_url=url, trust_env=False, headers=headers, timeout=SECONDS, **options)


# ---------------------------------------------------------------- let in and sent away


@pytest.mark.parametrize("path", ["/ws", "/acp"])
async def test_a_token_is_known_at_once_and_revoked_within_a_second(
    relay: Relay, names: Names, path: str
) -> None:
    async with http(relay) as nobody:
        assert (await nobody.get("/api/sessions")).status_code == 401
    token, other = names.token(name="phone"), names.token(name="other")
    async with (
        socket(relay, path, token=token) as first,
        socket(relay, path, token=token) as second,
        socket(relay, path, token=other) as third,
        connected(relay) as own,
        http(relay, token) as client,
    ):
        assert (await client.get("/api/sessions")).status_code == 200
        began = monotonic()
        revoke_token(names.state_dir, "phone")
        assert (await client.get("/api/sessions")).status_code == 401
        assert await closed(first, within=SOON) == (1008, "the token was revoked")
        assert await closed(second, within=SOON) == (1008, "the token was revoked")
        assert monotonic() - began < SOON
        status, why = await refusal(relay, path, token=token)
        assert (status, "revoked" in why) == (401, True)
        assert token not in why
        await own.say("echo")
        await own.expect("echo")
        await third.ping()
        revoke_token(names.state_dir, "other")  # the relay looks still
        assert (await closed(third))[0] == 1008
        # And again, after there was nobody for a while.
        async with socket(relay, path, token=names.token(name="phone")) as back:
            revoke_token(names.state_dir, "phone")
            assert (await closed(back))[0] == 1008


async def test_one_that_follows_and_does_not_read_is_sent_away_too(
    relay: Relay, names: Names, presence: Presence
) -> None:
    token = names.token(OBSERVER, name="stuck")
    async with connected(relay, max_size=None) as own:
        session_id = await own.create()
        async with connected(
            relay, additional_headers={"Authorization": f"Bearer {token}"}, max_queue=1
        ) as stuck:
            await stuck.say("session:attach", sessionId=session_id)
            await stuck.expect("session:attached")
            stuck.socket.transport.pause_reading()
            await own.say("agent:message", sessionId=session_id, content="/stream 1500 5000")
            await own.skip_to("agent:response")
            assert relay.observers(session_id) == 1
            revoke_token(names.state_dir, "stuck")
            with anyio.fail_after(5):  # before any ping is missed
                await presence.until(relay, session_id, 1)
            stuck.socket.transport.abort()


async def test_nothing_is_acted_on_any_more(relay: Relay, names: Names) -> None:
    token = names.token(name="phone")
    bearer = {"Authorization": f"Bearer {token}"}
    async with connected(relay) as own, connected(relay, additional_headers=bearer) as client:
        session_id = await own.create()
        await client.attach(session_id)
        revoke_token(names.state_dir, "phone")
        assert await closed(client.socket) == (1008, "the token was revoked")
        with pytest.raises(ConnectionClosed):
            await client.say("session:stop", sessionId=session_id)
        assert (await own.prompt(session_id, "still here"))["content"] == "still here"
        assert relay.clients(session_id) == 1


async def test_an_expiry_closes_too(relay: Relay, names: Names) -> None:
    expires = SystemClock().now() + timedelta(seconds=1.5)
    token = names.token(expires=expires)
    async with socket(relay, token=token) as opened, http(relay, token) as client:
        assert await closed(opened) == (1008, "the token has expired")
        assert SystemClock().now() >= expires
        assert (await client.get("/api/sessions")).status_code == 401
    assert (await refusal(relay, token=token))[0] == 401


async def test_the_file_is_deleted(relay: Relay, names: Names) -> None:
    token = names.token()
    async with socket(relay, token=token) as opened, connected(relay) as own:
        tokens_path(names.state_dir).unlink()
        assert (await closed(opened))[0] == 1008
        assert (await refusal(relay, token=token))[0] == 401
        await own.say("echo")
        await own.expect("echo")


async def test_the_file_is_corrupt(relay: Relay, names: Names, caplog: pytest.LogCaptureFixture) -> None:
    token = names.token()
    url, own_token = address_of(relay)
    async with socket(relay, token=token) as opened, connected(relay) as own:
        good = tokens_path(names.state_dir).read_bytes()
        with caplog.at_level(logging.ERROR):
            tokens_path(names.state_dir).write_bytes(good[:-20])
            assert await closed(opened) == (1008, "the relay cannot read its tokens")
            for wrong in (token, "rkt_wrong"):
                status, why = await refusal(relay, token=wrong)
                assert (status, "cannot read its tokens" in why) == (503, True)
                async with http(relay, wrong) as client:
                    assert (await client.get("/api/sessions")).status_code == 503
        errors = [record.getMessage() for record in caplog.records if "token file" in record.getMessage()]
        assert len(errors) == 1
        assert "Correct it; or delete it" in errors[0]
        await own.say("echo")
        await own.expect("echo")
        async with http(relay, own_token) as client:
            assert (await client.get("/api/sessions")).status_code == 200
        tokens_path(names.state_dir).write_bytes(good)
        async with socket(relay, token=token):
            pass
    assert url


# ---------------------------------------------------------------- /api and the rest


async def test_http_by_role_and_owner(relay: Relay, names: Names) -> None:
    async with connected(relay) as own:
        session_id = await own.create()
        await own.prompt(session_id, "hello")
        seen = {
            "owner": names.token(),
            "observer": names.token(OBSERVER),
            "of the session": names.token(Access(sessions=frozenset({session_id}))),
        }
        unseen = {
            "ann": names.token(ANN),
            "ann's observer": names.token(Access(owner="ann", role=Role.OBSERVER)),
            "of another project": names.token(Access(projects=frozenset({"x"}))),
            "of another session": names.token(Access(sessions=frozenset({"x"}))),
        }
        path = f"/api/sessions/{session_id}"
        for name, token in unseen.items():
            async with http(relay, token) as client:
                assert (await client.get("/api/sessions")).json() == {"sessions": []}, name
                assert (await client.get("/api/sessions?ended=true")).json() == {"sessions": []}
                asked = [
                    await client.get(path),
                    await client.get(f"{path}/transcript"),
                    await client.post(f"{path}/resume"),
                    await client.delete(path),
                ]
                nowhere = await client.get("/api/sessions/" + "0" * 32)
                for response in asked:
                    assert response.status_code == 404, (name, response.text)
                assert asked[0].text.replace(session_id, "0" * 32) == nowhere.text
                assert session_id not in (await client.get("/")).text
        for name, token in seen.items():
            async with http(relay, token) as client:
                [shown] = (await client.get("/api/sessions")).json()["sessions"]
                assert (shown["clients"], shown["controllers"], shown["observers"]) == (1, 1, 0), name
                assert (await client.get(path)).json()["id"] == session_id
                assert (await client.get(f"{path}/transcript")).json()["entries"]
                assert "<td>auth<td>" in (await client.get("/")).text
        async with http(relay, seen["observer"]) as client:
            for response in (await client.delete(path), await client.post(f"{path}/resume")):
                assert response.status_code == 403
                assert "it takes a controller" in response.json()["detail"]
        async with http(relay, seen["of the session"]) as client:
            assert (await client.delete(path)).status_code == 202
            await own.skip_to("session:terminated")
            await relay.wait_ended(session_id)
        for token in (seen["observer"], unseen["ann"]):
            async with http(relay, token) as client:
                status = (await client.post(f"{path}/resume")).status_code
                assert status == (403 if token == seen["observer"] else 404)
        async with http(relay, seen["of the session"]) as client:
            ended = (await client.get("/api/sessions?ended=true")).json()["sessions"]
            assert [each["id"] for each in ended] == [session_id]
            assert (await client.post(f"{path}/resume")).status_code == 202


async def test_what_is_of_no_owner_is_for_who_may_everything(relay: Relay, names: Names) -> None:
    _, own_token = address_of(relay)
    expected = {
        own_token: 200,
        names.token(): 200,
        names.token(OBSERVER): 403,
        names.token(ANN): 403,
        names.token(Access(projects=frozenset({"default"}))): 403,
    }
    for token, status in expected.items():
        async with http(relay, token) as client:
            assert (await client.get("/api/plugins")).status_code == status
            elsewhere = (await client.get("/what-a-plugin-shows")).status_code
            assert elsewhere == (404 if status == 200 else 403)


# ---------------------------------------------------------------- in the URL


@pytest.mark.parametrize("path", ["/ws", "/acp"])
async def test_a_narrow_token_may_stand_in_the_url(relay: Relay, names: Names, path: str) -> None:
    async with connected(relay) as own:
        session_id = await own.create()
    for narrow in (
        OBSERVER,
        Access(projects=frozenset({"default"})),
        Access(sessions=frozenset({session_id})),
        Access(owner="ann", role=Role.OBSERVER),
    ):
        token = names.token(narrow, name="link")
        for query in (f"token={token}", f"agent=echo&token={token}", f"%74oken={token}&agent=echo"):
            async with socket(relay, f"{path}?{query}") as opened:
                await opened.ping()
        async with socket(relay, f"{path}?token={token}") as opened:
            revoke_token(names.state_dir, "link")
            assert (await closed(opened))[0] == 1008
        assert (await refusal(relay, f"{path}?token={token}"))[0] == 401


@pytest.mark.parametrize("path", ["/ws", "/acp"])
async def test_one_that_is_not_narrow_may_not(relay: Relay, names: Names, path: str) -> None:
    _, own_token = address_of(relay)
    for token in (own_token, names.token(), names.token(ANN)):
        status, why = await refusal(relay, f"{path}?token={token}")
        assert status == 403
        assert "may do too much to stand in a URL" in why
        assert token not in why
    narrow = names.token(OBSERVER)
    for wrong in ("", "rkt_wrong", narrow[:-1], digest_of(narrow)):
        status, why = await refusal(relay, f"{path}?token={wrong}")
        assert status == 401
        assert "wrong" in why
    assert (await refusal(relay, f"{path}/?token={narrow}"))[0] in {401, 403, 404}
    async with http(relay) as client:  # nowhere else
        assert (await client.get("/api/sessions", params={"token": narrow})).status_code == 401
        assert (await client.post("/api/tickets", params={"token": narrow})).status_code == 401
    foreign = {"Origin": "https://evil.example"}
    assert (await refusal(relay, f"{path}?token={narrow}", headers=foreign))[0] == 403
    assert (await refusal(relay, f"{path}?token={narrow}", called="evil.example"))[0] == 403


async def test_a_link_for_a_browser(relay: Relay, names: Names) -> None:
    token = names.token(OBSERVER, name="guest")
    url, _ = address_of(relay)
    async with http(relay, follow_redirects=True) as browser:
        page = await browser.get("/", params={"token": token})
        assert page.status_code == 200
        assert str(page.url) == f"{url}/"
        assert token not in page.text
        assert (await browser.get("/api/sessions")).status_code == 200
        assert (await browser.delete("/api/sessions/x", headers={"Origin": url})).status_code == 404
        revoke_token(names.state_dir, "guest")
        assert (await browser.get("/api/sessions")).status_code == 401


# ---------------------------------------------------------------- tickets


async def ticket_of(client: httpx.AsyncClient, **options: Any) -> tuple[str, ...]:
    """Return the subprotocols that a ticket is offered in."""
    response = await client.post("/api/tickets", **options)
    assert response.status_code == 201, response.text
    told = response.json()
    assert told["expiresIn"] == 60
    assert told["protocols"] == ["relaykit", f"relaykit.ticket.{told['ticket']}"]
    return tuple(told["protocols"])


@pytest.mark.parametrize("path", ["/ws", "/acp"])
async def test_a_ticket_is_good_once(relay: Relay, names: Names, path: str) -> None:
    async with http(relay, names.token(ANN, name="ann")) as client:
        protocols = await ticket_of(client)
        async with socket(relay, path, protocols=protocols) as opened:
            assert opened.subprotocol == "relaykit"
            assert opened.response is not None
            assert protocols[1] not in str(opened.response.headers)
            status, why = await refusal(relay, path, protocols=protocols)
            assert (status, "was used" in why) == (401, True)
            assert protocols[1] not in why
            revoke_token(names.state_dir, "ann")
            assert await closed(opened) == (1008, "the token was revoked")


async def test_who_a_ticket_stands_for(relay: Relay, names: Names) -> None:
    async with http(relay, names.token(ANN)) as client:
        protocols = await ticket_of(client)
    async with connected(
        relay, additional_headers={}, subprotocols=[Subprotocol(each) for each in reversed(protocols)]
    ) as ann:
        await ann.create("hers")
    [session] = await relay.list(SessionFilter(owner="ann"))
    assert session.owner == "ann"


async def test_what_is_no_ticket(relay: Relay, names: Names) -> None:
    token = names.token(name="phone")
    async with http(relay, token) as client:
        protocols = await ticket_of(client)
        status, why = await refusal(relay, protocols=protocols[1:])
        assert (status, "offer the subprotocol" in why) == (400, True)
        for wrong in ("relaykit.ticket.", f"{protocols[1]}x", f"relaykit.ticket.{token}"):
            assert (await refusal(relay, protocols=("relaykit", wrong)))[0] == 401
        foreign = {"Origin": "https://evil.example"}
        assert (await refusal(relay, protocols=protocols, headers=foreign))[0] == 403
        async with socket(relay, protocols=protocols):  # none of that has used it up
            pass
        unused = await ticket_of(client)
        revoke_token(names.state_dir, "phone")
        assert (await refusal(relay, protocols=unused))[0] == 401
        assert (await client.post("/api/tickets")).status_code == 401


async def test_a_page_gets_a_ticket_by_its_cookie(relay: Relay) -> None:
    url, own_token = address_of(relay)
    async with http(relay) as browser:
        await browser.get("/", params={"token": own_token})
        assert (await browser.post("/api/tickets")).status_code == 403
        foreign = {"Origin": "https://evil.example"}
        assert (await browser.post("/api/tickets", headers=foreign)).status_code == 403
        protocols = await ticket_of(browser, headers={"Origin": url})
        async with socket(relay, protocols=protocols, headers={"Origin": url}) as opened:
            assert opened.subprotocol == "relaykit"


async def test_tickets_are_not_hoarded(relay: Relay, names: Names) -> None:
    async with http(relay, names.token()) as client, http(relay, names.token()) as other:
        for _ in range(64):
            await ticket_of(client)
        refused = await client.post("/api/tickets")
        assert (refused.status_code, refused.headers["content-type"]) == (429, "application/problem+json")
        await ticket_of(other)


async def test_the_subprotocol_alone_is_chosen_too(relay: Relay, names: Names) -> None:
    async with socket(relay, protocols=("other", "relaykit"), token=names.token()) as opened:
        assert opened.subprotocol == "relaykit"
    async with socket(relay, token=names.token()) as opened:
        assert opened.subprotocol is None


# ---------------------------------------------------------------- told to nobody


async def test_nothing_of_all_that_is_logged(
    relay: Relay, names: Names, caplog: pytest.LogCaptureFixture
) -> None:
    narrow, wide = names.token(OBSERVER, name="narrow"), names.token(name="wide")
    with caplog.at_level(logging.DEBUG):
        for path in ("/ws", "/acp"):
            async with socket(relay, f"{path}?token={narrow}") as opened:
                await opened.send("no JSON")
                await opened.recv()
            await refusal(relay, f"{path}?token={wide}")
            await refusal(relay, f"{path}?token={narrow}x")
            await refusal(relay, f"{path}?token={narrow}", called="evil.example")
        async with http(relay, wide) as client:
            protocols = await ticket_of(client)
            async with socket(relay, protocols=protocols) as opened:
                await opened.ping()
            await client.get("/", params={"token": narrow})
            await client.get("/nowhere", params={"token": narrow})
            unused = await ticket_of(client)
            await refusal(relay, protocols=unused[1:])
        async with socket(relay, f"/ws?token={narrow}") as opened:
            revoke_token(names.state_dir, "narrow")
            await closed(opened)
    ours = [
        record.getMessage()
        for record in caplog.records
        if not record.name.startswith(("httpx", "httpcore", "websockets.client"))  # these are the client's
    ]
    assert any("is sent away: the token was revoked" in message for message in ours)
    for secret in (narrow, wide, digest_of(narrow), protocols[1], unused[1]):
        assert not [message for message in ours if secret in message]
