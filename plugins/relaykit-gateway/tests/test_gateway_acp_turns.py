"""Turns and calls over /acp: their ids, their answers, and who hears of them; on both event loops."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from relaykit.conversation import Frame, Kind
from relaykit.errors import Refused
from relaykit.hooks import hookimpl
from relaykit.hooks.events import ModeRequest, PromptRequest
from relaykit_gateway.acp.connection import AcpConnection
from relaykit_gateway.gateway import Gateway
from support.acp_sockets import AcpSocket, acp_socket, gateway_of, two_clients
from support.gateways import gateway_settings, open_gateway_relay

pytestmark = pytest.mark.anyio


class Policy:
    """Refuses prompts that say ``forbidden``, and the mode ``shout``."""

    @hookimpl
    async def relaykit_check_prompt(self, request: PromptRequest) -> None:
        if b"forbidden" in request.body:
            raise Refused("not that")

    @hookimpl
    async def relaykit_check_mode(self, request: ModeRequest) -> None:
        if b"shout" in request.call.body:
            raise Refused("not so loud")


@pytest.fixture
async def gateway(tmp_path: Path) -> AsyncIterator[Gateway]:
    settings = gateway_settings(tmp_path, relay="max_queued_prompts = 3")
    async with open_gateway_relay(settings, serve=False) as relay:
        yield gateway_of(relay)


def methods(socket: AcpSocket, since: int = 0) -> list[str]:
    """Return what it was sent: methods, and ``=`` for answers."""
    return [message.get("method", "=").removeprefix("_relaykit/") for message in socket.heard[since:]]


def seqs(socket: AcpSocket) -> list[int]:
    """Return the seq of everything that has one."""
    found = []
    for message in socket.heard:
        body = message.get("params") or message.get("result") or {}
        seq = body.get("_meta", {}).get("relaykit", {}).get("seq")
        found += [] if seq is None else [seq]
    return found


# ---------------------------------------------------------------- prompts


async def test_what_is_said_of_a_prompt_is_sent_in_one_go(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a client that is sent away in between would be told the prompt twice when it is back."""
    sent: list[list[str]] = []
    send_texts = AcpConnection.send_texts

    async def noted(connection: AcpConnection, texts: Sequence[str]) -> None:
        sent.append([json.loads(text).get("method") for text in texts])
        await send_texts(connection, texts)

    monkeypatch.setattr(AcpConnection, "send_texts", noted)
    async with two_clients(gateway) as (plain, _aware, session_id):
        await plain.told(session_id, "hello")
    assert ["session/update", "_relaykit/turn_started"] in sent


async def test_a_prompt_reaches_the_others_and_not_its_own_client(gateway: Gateway) -> None:
    async with two_clients(gateway) as (plain, aware, session_id):
        begun = len(aware.heard)
        blocks = [{"type": "text", "text": "one"}, {"type": "text", "text": " two", "_meta": {"x": 1.50}}]
        await plain.result_of(plain.ask("session/prompt", sessionId=session_id, prompt=blocks))
        assert methods(plain) == ["=", "=", "session/update", "="]
        ended = await aware.skip_to("_relaykit/turn_ended")
        assert methods(aware, begun) == [
            "session/update",
            "session/update",
            "turn_started",
            "session/update",
            "turn_ended",
        ]
        said = [message["params"]["update"] for message in aware.heard[begun : begun + 2]]
        assert said == [{"sessionUpdate": "user_message_chunk", "content": block} for block in blocks]
        assert ended["params"]["result"] == {"stopReason": "end_turn"}
        turn = ended["params"]["turn"]
        assert aware.heard[begun + 2]["params"]["turn"] == turn
        assert plain.heard[-1]["result"] == {
            "stopReason": "end_turn",
            "_meta": {"relaykit": {"seq": 4, "turn": turn}},
        }
        assert seqs(aware)[-5:] == [2, 2, 2, 3, 4]


