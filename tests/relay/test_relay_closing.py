"""Leaving a relay: every session ends in order, whatever made us leave, and nothing is left."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from random import Random

import anyio
import anyio.lowlevel
import pytest

from relaykit.conversation import Entry, Kind, MemoryJournal
from relaykit.errors import ManagerClosed
from relaykit.hooks import hookimpl
from relaykit.hooks.events import EntriesRecorded, Transition
from relaykit.relay import Relay
from relaykit.session import MemoryStore, Session, SessionFilter, SessionState
from relaykit.testing import HoppingStore
from support.native import run_cancellable
from support.relays import PATIENCE, Storage, ended, following, processes_of, prompt, running_relay

pytestmark = pytest.mark.anyio

SESSIONS = 10
FAR = datetime(2100, 1, 1, tzinfo=UTC)


class Left(Exception):
    """Raised to leave a block."""


class World:
    """A relay over a store that is as slow as a database, and what must be so when it has gone."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.store = MemoryStore()
        self.journal = MemoryJournal()
        self.sessions: list[Session] = []

    @asynccontextmanager
    async def relay(self, **plugins: object) -> AsyncIterator[Relay]:
        storage = Storage(self.journal, HoppingStore(self.store))
        running = running_relay(
            self.directory, plugins={"storage": storage, **plugins}, RELAY__STORAGE="given"
        )
        async with running as relay:
            yield relay

    async def start(self, relay: Relay) -> None:
        """Run some sessions, each with an open turn."""
        async with anyio.create_task_group() as tasks:
            for number in range(SESSIONS):
                tasks.start_soon(self.start_one, relay, number)

    async def start_one(self, relay: Relay, number: int) -> None:
        session = await relay.create(f"role-{number}")
        self.sessions.append(session)
        async with following(relay, session.id) as client:
            await client.until_notice("active")
            await client.say("/ask" if number % 2 else "/sleep 600", "t1")
            if number % 2:
                await client.until_asked()
            else:
                await client.until(lambda entry: entry.frame.kind is Kind.PROMPT)

    async def check(self, *, cause: str = "SHUTDOWN") -> None:
        """Check that everything ended in order, and that nothing is left."""
        assert await self.store.count(SessionFilter()) == 0
        assert len(self.sessions) == SESSIONS
        finished = {session.id: session for session in await self.journal.ended(SessionFilter(), before=FAR)}
        for session in self.sessions:
            assert processes_of(session.id) == []
            assert finished[session.id].state is SessionState.CLEANED
            entries = await self.journal.read(session.id, after=0, limit=1000)
            assert _kinds(entries)[-3:] == ["TURN_END", "NOTICE terminating", "NOTICE ended"]
            assert json.loads(entries[-1].frame.body)["cause"] == cause


def _kinds(entries: Sequence[Entry]) -> list[str]:
    return [
        f"{entry.frame.kind} {entry.frame.method}"
        if entry.frame.kind is Kind.NOTICE
        else str(entry.frame.kind)
        for entry in entries
    ]


# ---------------------------------------------------------------- ways to leave


async def test_leaving_ends_every_session(tmp_path: Path) -> None:
    world = World(tmp_path)
    with anyio.fail_after(PATIENCE):
        async with world.relay() as relay:
            await world.start(relay)
    await world.check()


async def test_an_error_in_the_block_ends_every_session(tmp_path: Path) -> None:
    world = World(tmp_path)

    async def leave() -> None:
        async with world.relay() as relay:
            await world.start(relay)
            raise Left

    with anyio.fail_after(PATIENCE), pytest.raises(Left):
        await leave()
    await world.check()


async def test_a_cancelled_block_ends_every_session(tmp_path: Path) -> None:
    world = World(tmp_path)
    with anyio.fail_after(PATIENCE):
        with anyio.CancelScope() as scope:
            async with world.relay() as relay:
                await world.start(relay)
                scope.cancel()
                await anyio.sleep_forever()
        assert scope.cancelled_caught
    await world.check()


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.parametrize("times", [1, 3])
async def test_a_natively_cancelled_block_ends_every_session(tmp_path: Path, times: int) -> None:
    world = World(tmp_path)
    started = anyio.Event()
    cancels: list[Callable[[], object]] = []

    async def host() -> None:
        async with world.relay() as relay:
            await world.start(relay)
            started.set()
            await anyio.sleep_forever()

    async def cancel() -> None:
        await started.wait()
        for _ in range(times):  # an impatient host: while it is closing too
            cancels[0]()
            await anyio.sleep(0.01)

    with anyio.fail_after(PATIENCE):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(cancel)
            assert await run_cancellable(host(), cancels.append)
    await world.check()


async def test_closing_is_idempotent_and_takes_nothing_new(tmp_path: Path) -> None:
    world = World(tmp_path)
    with anyio.fail_after(PATIENCE):
        async with world.relay() as relay:
            await world.start(relay)
            async with anyio.create_task_group() as tasks:
                for _ in range(3):
                    tasks.start_soon(relay.aclose)
                while not relay.closing:
                    await anyio.lowlevel.checkpoint()
                with pytest.raises(ManagerClosed):
                    await relay.create("late")
            assert await relay.list(SessionFilter()) == []
            await relay.aclose()
            with pytest.raises(ManagerClosed):
                await relay.create("later")
    await world.check()


