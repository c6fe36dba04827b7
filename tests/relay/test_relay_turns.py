"""Turns: one at a time and in order; cancelled, failed, or interrupted, each is seen to end."""

from __future__ import annotations

import json
from pathlib import Path

import anyio
import pytest

from relaykit.conversation import Entry, Kind
from relaykit.errors import SessionNotActive, TurnQueueFull
from support.relays import Client, active_session, ended, nothing_is_left, prompt, running_relay

pytestmark = pytest.mark.anyio


def turns(client: Client) -> list[str]:
    """Return where turns begin and end."""
    return [told for told in client.told if told.startswith(("PROMPT", "TURN_END"))]


def error_of(end: Entry) -> str:
    assert end.frame.failed
    message: str = json.loads(end.frame.body)["message"]
    return message


async def test_prompts_wait_for_the_running_turn_in_order(tmp_path: Path) -> None:
    async with running_relay(tmp_path) as relay, active_session(relay) as client:
        await client.say("/ask", "t0")
        asked = await client.until_asked()
        for number in range(1, 6):
            await client.say(f"prompt {number}", f"t{number}")
        await anyio.wait_all_tasks_blocked()
        assert turns(client) == ["PROMPT t0"]
        await client.answer(asked.frame.ref)
        await client.until_turn_end("t5")
        assert turns(client) == [
            f"{kind} t{number}" for number in range(6) for kind in ("PROMPT", "TURN_END")
        ]
        said = [entry.frame.body for entry in client.entries if b"prompt " in entry.frame.body]
        assert [body for body in said if b"agent_message_chunk" in body] == [
            said[place] for place in range(1, 10, 2)
        ]


async def test_prompts_of_many_clients_at_once_all_get_their_turn(tmp_path: Path) -> None:
    async with (
        running_relay(tmp_path, RELAY__MAX_QUEUED_PROMPTS="50") as relay,
        active_session(relay) as client,
    ):
        async with anyio.create_task_group() as tasks:
            for number in range(30):
                tasks.start_soon(client.say, f"prompt {number}", f"t{number}")
        for number in range(30):
            await client.until_turn_end(f"t{number}")
        told = turns(client)
        begun = [line.removeprefix("PROMPT ") for line in told[::2]]
        assert sorted(begun) == sorted(f"t{number}" for number in range(30))
        assert told == [f"{kind} {turn}" for turn in begun for kind in ("PROMPT", "TURN_END")]


@pytest.mark.parametrize("limit", [0, 2])
async def test_too_many_prompts_are_refused(tmp_path: Path, limit: int) -> None:
    async with (
        running_relay(tmp_path, RELAY__MAX_QUEUED_PROMPTS=str(limit)) as relay,
        active_session(relay) as client,
    ):
        await client.say("/ask", "t0")
        asked = await client.until_asked()
        for number in range(limit):
            await client.say("hello", f"t{number + 1}")
        with pytest.raises(TurnQueueFull) as caught:
            await client.say("hello", "too many")
        assert (caught.value.session_id, caught.value.limit) == (client.session_id, limit)
        await client.answer(asked.frame.ref)
        await client.until_turn_end(f"t{limit}")
        await client.say("hello", "later")
        await client.until_turn_end("later")
        assert "PROMPT too many" not in client.told


# ---------------------------------------------------------------- cancelled


async def test_a_cancelled_turn_ends_as_cancelled(tmp_path: Path) -> None:
    async with running_relay(tmp_path) as relay, active_session(relay) as client:
        await client.say("/sleep 600", "t1")
        await client.until(lambda entry: entry.frame.kind is Kind.PROMPT)
        await relay.cancel(client.session_id)
        await relay.cancel(client.session_id)  # once is enough
        end = await client.until_turn_end("t1")
        assert json.loads(end.frame.body) == {"stopReason": "cancelled"}
        assert not end.frame.failed
        assert client.told.count("CANCEL session/cancel") == 1
        await client.say("hello", "t2")
        assert not (await client.until_turn_end("t2")).frame.failed


async def test_what_waits_goes_on_after_a_cancelled_turn(tmp_path: Path) -> None:
    async with running_relay(tmp_path) as relay, active_session(relay) as client:
        await client.say("/sleep 600", "t1")
        await client.say("hello", "t2")
        await relay.cancel(client.session_id)
        await client.until_turn_end("t2")
        await client.until_said("hello")
        assert turns(client) == ["PROMPT t1", "TURN_END t1", "PROMPT t2", "TURN_END t2"]


async def test_cancelling_without_a_turn_does_nothing(tmp_path: Path) -> None:
    async with running_relay(tmp_path) as relay, active_session(relay) as client:
        await relay.cancel(client.session_id)
        await client.say("hello", "t1")
        await client.until_turn_end("t1")
        await relay.cancel(client.session_id)
        await client.say("again", "t2")
        end = await client.until_turn_end("t2")
        assert json.loads(end.frame.body) == {"stopReason": "end_turn"}
        assert "CANCEL session/cancel" not in client.told


