"""Who or what answered a question: told in the transcript, behind the answer, and known after a restart."""

from __future__ import annotations

from pathlib import Path

import pytest

from relaykit.conversation import Entry, Frame, Kind
from relaykit.hooks import hookimpl
from relaykit.hooks.events import QuestionAnswered
from relaykit.relay import Relay
from relaykit.relay.access import Access
from relaykit.relay.deciders import ANSWERED, CANCELLED, EXPIRED, UNKNOWN, Decider, Deciders, decided
from support.conversations import open_conversation
from support.relays import active_session, following, permission
from support.sleepers import REMEMBERING, House, until

pytestmark = pytest.mark.anyio


async def decisions(relay: Relay, session_id: str) -> list[Entry]:
    transcript = await relay.transcript(session_id, limit=1000)
    return [entry for entry in transcript if entry.frame.kind is Kind.DECISION]


async def test_who_answered_is_known_to_the_next_relay(tmp_path: Path) -> None:
    house = House(tmp_path)
    async with house.relay() as relay, active_session(relay, agent=REMEMBERING) as client:
        session_id = client.session_id
        await client.say("/ask", "t1")
        asked = await client.until_asked(1)
        await client.answer(asked.frame.ref)
        assert await client.until_decided(asked.frame.ref) == {
            "by": "c1",
            "outcome": "answered",
            "client": "c1",
        }
        await client.until_turn_end("t1")
        await client.say("/ask", "t2")
        await client.until_asked(2)
        await relay.cancel(session_id)
        await client.until_turn_end("t2")
        await client.say("/ask", "t3")
        await client.until_asked(3)
        await relay.live(session_id).fall_asleep("it is late")
    async with house.relay() as relay:
        deciders = relay.live(session_id).asking.deciders
        given = await decisions(relay, session_id)
        assert [deciders.of(entry.frame.ref) for entry in given] == [UNKNOWN, UNKNOWN, UNKNOWN]
        by_relay = Decider("relay", CANCELLED)
        assert [await deciders.find(entry) for entry in given] == [
            Decider("c1", ANSWERED, client_id="c1"),
            by_relay,
            by_relay,
        ]


async def test_an_application_says_who_its_clients_are(tmp_path: Path) -> None:
    answered: list[QuestionAnswered] = []

    class Ears:
        @hookimpl
        async def relaykit_on_question_answered(self, question: QuestionAnswered) -> None:
            answered.append(question)

    async with House(tmp_path).relay(plugins={"ears": Ears()}) as relay, active_session(relay) as client:
        ann = relay.restricted_to(Access(), name="ann@example.com")
        for number, (body, outcome) in enumerate([(permission("yes"), "answered"), (None, "cancelled")], 1):
            await client.say("/ask", f"t{number}")
            asked = await client.until_asked(number)
            await ann.answer(client.session_id, asked.frame.ref, body, client_id="c7")
            said = {"by": "ann@example.com", "outcome": outcome, "client": "c7"}
            assert await client.until_decided(asked.frame.ref) == said
            await client.until_turn_end(f"t{number}")
        await until(lambda: len(answered) == 2)
        assert [(told.by, told.client_id) for told in answered] == [("ann@example.com", "c7")] * 2


async def test_what_an_end_cancels_is_told_to_plugins(tmp_path: Path) -> None:
    answered: list[QuestionAnswered] = []

    class Ears:
        @hookimpl
        async def relaykit_on_question_answered(self, question: QuestionAnswered) -> None:
            answered.append(question)

    async with (
        House(tmp_path).relay(plugins={"ears": Ears()}) as relay,
        active_session(relay, agent=REMEMBERING) as client,
    ):
        await client.say("/ask", "t1")
        asked = await client.until_asked()
        await relay.stop(client.session_id, "enough")
        await client.until_the_end()
        await until(lambda: bool(answered))
        [told] = answered
        assert (told.request.ref, told.by, told.outcome) == (asked.frame.ref, "relay", "cancelled")


async def test_a_question_is_asked_before_anybody_is_there_and_answered_by_who_comes(tmp_path: Path) -> None:
    async with House(tmp_path).relay() as relay:
        async with active_session(relay, agent=REMEMBERING) as client:
            session_id = client.session_id
            await client.say("/sleep 0.2", "t1")
            await client.say("/ask", "t2")
        await until(lambda: len(relay.live(session_id).questions) == 1)  # nobody is there
        async with following(relay, session_id, client_id="late") as later:
            asked = await later.until_asked()
            await later.answer(asked.frame.ref)
            assert await later.until_decided(asked.frame.ref) == {
                "by": "late",
                "outcome": "answered",
                "client": "late",
            }
            await later.until_turn_end("t2")


# ---------------------------------------------------------------- alone


async def test_the_transcript_tells_and_an_older_one_does_not() -> None:
    conversation = await open_conversation()
    answers = [Frame(Kind.DECISION, b"{}", f"q{number}", "session/request_permission") for number in range(3)]
    entries = await conversation.publish(
        [
            answers[0],
            decided(answers[0], Decider("ann", ANSWERED)),
            answers[1],
            decided(answers[0], Decider("of another", ANSWERED)),
            answers[2],
        ]
    )
    deciders = Deciders(conversation.read)
    given = [entry for entry in entries if entry.frame.kind is Kind.DECISION]
    ann, bob = Decider("ann", ANSWERED), Decider("bob", EXPIRED, "nobody else was there")
    assert [await deciders.find(entry) for entry in given] == [ann, UNKNOWN, UNKNOWN]
    deciders.remember("q2", bob)
    assert await deciders.find(given[2]) == bob
    deciders.forget("q2")
    assert deciders.of("q2") is UNKNOWN


async def test_memory_is_bounded() -> None:
    deciders = Deciders((await open_conversation()).read)
    ann = Decider("ann", ANSWERED)
    for number in range(1000):
        deciders.remember(f"q{number}", ann)
    assert deciders.of("q999") == ann
    assert deciders.of("q0") is UNKNOWN
