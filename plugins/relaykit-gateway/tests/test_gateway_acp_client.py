from __future__ import annotations

import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeVar

import anyio
import pytest

from relaykit.ids import SystemIds
from relaykit.settings import load_settings
from relaykit_gateway.acp_client import (
    AcpClient,
    AcpError,
    Event,
    Gap,
    Question,
    QuestionClosed,
    SessionAsleep,
    SessionEnded,
    SessionOpened,
    TurnEnded,
    TurnStarted,
    Update,
    connect_acp,
)
from relaykit_gateway.acp_client.reading import event_of
from relaykit_gateway.address import Address, find_relay
from relaykit_gateway.websocket_client import Disconnected, UpgradeRefused
from support.programs import Place, serving

pytestmark = pytest.mark.anyio

SECONDS = 20

E = TypeVar("E")


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Address]:
    """The address of a relay that runs, as its own program."""
    place = Place(tmp_path_factory.mktemp("acp-client"))
    with serving(place):
        yield find_relay(load_settings(environ=place.environment(), cwd=place.work))
    assert place.processes() == []


@asynccontextmanager
async def session(address: Address) -> AsyncIterator[tuple[AcpClient, str]]:
    """Create a session, and end it at the end. All of it has a deadline."""
    with anyio.fail_after(SECONDS):
        async with connect_acp(address) as client:
            opened = await client.new_session()
            assert await until(client, SessionOpened) == opened
            yield client, opened.session_id
            await client.close_session(opened.session_id)


async def until(client: AcpClient, kind: type[E], heard: list[Event] | None = None) -> E:
    """Return the next event of a kind; those before it are `heard`."""
    async for event in client:
        if isinstance(event, kind):
            return event
        if heard is not None:
            heard.append(event)
    raise AssertionError


def texts(events: list[Event], kind: str = "agent_message_chunk") -> list[str]:
    updates = [event.update for event in events if isinstance(event, Update)]
    return [update["content"]["text"] for update in updates if update["sessionUpdate"] == kind]


async def test_a_session_from_its_beginning_to_its_end(address: Address) -> None:
    with anyio.fail_after(SECONDS):
        async with connect_acp(address, agent="echo") as client:
            assert client.initialized["agentInfo"]["name"] == "relaykit-echo"
            opened = await client.new_session(role="whole")
            assert (opened.role, opened.agent, opened.project) == ("whole", "echo", "default")
            assert opened.result["modes"]["currentModeId"] == "echo"
            assert opened.cwd.endswith("work")
            assert opened.epoch
            assert await client.prompt(opened.session_id, "Grüße " * 20_000) == "end_turn"
            heard: list[Event] = []
            ended = await until(client, TurnEnded, heard)
            assert heard[0] == opened
            assert texts(heard) == ["Grüße " * 20_000]
            assert (ended.stop_reason, ended.error) == ("end_turn", None)
            seqs = [event.seq for event in heard if isinstance(event, Update)]
            assert opened.seq < seqs[0] < ended.seq
            await client.close_session(opened.session_id)
            over = await until(client, SessionEnded)
            assert (over.session_id, over.cause) == (opened.session_id, "REQUESTED")
            assert {result["outcome"] for result in over.cleanup} == {"DONE"}


async def test_history_is_read_backwards(address: Address) -> None:
    async with session(address) as (client, session_id):
        await client.begin_prompt(session_id, "/ask", turn="t1")
        question = await until(client, Question)
        await client.answer(question, "yes")
        await until(client, TurnEnded)
        page = await client.history(session_id, limit=2)
        assert (page.session_id, page.gap, len(page.entries)) == (session_id, None, 2)
        assert page.epoch
        entries = list(page.entries)
        while page.next is not None:
            page = await client.history(session_id, before=page.next, limit=2)
            entries += page.entries
        assert [entry.seq for entry in entries] == list(range(entries[0].seq, 0, -1))
        said = [event for entry in reversed(entries) for event in entry.events]
        assert question in said
        assert said.index(question) < [type(event) for event in said].index(QuestionClosed)
        assert texts(said, "user_message_chunk") == ["/ask"]
        with pytest.raises(AcpError, match="nobody"):
            await client.history("nobody")