async def test_a_cancelled_turn_has_its_questions_answered(tmp_path: Path) -> None:
    async with running_relay(tmp_path) as relay, active_session(relay) as client:
        await client.say("/ask", "t1")
        asked = await client.until_asked()
        await relay.cancel(client.session_id)
        end = await client.until_turn_end("t1")
        assert json.loads(end.frame.body) == {"stopReason": "cancelled"}
        decisions = [entry.frame for entry in client.entries if entry.frame.kind is Kind.DECISION]
        assert [frame.ref for frame in decisions] == [asked.frame.ref]
        assert json.loads(decisions[0].body) == {"outcome": {"outcome": "cancelled"}}
        await client.until_said("permission: cancelled")
        assert len(relay.live(client.session_id).questions) == 0


# ---------------------------------------------------------------- failed and interrupted


async def test_an_agent_that_answers_with_an_error_fails_the_turn_alone(tmp_path: Path) -> None:
    async with running_relay(tmp_path) as relay, active_session(relay) as client:
        await client.say("/fail", "t1")
        assert error_of(await client.until_turn_end("t1")) == "told to fail"
        await client.say("hello", "t2")
        assert not (await client.until_turn_end("t2")).frame.failed


async def test_an_agent_that_crashes_ends_its_session_by_setting(tmp_path: Path) -> None:
    async with running_relay(tmp_path, RELAY__ON_CRASH="end") as relay, active_session(relay) as client:
        session = await relay.require(client.session_id)
        await client.say("/crash 3", "t1")
        assert "exited with 3" in error_of(await client.until_turn_end("t1"))
        last = await client.until_notice("ended")
        assert last["cause"] == "AGENT_EXITED"
        assert "it exited with 3" in last["reason"]
        assert "echo: told to crash" in last["reason"]
        await client.until_the_end()
        await ended(relay, client.session_id)
        await nothing_is_left(relay, session)
        async with active_session(relay) as again:  # the role is free
            assert again.session_id != client.session_id


async def test_a_stop_interrupts_the_turn(tmp_path: Path) -> None:
    async with running_relay(tmp_path) as relay, active_session(relay) as client:
        session = await relay.require(client.session_id)
        await client.say("/sleep 600", "t1")
        await client.say("never said", "t2")
        await client.until(lambda entry: entry.frame.kind is Kind.PROMPT)
        await relay.stop(client.session_id, "enough")
        end = await client.until_turn_end("t1")
        assert error_of(end) == "interrupted: enough"
        await client.until_the_end()
        assert client.told == [
            "NOTICE active",
            "PROMPT t1",
            "TURN_END t1",
            "NOTICE terminating",
            "NOTICE ended",
        ]
        await ended(relay, client.session_id)
        await nothing_is_left(relay, session)


async def test_a_stop_answers_the_open_questions(tmp_path: Path) -> None:
    async with running_relay(tmp_path) as relay, active_session(relay) as client:
        await client.say("/ask", "t1")
        asked = await client.until_asked()
        await relay.stop(client.session_id, "enough")
        await client.until_the_end()
        decision = await client.until(lambda entry: entry.frame.kind is Kind.DECISION)
        assert decision.frame.ref == asked.frame.ref
        assert json.loads(decision.frame.body) == {"outcome": {"outcome": "cancelled"}}
        assert decision.seq < (await client.until_turn_end("t1")).seq


async def test_an_ending_session_takes_no_prompt(tmp_path: Path) -> None:
    async with running_relay(tmp_path) as relay, active_session(relay) as client:
        await relay.stop(client.session_id, "enough")
        with pytest.raises(SessionNotActive) as caught:
            await client.say("hello", "t1")
        assert caught.value.state == "TERMINATING"
        await client.until_the_end()


async def test_a_message_over_the_limit_ends_the_session_with_the_agents_fault(tmp_path: Path) -> None:
    limited = running_relay(tmp_path, PLUGINS__ACP__MAX_FRAME_BYTES="10000")
    async with limited as relay, active_session(relay) as client:
        await client.say("/huge 50000", "t1")
        last = await client.until_notice("ended")
        assert last["cause"] == "AGENT_EXITED"
        assert "a message longer than 10000 bytes" in last["reason"]


@pytest.mark.parametrize("body", [b"[1]", b"nonsense", b'{"prompt":', b"7", b""])
async def test_a_prompt_that_makes_no_sense_hurts_nobody_else(tmp_path: Path, body: bytes) -> None:
    async with running_relay(tmp_path) as relay, active_session(relay) as client:
        try:
            await relay.prompt(client.session_id, body, client_id="c2", turn="t1")
        except ValueError:
            pass  # it may be refused at once
        else:
            await client.until_turn_end("t1")
        await client.say("hello", "t2")
        await client.until_said("hello")
        assert not (await client.until_turn_end("t2")).frame.failed


async def test_a_thousand_updates_come_once_and_in_order(tmp_path: Path) -> None:
    async with running_relay(tmp_path, RELAY__TAIL_BYTES="5000") as relay, active_session(relay) as client:
        await relay.prompt(client.session_id, prompt("/stream 1000"), client_id="c1", turn="t1")
        await client.until_turn_end("t1")
        texts = [
            json.loads(entry.frame.body)["update"]["content"]["text"]
            for entry in client.entries
            if entry.frame.kind is Kind.UPDATE
        ]
        assert [int(text.split()[0]) for text in texts] == list(range(1000))
        assert [entry.seq for entry in client.entries] == list(range(1, len(client.entries) + 1))
