"""Sessions whose agents sleep: when they do, what wakes them, and what is still known then."""

from __future__ import annotations

import json
from pathlib import Path

import anyio
import anyio.lowlevel
import pytest

from relaykit.conversation import Kind
from relaykit.errors import ManagerClosed, ProgramNotFound, SessionNotActive, SessionNotFound
from relaykit.relay import Relay
from relaykit.relay.rest import Presence
from relaykit.session import Cause, SessionState
from relaykit.testing import FakeClock
from support.relays import PATIENCE, active_session, ended, following, processes_of, prompt
from support.sleepers import (
    FORGETFUL,
    ONLY_LOAD,
    REMEMBERING,
    RESUME,
    House,
    look,
    recalled,
    until,
    until_presence,
)

pytestmark = pytest.mark.anyio

HOUR = 3600.0


async def fallen_asleep(relay: Relay, agent_id: str = "auth") -> str:
    """Return a session that was told something, and sleeps."""
    async with active_session(relay, agent_id, agent=REMEMBERING) as client:
        await client.say("one", "t1")
        await client.until_turn_end("t1")
        await relay.live(client.session_id).fall_asleep("it is late")
        assert (await client.until_notice("asleep"))["reason"] == "it is late"
    assert processes_of(client.session_id) == []
    return client.session_id


# ---------------------------------------------------------------- falling asleep and waking


@pytest.mark.parametrize("flags", [RESUME, ONLY_LOAD], ids=["resume", "load"])
async def test_who_comes_wakes_the_agent_which_goes_on_where_it_was(
    tmp_path: Path, flags: tuple[str, ...]
) -> None:
    async with House(tmp_path, *flags).relay() as relay:
        session_id = await fallen_asleep(relay)
        sleeping = await relay.require(session_id)
        assert (sleeping.state, relay.presence(session_id)) == (SessionState.ACTIVE, Presence.ASLEEP)
        async with following(relay, session_id) as client:
            await client.until_notice("awake")
            assert relay.live(session_id).opened["modes"]["currentModeId"] == "echo"
            assert await recalled(client) == "one"
            assert not any(b"replayed" in entry.frame.body for entry in client.entries)
        await relay.stop(session_id, "done")
        await ended(relay, session_id)
        assert processes_of(session_id) == []


async def test_it_sleeps_when_nothing_of_its_agent_is_left(tmp_path: Path) -> None:
    # The agent itself ends at once, the children that ignore SIGTERM after the grace.
    async with (
        House(tmp_path).relay(PLUGINS__ACP__TERM_GRACE="0.3") as relay,
        active_session(relay, agent=REMEMBERING) as client,
    ):
        await client.say("/children 2", "t1")
        await client.until_turn_end("t1")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(relay.live(client.session_id).fall_asleep, "it is late")
            await until_presence(relay, client.session_id, Presence.DROWSY)
            await until_presence(relay, client.session_id, Presence.ASLEEP)
            assert processes_of(client.session_id) == []


async def test_who_only_looks_again_and_again_ends_nothing(tmp_path: Path) -> None:
    async with House(tmp_path).relay() as relay:
        session_id = await fallen_asleep(relay)
        for _ in range(6):
            async with following(relay, session_id, after=relay.live(session_id).conversation.head) as client:
                await client.until_notice("awake")
            await relay.live(session_id).fall_asleep("nobody has said anything")
        session = await relay.require(session_id)
        assert (session.state, session.resources["relay"]) == (SessionState.ACTIVE, {"wakes": 0})


async def test_a_prompt_wakes_the_agent(tmp_path: Path) -> None:
    async with House(tmp_path).relay() as relay, active_session(relay, agent=REMEMBERING) as client:
        await client.say("one", "t1")
        await client.until_turn_end("t1")
        await relay.live(client.session_id).fall_asleep("it is late")
        await client.say("two", "t2")
        end = await client.until_turn_end("t2")
        assert json.loads(end.frame.body) == {"stopReason": "end_turn"}
        assert await recalled(client) == "one | two"
        kinds = [entry.frame.method for entry in client.entries if entry.frame.kind is Kind.NOTICE]
        assert kinds == ["active", "asleep", "awake"]