@pytest.mark.parametrize("said", [{"ownTurns": False}, {"ownTurns": True}, {"ownTurns": "no"}, {"other": 1}])
async def test_who_knows_relaykit_may_leave_out_that_its_own_turns_begin(
    gateway: Gateway, said: dict[str, object]
) -> None:
    told = [] if said == {"ownTurns": False} else ["turn_started"]
    async with acp_socket(gateway, aware=said) as socket, acp_socket(gateway) as other:
        session_id = await socket.new()
        begun = len(socket.heard)
        await socket.result_of(socket.prompt(session_id, "hello", turn="mine"))
        assert methods(socket, begun) == [*told, "session/update", "="]
        # Those of others are told as ever, and so is the past.
        await other.open("load", session_id)
        begun = len(socket.heard)
        await other.result_of(other.prompt(session_id, "hello"))
        await socket.skip_to("_relaykit/turn_ended")
        assert methods(socket, begun)[:2] == ["session/update", "turn_started"]
        begun = len(socket.heard)
        await socket.open("load", session_id)
        assert methods(socket, begun).count("turn_started") == 2


async def test_who_knows_relaykit_hears_of_its_own_turn_too(gateway: Gateway) -> None:
    async with acp_socket(gateway, aware=True) as socket:
        session_id = await socket.new()
        begun = len(socket.heard)
        await socket.result_of(socket.prompt(session_id, "hello", turn="mine"))
        assert methods(socket, begun) == ["turn_started", "session/update", "="]
        assert socket.heard[-1]["result"]["_meta"]["relaykit"]["turn"] == "mine"
        await socket.open("load", session_id)
        assert methods(socket, begun + 3) == [
            "session/update",
            "turn_started",
            "session/update",
            "turn_ended",
            "=",
        ]


async def test_prompts_wait_and_too_many_are_refused(gateway: Gateway) -> None:
    async with acp_socket(gateway) as socket:
        session_id = await socket.new()
        asked = socket.prompt(session_id, "/ask")
        question = await socket.skip_to("session/request_permission")
        waiting = [socket.prompt(session_id, f"number {number}") for number in range(3)]
        error = await socket.error_of(socket.prompt(session_id, "too many"))
        assert error["data"] == {"relaykit": {"code": "BUSY"}}
        socket.permit(question["id"])
        for request in [asked, *waiting]:
            await socket.result_of(request)
        assert socket.chunks == [
            "agent: permission: yes",
            *(f"agent: number {number}" for number in range(3)),
        ]


@pytest.mark.parametrize("turn", ["a b", "x" * 65, "é"])
async def test_a_turn_has_an_id_that_is_one(gateway: Gateway, turn: str) -> None:
    async with acp_socket(gateway, aware=True) as aware, acp_socket(gateway) as plain:
        session_id = await aware.new()
        assert (await aware.error_of(aware.prompt(session_id, "hello", turn=turn)))["code"] == -32602
        result = await plain.result_of(plain.prompt(session_id, "hello", turn=turn))
        assert result["_meta"]["relaykit"]["turn"] != turn  # who does not know relaykit means something else


async def test_a_prompt_that_fails_is_an_error(gateway: Gateway) -> None:
    async with two_clients(gateway) as (plain, aware, session_id):
        error = await plain.error_of(plain.prompt(session_id, "/fail"))
        assert error == {"code": -32603, "message": "told to fail"}
        ended = await aware.skip_to("_relaykit/turn_ended")
        assert ended["params"]["error"] == error
        assert "result" not in ended["params"]
        assert (await plain.told(session_id, "on"))["stopReason"] == "end_turn"


async def test_an_agent_that_wants_a_login_says_which_command(tmp_path: Path) -> None:
    agents = f"[agents.locked]\ncommand = {json.dumps(command())}\nlogin = 'locked login'"
    async with open_gateway_relay(gateway_settings(tmp_path, agents=agents), serve=False) as relay:
        gateway = gateway_of(relay)
        async with acp_socket(gateway, agent="locked") as plain, acp_socket(gateway, aware=True) as aware:
            session_id = await plain.new()
            await aware.open("load", session_id)
            error = await plain.error_of(plain.prompt(session_id, "/login"))
            assert error["code"] == -32000
            assert "run `locked login`" in error["message"]
            assert (await aware.skip_to("_relaykit/turn_ended"))["params"]["error"] == error
            assert (await plain.told(session_id, "hello"))["stopReason"] == "end_turn"


def command() -> list[str]:
    from support.gateways import ECHO

    return ECHO


