"""The protocol of /acp: how a connection begins, what is no message, and what it is closed for; on both loops."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from importlib import metadata
from itertools import product
from pathlib import Path
from typing import Any

import anyio
import pytest

from relaykit.relay import Relay
from relaykit_gateway.gateway import Gateway
from support.acp_sockets import acp_socket, gateway_of
from support.gateways import gateway_settings, open_gateway_relay

pytestmark = pytest.mark.anyio

INITIALIZE = {"id": "i", "method": "initialize", "params": {"protocolVersion": 1}}


@pytest.fixture
async def gateway(tmp_path: Path) -> AsyncIterator[Gateway]:
    async with open_gateway_relay(gateway_settings(tmp_path), serve=False) as relay:
        yield gateway_of(relay)


# ---------------------------------------------------------------- initialize


async def test_initialize_tells_of_the_agent_and_of_what_the_relay_does(gateway: Gateway) -> None:
    async with acp_socket(gateway, initialized=False) as socket:
        result = await socket.initialize()
    assert result == {
        "protocolVersion": 1,
        "agentCapabilities": {
            "loadSession": True,
            "promptCapabilities": {"image": True, "embeddedContext": True},
            "sessionCapabilities": {"list": {}, "resume": {}, "close": {}},
        },
        "agentInfo": {"name": "relaykit-echo", "title": "Echo", "version": "0.1.0"},
        "authMethods": [],
        "_meta": {
            "relaykit": {
                "version": metadata.version("relaykit"),
                "connectionId": socket.headers[b"acp-connection-id"].decode(),
                "clientRole": "controller",
            }
        },
    }


@pytest.mark.parametrize(
    "profile",
    [
        {"protocolVersion": 1, "_meta": {"vendor": 1}, "other": [1]},
        {"agentCapabilities": None, "_meta": None},
        {"agentCapabilities": {"loadSession": False, "sessionCapabilities": {"fork": {}}, "x": {}}},
    ],
)
async def test_whatever_else_the_agent_says_is_kept(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch, profile: dict[str, Any]
) -> None:
    async def answer(_self: Relay, _agent: str = "") -> dict[str, Any]:
        return profile

    monkeypatch.setattr(Relay, "profile", answer)
    async with acp_socket(gateway, initialized=False) as socket:
        result = await socket.initialize()
    capabilities = result.pop("agentCapabilities")
    meta = result.pop("_meta")
    assert meta.pop("relaykit")["version"]
    assert meta == (profile.get("_meta") or {})
    assert capabilities["loadSession"] is True
    assert capabilities["sessionCapabilities"] == {"list": {}, "resume": {}, "close": {}}
    assert ("x" in capabilities) == ("x" in (profile.get("agentCapabilities") or {}))
    assert result == {
        key: value for key, value in profile.items() if key not in {"agentCapabilities", "_meta"}
    }


@pytest.mark.parametrize(
    "first",
    [
        {"id": 1, "method": "session/new", "params": {}},
        {"method": "initialize", "params": {}},
        {"id": "q", "result": {}},
        {"method": "session/cancel", "params": {}},
    ],
)
async def test_the_first_message_is_initialize(gateway: Gateway, first: dict[str, Any]) -> None:
    async with acp_socket(gateway, initialized=False) as socket:
        socket.say(first)
        assert await socket.closed() == 1002


async def test_initialize_comes_once(gateway: Gateway) -> None:
    async with acp_socket(gateway) as socket:
        error = await socket.error_of(socket.ask("initialize", protocolVersion=1))
        assert error["code"] == -32600
        assert (await socket.told(await socket.new(), "still here"))["stopReason"] == "end_turn"


async def test_what_comes_before_initialize_is_answered_waits_for_it(gateway: Gateway) -> None:
    async with acp_socket(gateway, initialized=False) as socket:
        socket.say(INITIALIZE)
        created = socket.ask("session/new", cwd="/", mcpServers=[])
        assert (await socket.hear())["id"] == "i"
        assert (await socket.result_of(created))["sessionId"]


@pytest.mark.parametrize(
    ("agent", "code", "word"),
    [("nobody", -32602, "there is no agent 'nobody'"), ("missing", -32603, "there-is-no-such-program")],
)
async def test_an_agent_that_cannot_be_asked_is_an_error_and_no_end(
    gateway: Gateway, agent: str, code: int, word: str
) -> None:
    async with acp_socket(gateway, initialized=False, agent=agent) as socket:
        for _ in range(2):
            socket.say(INITIALIZE)
            error = await socket.error_of("i")
            assert error["code"] == code
            assert word in error["message"]
        socket.ask("session/new")
        assert await socket.closed() == 1002


async def test_a_failure_of_ours_is_an_error_that_gives_nothing_away(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def fail(*_: object, **__: object) -> None:
        raise RuntimeError("a secret")

    async with acp_socket(gateway) as socket:
        session_id = await socket.new()
        with monkeypatch.context() as patched:
            patched.setattr(Relay, "list", fail)
            error = await socket.error_of(socket.ask("session/list"))
            patched.setattr(Relay, "answer", fail)
            socket.say({"id": "q", "result": {}})
            assert (await socket.told(session_id, "on"))["stopReason"] == "end_turn"
        assert error["code"] == -32603
        assert "secret" not in error["message"]
        assert caplog.text.count("RuntimeError: a secret") == 2
    async with acp_socket(gateway, initialized=False) as socket:
        with monkeypatch.context() as patched:
            patched.setattr(Relay, "profile", fail)
            socket.say(INITIALIZE)
            assert (await socket.error_of("i"))["message"] == "the relay failed; its log says how"


# ---------------------------------------------------------------- what is no message


MALFORMED: list[tuple[str, int, Any]] = [
    ("", -32700, None),
    ("{", -32700, None),
    ("nonsense", -32700, None),
    ("[" * 100_000, -32700, None),
    ("[]", -32600, None),
    (json.dumps([INITIALIZE]), -32600, None),
    ("7", -32600, None),
    ('"initialize"', -32600, None),
    ("{}", -32600, None),
    ('{"id":4}', -32600, 4),
    ('{"id":4,"method":""}', -32600, 4),
    ('{"id":4,"method":7}', -32600, 4),
    ('{"id":"x","method":null,"params":{}}', -32600, "x"),
    ('{"id":null,"method":"initialize"}', -32600, None),
    ('{"id":true,"method":"initialize"}', -32600, None),
    ('{"id":{},"method":"initialize"}', -32600, None),
    ('{"id":[1],"method":"initialize"}', -32600, None),
    ('{"id":4,"method":"session/list","params":{"cwd":"\\ud83d"}}', -32600, 4),
]


@pytest.mark.parametrize("initialized", [True, False])
async def test_what_is_no_message_is_answered(gateway: Gateway, *, initialized: bool) -> None:
    async with acp_socket(gateway, initialized=initialized) as socket:
        for frame, code, raw_id in MALFORMED:
            socket.say_raw(frame)
            answer = await socket.hear()
            assert (answer["id"], answer["error"]["code"]) == (raw_id, code), frame
        if not initialized:
            await socket.initialize()
        assert "sessions" in await socket.result_of(socket.ask("session/list"))


async def test_binary_frames_are_ignored(gateway: Gateway) -> None:
    async with acp_socket(gateway, initialized=False) as socket:
        socket.say_bytes(b"{")
        await socket.initialize()
        socket.say_bytes(json.dumps({"id": 1, "method": "session/list"}).encode())
        assert "sessions" in await socket.result_of(socket.ask("session/list"))
        assert [message["id"] for message in socket.heard] == [1, 2]


async def test_an_id_that_is_too_long_closes(gateway: Gateway) -> None:
    async with acp_socket(gateway) as socket:
        longest = "x" * 1024
        socket.say({"id": longest, "method": "session/list", "params": {}})
        assert "sessions" in await socket.result_of(longest)
        socket.say({"id": longest + "x", "method": "session/list", "params": {}})
        assert await socket.closed() == 1008


async def test_a_message_that_is_too_long_closes(gateway: Gateway) -> None:
    async with acp_socket(gateway) as socket:
        socket.say({"id": 1, "method": "session/list", "params": {"x": "é" * (8 * 1024 * 1024)}})
        assert await socket.closed() == 1009


@pytest.mark.parametrize("raw_id", ["7", "-1", "2.50", '"x"', '""', '"\\u00e9"', '"caf\\u00e9 \\/"'])
async def test_an_answer_has_the_id_as_it_was_written(gateway: Gateway, raw_id: str) -> None:
    async with acp_socket(gateway) as socket:
        socket.say_raw(f'{{"jsonrpc":"2.0","id":{raw_id},"method":"session/list"}}')
        assert (await socket.hear_raw()).startswith(f'{{"jsonrpc":"2.0","id":{raw_id},"result":')


# ---------------------------------------------------------------- methods


REFUSED: list[tuple[str, Any, int, str]] = [
    ("session/delete", {"sessionId": "x"}, -32601, "session/close"),
    ("authenticate", {"methodId": "x"}, -32601, "on the relay's machine"),
    ("logout", {}, -32601, "on the relay's machine"),
    ("no/such_method", {}, -32601, "method not found: no/such_method"),
    ("_vendor/thing", [1], -32601, "method not found: _vendor/thing"),
    ("_vendor/thing", {"sessionId": "gone"}, -32002, "no session 'gone'"),
    ("_vendor/thing", {"sessionId": 7}, -32602, "sessionId"),
    ("session/prompt", {"prompt": []}, -32602, "sessionId"),
    ("session/prompt", [], -32602, "session/prompt"),
    ("session/prompt", {"sessionId": "gone", "prompt": []}, -32002, "no session 'gone'"),
    ("session/load", {"sessionId": "gone", "cwd": "/", "mcpServers": []}, -32002, "no session 'gone'"),
    ("session/resume", {"sessionId": "gone"}, -32002, "no session 'gone'"),
    ("session/close", {"sessionId": "gone"}, -32002, "no session 'gone'"),
    ("session/cancel", {"sessionId": "gone"}, -32002, "no session 'gone'"),
    ("session/set_mode", {"sessionId": "gone", "modeId": "x"}, -32002, "no session 'gone'"),
    ("session/new", {"cwd": 7}, -32602, "session/new"),
    ("session/new", {"_meta": {"relaykit": {"role": 7}}}, -32602, "role"),
    ("session/new", {"_meta": {"relaykit": {"role": "../x"}}}, -32602, "not a valid agent id"),
    ("session/new", {"_meta": {"relaykit": {"agent": "ecko"}}}, -32602, "did you mean 'echo'"),
    ("session/new", {"_meta": {"relaykit": {"project": "x"}}}, -32602, "there is no project 'x'"),
    ("session/list", {"cursor": 7}, -32602, "session/list"),
]


async def test_what_cannot_be_done_is_said(gateway: Gateway) -> None:
    async with acp_socket(gateway) as socket:
        for method, params, code, word in REFUSED:
            error = await socket.error_of(socket.ask(method, params))
            assert error["code"] == code, error
            assert word in error["message"]
        assert "sessions" in await socket.result_of(socket.ask("session/list"))


MEANINGLESS: list[tuple[str, Any]] = [
    ("no/such_method", {}),
    ("_vendor/thing", {"sessionId": "gone"}),
    ("session/cancel", {"sessionId": "gone"}),
    ("session/cancel", [1]),
    ("session/prompt", {"sessionId": "gone"}),
    ("$/cancel_request", {"requestId": "gone"}),
    ("$/cancel_request", {"requestId": None}),
    ("$/cancel_request", {}),
    ("$/cancel_request", None),
]


async def test_notifications_that_mean_nothing_are_dropped(gateway: Gateway) -> None:
    async with acp_socket(gateway) as socket:
        await socket.new()
        answered = len(socket.heard)
        for method, params in MEANINGLESS:
            socket.say({"method": method, "params": params})
        assert "sessions" in await socket.result_of(socket.ask("session/list"))
        assert len(socket.heard) == answered + 1


async def test_answers_to_nothing_are_dropped(gateway: Gateway) -> None:
    async with acp_socket(gateway) as socket:
        session_id = await socket.new()
        for raw_id, outcome in product(
            ("1", '"gone"', "1.5"),
            ('"result":{}', '"result":null', '"error":{"code":-1,"message":""}'),
        ):
            socket.say_raw(f'{{"jsonrpc":"2.0","id":{raw_id},{outcome}}}')
        assert (await socket.told(session_id, "on"))["stopReason"] == "end_turn"
        assert socket.chunks == ["agent: on"]


async def test_two_connections_may_use_the_same_ids(gateway: Gateway) -> None:
    async with acp_socket(gateway) as one, acp_socket(gateway) as other:
        first, second = await one.new(), await other.new()
        assert first != second
        assert one.prompt(first, "/sleep 0.01") == other.prompt(second, "hello")
        assert (await other.result_of(3))["stopReason"] == "end_turn"
        assert (await one.result_of(3))["stopReason"] == "end_turn"
        assert (one.chunks, other.chunks) == (["agent: slept"], ["agent: hello"])


async def test_a_client_that_goes_while_the_agent_is_asked_is_let_go(gateway: Gateway) -> None:
    with anyio.fail_after(20):
        async with acp_socket(gateway, initialized=False) as socket:
            socket.say(INITIALIZE)
            socket.ask("session/new")
    assert gateway.channels == []