async def test_clients_hear_of_the_end(tmp_path: Path) -> None:
    async with anyio.create_task_group() as tasks, running_relay(tmp_path) as relay:
        session = await relay.create("auth")
        heard: list[list[str]] = []

        async def follow(*, task_status: anyio.abc.TaskStatus[None]) -> None:
            async with following(relay, session.id) as client:
                await client.until_notice("active")
                task_status.started()
                await client.until_the_end()
                heard.append(client.told)

        with anyio.fail_after(PATIENCE):
            await tasks.start(follow)
    assert heard == [["NOTICE active", "NOTICE terminating", "NOTICE ended"]]


# ---------------------------------------------------------------- created while it closes, or cancelled


async def test_what_is_created_while_it_closes_ends_too(tmp_path: Path) -> None:
    world = World(tmp_path)
    first = anyio.Event()
    refused: list[int] = []

    async def create_and_create(relay: Relay, creator: int) -> None:
        with suppress(ManagerClosed):
            for number in range(100):
                await relay.create(f"role-{creator}-{number}")
                first.set()
        refused.append(creator)

    with anyio.fail_after(PATIENCE):
        async with anyio.create_task_group() as tasks, world.relay() as relay:
            for creator in range(5):
                tasks.start_soon(create_and_create, relay, creator)
            await first.wait()
    assert sorted(refused) == list(range(5))
    await _check_all_ended(world)


async def test_a_create_cancelled_anywhere_leaves_no_session_without_a_task(tmp_path: Path) -> None:
    world = World(tmp_path)
    random = Random(3)
    with anyio.fail_after(PATIENCE):
        async with world.relay() as relay:
            for number in range(30):
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(relay.create, f"role-{number}")
                    await anyio.sleep(random.random() * 0.003)
                    tasks.cancel_scope.cancel()
            await _end_all(relay)
            assert await world.store.count(SessionFilter()) == 0
    await _check_all_ended(world)


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_create_cancelled_natively_leaves_no_session_without_a_task(tmp_path: Path) -> None:
    world = World(tmp_path)
    random = Random(4)
    with anyio.fail_after(PATIENCE):
        async with world.relay() as relay:
            for number in range(30):
                async with anyio.create_task_group() as tasks:
                    cancels: list[Callable[[], object]] = []
                    tasks.start_soon(run_cancellable, relay.create(f"role-{number}"), cancels.append)
                    await anyio.sleep(random.random() * 0.003)
                    cancels[0]()
            await _end_all(relay)
            assert await world.store.count(SessionFilter()) == 0
    await _check_all_ended(world)


async def _end_all(relay: Relay) -> None:
    """Stop every session that there is, and wait for the end of each: one without a task would never end."""
    while sessions := await relay.list(SessionFilter(), limit=100):
        for session in sessions:
            await relay.stop(session.id, "enough")
        for session in sessions:
            await ended(relay, session.id)
            await anyio.sleep(0.001)  # one that is being made has no task yet, and is found again


async def _check_all_ended(world: World) -> None:
    assert await world.store.count(SessionFilter()) == 0
    finished = await world.journal.ended(SessionFilter(), before=FAR)
    assert finished
    for session in finished:
        assert session.state is SessionState.CLEANED
        assert processes_of(session.id) == []


# ---------------------------------------------------------------- hooks that interfere


async def test_a_session_that_a_hook_ends_as_it_is_created(tmp_path: Path) -> None:
    relays: list[Relay] = []
    entries: list[Entry] = []

    class Ending:
        @hookimpl
        async def relaykit_on_transition(self, transition: Transition) -> None:
            if transition.after.state is SessionState.CREATED:
                await relays[0].manager.mark_terminating(transition.after.id, "not this one")
                await relays[0].manager.complete_cleanup(transition.after.id)

        @hookimpl
        async def relaykit_on_entries(self, batch: EntriesRecorded) -> None:
            entries.extend(batch.entries)

    with anyio.fail_after(PATIENCE):
        async with running_relay(tmp_path, plugins={"ending": Ending()}) as relay:
            relays.append(relay)
            session = await relay.create("auth")
            await relay.wait_ended(session.id)
            assert await relay.get(session.id) is None
            await relay.create("auth")  # the role is free
    assert entries == []


async def test_a_hook_that_stops_a_session_as_it_becomes_active(tmp_path: Path) -> None:
    relays: list[Relay] = []

    class Stopping:
        @hookimpl
        async def relaykit_on_transition(self, transition: Transition) -> None:
            if transition.after.state is SessionState.ACTIVE:
                await relays[0].stop(transition.after.id, "not this one")

    async with running_relay(tmp_path, plugins={"stopping": Stopping()}) as relay:
        relays.append(relay)
        session = await relay.create("auth")
        async with following(relay, session.id) as client:
            assert (await client.until_notice("ended"))["reason"] == "not this one"
            await client.until_the_end()
        await ended(relay, session.id)
        assert processes_of(session.id) == []


async def test_prompts_between_active_and_the_talk_are_not_lost(tmp_path: Path) -> None:
    relays: list[Relay] = []

    class Eager:
        @hookimpl
        async def relaykit_on_transition(self, transition: Transition) -> None:
            if transition.after.state is SessionState.ACTIVE:
                for number in range(3):
                    await relays[0].prompt(
                        transition.after.id, prompt(f"prompt {number}"), client_id="hook", turn=f"t{number}"
                    )

    async with running_relay(tmp_path, plugins={"eager": Eager()}) as relay:
        relays.append(relay)
        session = await relay.create("auth")
        async with following(relay, session.id) as client:
            await client.until_turn_end("t2")
            turns = [told for told in client.told if told.startswith(("PROMPT", "TURN_END"))]
            assert turns == [f"{kind} t{number}" for number in range(3) for kind in ("PROMPT", "TURN_END")]