async def test_a_policy_refuses_a_prompt_and_a_mode(tmp_path: Path) -> None:
    async with (
        open_gateway_relay(gateway_settings(tmp_path), serve=False, extra={"policy": Policy()}) as relay,
        acp_socket(gateway_of(relay), aware=True) as socket,
    ):
        session_id = await socket.new()
        for _ in range(2):
            error = await socket.error_of(socket.prompt(session_id, "forbidden", turn="t1"))
            assert error["data"] == {"relaykit": {"code": "FORBIDDEN"}}
        assert (await socket.result_of(socket.prompt(session_id, "fine", turn="t1")))["stopReason"]
        error = await socket.error_of(socket.ask("session/set_mode", sessionId=session_id, modeId="shout"))
        assert error["message"] == "refused by plugin 'policy': not so loud"


# ---------------------------------------------------------------- the same turn again


async def test_a_turn_that_runs_is_not_begun_again(gateway: Gateway) -> None:
    async with acp_socket(gateway, aware=True) as one, acp_socket(gateway, aware=True) as other:
        session_id = await one.new()
        first = one.prompt(session_id, "/ask", turn="t1")
        question = await one.skip_to("session/request_permission")
        again = one.prompt(session_id, "/ask", turn="t1")
        elsewhere = other.prompt(session_id, "/ask", turn="t1")
        assert (await other.skip_to("session/request_permission"))["id"] == question["id"]
        one.permit(question["id"])
        results = [
            await one.result_of(first),
            await one.result_of(again),
            await other.result_of(elsewhere),
        ]
        assert results[0] == results[1] == results[2]
        assert results[0]["_meta"]["relaykit"]["turn"] == "t1"
        assert one.chunks == other.chunks == ["agent: permission: yes"]


async def test_a_turn_that_has_ended_is_answered_at_once(gateway: Gateway) -> None:
    async with acp_socket(gateway, aware=True) as one, acp_socket(gateway, aware=True) as other:
        session_id = await one.new()
        result = await one.result_of(one.prompt(session_id, "hello", turn="t1"))
        failed = await one.error_of(one.prompt(session_id, "/fail", turn="t2"))
        head = gateway.relay.live(session_id).conversation.head
        for socket in (one, other):
            for _ in range(2):
                again = await socket.result_of(socket.prompt(session_id, "other", turn="t1"))
                assert again["stopReason"] == result["stopReason"]
                # Up to there everything was sent, or said before this client came: it is no step back.
                assert again["_meta"]["relaykit"] == {"seq": head, "turn": "t1"}
                assert await socket.error_of(socket.prompt(session_id, "other", turn="t2")) == failed
        assert one.chunks == ["agent: hello"]
        assert other.chunks == []


async def test_a_turn_that_ended_while_one_was_away_is_answered_in_its_place(gateway: Gateway) -> None:
    async with acp_socket(gateway, aware=True) as one:
        session_id = await one.new()
        async with acp_socket(gateway, aware=True) as lost:
            lost.prompt(session_id, "/stream 600 10", turn="t1")
            await lost.skip_to("session/update")
        await one.skip_to("_relaykit/turn_ended")
        async with acp_socket(gateway, aware=True) as back:
            loaded = back.ask("session/load", sessionId=session_id)
            prompt = back.prompt(session_id, "/stream 600 10", turn="t1")
            answer = await back.result_of(prompt)
            assert answer["stopReason"] == "end_turn"
            assert len(back.chunks) == 601  # the prompt of another life, and all that was streamed
            await back.result_of(loaded)
            assert "_relaykit/turn_ended" not in [message.get("method") for message in back.heard]


async def test_a_turn_that_waits_is_taken_back_for_all_who_asked(gateway: Gateway) -> None:
    async with acp_socket(gateway, aware=True) as one, acp_socket(gateway, aware=True) as other:
        session_id = await one.new()
        one.prompt(session_id, "/ask", turn="t1")
        question = await one.skip_to("session/request_permission")
        waiting = one.prompt(session_id, "hello", turn="t2")
        elsewhere = other.prompt(session_id, "hello", turn="t2")
        await other.skip_to("session/request_permission")
        other.notify("$/cancel_request", requestId=elsewhere)
        result = await other.result_of(elsewhere)
        assert result["stopReason"] == "cancelled"
        assert result["_meta"]["relaykit"]["turn"] == "t2"
        assert (await one.result_of(waiting))["stopReason"] == "cancelled"
        one.permit(question["id"])
        await one.skip_to("session/update")
        again = await one.result_of(one.prompt(session_id, "hello", turn="t2"))
        assert again["stopReason"] == "cancelled"
        assert one.chunks == ["agent: permission: yes"]