async def test_a_call_wakes_the_agent(tmp_path: Path) -> None:
    async with House(tmp_path).relay() as relay, active_session(relay, agent=REMEMBERING) as client:
        await relay.live(client.session_id).fall_asleep("it is late")
        with anyio.fail_after(PATIENCE):
            await relay.call(
                client.session_id, "session/set_mode", b'{"modeId":"shout"}', client_id="c1", ref="r1"
            )
        await client.until(lambda entry: entry.frame.kind is Kind.RESULT)
        assert relay.live(client.session_id).opened["modes"]["currentModeId"] == "shout"


async def test_what_comes_while_the_agent_is_stopped_waits_for_the_next(tmp_path: Path) -> None:
    async with House(tmp_path).relay() as relay, active_session(relay, agent=REMEMBERING) as client:
        live = relay.live(client.session_id)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(live.fall_asleep, "it is late")
            with anyio.fail_after(PATIENCE):
                while live.rest.presence is not Presence.DROWSY:
                    await anyio.lowlevel.checkpoint()
            await client.say("late", "t1")
        await client.until_turn_end("t1")
        assert await recalled(client) == "late"


async def test_a_turn_that_runs_is_interrupted_and_its_questions_are_cancelled(tmp_path: Path) -> None:
    async with House(tmp_path).relay() as relay, active_session(relay, agent=REMEMBERING) as client:
        await client.say("/ask", "t1")
        asked = await client.until_asked()
        await relay.live(client.session_id).fall_asleep("the relay moves")
        end = await client.until_turn_end("t1")
        assert end.frame.failed
        assert json.loads(end.frame.body)["message"] == "interrupted: the relay moves"
        decision = next(entry for entry in client.entries if entry.frame.kind is Kind.DECISION)
        assert decision.frame.ref == asked.frame.ref
        assert json.loads(decision.frame.body) == {"outcome": {"outcome": "cancelled"}}
        assert sum(entry.frame.kind is Kind.TURN_END for entry in client.entries) == 1
        assert not relay.live(client.session_id).busy
        await client.say("on", "t2")
        assert not (await client.until_turn_end("t2")).frame.failed


async def test_a_session_is_ended_while_its_agent_sleeps(tmp_path: Path) -> None:
    async with House(tmp_path).relay() as relay:
        session_id = await fallen_asleep(relay)
        await relay.stop(session_id, "enough")
        await ended(relay, session_id)
        assert (await relay.find(session_id)).state is SessionState.CLEANED


async def test_a_session_is_ended_while_its_agent_wakes(tmp_path: Path) -> None:
    house = House(tmp_path)
    async with house.relay() as relay:
        session_id = await fallen_asleep(relay)
        house.install("--delay", "60")
        async with following(relay, session_id) as client:
            await until_presence(relay, session_id, Presence.WAKING)
            await until(lambda: bool(processes_of(session_id)))
            await relay.stop(session_id, "enough")
            await client.until_the_end()
        await ended(relay, session_id)
        assert processes_of(session_id) == []


async def test_a_call_that_waits_for_an_agent_hears_of_the_sessions_end(tmp_path: Path) -> None:
    house = House(tmp_path)
    async with house.relay() as relay:
        session_id = await fallen_asleep(relay)
        house.install("--delay", "60")
        refusals: list[Exception] = []

        async def call() -> None:
            with pytest.raises(SessionNotActive) as refused:
                await relay.call(session_id, "_x/y", b"{}", client_id="c1", ref="r1")
            refusals.append(refused.value)

        with anyio.fail_after(PATIENCE):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(call)
                await until_presence(relay, session_id, Presence.WAKING)
                await relay.stop(session_id, "enough")
        assert len(refusals) == 1


# ---------------------------------------------------------------- waking fails


