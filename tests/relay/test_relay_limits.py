"""Limits: questions that nobody answers, sessions that nobody uses or that live too long, and too many of them."""

from __future__ import annotations

import json
from pathlib import Path

import anyio
import pytest

from relaykit.conversation import Kind
from relaykit.errors import DuplicateRole, QuestionClosed, SessionLimit
from relaykit.hooks import hookimpl
from relaykit.hooks.events import QuestionAnswered
from relaykit.relay import Relay
from relaykit.session import Cause, Session
from relaykit.testing import FakeClock
from support.relays import PATIENCE, active_session, ended, following, relay_by, running_relay
from support.sleepers import FORGETFUL, REMEMBERING, House, look, until

pytestmark = pytest.mark.anyio

HOUR = 3600.0


async def cause_of(relay: Relay, session_id: str) -> tuple[Cause | None, str]:
    await ended(relay, session_id)
    session = await relay.find(session_id)
    return session.cause, session.reason or ""


# ---------------------------------------------------------------- questions


@pytest.mark.parametrize(("text", "answer"), [("/ask", "permission: no"), ("/elicit", "decline")])
async def test_after_hours_a_question_is_answered_with_no(tmp_path: Path, text: str, answer: str) -> None:
    answered: list[QuestionAnswered] = []

    class Ears:
        @hookimpl
        async def relaykit_on_question_answered(self, question: QuestionAnswered) -> None:
            answered.append(question)

    clock = FakeClock()
    limited = relay_by(clock, tmp_path, plugins={"ears": Ears()}, RELAY__PERMISSION_TIMEOUT="7200")
    async with limited as relay, active_session(relay) as client:
        await client.say(text, "t1")
        asked = await client.until_asked()
        clock.advance(2 * HOUR - 1)
        await look(relay)
        assert len(relay.live(client.session_id).questions) == 1
        clock.advance(1)
        said = {"by": "relay", "outcome": "expired", "reason": "nobody answered within 7200 s"}
        assert await client.until_decided(asked.frame.ref) == said
        await client.until_said(answer)
        assert not (await client.until_turn_end("t1")).frame.failed
        with pytest.raises(QuestionClosed):
            await client.answer(asked.frame.ref)
        await until(lambda: bool(answered))
        [told] = answered
        assert (told.by, told.outcome, told.seconds) == ("relay", "expired", 2 * HOUR)


async def test_each_question_has_its_own_time(tmp_path: Path) -> None:
    clock = FakeClock()
    limited = relay_by(clock, tmp_path, RELAY__PERMISSION_TIMEOUT="3600")
    async with limited as relay, active_session(relay) as client:
        ask = {"jsonrpc": "2.0", "method": "session/request_permission", "params": {"options": []}}
        await client.say(f"/raw {json.dumps({**ask, 'id': 'a'})}", "t1")
        first = await client.until_asked(1)
        clock.advance(HOUR / 2)
        await client.say(f"/raw {json.dumps({**ask, 'id': 'b'})}", "t2")
        second = await client.until_asked(2)
        clock.advance(HOUR / 2)
        await client.until_decided(first.frame.ref)
        [left] = relay.live(client.session_id).questions
        assert left.request.ref == second.frame.ref
        clock.advance(HOUR / 2)
        await client.until_decided(second.frame.ref)


async def test_without_a_timeout_a_question_waits_for_days(tmp_path: Path) -> None:
    clock = FakeClock()
    async with relay_by(clock, tmp_path) as relay:
        async with active_session(relay) as client:
            await client.say("/ask", "t1")
            asked = await client.until_asked()
        clock.advance(72 * HOUR)
        await look(relay)
        async with following(relay, client.session_id, client_id="later") as later:
            await later.answer(asked.frame.ref)
            await later.until_said("permission: yes")


async def test_of_an_answer_and_the_end_of_the_time_one_wins(tmp_path: Path) -> None:
    clock = FakeClock()
    limited = relay_by(clock, tmp_path, RELAY__PERMISSION_TIMEOUT="60")
    async with limited as relay, active_session(relay) as client:
        for number in range(1, 11):
            await client.say("/ask", f"t{number}")
            asked = await client.until_asked(number)
            lost: list[QuestionClosed] = []

            async def answer(ref: str, lost: list[QuestionClosed] = lost) -> None:
                try:
                    await client.answer(ref)
                except QuestionClosed as error:
                    lost.append(error)

            clock.advance(61)
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(answer, asked.frame.ref)
                tasks.start_soon(look, relay)
            told = await client.until_decided(asked.frame.ref)
            assert (told["by"] == "relay") is bool(lost)
            await client.until_turn_end(f"t{number}")
        assert client.told.count("DECISION session/request_permission") == 10


