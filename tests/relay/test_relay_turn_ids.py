"""The ids of turns: one turn each, however often a prompt comes, and whoever sends it."""

from __future__ import annotations

import json
from pathlib import Path

import anyio
import pytest

from relaykit.conversation import Entry, Kind
from relaykit.errors import Refused, SessionNotActive
from relaykit.hooks import hookimpl
from relaykit.relay import turns
from support.relays import Client, active_session, prompt, running_relay

pytestmark = pytest.mark.anyio


async def say(client: Client, text: str, turn: str, client_id: str = "c1") -> Entry | None:
    return await client.relay.prompt(client.session_id, prompt(text), client_id=client_id, turn=turn)


def prompts(client: Client) -> list[str]:
    return [told.removeprefix("PROMPT ") for told in client.told if told.startswith("PROMPT")]


async def test_a_turn_is_begun_once_while_it_runs_and_while_it_waits(tmp_path: Path) -> None:
    async with running_relay(tmp_path) as relay, active_session(relay) as client:
        assert await say(client, "/ask", "t1") is None
        asked = await client.until_asked()
        assert await say(client, "/ask", "t1", "c2") is None
        assert await say(client, "hello", "t2") is None
        assert await say(client, "other", "t2", "c2") is None
        assert relay.live(client.session_id).turn == "t1"
        await client.answer(asked.frame.ref)
        await client.until_turn_end("t2")
        await client.until_said("hello")
        assert prompts(client) == ["t1", "t2"]


async def test_a_turn_that_waits_twice_takes_one_place(tmp_path: Path) -> None:
    async with (
        running_relay(tmp_path, RELAY__MAX_QUEUED_PROMPTS="1") as relay,
        active_session(relay) as client,
    ):
        await say(client, "/ask", "t1")
        asked = await client.until_asked()
        await say(client, "hello", "t2")
        for turn in ("t1", "t2"):
            assert await say(client, "again", turn) is None
        await client.answer(asked.frame.ref)
        await client.until_turn_end("t2")
        assert prompts(client) == ["t1", "t2"]


async def test_who_says_an_ended_turn_again_is_told_how_it_ended(tmp_path: Path) -> None:
    async with running_relay(tmp_path) as relay, active_session(relay) as client:
        for turn, text in (("t1", "hello"), ("t2", "/fail")):
            await say(client, text, turn)
            end = await client.until_turn_end(turn)
            assert end.frame.failed == (text == "/fail")
            assert await say(client, "other", turn, "c2") == end
        assert relay.live(client.session_id).turn == ""
        assert prompts(client) == ["t1", "t2"]


async def test_a_turn_that_cannot_be_put_to_the_agent_has_ended_too(tmp_path: Path) -> None:
    async with running_relay(tmp_path) as relay, active_session(relay) as client:
        await relay.prompt(client.session_id, b"[1]", client_id="c1", turn="t1")
        end = await client.until_turn_end("t1")
        assert await say(client, "hello", "t1") == end


async def test_a_turn_that_was_taken_back_stays_so(tmp_path: Path) -> None:
    async with running_relay(tmp_path) as relay, active_session(relay) as client:
        await say(client, "/ask", "t1")
        asked = await client.until_asked()
        await say(client, "hello", "t2")
        end = relay.live(client.session_id).withdraw("t2")
        assert end is not None
        assert (end.seq, end.frame.kind, end.frame.ref, end.frame.failed) == (0, Kind.TURN_END, "t2", False)
        assert json.loads(end.frame.body) == {"stopReason": "cancelled"}
        assert await say(client, "hello", "t2") == end
        assert relay.live(client.session_id).withdraw("t2") is None
        await client.answer(asked.frame.ref)
        await client.until_turn_end("t1")
        await say(client, "last", "t3")
        await client.until_turn_end("t3")
        assert prompts(client) == ["t1", "t3"]


async def test_ended_turns_are_forgotten_in_their_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(turns, "_REMEMBERED", 2)
    async with running_relay(tmp_path) as relay, active_session(relay) as client:
        for turn in ("t1", "t2", "t3"):
            await say(client, "hello", turn)
            await client.until_turn_end(turn)
        assert await say(client, "hello", "t2") is not None
        assert await say(client, "hello", "t3") is not None
        assert await say(client, "hello", "t1") is None
        assert prompts(client)[:3] == ["t1", "t2", "t3"]


class Thinking:
    """A policy that thinks until it is told to go on, and refuses what says ``no``."""

    def __init__(self) -> None:
        self.asked = 0
        self.go_on = anyio.Event()

    @hookimpl
    async def relaykit_check_prompt(self, request: object) -> None:
        self.asked += 1
        await self.go_on.wait()
        if b'"no"' in getattr(request, "body", b""):
            raise Refused("no")


async def test_of_many_at_once_one_begins_while_policies_think(tmp_path: Path) -> None:
    policy = Thinking()
    async with running_relay(tmp_path, plugins={"policy": policy}) as relay, active_session(relay) as client:
        async with anyio.create_task_group() as tasks:
            for number in range(10):
                tasks.start_soon(say, client, "hello", "t1", f"c{number}")
            await anyio.wait_all_tasks_blocked()
            assert policy.asked == 10
            policy.go_on.set()
        await client.until_turn_end("t1")
        await say(client, "last", "t2")
        await client.until_turn_end("t2")
        assert prompts(client) == ["t1", "t2"]
        assert policy.asked == 11


async def test_a_refused_turn_may_be_said_again(tmp_path: Path) -> None:
    policy = Thinking()
    policy.go_on.set()
    async with running_relay(tmp_path, plugins={"policy": policy}) as relay, active_session(relay) as client:
        for _ in range(2):
            with pytest.raises(Refused):
                await say(client, "no", "t1")
        assert await say(client, "yes", "t1") is None
        await client.until_turn_end("t1")


async def test_an_ended_turn_is_told_while_the_session_ends(tmp_path: Path) -> None:
    async with running_relay(tmp_path) as relay, active_session(relay) as client:
        await say(client, "hello", "t1")
        end = await client.until_turn_end("t1")
        await relay.stop(client.session_id, "enough")
        assert await say(client, "hello", "t1") == end
        with pytest.raises(SessionNotActive):
            await say(client, "hello", "t2")
        await client.until_the_end()