async def test_an_agent_that_cannot_be_started_again_fails_the_turn_and_sleeps_on(tmp_path: Path) -> None:
    house = House(tmp_path)
    async with house.relay() as relay, active_session(relay, agent=REMEMBERING) as client:
        await client.say("one", "t1")
        await client.until_turn_end("t1")
        await relay.live(client.session_id).fall_asleep("it is late")
        house.program.unlink()
        await client.say("two", "t2")
        end = await client.until_turn_end("t2")
        assert end.frame.failed
        assert "could not be started again" in json.loads(end.frame.body)["message"]
        assert str(house.program) in json.loads(end.frame.body)["message"]
        assert str(house.program) in (await client.until_notice("wake_failed"))["reason"]
        await until_presence(relay, client.session_id, Presence.ASLEEP)
        with pytest.raises(ProgramNotFound), anyio.fail_after(PATIENCE):
            await relay.call(client.session_id, "_x/y", b"{}", client_id="c1", ref="r1")
        assert (await relay.require(client.session_id)).resources["relay"] == {"wakes": 0}

        house.install()  # and now it can
        await client.say("three", "t3")
        assert not (await client.until_turn_end("t3")).frame.failed
        assert await recalled(client) == "one | three"


async def test_an_agent_that_has_forgotten_the_session_says_so(tmp_path: Path) -> None:
    house = House(tmp_path)
    async with house.relay() as relay:
        session_id = await fallen_asleep(relay)
        for memory in (house.agent / "memory").iterdir():
            memory.unlink()
        async with following(relay, session_id) as client:
            assert "no session" in (await client.until_notice("wake_failed"))["reason"]


async def test_an_agent_that_can_no_more_resume_says_so(tmp_path: Path) -> None:
    house = House(tmp_path)
    async with house.relay() as relay:
        session_id = await fallen_asleep(relay)
        house.install(*FORGETFUL)
        async with following(relay, session_id) as client:
            assert "cannot go on" in (await client.until_notice("wake_failed"))["reason"]


# ---------------------------------------------------------------- idle


async def test_hours_without_anybody_put_an_agent_to_sleep(tmp_path: Path) -> None:
    clock = FakeClock()
    async with House(tmp_path).relay(clock=clock, RELAY__IDLE_TIMEOUT="7200") as relay:
        async with active_session(relay, agent=REMEMBERING) as client:
            clock.advance(3 * HOUR)
            await client.say("one", "t1")  # somebody is there
            await client.until_turn_end("t1")
        session_id = client.session_id
        clock.advance(2 * HOUR - 1)
        await look(relay)
        assert relay.presence(session_id) is Presence.AWAKE
        clock.advance(1)
        await until_presence(relay, session_id, Presence.ASLEEP)
        [*_, last] = await relay.transcript(session_id, limit=1000)
        assert json.loads(last.frame.body) == {"reason": "nobody used it for 7200 s"}


@pytest.mark.parametrize("said", ["/sleep 600", "/ask"], ids=["a turn", "a question"])
async def test_what_is_in_the_midst_of_something_is_not_idle(tmp_path: Path, said: str) -> None:
    clock = FakeClock()
    async with House(tmp_path).relay(clock=clock, RELAY__IDLE_TIMEOUT="60") as relay:
        async with active_session(relay, agent=REMEMBERING) as client:
            await client.say(said, "t1")
            await client.until(
                lambda entry: entry.frame.kind is (Kind.REQUEST if said == "/ask" else Kind.PROMPT)
            )
        clock.advance(HOUR)
        await look(relay)
        assert relay.presence(client.session_id) is Presence.AWAKE
        await relay.cancel(client.session_id)
        await until(lambda: not relay.live(client.session_id).busy)
        clock.advance(HOUR)
        await until_presence(relay, client.session_id, Presence.ASLEEP)


async def test_an_idle_session_whose_agent_cannot_resume_is_kept(tmp_path: Path) -> None:
    clock = FakeClock()
    async with House(tmp_path, *FORGETFUL).relay(clock=clock, RELAY__IDLE_TIMEOUT="60") as relay:
        async with active_session(relay, agent=REMEMBERING) as client:
            pass
        clock.advance(HOUR)
        await look(relay)
        assert relay.presence(client.session_id) is Presence.AWAKE


