"""The fixtures for authors of plugins, used as they would: a relay with a plugin, and a fake agent with a script."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import anyio
import pytest

from relaykit.clock import SystemClock
from relaykit.errors import ProgramNotFound, Refused, SettingsError, UnknownImplementation
from relaykit.hooks import Refused as RefusedByHook
from relaykit.hooks import hookimpl
from relaykit.hooks.events import FellAsleep, PromptRequest
from relaykit.relay import Relay
from relaykit.session import CloseConnection, Manager, MemoryStore, Session, SessionState
from relaykit.testing import (
    FakeClock,
    FakeConnection,
    FakeIds,
    FakeLauncher,
    FakeTurn,
    RecordingHooks,
    assert_transitions,
    installed_plugin,
    open_talk,
    open_test_relay,
)
from support.relays import GIVEN, durable_storage

pytest_plugins = "relaykit.testing.fixtures"
pytestmark = pytest.mark.anyio

WHOLE_LIFE = ("CREATED", "SPAWNING", "ACTIVE", "TERMINATING", "CLEANED")
DEADLINE = 20


class NoSecrets:
    @hookimpl
    async def relaykit_check_prompt(self, request: PromptRequest) -> None:
        if b"secret" in request.body:
            raise RefusedByHook("that is a secret")


@pytest.fixture
def relay_plugins() -> Mapping[str, object]:
    return {"no-secrets": NoSecrets}


async def test_a_relay_with_the_plugin_under_test(relay: Relay, recording_hooks: RecordingHooks) -> None:
    async with open_talk(relay) as talk:
        assert_transitions(recording_hooks, "CREATED", "SPAWNING", "ACTIVE")
        answer = await talk.prompt("hello")
        assert (answer.text, answer.failed, answer.result) == ("hello", False, {"stopReason": "end_turn"})
        with pytest.raises(Refused, match="'no-secrets': that is a secret"):
            await talk.prompt("a secret")
        await talk.end("enough")
    assert_transitions(recording_hooks, *WHOLE_LIFE)
    assert recording_hooks.transitions[-1].after.reason == "enough"


async def test_nothing_else_is_loaded(relay: Relay) -> None:
    names = {record.name for record in relay.plugins.records}
    assert names == {"relaykit", "no-secrets", "fake", "recording"}
    assert {route.path for route in relay.routes} == set()


async def test_its_clock_stands_still(
    relay: Relay, fake_clock: FakeClock, recording_hooks: RecordingHooks
) -> None:
    async with open_talk(relay) as talk:
        fake_clock.advance(60)
        await talk.end()
    created, *_, cleaned = recording_hooks.transitions
    assert (cleaned.at - created.at).total_seconds() == 60


# ---------------------------------------------------------------- the fake agent


async def test_a_script_asks(relay: Relay, fake_launcher: FakeLauncher) -> None:
    async def script(turn: FakeTurn) -> None:
        chosen = await turn.ask("write it?", kind="edit", paths=["/work/a"])
        await turn.say(f"{turn.text}: {chosen}")

    fake_launcher.script = script
    async with open_talk(relay) as talk:
        for number, option in enumerate(("yes", "no"), start=1):
            turn = await talk.begin(f"turn {number}")
            await talk.choose(await talk.question(number), option)
            assert (await talk.answer_to(turn)).text == f"turn {number}: {option}"
        turn = await talk.begin("turn 3")
        await talk.question(3)
        await relay.cancel(talk.session_id)
        answer = await talk.answer_to(turn)
        assert (answer.text, answer.result) == ("", {"stopReason": "cancelled"})
        await talk.end()


async def test_a_script_fails_and_crashes(
    relay: Relay, fake_launcher: FakeLauncher, recording_hooks: RecordingHooks
) -> None:
    async def script(turn: FakeTurn) -> None:
        await turn.say("so far")
        if turn.text == "fail":
            turn.fail("not now", code=-32000)
        turn.crash("out of memory")

    fake_launcher.script = script
    async with open_talk(relay) as talk:
        answer = await talk.prompt("fail")
        assert (answer.text, answer.failed, answer.result["message"]) == ("so far", True, "not now")
        answer = await talk.prompt("crash")
        assert answer.failed
        assert "out of memory" in answer.result["message"]
        with anyio.fail_after(DEADLINE):
            await relay.wait_ended(talk.session_id)
    assert_transitions(recording_hooks, *WHOLE_LIFE)
    assert "out of memory" in str(recording_hooks.transitions[-1].after.reason)
    assert [agent.closed for agent in fake_launcher.agents] == [True]


async def test_an_agent_that_crashes_comes_back_where_it_can(tmp_path: Path) -> None:
    fell: list[FellAsleep] = []

    class Listens:
        @hookimpl
        async def relaykit_on_asleep(self, sleep: FellAsleep) -> None:
            fell.append(sleep)

    async def script(turn: FakeTurn) -> None:
        if not turn.resumed:
            turn.crash("out of memory")
        await turn.say("here again")

    launcher, storage = FakeLauncher(script, resumable=True), durable_storage()
    async with (
        open_test_relay(
            tmp_path,
            plugins={"listens": Listens(), GIVEN: storage},
            toml=f'[relay]\nstorage = "{GIVEN}"\n',
            launcher=launcher,
            clock=SystemClock(),
        ) as relay,
        open_talk(relay) as talk,
    ):
        assert (await talk.prompt("crash")).failed  # ended by the relay: the agent says nothing any more
        assert (await talk.prompt("hello")).text == "here again"
        await talk.end()
    assert [(sleep.crashed, "out of memory" in sleep.reason) for sleep in fell] == [(True, True)]


async def test_an_agent_that_starts_slowly_and_one_that_does_not(tmp_path: Path) -> None:
    go_on, started, hooks = anyio.Event(), anyio.Event(), RecordingHooks()

    async def start(session: Session) -> None:
        if session.agent_id == "missing":
            raise ProgramNotFound("fake-agent", agent="fake")
        started.set()
        await go_on.wait()

    launcher = FakeLauncher(when_started=start)
    async with open_test_relay(tmp_path, launcher=launcher, hooks=hooks) as relay:
        slow = await relay.create("slow")
        missing = await relay.create("missing")
        with anyio.fail_after(DEADLINE):
            await started.wait()
            await relay.wait_ended(missing.id)
        assert_transitions(hooks, "CREATED", "SPAWNING", session_id=slow.id)
        assert_transitions(hooks, "CREATED", "SPAWNING", "TERMINATING", "CLEANED", session_id=missing.id)
        with pytest.raises(AssertionError, match=r"SPAWN_FAILED: agent 'fake': the program 'fake-agent'"):
            assert_transitions(hooks, *WHOLE_LIFE, session_id=missing.id)
        await relay.stop(slow.id, "too slow")
        with anyio.fail_after(DEADLINE):
            await relay.wait_ended(slow.id)
    assert launcher.agents == []


async def test_what_a_script_raises_by_mistake_fails_the_test(tmp_path: Path) -> None:
    async def script(turn: FakeTurn) -> None:
        assert turn.text == "what the test expected"

    launcher = FakeLauncher(script)
    with pytest.raises(AssertionError, match="what the test expected"):
        async with open_test_relay(tmp_path, launcher=launcher) as relay, open_talk(relay) as talk:
            assert "AssertionError" in (await talk.prompt("something else")).result["message"]


async def test_an_agent_that_is_closed_in_the_middle_of_a_turn(tmp_path: Path) -> None:
    async def script(turn: FakeTurn) -> None:
        await turn.say("I begin")
        await anyio.sleep_forever()

    launcher = FakeLauncher(script)
    async with open_test_relay(tmp_path, launcher=launcher) as relay, open_talk(relay) as talk:
        turn = await talk.begin("work")
        await talk.until(lambda entry: b"I begin" in entry.frame.body)
        await talk.end()
        assert (await talk.answer_to(turn)).failed
    assert launcher.agents[0].closed


async def test_settings_are_the_tests_own(tmp_path: Path) -> None:
    in_place = open_test_relay(tmp_path, toml='[relay]\nworkspace = "in_place"\n')
    async with in_place as relay, open_talk(relay) as talk:
        session = await relay.require(talk.session_id)
        assert session.worktree_dir == str(tmp_path / "project")
        await talk.end()
    with pytest.raises(UnknownImplementation, match="no storage 'nowhere'"):
        async with open_test_relay(tmp_path, toml='[relay]\nstorage = "nowhere"\n'):
            pytest.fail("there is no such storage")
    with pytest.raises(SettingsError, match=r"relay\.storge"):
        async with open_test_relay(tmp_path, toml='[relay]\nstorge = "memory"\n'):
            pytest.fail("there is no such setting")


async def test_a_plugin_that_is_not_installed() -> None:
    assert installed_plugin("acp") is __import__("relaykit_acp")
    with pytest.raises(LookupError, match=r"no installed packages have an entry point 'pager'.*--editable"):
        installed_plugin("pager")


# ---------------------------------------------------------------- transitions


async def test_transitions_of_a_manager(fake_connection: FakeConnection, fake_clock: FakeClock) -> None:
    hooks = RecordingHooks()
    async with Manager(
        store=MemoryStore(), ids=FakeIds(), clock=fake_clock, cleaners=[CloseConnection()], hooks=hooks
    ) as manager:
        with pytest.raises(AssertionError, match="say session_id: there are transitions of no session"):
            assert_transitions(hooks)
        session = await manager.create("auth", fake_connection)
        await manager.begin_spawn(session.id)
        assert_transitions(hooks, SessionState.CREATED, SessionState.SPAWNING)
        await manager.create("db", FakeConnection())
        with pytest.raises(AssertionError, match=r"say session_id: .*session-000001, session-000002"):
            assert_transitions(hooks, "CREATED")
        assert_transitions(hooks, "CREATED", session_id="session-000002")
        await manager.mark_terminating(session.id, "enough")
        await manager.mark_terminating(session.id, "I said enough")
        await manager.complete_cleanup(session.id)
    assert fake_connection.closed
    assert_transitions(hooks, "CREATED", "SPAWNING", "TERMINATING", "CLEANED", session_id="session-000001")
    with pytest.raises(AssertionError) as caught:
        assert_transitions(hooks, *WHOLE_LIFE, session_id="session-000001")
    assert str(caught.value).splitlines() == [
        "session session-000001",
        "  was to go CREATED → SPAWNING → ACTIVE → TERMINATING → CLEANED",
        "  and went  CREATED → SPAWNING → TERMINATING (REQUESTED: enough) → CLEANED",
    ]
    told_twice = [*hooks.heard_of("session-000001"), hooks.heard_of("session-000001")[0]]
    with pytest.raises(AssertionError, match="told twice, or out of order"):
        assert_transitions(told_twice, "CREATED", "SPAWNING", "TERMINATING", "CLEANED", "CREATED")
