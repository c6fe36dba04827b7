"""Several clients, and clients that come, go and do not listen; over a real server."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio.abc import SocketStream
from websockets.exceptions import ConnectionClosed

from relaykit.relay import Relay
from support.gateways import (
    BACKENDS,
    SECONDS,
    Client,
    Presence,
    address_of,
    connected,
    gateway_settings,
    open_gateway_relay,
)

pytestmark = pytest.mark.anyio


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


async def test_a_prompt_reaches_the_others_and_not_its_sender(relay: Relay) -> None:
    async with connected(relay) as first, connected(relay) as second:
        session_id = await first.create()
        await second.attach(session_id)
        blocks = [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]
        await first.say("agent:message", sessionId=session_id, content=blocks)

        heard = [await second.expect("agent:update"), await second.expect("agent:update")]
        assert [message["update"] for message in heard] == [
            {"sessionUpdate": "user_message_chunk", "content": block} for block in blocks
        ]
        assert heard[0]["seq"] == heard[1]["seq"]
        for client in (first, second):
            update = await client.expect("agent:update")
            assert update["update"]["sessionUpdate"] == "agent_message_chunk"
        assert await first.skip_to("agent:response") == await second.skip_to("agent:response")


async def test_who_reads_the_past_again_hears_its_own_prompt(relay: Relay) -> None:
    async with connected(relay) as client:
        session_id = await client.create()
        await client.prompt(session_id, "mine")
        await client.say("session:attach", sessionId=session_id)
        await client.expect("session:attached")
        await client.expect("session:ready")
        assert (await client.expect("agent:update"))["update"]["sessionUpdate"] == "user_message_chunk"


async def test_the_first_answer_wins_and_the_other_hears_it(relay: Relay) -> None:
    async with connected(relay) as first, connected(relay) as second:
        session_id = await first.create()
        await second.attach(session_id)
        await first.say("agent:message", sessionId=session_id, content="/ask")
        asked = [await client.skip_to("permission:request") for client in (first, second)]
        assert asked[0] == asked[1]
        answer = {"sessionId": session_id, "requestId": asked[0]["requestId"]}
        chosen, other = (option["optionId"] for option in asked[0]["options"][:2])

        await second.say("permission:response", **answer, optionId=chosen)
        resolved = await first.skip_to("permission:resolved")
        assert (resolved["requestId"], resolved["optionId"]) == (answer["requestId"], chosen)
        await first.say("permission:response", **answer, optionId=other)
        assert (await first.skip_to("error"))["error"]["code"] == "QUESTION_CLOSED"

        while (message := await second.hear())["type"] != "agent:response":
            assert message["type"] != "permission:resolved"
        assert chosen in message["content"]


async def test_a_cancelled_question_is_resolved_for_all(relay: Relay) -> None:
    async with connected(relay) as client:
        session_id = await client.create()
        await client.say("agent:message", sessionId=session_id, content="/ask")
        await client.skip_to("permission:request")
        await client.say("agent:cancel", sessionId=session_id)
        assert (await client.skip_to("permission:resolved"))["outcome"] == "cancelled"


async def test_attaching_after_a_place_gets_exactly_what_was_missed(relay: Relay) -> None:
    async with connected(relay) as keeper:
        session_id = await keeper.create()
        async with connected(relay) as leaver:
            await leaver.attach(session_id)
            await keeper.say("agent:message", sessionId=session_id, content="/stream 50")
            seen = 0
            for _ in range(20):
                seen = (await leaver.expect("agent:update"))["seq"]
        response = await keeper.skip_to("agent:response")
        await keeper.prompt(session_id, "more")

        async with connected(relay) as back:
            await back.say("session:attach", sessionId=session_id, after=seen)
            attached = await back.expect("session:attached")
            missed = []
            while (message := await back.hear())["type"] != "session:caught_up":
                missed.append(message["seq"])
            assert missed == list(range(seen + 1, attached["head"] + 1))
            assert response["seq"] in missed
            assert message["seq"] == attached["head"]


async def test_who_attaches_late_hears_that_a_turn_runs_and_what_is_asked(relay: Relay) -> None:
    async with connected(relay) as first, connected(relay) as second:
        session_id = await first.create()
        await first.say("agent:message", sessionId=session_id, content="/ask")
        asked = await first.skip_to("permission:request")
        await second.say("session:attach", sessionId=session_id)
        assert (await second.expect("session:attached"))["turnRunning"] is True
        assert await second.skip_to("permission:request") == asked


async def test_a_second_attach_replaces_the_first(relay: Relay) -> None:
    async with connected(relay) as client:
        session_id = await client.create()
        head = (await client.prompt(session_id, "one"))["seq"]
        for _ in range(3):
            await client.attach(session_id, after=head)
        assert relay.clients(session_id) == 1
        await client.say("agent:message", sessionId=session_id, content="two")
        assert (await client.expect("agent:update"))["seq"] == head + 2
        await client.expect("agent:response")


async def test_a_disconnect_ends_nothing(relay: Relay, presence: Presence) -> None:
    async with connected(relay) as client:
        session_id = await client.create()
        await client.say("agent:message", sessionId=session_id, content="/sleep 0.2")
    await presence.until(relay, session_id, 0)
    async with connected(relay) as client:
        await client.say("session:attach", sessionId=session_id)
        assert (await client.skip_to("agent:response"))["stopReason"] == "end_turn"


async def test_an_unattached_client_may_speak_and_stop(relay: Relay) -> None:
    async with connected(relay) as owner, connected(relay) as other:
        session_id = await owner.create()
        await other.say("agent:message", sessionId=session_id, content="from outside")
        assert (await owner.skip_to("agent:response"))["content"] == "from outside"
        await other.say("session:stop", sessionId=session_id)
        await owner.skip_to("session:terminated")
        await other.say("echo", quiet=True)  # it heard of none of this
        await other.expect("echo")


async def deaf_client(relay: Relay, session_id: str) -> SocketStream:
    """Return a connection that has attached, and on which nobody reads any more."""
    url, token = address_of(relay)
    host, _, port = url.removeprefix("http://").partition(":")
    stream = await anyio.connect_tcp(host, int(port))
    await stream.send(
        f"GET /ws HTTP/1.1\r\nHost: {host}:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
        f"Authorization: Bearer {token}\r\n\r\n".encode()
    )
    with anyio.fail_after(SECONDS):
        answer = await stream.receive()
    assert answer.startswith(b"HTTP/1.1 101")
    message = json.dumps({"version": "1.0", "type": "session:attach", "sessionId": session_id}).encode()
    await stream.send(bytes((0x81, 0x80 | len(message), 0, 0, 0, 0)) + message)  # masked with zeroes
    return stream


async def test_a_client_that_never_reads_delays_nobody_and_is_dropped(
    tmp_path: Path, presence: Presence
) -> None:
    settings = gateway_settings(tmp_path, gateway="ping_interval = 1\npong_timeout = 1\nstall_timeout = 1")
    extra = {"presence": presence}
    async with open_gateway_relay(settings, extra=extra) as relay, connected(relay, max_size=None) as client:
        session_id = await client.create()
        deaf = await deaf_client(relay, session_id)
        async with deaf:
            await presence.until(relay, session_id, 2)
            response = await client.prompt(session_id, "/stream 4000 4000")  # 16 MB: no socket buffers that
            assert len(response["content"]) >= 8_000_000
            await presence.until(relay, session_id, 1)
        assert (await client.prompt(session_id, "fine"))["content"] == "fine"


async def test_a_message_of_two_megabytes_is_answered_and_the_connection_stays(relay: Relay) -> None:
    async with connected(relay) as client:
        await client.say("echo", a="x" * (2 * 1024 * 1024 - 100))
        assert (await client.error())["error"]["code"] == "MESSAGE_TOO_LARGE"
        await client.say("echo", a=1)
        await client.expect("echo")


async def test_a_message_beyond_the_hard_limit_closes(relay: Relay) -> None:
    async with connected(relay) as client:
        await client.say("echo", a="x" * (2 * 1024 * 1024 + 100))
        with pytest.raises(ConnectionClosed) as closed, anyio.fail_after(SECONDS):
            await client.socket.recv()
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1009


async def test_a_hundred_clients_come_and_go(relay: Relay, presence: Presence) -> None:
    async with connected(relay) as keeper:
        session_id = await keeper.create()

        async def come_and_go(number: int) -> None:
            async with connected(relay) as client:
                await client.attach(session_id)
                if number % 3 == 0:
                    client.socket.transport.abort()

        async with anyio.create_task_group() as tasks:
            for number in range(100):
                tasks.start_soon(come_and_go, number)
        await presence.until(relay, session_id, 1)
        assert (await keeper.prompt(session_id, "still here"))["content"] == "still here"


async def test_the_relays_end_is_told_in_order(relay: Relay) -> None:
    async with connected(relay) as client:
        first, second = await client.create("one"), await client.create("two")
        await relay.aclose()
        asleep = {(await client.expect("session:asleep"))["sessionId"] for _ in range(2)}
        assert asleep == {first, second}


@pytest.mark.parametrize(
    ("on_shutdown", "last", "said"),
    [
        ("sleep", "session:asleep", {"reason": "the relay is shutting down"}),
        ("end", "session:terminated", {"cause": "SHUTDOWN"}),
    ],
)
async def test_the_servers_end_closes_with_going_away(
    tmp_path: Path, on_shutdown: str, last: str, said: dict[str, str]
) -> None:
    settings = gateway_settings(tmp_path, relay=f'on_shutdown = "{on_shutdown}"')
    async with open_gateway_relay(settings) as relay:
        client_connection = connected(relay)
        client: Client = await client_connection.__aenter__()
        await client.create()
    assert said.items() <= (await client.expect(last)).items()
    with pytest.raises(ConnectionClosed) as closed, anyio.fail_after(SECONDS):
        await client.socket.recv()
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 1001
    await client_connection.__aexit__(None, None, None)