async def test_an_idle_session_whose_agent_cannot_resume_is_ended_by_setting(tmp_path: Path) -> None:
    clock = FakeClock()
    house = House(tmp_path, *FORGETFUL)
    async with house.relay(clock=clock, RELAY__IDLE_TIMEOUT="60", RELAY__END_IDLE="true") as relay:
        async with active_session(relay, agent=REMEMBERING) as client:
            pass
        clock.advance(HOUR)
        await ended(relay, client.session_id)
        assert (await relay.find(client.session_id)).cause is Cause.IDLE


# ---------------------------------------------------------------- the relay goes, and comes back


async def test_the_next_relay_goes_on_with_what_slept_through(tmp_path: Path) -> None:
    house = House(tmp_path)
    with anyio.fail_after(PATIENCE):
        async with house.relay() as relay, active_session(relay, agent=REMEMBERING) as client:
            await client.say("one", "t1")
            await client.until_turn_end("t1")
            await client.say("/sleep 600", "t2")
            await client.until(lambda entry: entry.frame.ref == "t2")
            before = await relay.require(client.session_id)
            await relay.aclose()
            await client.until_the_end()
    session_id = client.session_id
    assert processes_of(session_id) == []
    stored = await house.store.get(session_id)
    assert stored is not None
    assert (stored.state, stored.worktree_dir) == (SessionState.ACTIVE, before.worktree_dir)
    assert client.told[-2:] == ["TURN_END t2", "NOTICE asleep"]
    async with house.relay() as relay, following(relay, session_id, after=client.entries[-1].seq) as client:
        await client.until_notice("awake")
        assert await recalled(client) == "one | /sleep 600"
        assert client.told[0] == "NOTICE awake"  # nothing else was said meanwhile


async def test_a_relay_that_goes_while_the_agent_wakes_leaves_it_asleep(tmp_path: Path) -> None:
    house = House(tmp_path)
    with anyio.fail_after(PATIENCE):
        async with house.relay() as relay:
            session_id = await fallen_asleep(relay)
            house.install("--delay", "60")
            async with following(relay, session_id):
                await until_presence(relay, session_id, Presence.WAKING)
    assert processes_of(session_id) == []
    house.install()
    async with house.relay() as relay, following(relay, session_id) as client:
        await client.until_notice("awake")
        assert await recalled(client) == "one"


async def test_a_relay_that_forgets_ends_its_sessions(tmp_path: Path) -> None:
    house = House(tmp_path)
    house.store.durable = False
    async with house.relay() as relay, active_session(relay, agent=REMEMBERING) as client:
        pass
    assert await house.store.get(client.session_id) is None
    ended_session = await house.journal.find(client.session_id)
    assert ended_session is not None
    assert ended_session.cause is Cause.SHUTDOWN


async def test_a_relay_that_is_told_to_ends_its_sessions(tmp_path: Path) -> None:
    house = House(tmp_path)
    async with (
        house.relay(RELAY__ON_SHUTDOWN="end") as relay,
        active_session(relay, agent=REMEMBERING) as client,
    ):
        pass
    assert await house.store.get(client.session_id) is None


async def test_what_cannot_resume_is_ended_when_the_relay_goes(tmp_path: Path) -> None:
    house = House(tmp_path, *FORGETFUL)
    async with house.relay() as relay, active_session(relay, agent=REMEMBERING) as client:
        pass
    ended_session = await house.journal.find(client.session_id)
    assert ended_session is not None
    assert ended_session.cause is Cause.SHUTDOWN


async def test_nothing_is_taken_while_the_relay_goes(tmp_path: Path) -> None:
    house = House(tmp_path)
    async with house.relay() as relay:
        session_id = await fallen_asleep(relay)
        await relay.aclose()
        with pytest.raises(SessionNotFound):
            await relay.prompt(session_id, prompt("late"), client_id="c1", turn="t9")
        with pytest.raises(ManagerClosed):
            await relay.create("other", agent=REMEMBERING)
