"""How questions are closed: by an answer, by none, by the agent itself; and who did it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from relaykit.conversation import Kind
from relaykit.errors import QuestionClosed
from support.relays import active_session, running_relay

pytestmark = pytest.mark.anyio


async def test_who_cannot_answer_cancels(tmp_path: Path) -> None:
    async with running_relay(tmp_path) as relay, active_session(relay) as client:
        for turn, text, said in (
            ("t1", "/ask", "permission: cancelled"),
            ("t2", "/elicit", "cancel"),
        ):
            await client.say(text, turn)
            asked = await client.until_asked(int(turn[1]))
            await relay.answer(client.session_id, asked.frame.ref, None, client_id="c1")
            await client.until_turn_end(turn)
            await client.until_said(said)
            with pytest.raises(QuestionClosed):
                await relay.answer(client.session_id, asked.frame.ref, None, client_id="c1")


async def test_a_question_knows_its_place_and_who_closed_it(tmp_path: Path) -> None:
    async with running_relay(tmp_path) as relay, active_session(relay) as client:
        live = relay.live(client.session_id)
        for number, closer in enumerate(("c1", "relay"), start=1):
            await client.say("/ask", f"t{number}")
            asked = await client.until_asked(number)
            [question] = live.questions
            assert (question.request, question.seq) == (asked.frame, asked.seq)
            assert live.asking.deciders.of(asked.frame.ref).by == ""
            if closer == "relay":
                await relay.cancel(client.session_id)
            else:
                await client.answer(asked.frame.ref)
            assert live.asking.deciders.of(asked.frame.ref).by == closer
            await client.until_turn_end(f"t{number}")


async def test_a_cancel_goes_before_the_answers_to_every_question(tmp_path: Path) -> None:
    async with running_relay(tmp_path) as relay, active_session(relay) as client:
        ask = {"jsonrpc": "2.0", "method": "session/request_permission", "params": {"options": []}}
        refs = []
        for number in (1, 2):
            await client.say(f"/raw {json.dumps({**ask, 'id': f'own-{number}'})}", f"t{number}")
            refs.append((await client.until_asked(number)).frame.ref)
            await client.until_turn_end(f"t{number}")
        await client.say("/ask", "t3")
        refs.append((await client.until_asked(3)).frame.ref)
        await relay.cancel(client.session_id)
        end = await client.until_turn_end("t3")
        assert json.loads(end.frame.body) == {"stopReason": "cancelled"}
        first = client.told.index("CANCEL session/cancel")
        told = client.entries[first + 1 : first + 7]
        assert [entry.frame.ref for entry in told if entry.frame.kind is Kind.DECISION] == refs
        for ref in refs:
            assert await client.until_decided(ref) == {"by": "relay", "outcome": "cancelled"}


async def test_an_agent_takes_its_question_back(tmp_path: Path) -> None:
    async with running_relay(tmp_path) as relay, active_session(relay) as client:
        ask = {
            "jsonrpc": "2.0",
            "id": "own",
            "method": "session/request_permission",
            "params": {"options": []},
        }
        await client.say(f"/raw {json.dumps(ask)}", "t1")
        asked = await client.until_asked()
        forget = {"jsonrpc": "2.0", "method": "$/cancel_request", "params": {"requestId": "own"}}
        await client.say(f"/raw {json.dumps(forget)}", "t2")
        decision = await client.until(lambda entry: entry.frame.kind is Kind.DECISION)
        assert decision.frame.ref == asked.frame.ref
        assert json.loads(decision.frame.body) == {"outcome": {"outcome": "cancelled"}}
        live = relay.live(client.session_id)
        assert len(live.questions) == 0
        assert live.asking.deciders.of(asked.frame.ref).by == "agent"
        await client.say(f"/raw {json.dumps(forget)}", "t3")  # once more: nothing happens
        await client.until_turn_end("t3")
        assert client.told.count("DECISION session/request_permission") == 1