async def test_what_failed_raises_and_is_told(address: Address) -> None:
    async with session(address) as (client, session_id):
        with pytest.raises(AcpError, match="told to fail") as caught:
            await client.prompt(session_id, "/fail")
        assert caught.value.code == -32603
        assert (await until(client, TurnEnded)).error is caught.value
        with pytest.raises(AcpError, match="no such mode") as caught:
            await client.set_mode(session_id, "whisper")
        assert caught.value.code == -32602
        with pytest.raises(AcpError) as caught:
            await client.call("_no/such", {"sessionId": session_id})
        assert caught.value.code == -32601
        for follow in (client.load_session, client.resume_session):
            with pytest.raises(AcpError, match="nobody") as caught:
                await follow("nobody")
            assert caught.value.code == -32002
        await client.set_mode(session_id, "shout")
        update = await until(client, Update)
        assert update.update["currentModeId"] == "shout"


async def test_another_client_hears_what_was_missed_and_what_is_said(address: Address) -> None:
    async with session(address) as (one, session_id), connect_acp(address) as other:
        await one.prompt(session_id, "first")
        middle = (await until(one, TurnEnded)).seq
        await one.prompt(session_id, "second")
        opened = await other.load_session(session_id)
        assert (opened.turn_running, opened.role != "") == (None, True)
        heard: list[Event] = []
        assert await until(other, SessionOpened, heard) == opened
        assert texts(heard) == ["first", "second"]
        assert texts(heard, "user_message_chunk") == ["first", "second"]
        started = [event.turn for event in heard if isinstance(event, TurnStarted)]
        assert started == [event.turn for event in heard if isinstance(event, TurnEnded)]
        assert len(set(started)) == 2
        turn = await one.begin_prompt(session_id, "third")
        heard = []
        assert (await until(other, TurnEnded, heard)).turn == turn
        assert texts(heard) == texts(heard, "user_message_chunk") == ["third"]

        again = await other.load_session(session_id, after=middle, epoch=opened.epoch)
        heard = []
        assert await until(other, SessionOpened, heard) == again
        assert texts(heard) == ["second", "third"]
        again = await other.resume_session(session_id)
        heard = []
        assert await until(other, SessionOpened, heard) == again
        assert heard == []
        assert again.seq >= opened.seq


async def test_the_first_answer_wins_and_the_others_are_told(address: Address) -> None:
    async with session(address) as (one, session_id), connect_acp(address) as other:
        await other.resume_session(session_id)
        turn = await one.begin_prompt(session_id, "/ask")
        asked = await until(one, Question)
        assert (asked.session_id, asked.method) == (session_id, "session/request_permission")
        assert [option["optionId"] for option in asked.params["options"]] == ["yes", "no"]
        same = await until(other, Question)
        assert (same.id, same.seq) == (asked.id, asked.seq)
        async with connect_acp(address) as late:
            await late.load_session(session_id)
            assert (await until(late, Question)).id == asked.id
        await other.answer(same, "no")
        assert (await until(one, QuestionClosed)).id == asked.id
        heard: list[Event] = []
        assert (await until(one, TurnEnded, heard)).turn == turn
        assert texts(heard) == ["permission: no"]


async def test_forms_and_declined_permissions(address: Address) -> None:
    async with session(address) as (client, session_id):
        heard: list[Event] = []
        await client.begin_prompt(session_id, "/elicit")
        question = await until(client, Question)
        await client.respond(question, {"action": "accept", "content": {"name": "Ada"}})
        await until(client, TurnEnded, heard)
        assert texts(heard) == ['elicitation: {"action": "accept", "content": {"name": "Ada"}}']
        await client.begin_prompt(session_id, "/ask")
        await client.answer(await until(client, Question), None)
        await until(client, TurnEnded, heard)
        assert texts(heard)[1:] == ["permission: cancelled"]


async def test_turns_are_cancelled_and_prompts_taken_back(address: Address) -> None:
    async with session(address) as (client, session_id):
        running = await client.begin_prompt(session_id, "/sleep 60")
        waiting = [await client.begin_prompt(session_id, f"waiting {number}") for number in range(3)]
        await client.withdraw(waiting[1])
        ended = await until(client, TurnEnded)
        assert (ended.turn, ended.stop_reason) == (waiting[1], "cancelled")
        await client.withdraw("no-such-turn")
        await client.cancel(session_id)
        ends = [await until(client, TurnEnded) for _ in range(3)]
        assert {(end.turn, end.stop_reason) for end in ends} == {
            (turn, "cancelled") for turn in (running, waiting[0], waiting[2])
        }
        assert await client.prompt(session_id, "and now?") == "end_turn"


