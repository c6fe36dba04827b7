"""Every message of the relay protocol, over a real server, with a real agent process."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from relaykit.relay import Relay
from support.gateways import BACKENDS, Client, connected, gateway_settings, open_gateway_relay

pytestmark = pytest.mark.anyio

RFC_3339 = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")


@pytest.fixture(params=BACKENDS)
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture
async def relay(tmp_path: Path, anyio_backend: Any) -> AsyncIterator[Relay]:
    assert anyio_backend
    async with open_gateway_relay(gateway_settings(tmp_path)) as relay:
        yield relay


@pytest.fixture
async def client(relay: Relay) -> AsyncIterator[Client]:
    async with connected(relay) as client:
        yield client


async def test_a_whole_session(relay: Relay, client: Client, tmp_path: Path) -> None:
    await client.say("session:create", agentId="auth", agent="echo")

    created = await client.expect("session:created")
    assert created["agentId"] == "auth"
    assert RFC_3339.fullmatch(created["timestamp"])
    session_id = created["sessionId"]

    ready = await client.expect("session:ready")
    assert (ready["sessionId"], ready["worktreeDir"]) == (session_id, str(tmp_path))

    await client.say("agent:message", sessionId=session_id, content="hello")
    update = await client.expect("agent:update")
    assert update["sessionId"] == session_id
    assert update["update"] == {
        "sessionUpdate": "agent_message_chunk",
        "content": {"type": "text", "text": "hello"},
    }
    response = await client.expect("agent:response")
    assert (response["content"], response["stopReason"]) == ("hello", "end_turn")
    assert response["seq"] == update["seq"] + 1
    assert RFC_3339.fullmatch(response["timestamp"])

    await client.say("session:stop", sessionId=session_id, reason="enough")
    terminated = await client.expect("session:terminated")
    assert (terminated["sessionId"], terminated["reason"], terminated["cause"]) == (
        session_id,
        "enough",
        "REQUESTED",
    )
    assert {"cleaner": "acp", "outcome": "DONE", "detail": ""} in terminated["cleanup"]
    await relay.wait_ended(session_id)
    assert await relay.get(session_id) is None


async def test_the_connection_says_which_server_it_is(relay: Relay) -> None:
    async with connected(relay) as first, connected(relay) as second:
        for client in (first, second):
            await client.say("echo", a=1)
            assert (await client.expect("echo"))["a"] == 1


async def test_echo_answers_with_the_same_and_a_timestamp(client: Client) -> None:
    await client.say("echo", payload={"ü": [1, 2.5, None]}, sessionId=7)
    answer = await client.expect("echo")
    assert RFC_3339.fullmatch(answer.pop("timestamp"))
    assert answer == {"version": "1.0", "type": "echo", "payload": {"ü": [1, 2.5, None]}, "sessionId": 7}


async def test_content_blocks_reach_the_agent(client: Client) -> None:
    session_id = await client.create()
    blocks = [{"type": "text", "text": "one\n"}, {"type": "text", "text": "two", "_meta": {"x": 1}}]
    response = await client.prompt(session_id, blocks)
    assert "one\n" in response["content"]


async def test_a_response_holds_all_that_was_streamed(client: Client) -> None:
    session_id = await client.create()
    await client.say("agent:message", sessionId=session_id, content="/stream 2000 10")
    texts = []
    last = 0
    while (message := await client.hear())["type"] == "agent:update":
        texts.append(message["update"]["content"]["text"])
        assert message["seq"] == last + 1 or not last
        last = message["seq"]
    assert message["type"] == "agent:response"
    assert len(texts) >= 2000
    assert message["content"] == "".join(texts)
    assert "contentTruncated" not in message


async def test_cancel_ends_the_turn(client: Client) -> None:
    session_id = await client.create()
    await client.say("agent:message", sessionId=session_id, content="/sleep 60")
    await client.say("agent:cancel", sessionId=session_id)
    response = await client.skip_to("agent:response")
    assert response["stopReason"] == "cancelled"


async def test_cancel_without_a_turn_is_nothing(client: Client) -> None:
    session_id = await client.create()
    await client.say("agent:cancel", sessionId=session_id)
    assert (await client.prompt(session_id, "still there"))["content"] == "still there"


@pytest.mark.parametrize("way", ["optionId", "outcome", "object"])
async def test_a_permission_is_asked_and_answered(client: Client, way: str) -> None:
    session_id = await client.create()
    await client.say("agent:message", sessionId=session_id, content="/ask")
    request = await client.skip_to("permission:request")
    assert request["sessionId"] == session_id
    assert request["toolCall"]["toolCallId"]
    option = request["options"][0]["optionId"]
    answer: dict[str, Any] = {
        "optionId": {"optionId": option},
        "outcome": {"outcome": "cancelled"},
        "object": {"outcome": {"outcome": "selected", "optionId": option}},
    }[way]
    await client.say("permission:response", sessionId=session_id, requestId=request["requestId"], **answer)
    response = await client.skip_to("agent:response")
    assert ("cancelled" if way == "outcome" else option) in response["content"]


async def test_other_questions_are_asked_too(client: Client) -> None:
    session_id = await client.create()
    await client.say("agent:message", sessionId=session_id, content="/elicit")
    request = await client.skip_to("agent:request")
    assert request["method"] == "elicitation/create"
    assert "sessionId" not in request["params"]
    result = {"action": "accept", "content": {"name": "Ada"}}
    await client.say(
        "permission:response", sessionId=session_id, requestId=request["requestId"], result=result
    )
    assert "accept" in (await client.skip_to("agent:response"))["content"]


async def test_list_shows_the_sessions(client: Client) -> None:
    ids = {await client.create("auth"), await client.create("db")}
    await client.say("session:list")
    listed = await client.expect("session:list")
    assert {session["id"] for session in listed["sessions"]} == ids
    assert {session["clients"] for session in listed["sessions"]} == {1}
    assert "next" not in listed


async def test_attach_tells_where_the_session_stands(client: Client) -> None:
    session_id = await client.create()
    response = await client.prompt(session_id, "one")
    await client.say("session:attach", sessionId=session_id, after=response["seq"])
    attached = await client.expect("session:attached")
    assert attached["agentId"] == "auth"
    assert attached["state"] == "ACTIVE"
    assert attached["head"] == response["seq"]
    assert attached["turnRunning"] is False
    assert attached["epoch"]
    assert (await client.expect("session:caught_up"))["seq"] == response["seq"]


async def test_another_epoch_begins_at_the_beginning(client: Client) -> None:
    session_id = await client.create()
    await client.prompt(session_id, "one")
    attached = await client.attach(session_id, after=10**6, epoch="of a relay long gone")
    assert attached["epoch"] != "of a relay long gone"


async def test_an_agent_that_cannot_start(client: Client) -> None:
    await client.say("session:create", agentId="auth", agent="missing")
    session_id = (await client.expect("session:created"))["sessionId"]
    error = await client.error()
    assert error["error"]["code"] == "SPAWN_FAILED"
    assert "there-is-no-such-program" in error["error"]["message"]
    terminated = await client.expect("session:terminated")
    assert (terminated["sessionId"], terminated["cause"]) == (session_id, "SPAWN_FAILED")


async def test_an_agent_that_crashes_comes_back(client: Client) -> None:
    session_id = await client.create()
    await client.say("agent:message", sessionId=session_id, content="/crash 3")
    error = (await client.error())["error"]
    assert (error["code"], error["recoverable"]) == ("AGENT_FAILED", True)
    crashed = await client.expect("session:agent_crashed")
    assert (crashed["sessionId"], crashed["seq"]) == (session_id, 4)
    assert crashed["reason"] == "agent 'echo': it exited with 3; its last words were:\necho: told to crash"
    await client.expect("session:awake")
    await client.say("agent:message", sessionId=session_id, content="hello")
    assert (await client.expect("agent:update"))["update"]["content"]["text"] == "hello"


async def test_what_the_agent_says_survives_byte_for_byte(client: Client) -> None:
    session_id = await client.create()
    update = '{"sessionUpdate" : "a_kind_from_tomorrow","n":1.50,"deep":[[{"k":"\\u00fc \\u2028"}]]}'
    line = f'{{"jsonrpc":"2.0","method":"session/update","params":{{"sessionId":"s","update":{update}}}}}'
    await client.say("agent:message", sessionId=session_id, content=f"/raw {line}")
    while update not in (text := await client.socket.recv(decode=True)):
        assert json.loads(text)["type"] != "agent:response"


async def test_other_notifications_are_shown_as_they_are(client: Client) -> None:
    session_id = await client.create()
    line = '{"jsonrpc":"2.0","method":"_vendor/usage","params":{"tokens":12}}'
    await client.say("agent:message", sessionId=session_id, content=f"/raw {line}")
    notification = await client.expect("agent:notification")
    assert (notification["method"], notification["params"]) == ("_vendor/usage", {"tokens": 12})
