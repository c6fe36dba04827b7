"""Clients of sessions that sleep, wake, or cannot be woken; over /acp and /ws, on both event loops."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
from starlette.requests import Request

from relaykit.conversation import Kind
from relaykit.relay import Relay
from relaykit.relay.rest import Presence
from relaykit.session import SessionState
from relaykit_gateway.credentials import OWN, called_by
from relaykit_gateway.gateway import Gateway
from relaykit_gateway.page import StatusPage
from support.acp_sockets import AcpSocket, acp_socket, gateway_of
from support.durable import (
    Gate,
    agent_tables,
    change_command,
    slow_to_start,
    slow_to_stop,
)
from support.gateways import ECHO, SECONDS, gateway_settings, open_gateway_relay
from support.relays import GIVEN, Storage, durable_storage
from support.sleepers import until_presence
from support.ws_sockets import WsSocket, ws_socket

pytestmark = pytest.mark.anyio

NO_PROGRAM = ["there-is-no-such-program"]
LOGGED_OUT = [
    sys.executable,
    "-c",
    """
import json, sys
for line in sys.stdin:
    asked = json.loads(line)
    if asked["method"] == "initialize":
        can = {"sessionCapabilities": {"resume": {}}}
        answer = {"result": {"protocolVersion": 1, "agentCapabilities": can}}
    else:
        answer = {"error": {"code": -32000, "message": "Authentication required"}}
    print(json.dumps({"jsonrpc": "2.0", "id": asked["id"], **answer}), flush=True)
