"""Who or what answered, and what waits: as clients of /acp and of /ws are told; on both loops."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from relaykit.conversation import Entry, Frame, Kind
from relaykit.relay import Relay
from relaykit.relay.deciders import ALLOWED, ANSWERED, Decider, decided
from relaykit.relay.locator import Where
from relaykit.relay.notices import DECIDED
from relaykit.testing.transcripts import SAID_AT
from relaykit_gateway.gateway import Gateway
from relaykit_gateway.judged import is_judged
from support.acp_sockets import AcpSocket, acp_socket, gateway_of, two_clients
from support.gateways import gateway_settings, open_gateway_relay
from support.tokens import add_token
from support.ws_sockets import WsSocket, ws_socket

pytestmark = pytest.mark.anyio

PERMISSION = "session/request_permission"
RULES = '[[permissions]]\naction = "{action}"\nkind = "other"'


@pytest.fixture
async def gateway(tmp_path: Path) -> AsyncIterator[Gateway]:
    async with open_gateway_relay(gateway_settings(tmp_path), serve=False) as relay:
        yield gateway_of(relay)


async def ws_session(socket: WsSocket) -> str:
    """Create a session by /ws, and wait until it is ready."""
    socket.say("session:create", agentId="auth")
    created = await socket.skip_to("session:created")
    await socket.skip_to("session:ready")
    session_id: str = created["sessionId"]
    return session_id


async def attached(socket: WsSocket, session_id: str, **fields: Any) -> dict[str, Any]:
    """Attach, and return ``session:caught_up``."""
    socket.say("session:attach", sessionId=session_id, **fields)
    return await socket.skip_to("session:caught_up")


def told(socket: AcpSocket, *methods: str) -> list[str]:
    """Return which of these messages it was sent, in order."""
    return [message["method"] for message in socket.heard if message.get("method") in methods]


# ---------------------------------------------------------------- by whom


async def noted(gateway: Gateway, session_id: str, ref: str) -> dict[str, Any]:
    """Return what the transcript says of who answered."""
    transcript = await gateway.relay.transcript(session_id, limit=1000)
    said = [json.loads(entry.frame.body) for entry in transcript if entry.frame.method == DECIDED]
    [told] = [body for body in said if body.pop("requestId") == ref]
    return dict(told)


async def test_the_others_are_told_by_whose_token_it_was_answered(gateway: Gateway) -> None:
    phone = add_token(gateway.relay.settings.state_dir, "anns-phone")
    async with (
        ws_socket(gateway) as one,
        ws_socket(gateway) as other,
        acp_socket(gateway, aware=True, token=phone) as third,
    ):
        session_id = await ws_session(one)
        await attached(other, session_id)
        await third.open("resume", session_id)
        one.say("agent:message", sessionId=session_id, content="/ask")
        ref = (await other.skip_to("permission:request"))["requestId"]
        await one.skip_to("permission:request")
        await third.skip_to(PERMISSION)
        third.permit(ref, "no")
        client_id = third.headers[b"acp-connection-id"].decode()
        for socket in (one, other):
            resolved = await socket.skip_to("permission:resolved")
            assert (resolved["requestId"], resolved["optionId"]) == (ref, "no")
            assert (resolved["by"], resolved["client"]) == ("anns-phone", client_id)
        closed = (await third.skip_to("_relaykit/question_closed"))["params"]
        assert (closed["by"], closed["client"]) == ("anns-phone", client_id)
        said = {"by": "anns-phone", "outcome": "answered", "client": client_id}
        assert await noted(gateway, session_id, ref) == said

        one.say("agent:message", sessionId=session_id, content="/ask")
        ref = (await one.skip_to("permission:request"))["requestId"]
        await other.skip_to("permission:request")
        await third.skip_to(PERMISSION)
        one.say("permission:response", sessionId=session_id, requestId=ref, outcome="cancelled")
        resolved = await other.skip_to("permission:resolved")
        closed = (await third.skip_to("_relaykit/question_closed"))["params"]
        for told_of in (resolved, closed):
            assert (told_of["by"], told_of["requestId"]) == ("the relay's own token", ref)
        said = {"by": resolved["by"], "outcome": "answered", "client": resolved["client"]}
        assert await noted(gateway, session_id, ref) == said


async def test_where_no_token_is_wanted_nobody_has_a_name(tmp_path: Path) -> None:
    settings = gateway_settings(tmp_path, gateway="auth = false")
    async with open_gateway_relay(settings, serve=False) as relay:
        gateway = gateway_of(relay)
        async with (
            acp_socket(gateway, token="any") as one,
            acp_socket(gateway, token="any", aware=True) as two,
        ):
            session_id = await one.new()
            await two.open("resume", session_id)
            one.prompt(session_id, "/ask")
            one.permit((await one.skip_to(PERMISSION))["id"])
            closed = (await two.skip_to("_relaykit/question_closed"))["params"]
            assert closed["by"] == "anybody, without a token"


async def test_who_answered_is_told_of_the_past_too(gateway: Gateway) -> None:
    """Also by a relay that was started since: what it remembers is not needed."""
    async with ws_socket(gateway) as one, acp_socket(gateway, aware=True) as other:
        session_id = await ws_session(one)
        await other.open("resume", session_id)
        one.say("agent:message", sessionId=session_id, content="/ask")
        question = await other.skip_to(PERMISSION)
        other.permit(question["id"])
        resolved = await one.skip_to("permission:resolved")
        by = (resolved["by"], resolved["client"])
        await one.skip_to("agent:response")
        gateway.relay.live(session_id).asking.deciders.forget(question["id"])
        async with ws_socket(gateway) as late:
            await attached(late, session_id)
            [resolved] = [message for message in late.heard if message["type"] == "permission:resolved"]
            assert (resolved["by"], resolved["client"]) == by
            assert "permission:request" in late.types
        seq = question["params"]["_meta"]["relaykit"]["seq"]
        async with ws_socket(gateway) as later:  # from between the answer and who gave it
            await attached(later, session_id, after=seq + 1)
            assert "permission:resolved" not in later.types
        async with ws_socket(gateway) as last:
            await attached(last, session_id, after=seq)
            [resolved] = [message for message in last.heard if message["type"] == "permission:resolved"]
            assert (resolved["by"], resolved["client"]) == by


async def test_what_is_cancelled_is_closed_by_the_relay(gateway: Gateway) -> None:
    async with two_clients(gateway) as (one, other, session_id), ws_socket(gateway) as third:
        await attached(third, session_id)
        prompt = one.prompt(session_id, "/ask")
        await other.skip_to(PERMISSION)
        one.notify("session/cancel", sessionId=session_id)
        assert (await one.result_of(prompt))["stopReason"] == "cancelled"
        assert (await other.skip_to("_relaykit/question_closed"))["params"]["by"] == "relay"
        resolved = await third.skip_to("permission:resolved")
        assert (resolved["outcome"], resolved["by"]) == ("cancelled", "relay")


async def test_a_question_waits_for_its_asker_to_come_back(gateway: Gateway) -> None:
    async with acp_socket(gateway) as asker:
        session_id = await asker.new()
        asker.prompt(session_id, "/ask")
        before = await asker.skip_to(PERMISSION)
    async with acp_socket(gateway) as back, ws_socket(gateway) as other:
        await back.open("resume", session_id)
        question = await back.skip_to(PERMISSION)
        assert question["id"] == before["id"]
        await attached(other, session_id)
        asked = [message for message in other.heard if message["type"] == "permission:request"]
        assert [message["requestId"] for message in asked] == [question["id"]]
        other.say("permission:response", sessionId=session_id, requestId=question["id"], optionId="yes")
        assert (await back.skip_to("$/cancel_request"))["params"]["requestId"] == question["id"]


async def test_who_comes_back_behind_an_open_question_is_asked_again(gateway: Gateway) -> None:
    async with ws_socket(gateway) as one:
        session_id = await ws_session(one)
        one.say("agent:message", sessionId=session_id, content="/ask")
        asked = await one.skip_to("permission:request")
        async with ws_socket(gateway) as back:
            await attached(back, session_id, after=asked["seq"])
            assert back.heard[-2:-1] == [asked]
            await attached(back, session_id)  # from the beginning: once
            assert back.heard.count(asked) == 2
            back.say(
                "permission:response", sessionId=session_id, requestId=asked["requestId"], optionId="yes"
            )
            await back.skip_to("agent:response")
            await attached(back, session_id, after=asked["seq"])
            assert back.heard.count(asked) == 2


async def test_of_two_answers_at_once_one_wins_and_both_hear_it(gateway: Gateway) -> None:
    async with two_clients(gateway) as (one, other, session_id), ws_socket(gateway) as third:
        await attached(third, session_id)
        for number in range(5):
            prompt = one.prompt(session_id, "/ask")
            ref = (await other.skip_to(PERMISSION))["id"]
            await third.skip_to("permission:request")
            other.permit(ref, "yes")
            third.say("permission:response", sessionId=session_id, requestId=ref, optionId="no")
            await one.result_of(prompt)
            by = (await other.skip_to("_relaykit/question_closed"))["params"]["client"]
            won_by_other = by == other.headers[b"acp-connection-id"].decode()
            said = [chunk for chunk in one.chunks if chunk.startswith("agent: permission")]
            assert said[number] == f"agent: permission: {'yes' if won_by_other else 'no'}"
            assert len(said) == number + 1
            if won_by_other:
                assert (await third.skip_to("error"))["error"]["code"] == "QUESTION_CLOSED"


async def test_an_answer_after_the_cancel_is_too_late(gateway: Gateway) -> None:
    async with two_clients(gateway) as (one, _other, session_id), ws_socket(gateway) as third:
        await attached(third, session_id)
        prompt = one.prompt(session_id, "/ask")
        question = await one.skip_to(PERMISSION)
        one.notify("session/cancel", sessionId=session_id)
        await one.result_of(prompt)
        one.permit(question["id"])  # nothing happens
        third.say("permission:response", sessionId=session_id, requestId=question["id"], optionId="yes")
        assert (await third.skip_to("error"))["error"]["code"] == "QUESTION_CLOSED"
        assert await one.told(session_id, "on") is not None
        assert "agent: permission: cancelled" in one.chunks


# ---------------------------------------------------------------- judged


@pytest.mark.parametrize(("action", "option"), [("allow", "yes"), ("reject", "no")])
async def test_nobody_is_asked_what_a_rule_answers(tmp_path: Path, action: str, option: str) -> None:
    settings = gateway_settings(tmp_path, agents=RULES.format(action=action))
    async with open_gateway_relay(settings, serve=False) as relay:
        gateway = gateway_of(relay)
        async with two_clients(gateway) as (plain, aware, session_id), ws_socket(gateway) as third:
            await attached(third, session_id)
            await plain.told(session_id, "/ask")
            assert f"agent: permission: {option}" in plain.chunks
            assert told(plain, PERMISSION, "$/cancel_request") == []
            closed = await aware.skip_to("_relaykit/question_closed")
            assert closed["params"]["by"] == "rule 1"
            assert "client" not in closed["params"]
            assert told(aware, PERMISSION, "$/cancel_request") == []
            resolved = await third.skip_to("permission:resolved")
            assert (resolved["optionId"], resolved["by"]) == (option, "rule 1")
            assert "client" not in resolved
            await third.skip_to("agent:response")
            assert "permission:request" not in third.types
            async with acp_socket(gateway, aware=True) as late:
                await late.open("load", session_id)
                assert told(late, PERMISSION, "$/cancel_request", "_relaykit/question_closed") == []


def test_what_is_judged_is_seen_among_entries() -> None:
    def entries(*decider: Decider) -> list[Entry]:
        request = Frame(Kind.REQUEST, b"{}", "q1", PERMISSION)
        decision = Frame(Kind.DECISION, b"{}", "q1", PERMISSION)
        frames = [
            Frame(Kind.UPDATE, b"{}"),
            request,
            decision,
            *(decided(decision, each) for each in decider),
        ]
        return [Entry(seq, SAID_AT, frame) for seq, frame in enumerate(frames, 7)]

    by_rule = entries(Decider("rule 1", ALLOWED))
    assert is_judged(by_rule[1], by_rule)
    by_person = entries(Decider("ann", ANSWERED))
    assert not is_judged(by_person[1], by_person)
    alone = entries()
    assert not is_judged(alone[1], alone)


# ---------------------------------------------------------------- the queue


def places(message: dict[str, Any]) -> list[tuple[str, int, bool]]:
    return [(prompt["turn"], prompt["place"], prompt["own"]) for prompt in message["waiting"]]


async def until_queue(socket: AcpSocket, *turns: str) -> dict[str, Any]:
    """Wait until it is told that these turns wait; what came between may have been left out."""
    while True:
        params: dict[str, Any] = (await socket.skip_to("_relaykit/queue"))["params"]
        if [prompt["turn"] for prompt in params["waiting"]] == list(turns):
            return params


async def test_every_client_sees_which_prompts_wait(gateway: Gateway) -> None:
    async with acp_socket(gateway, aware=True) as one, two_clients(gateway) as (plain, other, session_id):
        await one.open("resume", session_id)
        one.prompt(session_id, "/ask", turn="t1")
        question = await one.skip_to(PERMISSION)
        second = one.prompt(session_id, "two", turn="t2")
        queue = await until_queue(one, "t2")
        assert queue["sessionId"] == session_id
        assert queue["turn"] == "t1"
        assert places(queue) == [("t2", 1, True)]
        other.prompt(session_id, "three", turn="t3")
        assert places(await until_queue(one, "t2", "t3")) == [("t2", 1, True), ("t3", 2, False)]
        assert places(await until_queue(other, "t2", "t3")) == [("t2", 1, False), ("t3", 2, True)]

        async with ws_socket(gateway) as late, acp_socket(gateway, aware=True) as later:
            await attached(late, session_id)
            shown = await late.skip_to("agent:queue")
            assert places(shown) == [("t2", 1, False), ("t3", 2, False)]
            assert shown["waiting"][0]["client"] == one.headers[b"acp-connection-id"].decode()
            await later.open("resume", session_id)
            await until_queue(later, "t2", "t3")

            one.notify("$/cancel_request", requestId=second)  # it is taken back
            assert (await one.result_of(second))["stopReason"] == "cancelled"
            await until_queue(other, "t3")
            assert places(await late.skip_to("agent:queue")) == [("t3", 1, False)]
            one.permit(question["id"])  # and the next begins
            assert (await until_queue(other))["turn"] in {"t3", None}
            shown = await late.skip_to("agent:queue")
            assert shown["waiting"] == []
            begun = [message["type"] for message in late.heard]
            assert begun.index("agent:response") < len(begun) - 1  # it ended before, in the order of things
        assert told(plain, "_relaykit/queue") == []


async def test_where_nobody_waits_nothing_is_said_of_it(gateway: Gateway) -> None:
    async with acp_socket(gateway, aware=True) as one:
        session_id = await one.new()
        await one.told(session_id, "hello")
        one.prompt(session_id, "/ask", turn="t1")
        question = await one.skip_to(PERMISSION)
        second = one.prompt(session_id, "two", turn="t2")
        await until_queue(one, "t2")
        one.permit(question["id"])
        await one.result_of(second)
        async with ws_socket(gateway) as late, acp_socket(gateway, aware=True) as later:
            await attached(late, session_id)
            await later.open("load", session_id)
            await later.told(session_id, "on")
            await late.skip_to("agent:response")
            assert "agent:queue" not in late.types
            assert told(later, "_relaykit/queue") == []


async def test_while_a_turn_runs_a_prompt_is_refused_by_setting(tmp_path: Path) -> None:
    settings = gateway_settings(tmp_path, relay='when_busy = "refuse"')
    async with open_gateway_relay(settings, serve=False) as relay:
        gateway = gateway_of(relay)
        async with two_clients(gateway) as (one, other, session_id), ws_socket(gateway) as third:
            await attached(third, session_id)
            running = one.prompt(session_id, "/ask")
            question = await other.skip_to(PERMISSION)
            error = await other.error_of(other.prompt(session_id, "me too"))
            assert error["data"]["relaykit"]["code"] == "BUSY"
            third.say("agent:message", sessionId=session_id, content="and me")
            assert (await third.skip_to("error"))["error"]["code"] == "BUSY"
            other.permit(question["id"])
            await one.result_of(running)
            await other.told(session_id, "now")


# ---------------------------------------------------------------- elsewhere and too many


class North:
    """A locator that knows one session, of another node."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    async def locate(self, session_id: str, /) -> Where:
        self.asked.append(session_id)
        return Where("north", here=False) if session_id == "far" else Where("local", here=True)


