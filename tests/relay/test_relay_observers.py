"""Observers of plugins: each hears what happened, in order; none holds anybody up."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import anyio
import pytest

from relaykit.conversation import Entry
from relaykit.hooks import hookimpl
from relaykit.hooks.events import (
    ClientAttached,
    ClientDetached,
    EntriesRecorded,
    FellAsleep,
    QuestionAnswered,
    QuestionAsked,
    Transition,
    TurnEnded,
    TurnStarted,
    WokeUp,
)
from relaykit.session import SessionState
from relaykit.testing import FakeClock, FakeLauncher, open_talk, open_test_relay
from support.relays import (
    GIVEN,
    PATIENCE,
    active_session,
    durable_storage,
    ended,
    following,
    running_relay,
)

pytestmark = pytest.mark.anyio


class Log:
    """What happened, in the order in which it was heard, and a way to wait for it."""

    def __init__(self) -> None:
        self.heard: list[str] = []
        self._changed = anyio.Event()

    def add(self, what: str) -> None:
        self.heard.append(what)
        self._changed.set()
        self._changed = anyio.Event()

    async def until(self, done: Callable[[], bool]) -> None:
        with anyio.fail_after(PATIENCE):
            while not done():
                await self._changed.wait()


class Observer(Log):
    """Hears of everything but of what is said."""

    def __init__(self) -> None:
        super().__init__()
        self.turns_ended: list[TurnEnded] = []
        self.answered: list[QuestionAnswered] = []

    @hookimpl
    async def relaykit_on_transition(self, transition: Transition) -> None:
        self.add(transition.after.state)

    @hookimpl
    async def relaykit_on_client_attached(self, client: ClientAttached) -> None:
        self.add(f"{client.client_id} attached after {client.after} by {client.protocol}")

    @hookimpl
    async def relaykit_on_client_detached(self, client: ClientDetached) -> None:
        self.add(f"{client.client_id} detached")

    @hookimpl
    async def relaykit_on_turn_started(self, turn: TurnStarted) -> None:
        self.add(f"{turn.turn} started by {turn.client_id}")

    @hookimpl
    async def relaykit_on_turn_ended(self, turn: TurnEnded) -> None:
        self.turns_ended.append(turn)
        self.add(f"{turn.turn} {turn.outcome}")

    @hookimpl
    async def relaykit_on_question_asked(self, question: QuestionAsked) -> None:
        self.add(f"asked {question.request.method}")

    @hookimpl
    async def relaykit_on_question_answered(self, question: QuestionAnswered) -> None:
        self.answered.append(question)
        self.add(f"answered by {question.by}: {question.outcome}")


class Archive(Log):
    """Keeps what is said."""

    def __init__(self) -> None:
        super().__init__()
        self.batches: list[EntriesRecorded] = []

    @property
    def entries(self) -> list[Entry]:
        return [entry for batch in self.batches for entry in batch.entries]

    @hookimpl
    async def relaykit_on_entries(self, batch: EntriesRecorded) -> None:
        self.batches.append(batch)
        self.add("batch")


async def test_turns_and_questions_are_told_in_order(tmp_path: Path) -> None:
    observer = Observer()
    async with (
        running_relay(tmp_path, plugins={"observer": observer}) as relay,
        active_session(relay) as client,
    ):
        await client.say("/ask", "t1")
        await client.say("/fail", "t2")
        await client.answer((await client.until_asked()).frame.ref)
        await client.until_turn_end("t2")
        await client.say("/ask", "t3")
        await client.until_asked(2)
        await relay.cancel(client.session_id)
        await client.until_turn_end("t3")
        await client.say("/sleep 600", "t4")
        await relay.stop(client.session_id, "enough")
        await client.until_the_end()
        await observer.until(lambda: "t4 interrupted" in observer.heard)
    turns = [told for told in observer.heard if told.startswith(("t", "a"))]
    assert turns == [
        "t1 started by c1",
        "asked session/request_permission",
        "answered by c1: answered",
        "t1 done",
        "t2 started by c1",
        "t2 failed",
        "t3 started by c1",
        "asked session/request_permission",
        "answered by relay: cancelled",
        "t3 done",
        "t4 started by c1",
        "t4 interrupted",
    ]
    assert all(turn.seconds >= 0 and turn.session.id == client.session_id for turn in observer.turns_ended)
    assert [answer.decision.ref for answer in observer.answered] == [
        answer.request.ref for answer in observer.answered
    ]


async def test_transitions_are_told_in_order(tmp_path: Path) -> None:
    observer = Observer()
    async with (
        running_relay(tmp_path, plugins={"observer": observer}) as relay,
        active_session(relay) as client,
    ):
        await relay.stop(client.session_id, "done")
        await client.until_the_end()
    assert [told for told in observer.heard if told in set(SessionState)] == list(SessionState)


async def test_clients_are_told_as_they_come_and_go(tmp_path: Path) -> None:
    observer = Observer()
    async with (
        running_relay(tmp_path, plugins={"observer": observer}) as relay,
        active_session(relay) as client,
    ):
        async with following(relay, client.session_id, client_id="c2", after=1):
            pass
        await observer.until(lambda: "c2 detached" in observer.heard)
        with pytest.raises(ValueError, match="no entry 99"):
            async with following(relay, client.session_id, client_id="c3", after=99):
                pytest.fail("there is no such entry")
    await observer.until(lambda: "c1 detached" in observer.heard)
    assert [told for told in observer.heard if told.startswith("c")] == [
        "c1 attached after 0 by ws",
        "c2 attached after 1 by ws",
        "c2 detached",
        "c1 detached",
    ]


async def test_what_is_said_is_told_whole_and_in_order(tmp_path: Path) -> None:
    archive = Archive()
    small = running_relay(tmp_path, plugins={"archive": archive}, RELAY__TAIL_BYTES="2000")
    async with small as relay, active_session(relay) as client:
        await client.say("/stream 2000", "t1")
        await client.until_turn_end("t1")
        await relay.stop(client.session_id, "done")
        await client.until_the_end()
        session_id = client.session_id
    assert archive.entries == client.entries
    assert {(batch.session.id, batch.epoch) for batch in archive.batches} == {
        (session_id, archive.batches[0].epoch)
    }


async def test_a_slow_archive_gets_large_batches_and_delays_nobody(tmp_path: Path) -> None:
    archive, go_on = Archive(), anyio.Event()

    class Slow:
        @hookimpl
        async def relaykit_on_entries(self, batch: EntriesRecorded) -> None:
            await archive.relaykit_on_entries(batch)
            await go_on.wait()

    slow = running_relay(tmp_path, plugins={"slow": Slow()}, RELAY__HOOK_TIMEOUT="60")
    async with slow as relay, active_session(relay) as client:
        for number in range(5):
            await client.say("/stream 50", f"t{number}")
        await client.until_turn_end("t4")
        await relay.stop(client.session_id, "done")
        await client.until_the_end()
        await ended(relay, client.session_id)
        assert len(archive.batches) == 1
        go_on.set()
        await archive.until(lambda: len(archive.entries) == len(client.entries))
    assert archive.entries == client.entries
    assert len(archive.batches) == 2


class Hanging:
    """Returns from no observer before it is told to, but from those of transitions, which are waited for by design."""

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()
        self.released = anyio.Event()

    async def hang(self, hook: str) -> None:
        self.calls[hook] += 1
        await self.released.wait()

    @hookimpl
    async def relaykit_on_client_attached(self) -> None:
        await self.hang("attached")

    @hookimpl
    async def relaykit_on_turn_started(self) -> None:
        await self.hang("turn started")

    @hookimpl
    async def relaykit_on_turn_ended(self) -> None:
        await self.hang("turn ended")

    @hookimpl
    async def relaykit_on_question_asked(self) -> None:
        await self.hang("asked")

    @hookimpl
    async def relaykit_on_question_answered(self) -> None:
        await self.hang("answered")

    @hookimpl
    async def relaykit_on_entries(self) -> None:
        await self.hang("entries")


async def test_observers_that_hang_delay_no_streaming(tmp_path: Path) -> None:
    hanging = Hanging()
    hung = running_relay(tmp_path, plugins={"hanging": hanging}, RELAY__HOOK_TIMEOUT="60")
    async with hung as relay, active_session(relay) as client:
        try:
            for number in range(20):
                await client.say("/ask", f"t{number}")
                await client.answer((await client.until_asked(number + 1)).frame.ref)
                await client.until_turn_end(f"t{number}")
            await client.say("/stream 500", "last")
            await client.until_turn_end("last")
            await relay.stop(client.session_id, "done")
            await client.until_the_end()
            await ended(relay, client.session_id)
            assert hanging.calls == {"attached": 1, "entries": 1}
        finally:
            hanging.released.set()
    assert hanging.calls["turn ended"] == 21


async def test_observers_that_fail_change_nothing(tmp_path: Path) -> None:
    class Failing:
        @hookimpl
        async def relaykit_on_transition(self) -> None:
            raise ZeroDivisionError

        @hookimpl
        async def relaykit_on_turn_started(self) -> None:
            raise ZeroDivisionError

        @hookimpl
        async def relaykit_on_entries(self) -> None:
            raise ZeroDivisionError

    async with (
        running_relay(tmp_path, plugins={"failing": Failing()}) as relay,
        active_session(relay) as client,
    ):
        await client.say("hello", "t1")
        await client.until_turn_end("t1")
        await relay.stop(client.session_id, "done")
        assert (await client.until_notice("ended"))["cause"] == "REQUESTED"
        await client.until_the_end()


class Night(Log):
    def __init__(self) -> None:
        super().__init__()
        self.told: list[FellAsleep | WokeUp] = []

    @hookimpl
    async def relaykit_on_asleep(self, sleep: FellAsleep) -> None:
        self.told.append(sleep)
        self.add("asleep")

    @hookimpl
    async def relaykit_on_awake(self, waking: WokeUp) -> None:
        self.told.append(waking)
        self.add("awake")


async def test_sleep_and_waking_are_told(tmp_path: Path) -> None:
    night, clock = Night(), FakeClock()
    launcher = FakeLauncher(resumable=True)
    plugins = {"night": night, GIVEN: durable_storage()}
    toml = f'[relay]\nstorage = "{GIVEN}"\n'
    opened = open_test_relay(tmp_path, plugins=plugins, toml=toml, launcher=launcher, clock=clock)
    async with opened as relay, open_talk(relay, "auth") as talk:
        clock.advance(7)
        await relay.live(talk.session_id).fall_asleep("it is late")
        await talk.prompt("good morning")
    told = [
        (type(each), each.session.agent_id, each.session.state, bool(each.session.worktree_dir), each.at)
        for each in night.told
    ]
    now = clock.now()
    assert told == [
        (FellAsleep, "auth", SessionState.ACTIVE, True, now),
        (WokeUp, "auth", SessionState.ACTIVE, True, now),
        (FellAsleep, "auth", SessionState.ACTIVE, True, now),
    ]
    why = [(each.reason, each.crashed) for each in night.told if isinstance(each, FellAsleep)]
    assert why == [
        ("it is late", False),
        ("the relay is shutting down", False),
    ]
