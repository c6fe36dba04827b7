"""A relay is gone without a word: what the next one makes of the sessions that it finds in the store."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest

from relaykit.conversation import Entry, Frame, JournalState, Kind
from relaykit.errors import DuplicateRole, DuplicateSession, JournalError, SessionNotFound, UnknownAgent
from relaykit.hooks import hookimpl
from relaykit.hooks.registration import Service
from relaykit.relay import Relay
from relaykit.relay.past import Past, look_back
from relaykit.relay.rest import Presence
from relaykit.session import Activity, Cause, Session, SessionFilter, SessionState
from relaykit.testing import FakeClock
from relaykit.testing.store_contract import make_session
from support.conversations import open_conversation
from support.relays import PATIENCE, active_session, ended, following, processes_of, prompt
from support.sleepers import FORGETFUL, REMEMBERING, House, recalled

pytestmark = pytest.mark.anyio

KNOWN: dict[str, Any] = {
    "agent": REMEMBERING,
    "owner": "local",
    "project": "default",
    "node": "local",
    "activity": Activity(FakeClock().now()),
}


async def kill(house: House, said: str) -> tuple[str, Sequence[Entry]]:
    """Have a relay killed in the midst of a second turn; return the session, and what its client was told."""
    async with (
        house.relay(RELAY__ON_SHUTDOWN="end") as relay,
        active_session(relay, agent=REMEMBERING) as client,
    ):
        await client.say("one", "t1")
        await client.until_turn_end("t1")
        await client.say(said, "t2")
        wanted = Kind.REQUEST if said == "/ask" else Kind.PROMPT
        await client.until(lambda entry: entry.frame.kind is wanted and entry.seq > 4)
        await house.snapshot()
    return client.session_id, client.entries


async def how_it_ended(relay: Relay, session_id: str) -> Session:
    await ended(relay, session_id)
    assert await relay.get(session_id) is None
    return await relay.find(session_id)


# ---------------------------------------------------------------- what goes on


async def test_a_turn_that_was_cut_off_is_marked_and_the_session_goes_on(tmp_path: Path) -> None:
    house = House(tmp_path)
    session_id, told = await kill(house, "/sleep 600")
    async with house.relay() as relay:
        assert relay.presence(session_id) is Presence.ASLEEP
        transcript = await relay.transcript(session_id, limit=1000)
        assert list(transcript)[: len(told)] == [entry for entry in told if entry in transcript]
        last = transcript[-1].frame
        assert (last.kind, last.ref, last.failed) == (Kind.TURN_END, "t2", True)
        assert json.loads(last.body)["message"] == "interrupted: the relay was restarted"
        async with following(relay, session_id) as client:
            await client.until_notice("awake")
            assert not relay.live(session_id).turn
            assert await recalled(client) == "one | /sleep 600"
            assert [entry.seq for entry in client.entries] == list(range(1, len(client.entries) + 1))


async def test_a_question_that_was_open_is_cancelled(tmp_path: Path) -> None:
    house = House(tmp_path)
    session_id, _ = await kill(house, "/ask")
    async with house.relay() as relay:
        *_, asked, decision, told, end = await relay.transcript(session_id, limit=1000)
        assert (asked.frame.kind, decision.frame.kind, end.frame.kind) == (
            Kind.REQUEST,
            Kind.DECISION,
            Kind.TURN_END,
        )
        assert decision.frame.ref == asked.frame.ref
        assert json.loads(decision.frame.body) == {"outcome": {"outcome": "cancelled"}}
        assert told.frame.method == "decided"
        assert json.loads(told.frame.body) == {
            "requestId": asked.frame.ref,
            "by": "relay",
            "outcome": "cancelled",
        }
        assert list(relay.live(session_id).questions) == []


async def test_a_turn_that_is_said_again_after_the_restart_is_not_begun_again(tmp_path: Path) -> None:
    house = House(tmp_path)
    session_id, _ = await kill(house, "/sleep 600")
    async with house.relay() as relay:
        for turn, failed in (("t1", False), ("t2", True)):
            end = await relay.prompt(session_id, prompt("again"), client_id="c1", turn=turn)
            assert end is not None
            assert end.frame.failed is failed


async def test_killed_again_before_anybody_came_changes_nothing_more(tmp_path: Path) -> None:
    house = House(tmp_path)
    session_id, _ = await kill(house, "/ask")
    async with house.relay() as relay:
        before = await relay.transcript(session_id, limit=1000)
        await house.snapshot()
    async with house.relay() as relay:
        assert await relay.transcript(session_id, limit=1000) == before


# ---------------------------------------------------------------- what does not


async def test_a_relay_that_cannot_be_opened_ends_nothing(tmp_path: Path) -> None:
    class PortInUse:
        """A service that listens where somebody else does."""

        @hookimpl
        def relaykit_register_services(self) -> Sequence[Service]:
            return [Service(name="busy", open=self.open)]

        @asynccontextmanager
        async def open(self, relay: Relay) -> AsyncIterator[None]:
            if not relay.closing:
                raise OSError("Address already in use")
            yield

    house = House(tmp_path)
    session_id, _ = await kill(house, "/sleep 600")
    with pytest.raises(OSError, match="already in use"):
        async with house.relay(plugins={"busy": PortInUse()}):
            pytest.fail("it was opened")
    async with house.relay() as relay, following(relay, session_id) as client:
        await client.until_notice("awake")
        assert await recalled(client) == "one | /sleep 600"


async def test_an_agent_that_cannot_go_on_ends_the_session(tmp_path: Path) -> None:
    house = House(tmp_path, *FORGETFUL)
    session_id, _ = await kill(house, "/sleep 600")
    async with house.relay() as relay:
        session = await how_it_ended(relay, session_id)
        assert (session.cause, session.reason) == (
            Cause.RESTART,
            "the relay was restarted, and the agent cannot go on where it was",
        )
        words = [entry.frame.method for entry in await relay.transcript(session_id, limit=1000)]
        assert words[-3:] == ["session/prompt", "terminating", "ended"]


async def test_an_agent_that_is_not_configured_any_more_ends_the_session(tmp_path: Path) -> None:
    house = House(tmp_path)
    session_id, _ = await kill(house, "/ask")
    async with house.relay(agents=False) as relay:
        session = await how_it_ended(relay, session_id)
        assert session.cause is Cause.RESTART
        assert session.reason == f"its agent '{REMEMBERING}' is not configured any more"


@pytest.mark.parametrize("state", [SessionState.CREATED, SessionState.SPAWNING, SessionState.TERMINATING])
async def test_what_was_on_its_way_is_ended(tmp_path: Path, state: SessionState) -> None:
    house = House(tmp_path)
    said = {"cause": Cause.IDLE, "reason": "idle"} if state is SessionState.TERMINATING else {}
    await house.store.create(make_session("s1", **KNOWN, state=state, **said))
    async with house.relay() as relay:
        session = await how_it_ended(relay, "s1")
        if said:
            assert (session.cause, session.reason) == (Cause.IDLE, "idle")
        else:
            assert session.cause is Cause.RESTART
            assert session.reason == f"the relay was restarted while the session was {state}"
        assert (await relay.create("role-s1", agent=REMEMBERING)).agent_id == "role-s1"  # it is free


@pytest.mark.parametrize("closed", [False, True])
async def test_what_was_cleaned_is_only_removed(tmp_path: Path, *, closed: bool) -> None:
    house = House(tmp_path)
    session = make_session(
        "s1", **KNOWN, state=SessionState.CLEANED, cause=Cause.IDLE, reason="idle", version=5
    )
    await house.store.create(session)
    await house.journal.open(session)
    if closed:
        await house.journal.close(session)
    async with house.relay() as relay:
        assert await relay.get("s1") is None
        assert await relay.find("s1") == session
        words = [entry.frame.method for entry in await relay.transcript("s1", limit=10)]
        assert words == ([] if closed else ["ended"])


async def test_what_another_node_runs_is_left_alone(tmp_path: Path) -> None:
    house = House(tmp_path)
    other = make_session("s1", **{**KNOWN, "node": "elsewhere"}, state=SessionState.ACTIVE)
    await house.store.create(other)
    async with house.relay() as relay:
        assert relay.presence("s1") is Presence.GONE
    assert await house.store.get("s1") == other


async def test_hundreds_are_taken_over(tmp_path: Path) -> None:
    house = House(tmp_path)
    for number in range(250):
        resources = {"acp": {"marker": "RELAYKIT_SESSION=x", "conversation": {"session": "a", "resume": "b"}}}
        session = make_session(f"s{number:03}", **KNOWN, state=SessionState.ACTIVE, resources=resources)
        await house.store.create(session)
    with anyio.fail_after(PATIENCE):
        async with house.relay() as relay:
            assert {relay.presence(f"s{number:03}") for number in range(250)} == {Presence.ASLEEP}
    assert await house.store.count(SessionFilter(state=SessionState.ACTIVE)) == 250


async def test_a_journal_that_fails_for_one_session_keeps_no_other_from_going_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    house = House(tmp_path)
    session_id, _ = await kill(house, "/ask")
    await house.store.create(make_session("s1", **KNOWN, state=SessionState.ACTIVE))
    open_journal = house.journal.open

    async def fail_for_one(session: Session) -> JournalState:
        if session.id == "s1":
            raise JournalError("the page is torn", plugin="given")
        return await open_journal(session)

    monkeypatch.setattr(house.journal, "open", fail_for_one)
    async with house.relay() as relay:
        assert relay.presence(session_id) is Presence.ASLEEP
        assert relay.presence("s1") is Presence.GONE
    assert "session s1 (role-s1) cannot be recovered" in caplog.text
    assert await house.store.get("s1") is not None


# ---------------------------------------------------------------- crash loops


async def test_an_agent_over_which_relays_die_is_not_started_for_ever(tmp_path: Path) -> None:
    house = House(tmp_path)
    session_id, _ = await kill(house, "/ask")
    stored = await house.store.get(session_id)
    assert stored is not None
    dead = stored.evolve(version=stored.version + 1, resources={**stored.resources, "relay": {"wakes": 5}})
    await house.store.save(dead, expected_version=stored.version)
    async with house.relay() as relay, following(relay, session_id) as client:
        await client.until_the_end()
        session = await how_it_ended(relay, session_id)
        assert session.cause is Cause.RESTART
        assert "started again 5 times" in str(session.reason)


async def test_a_wake_counts_until_a_turn_is_over(tmp_path: Path) -> None:
    house = House(tmp_path)
    session_id, _ = await kill(house, "/ask")
    async with house.relay(RELAY__ON_SHUTDOWN="end") as relay, following(relay, session_id) as client:
        await client.until_notice("awake")
        assert (await relay.require(session_id)).resources["relay"] == {"wakes": 1}
        await house.snapshot()  # killed before a turn was over
    async with house.relay() as relay:
        begun, head = anyio.current_time(), relay.live(session_id).conversation.head
        async with following(relay, session_id, after=head) as client:
            await client.until_notice("awake")
            assert anyio.current_time() - begun >= 1.0  # the first pause
            assert (await relay.require(session_id)).resources["relay"] == {"wakes": 2}
            await recalled(client)
            with anyio.fail_after(PATIENCE):
                while (await relay.require(session_id)).resources["relay"] != {"wakes": 0}:  # noqa: ASYNC110
                    await anyio.sleep(0.01)  # it is told outside of the relaying


# ---------------------------------------------------------------- back from the dead


async def test_a_session_that_has_ended_is_revived(tmp_path: Path) -> None:
    house = House(tmp_path)
    async with house.relay() as relay:
        async with active_session(relay, agent=REMEMBERING) as client:
            session_id = client.session_id
            await client.say("one", "t1")
            await client.until_turn_end("t1")
            await relay.stop(session_id, "enough")
            await ended(relay, session_id)
        revived = await relay.revive(session_id)
        assert (revived.id, revived.agent_id, revived.state) == (session_id, "auth", SessionState.CREATED)
        assert (revived.cause, revived.reason, revived.ended_at) == (None, None, None)
        async with following(relay, session_id, after=client.entries[-1].seq) as again:
            await again.until_notice("active")
            assert await recalled(again) == "one"
            assert again.entries[0].seq == client.entries[-1].seq + 1
        assert await relay.ended(SessionFilter()) == []
        with pytest.raises(DuplicateSession):
            await relay.revive(session_id)
        await relay.stop(session_id, "enough")
        session = await how_it_ended(relay, session_id)
        assert processes_of(session_id) == []
        assert await relay.ended(SessionFilter(agent_id="auth")) == [session]
        assert await relay.ended(SessionFilter(agent_id="other")) == []


async def test_what_cannot_be_revived(tmp_path: Path) -> None:
    house = House(tmp_path)
    async with house.relay() as relay:
        with pytest.raises(SessionNotFound):
            await relay.revive("nobody")
        session = await relay.create("auth", agent=REMEMBERING)
        await relay.stop(session.id, "enough")
        await ended(relay, session.id)
        await relay.create("auth", agent=REMEMBERING)
        with pytest.raises(DuplicateRole):
            await relay.revive(session.id)
    async with house.relay(agents=False) as relay:
        with pytest.raises(UnknownAgent):
            await relay.revive(session.id)


async def test_old_transcripts_are_forgotten(tmp_path: Path) -> None:
    house = House(tmp_path)
    clock = FakeClock()
    async with house.relay(clock=clock) as relay:
        old = await relay.create("old", agent=REMEMBERING)
        await relay.stop(old.id, "enough")
        await ended(relay, old.id)
        clock.advance(20 * 86_400)
        young = await relay.create("young", agent=REMEMBERING)
        await relay.stop(young.id, "enough")
        await ended(relay, young.id)
    clock.advance(11 * 86_400)
    async with house.relay(clock=clock) as relay:
        with anyio.fail_after(PATIENCE):
            while len(await relay.ended(SessionFilter())) > 1:  # noqa: ASYNC110
                await anyio.sleep(0.01)  # it looks in the background, and tells nobody
        assert [session.id for session in await relay.ended(SessionFilter())] == [young.id]
        assert await relay.transcript(old.id) == ()
        assert await relay.transcript(young.id) != ()


# ---------------------------------------------------------------- what a transcript tells


@pytest.mark.parametrize("updates", [0, 10, 1_500, 9_000])
async def test_the_past_is_read_as_far_back_as_it_takes(updates: int) -> None:
    conversation = await open_conversation()
    early = [Frame(Kind.PROMPT, b"", "t1"), Frame(Kind.TURN_END, b"{}", "t1"), Frame(Kind.PROMPT, b"", "t2")]
    asked = [
        Frame(Kind.REQUEST, b"{}", "q1"),
        Frame(Kind.REQUEST, b"{}", "q2"),
        Frame(Kind.DECISION, b"{}", "q1"),
    ]
    entries = list(await conversation.publish([*early, *[Frame(Kind.UPDATE, b"{}")] * updates, *asked]))
    past = await look_back(conversation)
    assert past.turn == "t2"
    assert past.questions == (entries[-2],)
    assert past.ends == (entries[1],)  # it stands beside what had to be found


async def test_a_past_that_was_trimmed() -> None:
    conversation = await open_conversation(tail_bytes=1)
    assert await look_back(conversation) == Past()
    await conversation.publish([Frame(Kind.PROMPT, b"", "t1"), *[Frame(Kind.UPDATE, b"{}")] * 10])
    await conversation._journal.trim(conversation.session_id, through=5)
    assert await look_back(conversation) == Past()