# ---------------------------------------------------------------- cancelling


async def test_cancelling_ends_the_turn_and_takes_back_ones_own_prompts_alone(gateway: Gateway) -> None:
    async with two_clients(gateway) as (one, other, session_id):
        running = one.prompt(session_id, "/sleep 600")
        await other.skip_to("_relaykit/turn_started")
        theirs = other.prompt(session_id, "theirs")
        while not gateway.relay.live(session_id)._queue.turns.waiting:
            assert "sessions" in await other.result_of(other.ask("session/list"))
        mine = one.prompt(session_id, "mine")
        one.notify("session/cancel", sessionId=session_id)
        stopped = [await one.result_of(each) for each in (mine, running)]
        assert [result["stopReason"] for result in stopped] == ["cancelled", "cancelled"]
        assert (await other.result_of(theirs))["stopReason"] == "end_turn"
        assert "agent: theirs" in other.chunks
        assert "user: mine" not in other.chunks


async def test_one_prompt_is_cancelled_by_its_id(gateway: Gateway) -> None:
    async with acp_socket(gateway) as socket:
        session_id = await socket.new()
        running = socket.prompt(session_id, "/sleep 600")
        waiting = [socket.prompt(session_id, f"number {number}") for number in range(2)]
        socket.notify("$/cancel_request", requestId=waiting[0])
        assert (await socket.result_of(waiting[0]))["stopReason"] == "cancelled"
        socket.notify("$/cancel_request", requestId="1")
        socket.notify("$/cancel_request", requestId=running)
        assert (await socket.result_of(running))["stopReason"] == "cancelled"
        assert (await socket.result_of(waiting[1]))["stopReason"] == "end_turn"
        assert socket.chunks == ["agent: woken", "agent: number 1"]
        assert await socket.result_of(socket.ask("session/cancel", sessionId=session_id)) == {}


async def test_what_was_answered_for_a_waiting_prompt_hides_nothing(gateway: Gateway) -> None:
    """Its seq is no further than what the client has been sent, so that it can be a cursor."""
    async with acp_socket(gateway, room=1) as socket:
        session_id = await socket.new()
        socket.prompt(session_id, "/stream 500 10")
        await socket.skip_to("session/update")
        waiting = socket.prompt(session_id, "never")
        socket.notify("session/cancel", sessionId=session_id)
        await socket.result_of(waiting)
        found = seqs(socket)
        assert found == sorted(found)


# ---------------------------------------------------------------- calls


async def test_calls_are_the_agents_to_answer(gateway: Gateway) -> None:
    async with two_clients(gateway) as (one, other, session_id):
        result = await one.result_of(one.ask("session/set_mode", sessionId=session_id, modeId="shout"))
        assert list(result) == ["_meta"]
        changed = await other.skip_to("session/update")
        assert changed["params"]["update"]["currentModeId"] == "shout"
        assert (await other.open("resume", session_id))["modes"]["currentModeId"] == "shout"
        error = await one.error_of(one.ask("session/set_mode", sessionId=session_id, modeId="whisper"))
        assert error == {"code": -32602, "message": "no such mode: whisper"}
        error = await one.error_of(one.ask("_vendor/thing", sessionId=session_id))
        assert error == {"code": -32601, "message": "method not found: _vendor/thing"}
        result = await one.result_of(one.ask("_echo/sleep", sessionId=session_id, seconds=0))
        assert result["how"] == "slept"
        assert result["_meta"]["relaykit"]["seq"] == gateway.relay.live(session_id).conversation.head
        assert not any("result" in message and "how" in message["result"] for message in other.heard)


