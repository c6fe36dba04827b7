"""Every error code of the relay protocol, over a real server."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import anyio
import pytest
from websockets.exceptions import ConnectionClosed

from relaykit.errors import Refused
from relaykit.hooks import hookimpl
from relaykit.hooks.events import PromptRequest
from relaykit.hooks.registration import MessageClient, MessageType
from relaykit.relay import Relay
from relaykit.relay.locator import Where
from relaykit_gateway.codes import Code
from support.durable import change_command
from support.gateways import BACKENDS, SECONDS, Client, connected, gateway_settings, open_gateway_relay
from support.tokens import OBSERVER, add_token

pytestmark = pytest.mark.anyio

Case = Callable[[Relay, Client], Awaitable[None]]
MAX_SESSIONS = 4

MAX_SESSIONS = 4
CASES: list[tuple[Code, Case]] = []


class Probe:
    """A plugin that refuses a word, and whose own message breaks."""

    @hookimpl
    async def relaykit_check_prompt(self, request: PromptRequest) -> None:
        if b"secret" in request.body:
            raise Refused("that is a secret")

    @hookimpl
    def relaykit_register_messages(self) -> Sequence[MessageType]:
        return [MessageType(name="break", handle=self.fail), MessageType(name="gone", handle=self.lose)]

    async def fail(self, _client: MessageClient, _message: Mapping[str, Any]) -> None:
        raise ZeroDivisionError("inside")

    async def lose(self, _client: MessageClient, _message: Mapping[str, Any]) -> None:
        raise FileNotFoundError("inside")  # an OSError, which is not the client's going


def case(code: Code) -> Callable[[Case], Case]:
    def register(function: Case) -> Case:
        CASES.append((code, function))
        return function

    return register


@pytest.fixture(scope="module", params=BACKENDS)
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture(scope="module")
async def relay(tmp_path_factory: pytest.TempPathFactory, anyio_backend: Any) -> AsyncIterator[Relay]:
    """One for all that is refused before it could change anything."""
    assert anyio_backend
    async with open_gateway_relay(gateway_settings(tmp_path_factory.mktemp("relay"))) as relay:
        yield relay


async def expect_error(client: Client, code: Code, *, recoverable: bool = True) -> dict[str, Any]:
    """Return the next message, an error of this code; if it is recoverable the connection still works."""
    message = await client.error()
    error = message["error"]
    assert (error["code"], error["recoverable"]) == (code, recoverable), error
    assert error["message"]
    if recoverable:
        await client.say("echo", still="here")
        assert (await client.expect("echo"))["still"] == "here"
    return message


DEEP = '{"version":"1.0","type":"echo","a":' + "[" * 40_000 + "]" * 40_000 + "}"


@pytest.mark.parametrize(
    "frame",
    [
        "",
        "{",
        "no json",
        "[]",
        '"echo"',
        "null",
        "17",
        '{"version":"1.0","type":"echo","a":NaN}',
        '{"version":"1.0","type":"echo","a":Infinity}',
        '{"version":"1.0","type":"echo","a":"\\ud800"}',
        '{"version":"1.0","type":"echo"} {}',
        DEEP,
        '{"type":"echo"}',
        '{"version":1.0,"type":"echo"}',
        '{"version":null,"type":"echo"}',
        '{"version":"1.0"}',
        '{"version":"1.0","type":7}',
        '{"version":"1.0","type":["echo"]}',
        b'{"version":"1.0","type":"echo"}',
        b"\x00\xff",
        '{"version":"1.0","type":"session:create"}',
        '{"version":"1.0","type":"session:create","agentId":7}',
        '{"version":"1.0","type":"session:create","agentId":"a","agent":null}',
        '{"version":"1.0","type":"agent:message","sessionId":"s"}',
        '{"version":"1.0","type":"agent:message","sessionId":"s","content":7}',
        '{"version":"1.0","type":"agent:message","sessionId":"s","content":["text"]}',
        '{"version":"1.0","type":"agent:message","sessionId":"s","content":[]}',
        '{"version":"1.0","type":"agent:cancel"}',
        '{"version":"1.0","type":"session:stop","sessionId":{}}',
        '{"version":"1.0","type":"session:attach","sessionId":"s","after":"1"}',
        '{"version":"1.0","type":"session:attach","sessionId":"s","after":true}',
        '{"version":"1.0","type":"session:list","after":1}',
        '{"version":"1.0","type":"permission:response","sessionId":"s","requestId":"r"}',
        '{"version":"1.0","type":"permission:response","sessionId":"s","requestId":"r","optionId":"a","outcome":{}}',
        '{"version":"1.0","type":"permission:response","sessionId":"s","requestId":"r","outcome":"accepted"}',
    ],
)
async def test_what_is_no_message_is_refused_and_the_connection_stays(
    relay: Relay, frame: str | bytes
) -> None:
    async with connected(relay) as client:
        await client.say_raw(frame)
        await expect_error(client, Code.INVALID_MESSAGE)


@case(Code.INVALID_MESSAGE)
async def _an_option_that_was_not_offered(_relay: Relay, client: Client) -> None:
    session_id = await client.create()
    await client.say("agent:message", sessionId=session_id, content="/ask")
    request = await client.skip_to("permission:request")
    answer = {"sessionId": session_id, "requestId": request["requestId"]}
    await client.say("permission:response", **answer, optionId="none of these")
    message = await expect_error(client, Code.INVALID_MESSAGE)
    assert message["sessionId"] == session_id
    await client.say("permission:response", **answer, optionId=request["options"][0]["optionId"])
    await client.skip_to("agent:response")


@case(Code.MESSAGE_TOO_LARGE)
async def _a_long_message(_relay: Relay, client: Client) -> None:
    await client.say("echo", a="x" * 100_000)
    await expect_error(client, Code.MESSAGE_TOO_LARGE)
    text = "ü" * 60_000  # shorter in characters, longer in bytes
    await client.say_raw(f'{{"version":"1.0","type":"echo","a":"{text}"}}')
    await expect_error(client, Code.MESSAGE_TOO_LARGE)


@case(Code.VERSION_MISMATCH)
async def _another_version(_relay: Relay, client: Client) -> None:
    await client.say_raw('{"version":"2.0","type":"echo"}')
    await expect_error(client, Code.VERSION_MISMATCH, recoverable=False)
    with pytest.raises(ConnectionClosed) as closed, anyio.fail_after(SECONDS):
        await client.socket.recv()
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 1002


@case(Code.UNKNOWN_TYPE)
async def _an_unknown_type(_relay: Relay, client: Client) -> None:
    await client.say("session:fly")
    message = await expect_error(client, Code.UNKNOWN_TYPE)
    assert "session:create" in message["error"]["message"]


@case(Code.UNKNOWN_AGENT)
async def _an_unknown_agent(_relay: Relay, client: Client) -> None:
    await client.say("session:create", agentId="auth", agent="ecko")
    message = await expect_error(client, Code.UNKNOWN_AGENT)
    assert message["agentId"] == "auth"
    assert "echo" in message["error"]["message"]


@case(Code.UNKNOWN_PROJECT)
async def _an_unknown_project(_relay: Relay, client: Client) -> None:
    await client.say("session:create", agentId="auth", project="nowhere")
    await expect_error(client, Code.UNKNOWN_PROJECT)


@case(Code.INVALID_AGENT_ID)
async def _a_path_as_a_role(_relay: Relay, client: Client) -> None:
    for agent_id in ("../../etc", "", "a" * 65, "a b"):
        await client.say("session:create", agentId=agent_id)
        await expect_error(client, Code.INVALID_AGENT_ID)


@case(Code.DUPLICATE_ROLE)
async def _a_role_that_is_taken(_relay: Relay, client: Client) -> None:
    session_id = await client.create("auth")
    await client.say("session:create", agentId="auth")
    message = await expect_error(client, Code.DUPLICATE_ROLE)
    assert session_id in message["error"]["message"]


@case(Code.SESSION_LIMIT)
async def _as_many_sessions_as_are_allowed(_relay: Relay, client: Client) -> None:
    for number in range(MAX_SESSIONS):
        await client.create(f"role-{number}")
    await client.say("session:create", agentId="one-more")
    message = await expect_error(client, Code.SESSION_LIMIT)
    assert "max_sessions" in message["error"]["message"]


@case(Code.SESSION_ELSEWHERE)
async def _a_session_of_another_node(relay: Relay, client: Client) -> None:
    class Elsewhere:
        async def locate(self, _session_id: str, /) -> Where:
            return Where("north", here=False)

    relay.locator = Elsewhere()
    for type_, fields in {"session:attach": {}, "agent:message": {"content": "hello"}}.items():
        await client.say(type_, sessionId="far-away", **fields)
        message = await expect_error(client, Code.SESSION_ELSEWHERE)
        assert "'north'" in message["error"]["message"]


@case(Code.SESSION_NOT_FOUND)
async def _a_session_that_never_was(_relay: Relay, client: Client) -> None:
    for type_, fields in {
        "session:attach": {},
        "session:stop": {},
        "agent:cancel": {},
        "agent:message": {"content": "hello"},
        "permission:response": {"requestId": "r", "optionId": "o"},
    }.items():
        await client.say(type_, sessionId="nobody", **fields)
        message = await expect_error(client, Code.SESSION_NOT_FOUND)
        assert message["sessionId"] == "nobody"


@case(Code.SESSION_NOT_FOUND)
async def _a_session_that_has_ended(relay: Relay, client: Client) -> None:
    session_id = await client.create()
    await client.say("session:stop", sessionId=session_id)
    await client.expect("session:terminated")
    await relay.wait_ended(session_id)
    await client.say("agent:message", sessionId=session_id, content="anybody?")
    await expect_error(client, Code.SESSION_NOT_FOUND)


@case(Code.SESSION_NOT_ACTIVE)
async def _a_session_that_is_not_ready(_relay: Relay, client: Client) -> None:
    await client.say("session:create", agentId="auth", agent="slow")
    session_id = (await client.expect("session:created"))["sessionId"]
    await client.say("agent:message", sessionId=session_id, content="too early")
    await expect_error(client, Code.SESSION_NOT_ACTIVE)


@case(Code.CURSOR_AHEAD)
async def _a_place_that_is_not_there(_relay: Relay, client: Client) -> None:
    session_id = await client.create()
    for after in (1000, -1):
        await client.say("session:attach", sessionId=session_id, after=after)
        await expect_error(client, Code.CURSOR_AHEAD)


@case(Code.QUESTION_CLOSED)
async def _a_question_that_is_answered(_relay: Relay, client: Client) -> None:
    session_id = await client.create()
    await client.say("agent:message", sessionId=session_id, content="/ask")
    request = await client.skip_to("permission:request")
    answer = {
        "sessionId": session_id,
        "requestId": request["requestId"],
        "optionId": request["options"][0]["optionId"],
    }
    await client.say("permission:response", **answer)
    await client.skip_to("agent:response")
    await client.say("permission:response", **answer)
    await expect_error(client, Code.QUESTION_CLOSED)


@case(Code.BUSY)
async def _too_many_prompts(_relay: Relay, client: Client) -> None:
    session_id = await client.create()
    await client.say("agent:message", sessionId=session_id, content="/sleep 60")
    await client.say("agent:message", sessionId=session_id, content="me too")
    await expect_error(client, Code.BUSY)


@case(Code.SPAWN_FAILED)
async def _an_agent_that_wants_a_login(_relay: Relay, client: Client) -> None:
    await client.say("session:create", agentId="auth", agent="locked")
    await client.expect("session:created")
    message = await client.error()
    assert message["error"]["code"] == Code.SPAWN_FAILED
    assert "locked-login" in message["error"]["message"]
    await client.expect("session:terminated")


@case(Code.WAKE_FAILED)
async def _an_agent_that_is_gone_when_it_should_wake(relay: Relay, client: Client) -> None:
    session_id = await client.create()
    change_command(relay.live(session_id), ["there-is-no-such-program"])
    await relay.live(session_id).fall_asleep("nobody is here")
    await client.say("session:attach", sessionId=session_id)
    message = await client.skip_to("error")
    assert message["error"]["code"] == Code.WAKE_FAILED
    assert message["error"]["recoverable"] is True


@case(Code.AGENT_FAILED)
async def _a_turn_that_fails(_relay: Relay, client: Client) -> None:
    session_id = await client.create()
    await client.say("agent:message", sessionId=session_id, content="/fail")
    message = await expect_error(client, Code.AGENT_FAILED)
    assert message["sessionId"] == session_id
    assert message["seq"]
    assert (await client.prompt(session_id, "again"))["content"] == "again"


@case(Code.AGENT_FAILED)
async def _a_turn_that_wants_a_login(_relay: Relay, client: Client) -> None:
    session_id = await client.create(agent="expired")
    await client.say("agent:message", sessionId=session_id, content="/login")
    message = await expect_error(client, Code.AGENT_FAILED)
    assert "run `renew-login`" in message["error"]["message"]
    assert (await client.prompt(session_id, "again"))["content"] == "again"


@case(Code.FORBIDDEN)
async def _a_policy_that_refuses(_relay: Relay, client: Client) -> None:
    session_id = await client.create()
    await client.say("agent:message", sessionId=session_id, content="the secret")
    message = await expect_error(client, Code.FORBIDDEN)
    assert "probe" in message["error"]["message"]


@case(Code.NOT_ALLOWED)
async def _an_observer_that_prompts(relay: Relay, client: Client) -> None:
    session_id = await client.create()
    token = add_token(relay.settings.state_dir, "guest", OBSERVER)
    async with connected(relay, additional_headers={"Authorization": f"Bearer {token}"}) as observer:
        await observer.say("agent:message", sessionId=session_id, content="hello")
        message = await expect_error(observer, Code.NOT_ALLOWED)
        assert message["sessionId"] == session_id


@case(Code.SHUTTING_DOWN)
async def _a_relay_that_goes(relay: Relay, client: Client) -> None:
    await relay.aclose()
    await client.say("session:create", agentId="auth")
    await expect_error(client, Code.SHUTTING_DOWN, recoverable=False)


@case(Code.INTERNAL)
async def _a_plugin_that_breaks(_relay: Relay, client: Client) -> None:
    for type_ in ("break", "gone"):
        await client.say(type_)
        message = await expect_error(client, Code.INTERNAL)
        assert "inside" not in message["error"]["message"]


@pytest.mark.parametrize(("code", "provoke"), CASES, ids=[function.__name__[1:] for _, function in CASES])
async def test_error(code: Code, provoke: Case, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    agents = f"""
[agents.slow]
command = {json.dumps([*_echo(), "--delay", "30"])}
[agents.locked]
command = {json.dumps([*_echo(), "--login-required"])}
login = "locked-login"
[agents.expired]
command = {json.dumps(_echo())}
login = "renew-login"
"""
    settings = gateway_settings(
        tmp_path,
        relay=f"max_queued_prompts = 0\nmax_sessions = {MAX_SESSIONS}",
        gateway="max_message_bytes = 100000",
        agents=agents,
    )
    with caplog.at_level(logging.ERROR):
        async with (
            open_gateway_relay(settings, extra={"probe": Probe()}) as relay,
            connected(relay) as client,
        ):
            await provoke(relay, client)
    broken = [record for record in caplog.records if record.name.startswith("relaykit_gateway")]
    assert bool(broken) is (code is Code.INTERNAL)  # what is expected leaves no traceback, what is not does


def test_every_code_is_provoked() -> None:
    assert {code for code, _ in CASES} == set(Code)


def _echo() -> list[str]:
    from support.gateways import ECHO

    return ECHO