# ---------------------------------------------------------------- grace


async def test_who_left_for_good_has_a_session_ended_that_could_not_sleep(tmp_path: Path) -> None:
    clock = FakeClock()
    async with House(tmp_path, *FORGETFUL).relay(clock=clock, RELAY__GRACE_PERIOD="600") as relay:
        async with active_session(relay, agent=REMEMBERING) as client:
            clock.advance(HOUR)  # somebody is there
            await look(relay)
        clock.advance(599)
        await look(relay)
        assert await relay.get(client.session_id) is not None
        async with following(relay, client.session_id):  # and again
            clock.advance(HOUR)
            await look(relay)
        clock.advance(599)
        await look(relay)
        assert await relay.get(client.session_id) is not None
        clock.advance(1)
        cause, reason = await cause_of(relay, client.session_id)
        assert cause is Cause.GRACE
        assert "no client for 600 s" in reason


async def test_a_session_that_can_sleep_knows_no_grace(tmp_path: Path) -> None:
    clock = FakeClock()
    async with House(tmp_path).relay(clock=clock, RELAY__GRACE_PERIOD="60", RELAY__IDLE_TIMEOUT="0") as relay:
        async with active_session(relay, agent=REMEMBERING) as client:
            pass
        clock.advance(HOUR)
        await look(relay)
        await look(relay)
        assert await relay.get(client.session_id) is not None


@pytest.mark.parametrize("said", ["/sleep 600", "/ask"], ids=["a turn", "a question"])
async def test_grace_lasts_as_long_as_something_is_in_the_midst(tmp_path: Path, said: str) -> None:
    clock = FakeClock()
    async with House(tmp_path, *FORGETFUL).relay(clock=clock, RELAY__GRACE_PERIOD="60") as relay:
        async with active_session(relay, agent=REMEMBERING) as client:
            session_id = client.session_id
            await client.say(said, "t1")
            await client.until(
                lambda entry: entry.frame.kind is (Kind.REQUEST if said == "/ask" else Kind.PROMPT)
            )
        clock.advance(HOUR)
        await look(relay)
        assert await relay.get(session_id) is not None
        await relay.cancel(session_id)
        await until(lambda: not relay.live(session_id).busy)
        await look(relay)  # it has ended now, and nobody knows yet
        assert await relay.get(session_id) is not None
        clock.advance(60)
        assert (await cause_of(relay, session_id))[0] is Cause.GRACE


# ---------------------------------------------------------------- duration


async def test_a_session_ends_when_it_has_lived_long_enough(tmp_path: Path) -> None:
    clock = FakeClock()
    async with House(tmp_path).relay(clock=clock, RELAY__MAX_DURATION="7200") as relay:
        async with active_session(relay, agent=REMEMBERING) as client:
            clock.advance(2 * HOUR - 1)
            await look(relay)
            assert await relay.get(client.session_id) is not None
            clock.advance(1)
            await client.until_the_end()
        cause, reason = await cause_of(relay, client.session_id)
        assert (cause, reason) == (Cause.LIMIT, "it has lived for 7200 s, as long as it may")


async def test_it_ends_also_while_it_sleeps(tmp_path: Path) -> None:
    clock = FakeClock()
    async with House(tmp_path).relay(clock=clock, RELAY__MAX_DURATION="7200") as relay:
        async with active_session(relay, agent=REMEMBERING) as client:
            await relay.live(client.session_id).fall_asleep("it is late")
        clock.advance(2 * HOUR)
        assert (await cause_of(relay, client.session_id))[0] is Cause.LIMIT


async def test_the_turn_that_runs_goes_on_to_its_end_and_no_other_begins(tmp_path: Path) -> None:
    clock = FakeClock()
    async with (
        House(tmp_path).relay(clock=clock, RELAY__MAX_DURATION="3600") as relay,
        active_session(relay, agent=REMEMBERING) as client,
    ):
        await client.say("/ask", "t1")
        asked = await client.until_asked()
        await client.say("never begun", "t2")
        clock.advance(HOUR)
        await look(relay)
        assert await relay.get(client.session_id) is not None
        await client.answer(asked.frame.ref)
        assert not (await client.until_turn_end("t1")).frame.failed
        await client.until_the_end()
        assert "PROMPT t2" not in client.told
        assert (await cause_of(relay, client.session_id))[0] is Cause.LIMIT


