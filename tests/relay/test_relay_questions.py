"""Questions: put to every client, and answered once."""

from __future__ import annotations

import json
from pathlib import Path

import anyio
import pytest

from relaykit.conversation import Kind
from relaykit.errors import QuestionClosed
from support.relays import active_session, following, permission, running_relay

pytestmark = pytest.mark.anyio


async def test_the_first_answer_wins(tmp_path: Path) -> None:
    async with (
        running_relay(tmp_path) as relay,
        active_session(relay) as first,
        following(relay, first.session_id, client_id="c2") as second,
    ):
        await first.say("/ask", "t1")
        ref = (await first.until_asked()).frame.ref
        assert (await second.until_asked()).frame.ref == ref
        await second.answer(ref, "no")
        with pytest.raises(QuestionClosed) as caught:
            await first.answer(ref, "yes")
        assert (caught.value.session_id, caught.value.ref) == (first.session_id, ref)
        await first.until_said("permission: no")
        decision = await first.until(lambda entry: entry.frame.kind is Kind.DECISION)
        assert (decision.frame.ref, decision.frame.body) == (ref, permission("no"))
        await second.until(lambda entry: entry.frame.kind is Kind.DECISION)  # the loser is told the same


async def test_of_twenty_answers_at_once_one_wins(tmp_path: Path) -> None:
    async with running_relay(tmp_path) as relay, active_session(relay) as client:
        await client.say("/ask", "t1")
        ref = (await client.until_asked()).frame.ref
        won: list[str] = []
        lost: list[str] = []

        async def answer(option: str) -> None:
            try:
                await client.answer(ref, option)
            except QuestionClosed:
                lost.append(option)
            else:
                won.append(option)

        with anyio.fail_after(10):
            async with anyio.create_task_group() as tasks:
                for number in range(20):
                    tasks.start_soon(answer, f"option-{number}")
        assert (len(won), len(lost)) == (1, 19)
        await client.until_said(f"permission: {won[0]}")
        await client.until_turn_end("t1")
        assert client.told.count("DECISION session/request_permission") == 1


async def test_a_question_survives_every_client(tmp_path: Path) -> None:
    async with running_relay(tmp_path) as relay:
        async with active_session(relay) as client:
            await client.say("/ask", "t1")
            ref = (await client.until_asked()).frame.ref
        async with following(relay, client.session_id, client_id="c2") as later:
            [open_question] = relay.live(client.session_id).questions
            assert open_question.request == (await later.until_asked()).frame
            await later.answer(ref)
            await later.until_said("permission: yes")
            await later.until_turn_end("t1")


async def test_an_elicitation_is_answered_as_it_is(tmp_path: Path) -> None:
    async with running_relay(tmp_path) as relay, active_session(relay) as client:
        await client.say("/elicit", "t1")
        asked = await client.until_asked()
        assert asked.frame.method == "elicitation/create"
        body = b'{"action":"accept","content":{"name":"Ada"},"_meta":{"x":[1]}}'
        await relay.answer(client.session_id, asked.frame.ref, body, client_id="c1")
        said = await client.until_said("elicitation: ")
        text = json.loads(said.frame.body)["update"]["content"]["text"]
        assert json.loads(text.removeprefix("elicitation: ")) == json.loads(body)


async def test_what_was_never_asked_cannot_be_answered(tmp_path: Path) -> None:
    async with running_relay(tmp_path) as relay, active_session(relay) as client:
        with pytest.raises(QuestionClosed):
            await client.answer("q1")
        await client.say("/ask", "t1")
        ref = (await client.until_asked()).frame.ref
        await relay.cancel(client.session_id)
        with pytest.raises(QuestionClosed):
            await client.answer(ref)
        await client.until_turn_end("t1")


async def test_after_the_end_nothing_can_be_answered(tmp_path: Path) -> None:
    async with running_relay(tmp_path) as relay, active_session(relay) as client:
        await client.say("/ask", "t1")
        ref = (await client.until_asked()).frame.ref
        await relay.stop(client.session_id, "enough")
        await client.until_notice("terminating")
        with pytest.raises(LookupError):  # the question, or the session, is gone
            await client.answer(ref)
        await client.until_the_end()


@pytest.mark.parametrize("body", [b"nonsense", b'{"outcome":'])
async def test_an_answer_that_makes_no_sense_hurts_nobody_else(tmp_path: Path, body: bytes) -> None:
    async with running_relay(tmp_path) as relay, active_session(relay) as client:
        await client.say("/ask", "t1")
        ref = (await client.until_asked()).frame.ref
        await relay.answer(client.session_id, ref, body, client_id="c2")
        await client.until_said("permission: cancelled")
        told = await client.until_notice("undelivered")  # for the answer itself is in the transcript
        assert told["requestId"] == ref
        assert told["reason"]
        await client.until_turn_end("t1")
        await client.say("hello", "t2")
        assert not (await client.until_turn_end("t2")).frame.failed
