"""Prompts that come at once: they wait in order, or are refused; who follows can see which wait."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest

from relaykit.conversation import Kind
from relaykit.errors import TurnQueueFull
from relaykit.relay import LiveSession
from relaykit.relay.rest import Presence
from support.conversations import frames, open_conversation
from support.relays import PATIENCE, Client, active_session, running_relay
from support.sleepers import REMEMBERING, House, until_presence

pytestmark = pytest.mark.anyio


def waiting(live: LiveSession) -> list[str]:
    return [prompt.turn for prompt in live.queue.turns.waiting]


@asynccontextmanager
async def busy_session(directory: Path, when_busy: str = "queue") -> AsyncIterator[Client]:
    """Run a session whose turn ``t1`` waits for an answer."""
    async with running_relay(directory, RELAY__WHEN_BUSY=when_busy) as relay, active_session(relay) as client:
        await client.say("/ask", "t1")
        await client.until_asked()
        yield client


async def go_on(client: Client) -> None:
    """Let the turn that waits for an answer end."""
    asked = await client.until_asked()
    await client.answer(asked.frame.ref)


async def test_prompts_wait_in_order(tmp_path: Path) -> None:
    async with busy_session(tmp_path) as client:
        live = client.relay.live(client.session_id)
        assert live.queue.version == 0
        for number in range(2, 5):
            await client.say(f"prompt {number}", f"t{number}")
        assert waiting(live) == ["t2", "t3", "t4"]
        assert live.queue.version == 3
        await go_on(client)
        await client.until_turn_end("t4")
        prompts = [entry.frame.ref for entry in client.entries if entry.frame.kind is Kind.PROMPT]
        assert prompts == ["t1", "t2", "t3", "t4"]
        assert waiting(live) == []
        assert live.queue.version == 6
        await client.say("nobody waits", "t5")
        await client.until_turn_end("t5")
        assert live.queue.version == 6


async def test_a_prompt_that_is_taken_back_waits_no_more(tmp_path: Path) -> None:
    async with busy_session(tmp_path) as client:
        live = client.relay.live(client.session_id)
        await client.say("two", "t2")
        await client.say("three", "t3")
        assert live.withdraw("t2") is not None
        assert (waiting(live), live.queue.version) == (["t3"], 3)
        assert live.withdraw("t2") is None
        assert live.queue.version == 3
        await go_on(client)
        await client.until_turn_end("t3")


async def test_while_a_turn_runs_a_prompt_may_be_refused(tmp_path: Path) -> None:
    async with busy_session(tmp_path, "refuse") as client:
        with pytest.raises(TurnQueueFull, match="before it takes a prompt") as caught:
            await client.say("two", "t2")
        assert caught.value.limit == 0
        assert not client.relay.live(client.session_id).queue.turns.waiting
        await go_on(client)
        await client.until_turn_end("t1")
        await client.say("two", "t2")
        await client.until_turn_end("t2")
        await client.say("/sleep 0", "t3")
        await client.until_turn_end("t3")


async def test_of_twenty_prompts_at_once_one_is_not_refused(tmp_path: Path) -> None:
    async with (
        running_relay(tmp_path, RELAY__WHEN_BUSY="refuse") as relay,
        active_session(relay) as client,
    ):
        refused: list[TurnQueueFull] = []

        async def say(number: int) -> None:
            try:
                await client.say("/sleep 600", f"t{number}")
            except TurnQueueFull as error:
                refused.append(error)

        with anyio.fail_after(PATIENCE):
            async with anyio.create_task_group() as tasks:
                for number in range(20):
                    tasks.start_soon(say, number)
        assert len(refused) == 19
        await relay.cancel(client.session_id)


@pytest.mark.parametrize(("when_busy", "most"), [("refuse", "16"), ("queue", "0")])
async def test_who_refuses_prompts_wakes_an_agent_for_one_all_the_same(
    tmp_path: Path, when_busy: str, most: str
) -> None:
    house = House(tmp_path)
    refusing = house.relay(RELAY__WHEN_BUSY=when_busy, RELAY__MAX_QUEUED_PROMPTS=most)
    async with refusing as relay, active_session(relay, agent=REMEMBERING) as client:
        await relay.live(client.session_id).fall_asleep("it is late")
        house.install("--delay", "0.5")
        await client.say("one", "t1")
        await until_presence(relay, client.session_id, Presence.WAKING)
        with pytest.raises(TurnQueueFull):
            await client.say("two", "t2")
        await client.until_turn_end("t1")


async def test_what_waits_is_gone_with_the_session(tmp_path: Path) -> None:
    async with busy_session(tmp_path) as client:
        live = client.relay.live(client.session_id)
        await client.say("two", "t2")
        await client.relay.stop(client.session_id, "enough")
        await client.until_the_end()
        assert (waiting(live), live.queue.version) == ([], 2)


# ---------------------------------------------------------------- nudges


async def test_who_has_read_everything_wakes_at_a_nudge_with_nothing() -> None:
    conversation = await open_conversation()
    cursor = conversation.attach()
    await conversation.publish(frames(1, 2))
    conversation.nudge()
    assert [entry.seq for entry in (await cursor.next()).entries] == [1, 2]
    woken = anyio.Event()

    async def read() -> None:
        for _ in range(2):
            batch = await cursor.next()
            assert (batch.entries, batch.gap, batch.caught_up) == ((), None, False)
        woken.set()

    with anyio.fail_after(PATIENCE):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(read)
            await anyio.wait_all_tasks_blocked()
            conversation.nudge()
            await woken.wait()
        await conversation.publish(frames(3, 3))
        assert [entry.seq for entry in (await cursor.next()).entries] == [3]


async def test_who_comes_later_knows_nothing_of_earlier_nudges() -> None:
    conversation = await open_conversation()
    conversation.nudge()
    cursor = conversation.attach()
    assert (await cursor.next()).caught_up
    with anyio.move_on_after(0.05) as waiting_on:
        await cursor.next()
    assert waiting_on.cancelled_caught