async def test_a_session_of_another_node_is_neither_followed_nor_prompted(gateway: Gateway) -> None:
    relay: Relay = gateway.relay
    locator = relay.locator = North()
    async with acp_socket(gateway) as one, ws_socket(gateway) as other:
        for request in (
            one.ask("session/load", sessionId="far", cwd="/", mcpServers=[]),
            one.ask("session/resume", sessionId="far", cwd="/", mcpServers=[]),
            one.prompt("far", "hello"),
        ):
            error = await one.error_of(request)
            assert error["data"]["relaykit"]["code"] == "SESSION_ELSEWHERE"
            assert "'north'" in error["message"]
        other.say("session:attach", sessionId="far")
        assert (await other.skip_to("error"))["error"]["code"] == "SESSION_ELSEWHERE"
        session_id = await one.new()
        await one.told(session_id, "hello")
        await attached(other, session_id)
        assert {"far", session_id} == set(locator.asked)


async def test_too_many_sessions_are_refused(tmp_path: Path) -> None:
    settings = gateway_settings(tmp_path, relay="max_sessions = 1")
    async with (
        open_gateway_relay(settings, serve=False) as relay,
        acp_socket(gateway_of(relay)) as one,
    ):
        await one.new(role="auth")
        error = await one.error_of(one.ask("session/new", cwd="/", mcpServers=[]))
        assert error["data"]["relaykit"]["code"] == "SESSION_LIMIT"
        meta = {"relaykit": {"role": "auth"}}
        error = await one.error_of(one.ask("session/new", cwd="/", mcpServers=[], _meta=meta))
        assert error["data"]["relaykit"]["code"] == "DUPLICATE_ROLE"
