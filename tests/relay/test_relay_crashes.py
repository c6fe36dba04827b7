"""Agents that end by themselves: when they come back, when they do not, and what becomes of what was going on."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Sequence
from pathlib import Path

import anyio
import pytest

from relaykit.conversation import Kind
from relaykit.hooks import hookimpl
from relaykit.meter import Meter
from relaykit.relay import wakes
from relaykit.relay.rest import Presence
from relaykit.relay.wakes import pause_before
from relaykit.session import Cause, CleanerResult, Handle, Outcome, Phase, Session, SessionState
from relaykit.session.cleaner import Cleaner
from support.plugin_sites import RecordingMeter
from support.relays import PATIENCE, Client, active_session, ended, following, processes_of, running_relay
from support.sleepers import FORGETFUL, REMEMBERING, House, recalled, until, until_presence

pytestmark = pytest.mark.anyio

CRASHED = "agent 'remembering': it exited with 3; its last words were:\necho: told to crash"


@pytest.fixture
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wakes, "_LONGEST_PAUSE", 0.01)


def notices(client: Client) -> list[str]:
    return [entry.frame.method for entry in client.entries if entry.frame.kind is Kind.NOTICE]


def error_of(body: bytes) -> str:
    message: str = json.loads(body)["message"]
    return message


async def crash(client: Client, turn: str) -> None:
    """Have the agent crash, and wait until the turn is over."""
    await client.say("/crash 3", turn)
    assert (await client.until_turn_end(turn)).frame.failed


async def until_awake(client: Client, times: int) -> None:
    seen: list[int] = []

    def is_nth(entry: object) -> bool:
        seen.extend([0] * (getattr(getattr(entry, "frame", None), "method", "") == "awake"))
        return len(seen) == times

    await client.until(is_nth)


async def kill_agent(client: Client, number: signal.Signals) -> None:
    """End the agent as somebody else would, and wait until it has."""
    [pid] = processes_of(client.session_id)
    os.kill(pid, number)
    await until(lambda: pid not in processes_of(client.session_id))


# ---------------------------------------------------------------- it comes back


class Metered:
    """A plugin that keeps what is counted."""

    def __init__(self) -> None:
        self.meter = RecordingMeter()

    @hookimpl
    def relaykit_register_meter(self) -> Meter:
        return self.meter


async def test_an_agent_that_crashes_comes_back_and_goes_on_where_it_was(tmp_path: Path) -> None:
    metered = Metered()
    metered_relay = House(tmp_path).relay(plugins={"metered": metered})
    async with metered_relay as relay, active_session(relay, agent=REMEMBERING) as client:
        await client.say("one", "t1")
        await client.say("/children 1 setsid", "t2")
        children = (await client.until_said("children: ")).frame.body
        child = int(json.loads(children)["update"]["content"]["text"].split()[1])
        await client.until_turn_end("t2")
        begun = anyio.current_time()
        await client.say("/crash 3", "t3")
        await client.say("waits", "t4")
        broken = await client.until_turn_end("t3")
        assert error_of(broken.frame.body) == f"interrupted: {CRASHED}"
        assert await client.until_notice("agent_crashed") == {"reason": CRASHED}
        assert not (await client.until_turn_end("t4")).frame.failed
        assert anyio.current_time() - begun >= 1.0  # the first pause
        assert client.told[-7:] == [
            "PROMPT t3",
            "TURN_END t3",
            "NOTICE agent_crashed",
            "NOTICE awake",
            "PROMPT t4",
            "UPDATE session/update",
            "TURN_END t4",
        ]
        assert await recalled(client) == "one | /children 1 setsid | /crash 3 | waits"
        assert child not in processes_of(client.session_id)
        assert len(processes_of(client.session_id)) == 1
        await until(lambda: relay.live(client.session_id).rest.crashes == 0)
        assert [name for name, _, _ in metered.meter.counted if name == "agent_crashes"] == ["agent_crashes"]


@pytest.mark.usefixtures("no_pauses")
async def test_questions_of_an_agent_that_is_killed_are_cancelled(tmp_path: Path) -> None:
    async with running_relay(tmp_path) as relay, active_session(relay) as client:
        await client.say("/ask", "t1")
        asked = await client.until_asked()
        await kill_agent(client, signal.SIGKILL)
        end = await client.until_turn_end("t1")
        assert error_of(end.frame.body) == "interrupted: agent 'echo': it was ended by SIGKILL"
        decision = next(entry for entry in client.entries if entry.frame.kind is Kind.DECISION)
        assert decision.frame.ref == asked.frame.ref
        assert json.loads(decision.frame.body) == {"outcome": {"outcome": "cancelled"}}
        await client.until_notice("awake")
        await client.say("hello", "t2")
        assert not (await client.until_turn_end("t2")).frame.failed
        session = await relay.require(client.session_id)
        assert session.state is SessionState.ACTIVE


async def test_an_agent_that_ends_while_it_has_nothing_to_do_sleeps_until_it_is_wanted(
    tmp_path: Path,
) -> None:
    async with running_relay(tmp_path) as relay, active_session(relay) as client:
        rest = relay.live(client.session_id).rest
        for number in range(3):
            await kill_agent(client, signal.SIGTERM)
            await until_presence(relay, client.session_id, Presence.ASLEEP)
            begun = anyio.current_time()
            await client.say("on", f"t{number}")
            assert not (await client.until_turn_end(f"t{number}")).frame.failed
            assert anyio.current_time() - begun < 1.0  # no pause
        assert rest.crashes == 0
        assert notices(client) == ["active", *["asleep", "awake"] * 3]
        reason = (await client.until_notice("asleep"))["reason"]
        assert reason == "agent 'echo': it was ended by SIGTERM"


@pytest.mark.usefixtures("no_pauses")
async def test_an_agent_that_crashes_with_nobody_there_comes_back_when_somebody_is(tmp_path: Path) -> None:
    async with House(tmp_path).relay() as relay:
        async with active_session(relay, agent=REMEMBERING) as client:
            await client.say("one", "t1")
            await client.until_turn_end("t1")
            await client.say("/sleep 60", "t2")
            await client.until(lambda entry: entry.frame.ref == "t2")
        session_id = client.session_id
        await until(lambda: relay.clients(session_id) == 0)
        await kill_agent(client, signal.SIGKILL)
        await until_presence(relay, session_id, Presence.ASLEEP)
        async with following(relay, session_id) as client:
            await client.until_notice("awake")
            assert notices(client) == ["active", "agent_crashed", "awake"]
            assert (await recalled(client)).startswith("one")


@pytest.mark.usefixtures("no_pauses")
async def test_one_that_cannot_be_started_again_sleeps_and_says_why(tmp_path: Path) -> None:
    house = House(tmp_path)
    async with house.relay() as relay, active_session(relay, agent=REMEMBERING) as client:
        await client.say("one", "t1")
        await client.until_turn_end("t1")
        house.program.unlink()
        await crash(client, "t2")
        assert str(house.program) in (await client.until_notice("wake_failed"))["reason"]
        await until_presence(relay, client.session_id, Presence.ASLEEP)
        house.install()
        assert await recalled(client) == "one | /crash 3"


# ---------------------------------------------------------------- crash loops


def test_the_pauses() -> None:
    assert [pause_before(attempt) for attempt in (1, 2, 3, 4, 5, 6, 99)] == [1, 2, 4, 8, 16, 30, 30]


@pytest.mark.usefixtures("no_pauses")
async def test_a_crash_loop_ends_the_session(tmp_path: Path) -> None:
    async with House(tmp_path).relay() as relay, active_session(relay, agent=REMEMBERING) as client:
        for number in range(6):
            await crash(client, f"a{number}")
        await client.say("one", "good")  # which it did at last
        assert not (await client.until_turn_end("good")).frame.failed
        await until(lambda: relay.live(client.session_id).rest.crashes == 0)
        for number in range(6):
            await crash(client, f"b{number}")
        await until_awake(client, 12)
        await crash(client, "the last")
        await client.until_the_end()
        last = await client.until_notice("ended")
        assert last["cause"] == "AGENT_EXITED"
        assert last["reason"] == (
            "its agent crashed 7 times in a row, and no turn came to its end between; the last time: "
            + CRASHED
        )
        await ended(relay, client.session_id)
        assert processes_of(client.session_id) == []


# ---------------------------------------------------------------- it does not come back


async def test_a_session_whose_agent_cannot_go_on_ends_with_its_last_words(tmp_path: Path) -> None:
    async with (
        House(tmp_path, *FORGETFUL).relay() as relay,
        active_session(relay, agent=REMEMBERING) as client,
    ):
        await crash(client, "t1")
        await client.until_the_end()
        last = await client.until_notice("ended")
        assert (last["cause"], last["reason"]) == ("AGENT_EXITED", CRASHED)


async def test_a_session_is_ended_while_it_waits_for_its_agent_to_come_back(tmp_path: Path) -> None:
    async with running_relay(tmp_path) as relay, active_session(relay) as client:
        await crash(client, "t1")
        await until_presence(relay, client.session_id, Presence.WAKING)
        with anyio.fail_after(PATIENCE):
            await relay.stop(client.session_id, "enough")
            await client.until_the_end()
        assert (await client.until_notice("ended"))["cause"] == "REQUESTED"
        assert processes_of(client.session_id) == []


async def test_a_relay_that_goes_meanwhile_leaves_it_asleep(tmp_path: Path) -> None:
    house = House(tmp_path)
    with anyio.fail_after(PATIENCE):
        async with house.relay() as relay, active_session(relay, agent=REMEMBERING) as client:
            await crash(client, "t1")
            await until_presence(relay, client.session_id, Presence.WAKING)
    async with house.relay() as relay, following(relay, client.session_id) as client:
        await client.until_notice("awake")
        assert await recalled(client) == "/crash 3"


class Clumsy:
    """A plugin whose cleaner of agents fails."""

    name = "clumsy"
    phase = Phase.AGENT

    async def clean(self, _session: Session, _handle: Handle | None, /) -> CleanerResult:
        return CleanerResult(self.name, Outcome.FAILED, "it would not go")

    @hookimpl
    def relaykit_register_cleaners(self) -> Sequence[Cleaner]:
        return [self]


async def test_one_of_which_something_may_be_left_does_not_come_back(tmp_path: Path) -> None:
    clumsy = running_relay(tmp_path, plugins={"clumsy": Clumsy()}, RELAY__CLEANERS='["clumsy"]')
    async with clumsy as relay, active_session(relay) as client:
        await crash(client, "t1")
        await client.until_the_end()
        session = await relay.find(client.session_id)
        assert session.cause is Cause.AGENT_EXITED
        assert "could not be stopped: it would not go; agent 'echo': it exited with 3" in str(session.reason)
