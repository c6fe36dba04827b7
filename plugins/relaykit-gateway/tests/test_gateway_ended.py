"""Sessions that have ended: over HTTP, and revived for clients of /acp and /ws; on both event loops."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest

from relaykit.errors import JournalError, Refused
from relaykit.hooks import hookimpl
from relaykit.hooks.events import SessionRequest
from relaykit.relay import Relay
from relaykit.relay.rest import Presence
from relaykit_gateway.app import gateway_app
from relaykit_gateway.gateway import Gateway
from relaykit_gateway.token import token_path
from support.acp_sockets import AcpSocket, acp_socket, gateway_of
from support.gateways import SECONDS, gateway_settings, open_gateway_relay
from support.relays import prompt
from support.sleepers import until_presence
from support.ws_sockets import ws_socket

pytestmark = pytest.mark.anyio


class NoMore:
    """A policy that refuses sessions, once it is told to."""

    def __init__(self) -> None:
        self.refuses = False

    @hookimpl
    async def relaykit_check_session(self, request: SessionRequest) -> None:
        if self.refuses:
            raise Refused(f"{request.agent_id} is not wanted any more")


@pytest.fixture
def policy() -> NoMore:
    return NoMore()


@pytest.fixture
async def relay(tmp_path: Path, policy: NoMore) -> AsyncIterator[Relay]:
    settings = gateway_settings(tmp_path, relay="idle_timeout = 0")
    async with open_gateway_relay(settings, serve=False, extra={"policy": policy}) as relay:
        yield relay


@pytest.fixture
def gateway(relay: Relay) -> Gateway:
    return gateway_of(relay)


@pytest.fixture
async def http(relay: Relay) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(app=gateway_app(relay), raise_app_exceptions=False)
    token = token_path(relay.settings.state_dir).read_text()
    async with httpx.AsyncClient(
        transport=transport,
        base_url="http://127.0.0.1:7433",
        headers={"Authorization": f"Bearer {token}"},
    ) as client:
        yield client


async def ended_session(relay: Relay, agent_id: str = "auth", *, said: str = "hello") -> str:
    session = await relay.create(agent_id)
    await until_presence(relay, session.id, Presence.AWAKE)
    with anyio.fail_after(SECONDS):
        async with relay.attach(session.id, client_id="c1", protocol="test") as cursor:
            await relay.prompt(session.id, prompt(said), client_id="c1", turn=f"turn-{agent_id}")
            while not any(entry.frame.kind == "TURN_END" for entry in (await cursor.next()).entries):
                pass
        await relay.stop(session.id, "enough")
        await relay.wait_ended(session.id)
    return session.id


# ---------------------------------------------------------------- lists


async def test_what_ended_is_listed_and_shown(relay: Relay, http: httpx.AsyncClient) -> None:
    session_id = await ended_session(relay)
    assert (await http.get("/api/sessions")).json() == {"sessions": []}
    [listed] = (await http.get("/api/sessions?ended=true")).json()["sessions"]
    assert listed == (await http.get(f"/api/sessions/{session_id}")).json()
    assert (listed["id"], listed["state"], listed["presence"]) == (session_id, "CLEANED", "GONE")
    assert (listed["cause"], listed["reason"]) == ("REQUESTED", "enough")
    assert listed["endedAt"].endswith("Z")
    assert (await http.get("/api/sessions?ended=true&agentId=db")).json() == {"sessions": []}


async def test_what_ended_comes_in_pages_that_do_not_shift(relay: Relay, http: httpx.AsyncClient) -> None:
    ended = [await ended_session(relay, f"role{number}") for number in range(5)]
    first = (await http.get("/api/sessions?ended=true&limit=2")).json()
    ended.append(await ended_session(relay, "late"))
    query = {"ended": "true", "limit": "2", "after": first["next"]}
    second = (await http.get("/api/sessions", params=query)).json()
    third = (await http.get("/api/sessions", params={**query, "after": second["next"]})).json()
    assert "next" not in third
    listed = [session["id"] for page in (first, second, third) for session in page["sessions"]]
    assert listed == ended[4::-1]


@pytest.mark.parametrize(
    "query",
    [
        "ended=yes",
        "ended=true&after=x",
        "ended=true&after=2026-01-01_1",
        "ended=true&after=999999999999999_1",
        "ended=true&limit=0",
    ],
)
async def test_what_is_no_query(http: httpx.AsyncClient, query: str) -> None:
    answer = await http.get(f"/api/sessions?{query}")
    assert answer.status_code == 400


# ---------------------------------------------------------------- transcripts


@pytest.mark.parametrize("ends", [True, False])
async def test_a_transcript(relay: Relay, http: httpx.AsyncClient, *, ends: bool) -> None:
    session_id = await ended_session(relay)
    if not ends:
        await http.post(f"/api/sessions/{session_id}/resume")
        await until_presence(relay, session_id, Presence.AWAKE)
    told = (await http.get(f"/api/sessions/{session_id}/transcript")).json()
    assert told["sessionId"] == session_id
    entries = told["entries"][:6]
    assert [entry["seq"] for entry in entries] == [1, 2, 3, 4, 5, 6]
    assert [entry["kind"] for entry in entries] == [
        "NOTICE",
        "PROMPT",
        "UPDATE",
        "TURN_END",
        "NOTICE",
        "NOTICE",
    ]
    said = entries[1]
    assert set(said) == {"seq", "at", "kind", "method", "ref", "failed", "body"}
    assert (said["method"], said["ref"], said["failed"]) == ("session/prompt", "turn-auth", False)
    assert said["body"] == {"prompt": [{"type": "text", "text": "hello"}]}
    assert entries[2]["body"]["update"]["content"]["text"] == "hello"


async def test_a_transcript_comes_in_pages(relay: Relay, http: httpx.AsyncClient) -> None:
    session_id = await ended_session(relay)
    seqs: list[int] = []
    query: dict[str, Any] = {"limit": 4}
    while query:
        page = (await http.get(f"/api/sessions/{session_id}/transcript", params=query)).json()
        seqs += [entry["seq"] for entry in page["entries"]]
        query = {"limit": 4, "after": page["next"]} if "next" in page else {}
    assert seqs == [1, 2, 3, 4, 5, 6]


async def test_a_page_of_large_entries_is_short(
    relay: Relay, http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    session_id = await ended_session(relay)
    monkeypatch.setattr("relaykit_gateway.api._PAGE_BYTES", 10)
    page = (await http.get(f"/api/sessions/{session_id}/transcript")).json()
    assert len(page["entries"]) == 1
    assert page["next"] == 1


async def test_a_transcript_that_cannot_be_read(
    relay: Relay, http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    session_id = await ended_session(relay)

    async def broken(*_: Any, **__: Any) -> None:
        raise JournalError("the disk is gone", plugin="memory")

    monkeypatch.setattr(relay, "transcript", broken)
    answer = await http.get(f"/api/sessions/{session_id}/transcript")
    assert answer.status_code == 503
    assert "the disk is gone" in answer.json()["detail"]


@pytest.mark.parametrize("path", ["", "/transcript", "/resume"])
async def test_one_that_never_was(http: httpx.AsyncClient, path: str) -> None:
    method = "POST" if path == "/resume" else "GET"
    answer = await http.request(method, f"/api/sessions/nobody{path}")
    assert answer.status_code == 404
    assert "no session 'nobody'" in answer.json()["detail"]


# ---------------------------------------------------------------- revived


async def test_resuming_starts_it_anew(relay: Relay, http: httpx.AsyncClient) -> None:
    session_id = await ended_session(relay)
    answer = await http.post(f"/api/sessions/{session_id}/resume")
    assert answer.status_code == 202
    assert (answer.json()["id"], answer.json()["agentId"]) == (session_id, "auth")
    assert (await http.get("/api/sessions?ended=true")).json() == {"sessions": []}
    await until_presence(relay, session_id, Presence.AWAKE)
    again = await http.post(f"/api/sessions/{session_id}/resume")
    assert (again.status_code, again.json()["detail"]) == (
        409,
        "the session has not ended: open it, which wakes it if it sleeps",
    )


async def test_resuming_is_refused(relay: Relay, http: httpx.AsyncClient, policy: NoMore) -> None:
    session_id = await ended_session(relay)
    other = await relay.create("auth")
    taken = await http.post(f"/api/sessions/{session_id}/resume")
    assert taken.status_code == 409
    assert other.id in taken.json()["detail"]
    await relay.stop(other.id, "enough")
    await relay.wait_ended(other.id)
    policy.refuses = True
    refused = await http.post(f"/api/sessions/{session_id}/resume")
    assert refused.status_code == 403
    assert "not wanted any more" in refused.json()["detail"]
    policy.refuses = False
    await relay.aclose()
    assert (await http.post(f"/api/sessions/{session_id}/resume")).status_code == 503


async def test_acp_loads_one_that_was_revived(
    relay: Relay, gateway: Gateway, http: httpx.AsyncClient
) -> None:
    session_id = await ended_session(relay)
    await http.post(f"/api/sessions/{session_id}/resume")
    async with acp_socket(gateway, aware=True) as socket:
        await socket.open("load", session_id)
        assert socket.chunks == ["user: hello", "agent: hello"]
        assert (await socket.told(session_id, "again"))["stopReason"] == "end_turn"
        assert "_relaykit/session_ended" not in methods(socket)  # it goes on
        await relay.stop(session_id, "enough now")
        ended = await socket.skip_to("_relaykit/session_ended")
        assert ended["params"]["reason"] == "enough now"


async def test_ws_attaches_to_one_that_was_revived(
    relay: Relay, gateway: Gateway, http: httpx.AsyncClient
) -> None:
    session_id = await ended_session(relay)
    await http.post(f"/api/sessions/{session_id}/resume")
    await until_presence(relay, session_id, Presence.AWAKE)
    async with ws_socket(gateway) as socket:
        socket.say("session:attach", sessionId=session_id)
        await socket.skip_to("session:caught_up")
        assert socket.types.count("session:ready") == 2
        assert "session:terminated" not in socket.types
        socket.say("session:stop", sessionId=session_id)
        await socket.skip_to("session:terminated")


def methods(socket: AcpSocket) -> list[str]:
    return [message.get("method", "") for message in socket.heard]


async def test_entries_are_json_whatever_was_said(relay: Relay, http: httpx.AsyncClient) -> None:
    session_id = await ended_session(relay, said="é \U0001f600 \x00")
    raw = await http.get(f"/api/sessions/{session_id}/transcript")
    assert raw.headers["content-type"] == "application/json"
    assert json.loads(raw.content)["entries"][2]["body"]["update"]["content"]["text"] == "é \U0001f600 \x00"