async def test_a_restart_gives_no_new_life_and_being_revived_does(tmp_path: Path) -> None:
    clock = FakeClock()
    house = House(tmp_path)
    async with house.relay(clock=clock, RELAY__MAX_DURATION="3600") as relay:
        async with active_session(relay, agent=REMEMBERING) as client:
            session_id = client.session_id
        clock.advance(HOUR / 2)
    async with house.relay(clock=clock, RELAY__MAX_DURATION="3600") as relay:
        await look(relay)
        assert await relay.get(session_id) is not None
        clock.advance(HOUR / 2)
        assert (await cause_of(relay, session_id))[0] is Cause.LIMIT
        await relay.revive(session_id)
        async with following(relay, session_id) as client:
            await client.until(
                lambda entry: entry.frame.method == "active" and entry.seq > relay.live(session_id).inherited
            )
            await look(relay)
            assert await relay.get(session_id) is not None
    clock.advance(HOUR / 2)
    async with house.relay(clock=clock, RELAY__MAX_DURATION="3600") as relay:
        await look(relay)
        assert await relay.get(session_id) is not None
        clock.advance(HOUR / 2)
        assert (await cause_of(relay, session_id))[0] is Cause.LIMIT


# ---------------------------------------------------------------- how many


async def test_no_more_sessions_than_are_allowed(tmp_path: Path) -> None:
    async with running_relay(tmp_path, RELAY__MAX_SESSIONS="2") as relay:
        one = await relay.create("one", owner="ann")
        await relay.create("two", owner="bob")
        with pytest.raises(SessionLimit) as caught:
            await relay.create("three", owner="cas")
        assert (caught.value.limit, caught.value.owner) == (2, "")
        assert "max_sessions in [relay]" in str(caught.value)
        with pytest.raises(DuplicateRole):  # who means the one that there is hears so
            await relay.create("two", owner="bob")
        await relay.stop(one.id, "enough")
        await ended(relay, one.id)
        await relay.create("three", owner="cas")
        with pytest.raises(SessionLimit):
            await relay.revive(one.id)


async def test_no_more_sessions_of_an_owner_than_are_allowed(tmp_path: Path) -> None:
    async with running_relay(tmp_path, RELAY__MAX_SESSIONS_PER_OWNER="1") as relay:
        one = await relay.create("one", owner="ann")
        await relay.create("two", owner="bob")
        with pytest.raises(SessionLimit) as caught:
            await relay.create("three", owner="ann")
        assert (caught.value.limit, caught.value.owner) == (1, "ann")
        await relay.stop(one.id, "enough")
        await ended(relay, one.id)
        await relay.revive(one.id)


async def test_of_twenty_at_once_as_many_are_made_as_are_allowed(tmp_path: Path) -> None:
    made: list[Session] = []
    refused: list[SessionLimit] = []
    async with running_relay(tmp_path, RELAY__MAX_SESSIONS="3") as relay:

        async def create(number: int) -> None:
            try:
                made.append(await relay.create(f"role-{number}"))
            except SessionLimit as error:
                refused.append(error)

        with anyio.fail_after(PATIENCE):
            async with anyio.create_task_group() as tasks:
                for number in range(20):
                    tasks.start_soon(create, number)
        assert (len(made), len(refused)) == (3, 17)


async def test_what_could_not_be_created_counts_for_nothing(tmp_path: Path) -> None:
    async with running_relay(tmp_path, RELAY__MAX_SESSIONS="2") as relay:
        await relay.create("one")
        for _ in range(5):
            with pytest.raises(DuplicateRole):
                await relay.create("one")
        await relay.create("two")


async def test_sessions_of_an_earlier_relay_count(tmp_path: Path) -> None:
    house = House(tmp_path)
    async with house.relay() as relay, active_session(relay, agent=REMEMBERING):
        pass
    async with house.relay(RELAY__MAX_SESSIONS="1") as relay:
        with pytest.raises(SessionLimit):
            await relay.create("another", agent=REMEMBERING)