""",
]


@pytest.fixture
def storage() -> Storage:
    return durable_storage()


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Gate]:
    with Gate.at(tmp_path / "gate") as gate:
        yield gate


@asynccontextmanager
async def opened(directory: Path, storage: Storage, gate: Gate) -> AsyncIterator[Gateway]:
    agents = agent_tables(slow=slow_to_start(gate), lingering=slow_to_stop(gate))
    relay = f'storage = "{GIVEN}"\nidle_timeout = 0'
    settings = gateway_settings(
        directory, relay=relay, agents=f"{agents}\n[plugins.acp]\neof_grace = {SECONDS}"
    )
    async with open_gateway_relay(settings, serve=False, extra={GIVEN: storage}) as relay_:
        yield gateway_of(relay_)


@pytest.fixture
async def gateway(tmp_path: Path, storage: Storage, gate: Gate) -> AsyncIterator[Gateway]:
    async with opened(tmp_path, storage, gate) as gateway:
        yield gateway


@pytest.fixture
def relay(gateway: Gateway) -> Relay:
    return gateway.relay


async def awake_session(relay: Relay, *, agent: str = "echo") -> str:
    session = await relay.create("auth", agent=agent)
    await until_presence(relay, session.id, Presence.AWAKE)
    return session.id


async def asleep_session(relay: Relay) -> str:
    session_id = await awake_session(relay)
    await relay.live(session_id).fall_asleep("nobody is here")
    assert relay.presence(session_id) is Presence.ASLEEP
    return session_id


async def until_notice(relay: Relay, session_id: str, word: str) -> None:
    """Wait until the transcript says this, without being a client of it."""
    cursor = relay.live(session_id).conversation.attach()
    with anyio.fail_after(SECONDS):
        while True:
            batch = await cursor.next()
            if any(entry.frame.kind is Kind.NOTICE and entry.frame.method == word for entry in batch.entries):
                return


def open_later(socket: AcpSocket, session_id: str, how: str = "load") -> int:
    return socket.ask(f"session/{how}", sessionId=session_id, cwd="/", mcpServers=[])


def methods(socket: AcpSocket) -> list[str]:
    return [message.get("method", "") for message in socket.heard]


async def answered_not_yet(socket: AcpSocket, raw_id: int) -> None:
    """Check that what is asked now is answered, and what was asked before is not."""
    await socket.result_of(socket.ask("session/list"))
    assert raw_id not in {message.get("id") for message in socket.heard}


# ---------------------------------------------------------------- opened while the agent is …


@pytest.mark.parametrize("how", ["load", "resume"])
async def test_acp_opens_a_sleeping_session_when_its_agent_is_there(
    gateway: Gateway, relay: Relay, how: str
) -> None:
    session_id = await asleep_session(relay)
    async with acp_socket(gateway, aware=True) as socket:
        result = await socket.open(how, session_id)
        assert result["modes"]["currentModeId"] == "echo"
        assert relay.live(session_id).ready
        assert methods(socket)[-2:] == ["_relaykit/session_awake", ""]  # told, and then the answer
        if how == "load":
            asleep = methods(socket).index("_relaykit/session_asleep")
            assert socket.heard[asleep]["params"]["reason"] == "nobody is here"
            assert socket.heard[asleep]["params"]["sessionId"] == session_id
        assert (await socket.told(session_id, "hello"))["stopReason"] == "end_turn"
        assert "_relaykit/session_awake" in methods(socket)
        assert socket.chunks == ["agent: hello"]


async def test_acp_opens_a_session_that_is_being_woken(gateway: Gateway, relay: Relay, gate: Gate) -> None:
    session_id = await asleep_session(relay)
    change_command(relay.live(session_id), slow_to_start(gate))
    async with acp_socket(gateway) as first, acp_socket(gateway) as second:
        one = open_later(first, session_id)
        await until_presence(relay, session_id, Presence.WAKING)
        two = open_later(second, session_id)
        await answered_not_yet(first, one)
        await answered_not_yet(second, two)
        gate.open()
        for socket, raw_id in ((first, one), (second, two)):
            assert (await socket.result_of(raw_id))["modes"]["currentModeId"] == "echo"


async def test_acp_opens_a_session_that_is_falling_asleep(gateway: Gateway, relay: Relay, gate: Gate) -> None:
    session_id = await awake_session(relay, agent="lingering")
    async with acp_socket(gateway) as socket, anyio.create_task_group() as tasks:
        tasks.start_soon(relay.live(session_id).fall_asleep, "nobody is here")
        await until_presence(relay, session_id, Presence.DROWSY)
        raw_id = open_later(socket, session_id)
        await answered_not_yet(socket, raw_id)
        assert relay.presence(session_id) is Presence.DROWSY
        gate.open()
        await socket.result_of(raw_id)
        assert (await socket.told(session_id, "hello"))["stopReason"] == "end_turn"
        gate.open()  # for the end


async def test_acp_opens_a_session_that_is_being_spawned(gateway: Gateway, relay: Relay, gate: Gate) -> None:
    session = await relay.create("auth", agent="slow")
    async with acp_socket(gateway) as socket:
        raw_id = open_later(socket, session.id)
        await answered_not_yet(socket, raw_id)
        assert relay.presence(session.id) is Presence.SPAWNING
        gate.open()
        await socket.result_of(raw_id)
        assert (await socket.told(session.id, "hello"))["stopReason"] == "end_turn"


async def test_ws_attaches_to_a_sleeping_session(gateway: Gateway, relay: Relay) -> None:
    session_id = await asleep_session(relay)
    async with ws_socket(gateway) as socket:
        socket.say("session:attach", sessionId=session_id)
        attached = await socket.skip_to("session:attached")
        assert (attached["state"], attached["presence"]) == ("ACTIVE", "ASLEEP")
        asleep = await socket.skip_to("session:asleep")
        assert (asleep["sessionId"], asleep["reason"]) == (session_id, "nobody is here")
        awake = await socket.skip_to("session:awake")
        assert awake["seq"] > asleep["seq"]
        await prompted(socket, session_id)


async def test_ws_attaches_to_a_session_that_is_being_woken(
    gateway: Gateway, relay: Relay, gate: Gate
) -> None:
    session_id = await asleep_session(relay)
    change_command(relay.live(session_id), slow_to_start(gate))
    async with ws_socket(gateway) as first, ws_socket(gateway) as second:
        first.say("session:attach", sessionId=session_id)
        await until_presence(relay, session_id, Presence.WAKING)
        second.say("session:attach", sessionId=session_id)
        assert (await second.skip_to("session:attached"))["presence"] == "WAKING"
        await second.skip_to("session:caught_up")
        gate.open()
        for socket in (first, second):
            await socket.skip_to("session:awake")
        await prompted(second, session_id)


async def test_ws_attaches_to_a_session_that_is_falling_asleep(
    gateway: Gateway, relay: Relay, gate: Gate
) -> None:
    session_id = await awake_session(relay, agent="lingering")
    async with ws_socket(gateway) as socket, anyio.create_task_group() as tasks:
        tasks.start_soon(relay.live(session_id).fall_asleep, "nobody is here")
        await until_presence(relay, session_id, Presence.DROWSY)
        socket.say("session:attach", sessionId=session_id)
        assert (await socket.skip_to("session:attached"))["presence"] == "DROWSY"
        gate.open()
        await socket.skip_to("session:asleep")
        await socket.skip_to("session:awake")
        await prompted(socket, session_id)
        gate.open()  # for the end


async def test_ws_attaches_to_a_session_that_is_being_spawned(
    gateway: Gateway, relay: Relay, gate: Gate
) -> None:
    session = await relay.create("auth", agent="slow")
    async with ws_socket(gateway) as socket:
        socket.say("session:attach", sessionId=session.id)
        attached = await socket.skip_to("session:attached")
        assert attached["presence"] == "SPAWNING"
        gate.open()
        await socket.skip_to("session:ready")
        await prompted(socket, session.id)


async def prompted(socket: WsSocket, session_id: str) -> None:
    socket.say("agent:message", sessionId=session_id, content="hello")
    assert (await socket.skip_to("agent:response"))["content"] == "hello"


# ---------------------------------------------------------------- what is said to one that sleeps


async def test_a_prompt_waits_for_the_agent(gateway: Gateway, relay: Relay) -> None:
    async with acp_socket(gateway, aware=True) as socket, ws_socket(gateway) as other:
        session_id = await socket.new()
        other.say("session:attach", sessionId=session_id)
        await other.skip_to("session:caught_up")
        await relay.live(session_id).fall_asleep("nobody is here")
        await socket.skip_to("_relaykit/session_asleep")
        assert (await socket.told(session_id, "hello"))["stopReason"] == "end_turn"
        assert socket.chunks == ["agent: hello"]  # its own prompt does not come back
        assert methods(socket).count("_relaykit/session_awake") == 1
        await other.skip_to("agent:response")
        assert [word for word in other.types if word in {"session:asleep", "session:awake"}] == [
            "session:asleep",
            "session:awake",
        ]


async def test_a_change_of_mode_waits_for_the_agent_and_the_client_is_heard_meanwhile(
    gateway: Gateway, relay: Relay, gate: Gate
) -> None:
    async with acp_socket(gateway) as socket:
        session_id = await socket.new()
        live = relay.live(session_id)
        change_command(live, slow_to_start(gate))
        await live.fall_asleep("nobody is here")
        raw_id = socket.ask("session/set_mode", sessionId=session_id, modeId="shout")
        await until_presence(relay, session_id, Presence.WAKING)
        await answered_not_yet(socket, raw_id)
        gate.open()
        answer = await socket.answer_to(raw_id)
        assert "SESSION_NOT_ACTIVE" not in str(answer)


async def test_a_change_of_mode_that_cannot_wake_the_agent_says_why(gateway: Gateway, relay: Relay) -> None:
    async with acp_socket(gateway) as socket:
        session_id = await socket.new()
        live = relay.live(session_id)
        change_command(live, NO_PROGRAM)
        await live.fall_asleep("nobody is here")
        error = await socket.error_of(socket.ask("session/set_mode", sessionId=session_id, modeId="shout"))
        assert error["data"]["relaykit"]["code"] == "SPAWN_FAILED"
        assert "there-is-no-such-program" in error["message"]


async def test_an_answer_late_by_one_sleep_is_none(gateway: Gateway, relay: Relay) -> None:
    async with acp_socket(gateway, aware=True) as socket:
        session_id = await socket.new()
        prompt = socket.prompt(session_id, "/ask")
        question = await socket.skip_to("session/request_permission")
        await relay.live(session_id).fall_asleep("nobody is here")
        error = await socket.error_of(prompt)
        assert error["message"] == "interrupted: nobody is here"
        socket.permit(question["id"])
        assert (await socket.told(session_id, "hello"))["stopReason"] == "end_turn"


# ---------------------------------------------------------------- one that cannot be woken


@pytest.mark.parametrize("how", ["load", "resume"])
async def test_acp_opening_fails_with_what_the_waking_failed_with(
    gateway: Gateway, relay: Relay, how: str
) -> None:
    session_id = await asleep_session(relay)
    change_command(relay.live(session_id), NO_PROGRAM)
    async with acp_socket(gateway, aware=True) as socket:
        error = await socket.error_of(open_later(socket, session_id, how))
        assert error["data"]["relaykit"]["code"] == "SPAWN_FAILED"
        assert "there-is-no-such-program" in error["message"]
        failed = await socket.skip_to("_relaykit/wake_failed")
        assert failed["params"]["reason"] == error["message"]
        assert relay.presence(session_id) is Presence.ASLEEP
        session = await relay.require(session_id)
        assert session.state is SessionState.ACTIVE


async def test_acp_opening_names_the_login(gateway: Gateway, relay: Relay) -> None:
    session_id = await asleep_session(relay)
    change_command(relay.live(session_id), LOGGED_OUT)
    async with acp_socket(gateway) as socket:
        error = await socket.error_of(open_later(socket, session_id))
        assert error["code"] == -32000
        assert "Authentication required" in error["message"]


async def test_an_old_failure_in_the_transcript_fails_no_new_opening(gateway: Gateway, relay: Relay) -> None:
    session_id = await asleep_session(relay)
    live = relay.live(session_id)
    change_command(live, NO_PROGRAM)
    async with acp_socket(gateway) as socket:
        await socket.error_of(open_later(socket, session_id))
        change_command(live, ECHO)
        await socket.result_of(open_later(socket, session_id))
    async with acp_socket(gateway) as socket:
        await socket.result_of(open_later(socket, session_id))
        assert (await socket.told(session_id, "hello"))["stopReason"] == "end_turn"


async def test_a_prompt_that_cannot_wake_the_agent_fails_with_the_reason(
    gateway: Gateway, relay: Relay
) -> None:
    session_id = await asleep_session(relay)
    change_command(relay.live(session_id), NO_PROGRAM)
    async with acp_socket(gateway) as socket:
        error = await socket.error_of(socket.prompt(session_id, "hello"))
        assert "could not be started again" in error["message"]
        assert socket.chunks == []  # its own prompt does not come back, though the session was never open
        change_command(relay.live(session_id), ECHO)
        assert (await socket.told(session_id, "hello"))["stopReason"] == "end_turn"


async def test_ws_hears_that_the_waking_failed(gateway: Gateway, relay: Relay) -> None:
    session_id = await asleep_session(relay)
    change_command(relay.live(session_id), NO_PROGRAM)
    async with ws_socket(gateway) as socket:
        socket.say("session:attach", sessionId=session_id)
        error = await socket.skip_to("error")
        assert error["error"]["code"] == "WAKE_FAILED"
        assert error["error"]["recoverable"] is True
        assert "there-is-no-such-program" in error["error"]["message"]
        socket.say("agent:message", sessionId=session_id, content="hello")
        failed = await socket.skip_to("error")
        assert failed["error"]["code"] == "AGENT_FAILED"
        assert (await socket.skip_to("error"))["error"]["code"] == "WAKE_FAILED"


# ---------------------------------------------------------------- lists


async def test_lists_show_who_sleeps(gateway: Gateway, relay: Relay) -> None:
    session_id = await asleep_session(relay)
    async with acp_socket(gateway) as socket, ws_socket(gateway) as other:
        listed = await socket.result_of(socket.ask("session/list"))
        assert facts_of(listed["sessions"], session_id)["presence"] == "ASLEEP"
        other.say("session:list")
        [shown] = (await other.skip_to("session:list"))["sessions"]
        assert (shown["state"], shown["presence"]) == ("ACTIVE", "ASLEEP")
        page = await StatusPage(relay).show(Request(called_by({"type": "http"}, OWN)))
        assert b"<td>ACTIVE, asleep" in bytes(page.body)
        assert relay.presence(session_id) is Presence.ASLEEP  # looking wakes nobody


def facts_of(sessions: list[dict[str, Any]], session_id: str) -> dict[str, Any]:
    [session] = [session for session in sessions if session["sessionId"] == session_id]
    facts: dict[str, Any] = session["_meta"]["relaykit"]
    return facts


# ---------------------------------------------------------------- the relay restarts


async def test_what_clients_hear_when_the_relay_restarts(
    tmp_path: Path, storage: Storage, gate: Gate
) -> None:
    async with (
        opened(tmp_path, storage, gate) as gateway,
        acp_socket(gateway, aware=True) as socket,
        ws_socket(gateway) as other,
    ):
        session_id = await socket.new(role="auth")
        await socket.told(session_id, "before")
        other.say("session:attach", sessionId=session_id)
        await other.skip_to("session:caught_up")
        prompt = socket.prompt(session_id, "/ask")
        await socket.skip_to("session/request_permission")
        await gateway.relay.aclose()
        await gateway.aclose()
        assert (await socket.error_of(prompt))["message"] == "interrupted: the relay is shutting down"
        await socket.skip_to("_relaykit/session_asleep")
        assert await socket.closed() == 1001
        assert await other.closed() == 1001
        assert other.types[-1] == "session:asleep"
        assert "session:terminated" not in other.types
    async with opened(tmp_path, storage, gate) as gateway:
        assert gateway.relay.presence(session_id) is Presence.ASLEEP
        async with acp_socket(gateway) as socket:
            await socket.open("load", session_id)
            assert socket.chunks[:2] == ["user: before", "agent: before"]
            assert (await socket.told(session_id, "after"))["stopReason"] == "end_turn"
            assert socket.chunks[-1] == "agent: after"
