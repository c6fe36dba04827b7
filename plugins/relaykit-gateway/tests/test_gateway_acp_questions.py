"""Questions of the agent over /acp: put to everybody, answered once, and put again to who comes back; on both loops."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from relaykit.conversation import Kind
from relaykit.errors import Refused
from relaykit.hooks import hookimpl
from relaykit_gateway.gateway import Gateway
from support.acp_sockets import AcpSocket, acp_socket, gateway_of, two_clients
from support.gateways import gateway_settings, open_gateway_relay

pytestmark = pytest.mark.anyio

PERMISSION = "session/request_permission"


@pytest.fixture
async def gateway(tmp_path: Path) -> AsyncIterator[Gateway]:
    async with open_gateway_relay(gateway_settings(tmp_path), serve=False) as relay:
        yield gateway_of(relay)


def about_questions(socket: AcpSocket) -> list[str]:
    """Return what it was sent of questions."""
    told = {PERMISSION, "elicitation/create", "$/cancel_request", "_relaykit/question_closed"}
    return [message["method"] for message in socket.heard if message.get("method") in told]


async def test_the_first_answer_wins_and_the_others_are_told(gateway: Gateway) -> None:
    async with two_clients(gateway) as (one, other, session_id), acp_socket(gateway) as third:
        await third.open("resume", session_id)
        prompt = one.prompt(session_id, "/ask")
        questions = [await socket.skip_to(PERMISSION) for socket in (one, other, third)]
        assert questions[0] == questions[1] == questions[2]
        ref = questions[0]["id"]
        assert isinstance(ref, str)
        assert questions[0]["params"]["sessionId"] == session_id
        assert questions[0]["params"]["_meta"] == {"relaykit": {"seq": 3}}
        assert questions[0]["params"]["options"][0]["optionId"] == "yes"
        third.permit(ref, "no")
        await one.result_of(prompt)
        other.permit(ref, "yes")  # too late: nothing happens
        one.permit(ref, "yes")
        await one.told(session_id, "on")
        assert [chunk for chunk in one.chunks if "permission" in chunk] == ["agent: permission: no"]
        closed = await other.skip_to("_relaykit/question_closed")
        assert closed["params"] == {
            "sessionId": session_id,
            "_meta": {"relaykit": {"seq": 4}},
            "requestId": ref,
            "by": "the relay's own token",
            "client": third.headers[b"acp-connection-id"].decode(),
        }
        cancelled = next(message for message in one.heard if message.get("method") == "$/cancel_request")
        assert cancelled["params"] == {"_meta": {"relaykit": {"seq": 4}}, "requestId": ref}
        assert about_questions(one) == [PERMISSION, "$/cancel_request"]
        assert about_questions(other) == [PERMISSION, "$/cancel_request", "_relaykit/question_closed"]
        while "agent: on" not in third.chunks:
            await third.hear()
        assert about_questions(third) == [PERMISSION]


async def test_who_answers_and_knows_relaykit_is_told_that_it_counted(gateway: Gateway) -> None:
    async with acp_socket(gateway, aware=True) as socket:
        session_id = await socket.new()
        prompt = socket.prompt(session_id, "/ask")
        question = await socket.skip_to(PERMISSION)
        socket.permit(question["id"])
        await socket.result_of(prompt)
        assert about_questions(socket) == [PERMISSION, "_relaykit/question_closed"]


async def test_open_questions_are_put_again_to_who_comes_back(gateway: Gateway) -> None:
    async with acp_socket(gateway) as one:
        session_id = await one.new()
        prompt = one.prompt(session_id, "/ask")
        question = await one.skip_to(PERMISSION)
        head = gateway.relay.live(session_id).conversation.head
        for method, said in (
            ("load", {}),
            ("load", {"after": 1}),
            ("load", {"after": head}),
            ("resume", {}),
            ("resume", {"after": head - 1}),
        ):
            async with acp_socket(gateway) as back:
                await back.open(method, session_id, **said)
                assert about_questions(back) == []  # first it is open
                assert await back.hear() == question
                await back.open(method, session_id, **said)
                assert await back.hear() == question
                assert len(about_questions(back)) == 2
        async with acp_socket(gateway) as back:
            named = back.ask("_echo/sleep", sessionId=session_id, seconds=0)
            assert await back.hear() == question
            back.permit(question["id"], "no")
            await one.result_of(prompt)
            assert one.chunks == ["agent: permission: no"]
            await back.answer_to(named)
        for method, said in (("load", {}), ("load", {"after": head}), ("resume", {})):
            async with acp_socket(gateway, aware=True) as back:
                await back.open(method, session_id, **said)
                assert "sessions" in await back.result_of(back.ask("session/list"))
                assert PERMISSION not in about_questions(back)
                # Who had it when it went, as its `after` says, is told that it is closed.
                closed = ["$/cancel_request", "_relaykit/question_closed"] if said else []
                assert about_questions(back) == closed


async def test_an_answer_may_come_before_the_question_is_put_again(gateway: Gateway) -> None:
    async with acp_socket(gateway) as one:
        session_id = await one.new()
        prompt = one.prompt(session_id, "/ask")
        question = await one.skip_to(PERMISSION)
        async with acp_socket(gateway) as back:
            loaded = back.ask("session/load", sessionId=session_id)
            back.permit(question["id"], "no")
            await back.result_of(loaded)
        await one.result_of(prompt)
        assert one.chunks == ["agent: permission: no"]


@pytest.mark.parametrize(
    "answer",
    [
        {"error": {"code": -32601, "message": "method not found"}},
        {"error": {"code": -32800, "message": "cancelled"}},
        {"result": None},
        {"result": "yes"},
    ],
)
async def test_what_is_no_answer_counts_as_cancelled(gateway: Gateway, answer: dict[str, Any]) -> None:
    async with two_clients(gateway) as (one, other, session_id):
        for text, method, said in (
            ("/ask", PERMISSION, "permission: cancelled"),
            ("/elicit", "elicitation/create", 'elicitation: {"action": "cancel"}'),
        ):
            prompt = one.prompt(session_id, text)
            question = await one.skip_to(method)
            await other.skip_to(method)
            one.say({"id": question["id"], **answer})
            await one.result_of(prompt)
            assert one.chunks[-1] == f"agent: {said}"
            closed = await other.skip_to("_relaykit/question_closed")
            assert closed["params"]["client"] == one.headers[b"acp-connection-id"].decode()


async def test_an_elicitation_is_answered_as_it_is_written(gateway: Gateway) -> None:
    async with acp_socket(gateway) as socket:
        session_id = await socket.new()
        prompt = socket.prompt(session_id, "/elicit")
        question = await socket.skip_to("elicitation/create")
        result = '{"action":"accept","content":{"name":"caf\\u00e9","n":1.50},"x":[ 1 ]}'
        socket.say_raw(f'{{"jsonrpc":"2.0","result": {result} ,"id":"{question["id"]}"}}')
        await socket.result_of(prompt)
        entries = await gateway.relay.live(session_id).conversation.read(after=0, limit=10)
        [decision] = [entry.frame.body.decode() for entry in entries if entry.frame.kind is Kind.DECISION]
        assert decision == result


async def test_a_cancelled_turn_takes_its_questions_back(gateway: Gateway) -> None:
    async with two_clients(gateway) as (one, other, session_id):
        prompt = one.prompt(session_id, "/ask")
        question = await one.skip_to(PERMISSION)
        one.notify("session/cancel", sessionId=session_id)
        one.say({"id": question["id"], "result": {"outcome": {"outcome": "cancelled"}}})  # as ACP demands
        assert (await one.result_of(prompt))["stopReason"] == "cancelled"
        assert about_questions(one) == [PERMISSION, "$/cancel_request"]
        assert (await other.skip_to("_relaykit/question_closed"))["params"]["by"] == "relay"


async def test_an_agent_may_take_its_question_back(gateway: Gateway) -> None:
    async with two_clients(gateway) as (one, other, session_id):
        # An agent that asks under an id of its own, and then does not want to know any more.
        ask = {
            "jsonrpc": "2.0",
            "id": "own",
            "method": PERMISSION,
            "params": {"sessionId": "$SESSION", "toolCall": {"toolCallId": "c"}, "options": []},
        }
        await one.told(session_id, f"/raw {json.dumps(ask)}")
        question = next(message for message in one.heard if message.get("method") == PERMISSION)
        forget = {"jsonrpc": "2.0", "method": "$/cancel_request", "params": {"requestId": "own"}}
        one.prompt(session_id, f"/raw {json.dumps(forget)}")
        cancelled = await one.skip_to("$/cancel_request")
        assert cancelled["params"]["requestId"] == question["id"]
        closed = await other.skip_to("_relaykit/question_closed")
        assert (closed["params"]["requestId"], closed["params"]["by"]) == (question["id"], "agent")
        assert await one.result_of(one.ask("session/cancel", sessionId=session_id)) == {}
        async with acp_socket(gateway) as back:
            await back.open("resume", session_id)
            assert "sessions" in await back.result_of(back.ask("session/list"))
            assert about_questions(back) == []


async def test_a_question_that_a_policy_refuses_is_closed_by_it(tmp_path: Path) -> None:
    class Policy:
        @hookimpl
        async def relaykit_check_permission(self) -> None:
            raise Refused("nothing of the kind")

    async with (
        open_gateway_relay(gateway_settings(tmp_path), serve=False, extra={"policy": Policy()}) as relay,
        acp_socket(gateway_of(relay), aware=True) as socket,
    ):
        session_id = await socket.new()
        await socket.told(session_id, "/ask")
        assert socket.chunks == ["agent: permission: no"]
        closed = next(
            message for message in socket.heard if message.get("method") == "_relaykit/question_closed"
        )
        assert closed["params"]["by"] == "policy"


async def test_questions_end_with_their_session(gateway: Gateway) -> None:
    async with acp_socket(gateway, aware=True) as socket:
        session_id = await socket.new()
        prompt = socket.prompt(session_id, "/ask")
        question = await socket.skip_to(PERMISSION)
        await gateway.relay.stop(session_id, "enough")
        assert "enough" in (await socket.error_of(prompt))["message"]
        await socket.skip_to("_relaykit/session_ended")
        assert about_questions(socket) == [PERMISSION, "$/cancel_request", "_relaykit/question_closed"]
        socket.permit(question["id"])
        assert "sessions" in await socket.result_of(socket.ask("session/list"))