async def test_a_call_is_cancelled_and_answered_all_the_same(gateway: Gateway) -> None:
    async with acp_socket(gateway) as socket:
        session_id = await socket.new()
        call = socket.ask("_echo/sleep", sessionId=session_id, seconds=600)
        socket.notify("$/cancel_request", requestId=call)
        assert (await socket.error_of(call))["code"] == -32800


async def test_a_session_that_starts_takes_neither_prompts_nor_calls(tmp_path: Path) -> None:
    agents = f"[agents.slow]\ncommand = {json.dumps([*command(), '--delay', '600'])}"
    async with (
        open_gateway_relay(gateway_settings(tmp_path, agents=agents), serve=False) as relay,
        acp_socket(gateway_of(relay)) as socket,
    ):
        session = await relay.create("auth", agent="slow")
        for request in (
            socket.prompt(session.id, "hello"),
            socket.ask("session/set_mode", sessionId=session.id, modeId="echo"),
        ):
            error = await socket.error_of(request)
            assert error["data"] == {"relaykit": {"code": "SESSION_NOT_ACTIVE"}}


# ---------------------------------------------------------------- byte for byte


async def test_what_the_relay_does_not_know_passes_as_it_is_written(gateway: Gateway) -> None:
    async with acp_socket(gateway) as socket:
        session_id = await socket.new()
        odd = '{"f":1.10,"e":1E2,"big":123456789012345678901234567890,"s":"\\u00e9\\/é","sp":[ 1 , 2 ]}'
        for fields, meta in (
            (f'"update":{{"sessionUpdate":"new_kind","_meta":{odd}}},"x":{odd}', None),
            (f'"_meta":{{"vendor":{odd}}},"update":{{"sessionUpdate":"new_kind"}}', "vendor"),
            (f'"update":{odd}, "_meta" : null', None),
        ):
            line = (
                f'{{"jsonrpc":"2.0","method":"session/update","params":{{"sessionId":"$SESSION",{fields}}}}}'
            )
            prompt = socket.prompt(session_id, f"/raw {line}")
            raw = await socket.hear_raw()
            assert odd in raw
            params = json.loads(raw)["params"]
            assert params["sessionId"] == session_id
            own = params["_meta"].pop("relaykit")
            assert own["seq"] > 0
            assert list(params["_meta"]) == ([meta] if meta else [])
            await socket.result_of(prompt)
        line = '{"jsonrpc":"2.0","method":"_vendor/news","params":{"a":1}}'
        prompt = socket.prompt(session_id, f"/raw {line}")
        news = await socket.skip_to("_vendor/news")
        assert news["params"]["a"] == 1
        assert news["params"]["sessionId"] == session_id
        await socket.result_of(prompt)


async def test_what_clients_say_passes_as_it_is_written(gateway: Gateway) -> None:
    async with acp_socket(gateway) as socket:
        session_id = await socket.new()
        inside = (
            '"prompt":[{"type":"text","text":"caf\\u00e9 \\/","n":1.50}],"x":{"sessionId":"kept","e":1E2}'
        )
        socket.say_raw(
            f'{{"jsonrpc":"2.0","id":"p","method":"session/prompt","params":{{"sessionId":"{session_id}",{inside}}}}}'
        )
        await socket.result_of("p")
        entries = await gateway.relay.live(session_id).conversation.read(after=0, limit=10)
        [prompt] = [entry.frame.body.decode() for entry in entries if entry.frame.kind is Kind.PROMPT]
        assert prompt == f"{{{inside}}}"


@pytest.mark.parametrize(
    ("body", "shown"),
    [
        (b"", {}),
        (b"{}", {}),
        (b'{"_meta":[1]}', {}),
        (b"null", None),
        (b"[1,2]", [1, 2]),
        (b'{ "a": 1}', {"a": 1}),
    ],
)
async def test_params_of_any_shape(gateway: Gateway, body: bytes, shown: Any) -> None:
    async with acp_socket(gateway) as socket:
        session_id = await socket.new()
        await gateway.relay.live(session_id).conversation.publish([Frame(Kind.UPDATE, body, method="_odd")])
        params = (await socket.skip_to("_odd"))["params"]
        ours = {"sessionId": session_id, "_meta": {"relaykit": {"seq": 2}}}
        assert params == ({**ours, **shown} if isinstance(shown, dict) else shown)