async def test_one_turn_of_one_id(address: Address) -> None:
    async with session(address) as (one, session_id):
        turn = SystemIds().new_id()
        assert await one.prompt(session_id, "once", turn=turn) == "end_turn"
        async with connect_acp(address) as other:
            await other.load_session(session_id)
            assert await other.prompt(session_id, "once", turn=turn) == "end_turn"
            heard: list[Event] = []
            await one.prompt(session_id, "last")
            await until(other, TurnEnded, heard)
            while texts(heard)[-1:] != ["last"]:
                await until(other, TurnEnded, heard)
            assert texts(heard) == ["once", "last"]


async def test_many_sessions_and_tasks_over_one_connection(address: Address) -> None:
    answers: dict[str, list[str]] = {}
    with anyio.fail_after(SECONDS):
        async with connect_acp(address) as client:
            sessions = [(await client.new_session()).session_id for _ in range(3)]

            async def talk(session_id: str) -> None:
                for number in range(5):
                    assert await client.prompt(session_id, f"{session_id} {number}") == "end_turn"
                await client.close_session(session_id)

            async def listen() -> None:
                ended = 0
                async for event in client:
                    if isinstance(event, Update):
                        answers.setdefault(event.session_id, []).extend(texts([event]))
                    ended += isinstance(event, SessionEnded)
                    if ended == len(sessions):
                        return

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(listen)
                for session_id in sessions:
                    tasks.start_soon(talk, session_id)
    assert answers == {each: [f"{each} {number}" for number in range(5)] for each in sessions}


async def test_cancelled_waiting_takes_nothing(address: Address) -> None:
    async with session(address) as (client, session_id):
        with anyio.move_on_after(0.05) as waiting:
            await until(client, Update)
        assert waiting.cancelled_caught
        with anyio.move_on_after(0.05) as waiting:
            await client.prompt(session_id, "/sleep 0.2")
        assert waiting.cancelled_caught
        heard: list[Event] = []
        assert (await until(client, TurnEnded, heard)).stop_reason == "end_turn"
        assert texts(heard) == ["slept"]


async def test_a_wrong_token_and_an_agent_that_there_is_not(address: Address) -> None:
    with anyio.fail_after(SECONDS):
        with pytest.raises(UpgradeRefused) as refused:
            async with connect_acp(Address(address.url, "wrong")):
                pytest.fail("it let us in")
        assert refused.value.status == 401
        with pytest.raises(AcpError, match="hal"):
            async with connect_acp(address, agent="hal"):
                pytest.fail("it knew the agent")


async def test_a_relay_that_ends_says_so(tmp_path: Path) -> None:
    asleep = await last_of_a_session(Place(tmp_path), SessionAsleep)
    assert asleep.reason == "the relay is shutting down"


async def test_a_relay_that_ends_its_sessions_says_so(tmp_path: Path) -> None:
    place = Place(tmp_path)
    (place.work / "relaykit.toml").write_text('[relay]\non_shutdown = "end"\n')
    assert (await last_of_a_session(place, SessionEnded)).cause == "SHUTDOWN"


async def last_of_a_session(place: Place, kind: type[E]) -> E:
    """Follow a session until its relay is told to end, and return what is told of it then."""
    with serving(place) as relay:
        with anyio.fail_after(SECONDS):
            here = find_relay(load_settings(environ=place.environment(), cwd=place.work))
            async with connect_acp(here) as client:
                session_id = (await client.new_session()).session_id
                await client.begin_prompt(session_id, "/ask")
                await until(client, Question)
                relay.interrupt(signal.SIGTERM)
                heard: list[Event] = []
                last = await until(client, kind, heard)
                [end] = [event for event in heard if isinstance(event, TurnEnded)]
                assert str(end.error) == "interrupted: the relay is shutting down"
                for _ in "ab":
                    with pytest.raises(Disconnected) as caught:
                        await until(client, SessionEnded)
                    assert caught.value.code == 1001
                with pytest.raises(Disconnected):
                    await client.cancel(session_id)
        assert relay.exit_code() == 0
    return last


def test_what_is_not_known_comes_as_it_is() -> None:
    params = {"sessionId": "s", "x": [1], "_meta": {"relaykit": {"seq": 4}, "other": 1}}
    event = event_of("_agent/said", params)
    assert event is not None
    assert (event.session_id, getattr(event, "method", ""), getattr(event, "params", None)) == (
        "s",
        "_agent/said",
        params,
    )
    assert event_of("_relaykit/gap", {"sessionId": "s", "from": 1, "to": 3}) == Gap(
        session_id="s", first=1, last=3
    )
    assert event_of("$/cancel_request", {"requestId": "q"}) is None
