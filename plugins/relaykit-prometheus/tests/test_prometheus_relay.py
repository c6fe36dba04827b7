"""What whole relays do is counted exactly: with real agents, on both event loops, over restarts."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path

import anyio
import pytest
from prometheus_client import generate_latest

from relaykit.conversation import Entry, Frame, Kind, MemoryJournal
from relaykit.errors import DuplicateRole, JournalError, StoreError
from relaykit.relay import Relay
from relaykit.relay.access import Role
from relaykit.relay.rest import Presence
from relaykit.session import MemoryStore
from relaykit_prometheus import PrometheusPlugin
from support.relays import (
    PATIENCE,
    Storage,
    active_session,
    echo_with,
    ended,
    following,
    running_relay,
)
from support.scraping import Series, all_series, in_short, series
from support.session_stores import StagedStore
from support.sleepers import FORGETFUL, REMEMBERING, RESUME, House, until_presence

pytestmark = pytest.mark.anyio

QUICK = {"PLUGINS__ACP__EOF_GRACE": "1", "PLUGINS__ACP__TERM_GRACE": "0.2", "RELAY__ON_CRASH": "end"}


class Metered(PrometheusPlugin):
    """The plugin, scraped without HTTP."""

    def scrape(self) -> dict[Series, float]:
        scraped = all_series(generate_latest(self.metrics.registry).decode())
        return {key: value for key, value in scraped.items() if not key[0].endswith("_created")}

    def counts(self) -> dict[str, float]:
        """Return what is not 0, but for operations of the storage, whose number is its own, and for others' hooks."""
        return in_short(self.scrape(), without=("storage_", "hook_"))


async def test_every_count_of_a_known_workload_is_exact(tmp_path: Path) -> None:
    metered = Metered()
    agents = (
        echo_with(name="plain")
        + echo_with("--ignore-signals", name="stubborn")
        + echo_with("--exit", "3", name="exits")
        + '[agents.missing]\ncommand = ["there-is-no-such-program"]\n'
    )
    with anyio.fail_after(PATIENCE):
        async with running_relay(tmp_path, plugins={"metered": metered}, toml=agents, **QUICK) as relay:
            async with active_session(relay, "talks", agent="plain") as talks:
                await talks.say("hello", "t1")
                await talks.until_turn_end("t1")
                await talks.say("/ask", "t2")
                request = await talks.until_asked()
                await talks.say("waits", "t3")
                assert (
                    metered.counts().items()
                    >= {
                        "sessions ACTIVE": 1,
                        "turns_running": 1,
                        "prompts_waiting": 1,
                        "questions_waiting": 1,
                    }.items()
                )
                await talks.answer(request.frame.ref)
                await talks.until_turn_end("t3")
                await talks.say("/fail", "t4")
                await talks.until_turn_end("t4")
                replayed = await look_at(relay, talks.session_id)
            async with active_session(relay, "crashes", agent="plain") as crashes:
                await crashes.say("/crash", "t1")
                await ended(relay, crashes.session_id)
            async with active_session(relay, "stubborn", agent="stubborn") as stubborn:
                await stubborn.say("/children 1 setsid", "t1")
                await stubborn.until_turn_end("t1")
                await relay.stop(stubborn.session_id, "enough")
                await ended(relay, stubborn.session_id)
            for agent in ("missing", "exits"):
                session = await relay.create(agent, agent=agent)
                await ended(relay, session.id)
            await relay.stop(talks.session_id, "enough")
            await ended(relay, talks.session_id)
            counted = metered.counts()
    said = [entry.frame for client in (talks, crashes, stubborn) for entry in client.entries]
    assert counted.pop("message_bytes_total to_agent") == size(said, Kind.PROMPT, Kind.DECISION)
    interrupted = [
        frame for frame in said if frame.body.startswith(b'{"code": -32603, "message": "interrupted')
    ]
    assert len(interrupted) == 1  # which is the relay's word
    assert counted.pop("message_bytes_total from_agent") == size(
        said, Kind.UPDATE, Kind.REQUEST, Kind.TURN_END
    ) - size(interrupted, Kind.TURN_END)
    assert counted == {
        "session_transitions_total CREATE,done": 5,
        "session_transitions_total SPAWN,done": 5,
        "session_transitions_total ACTIVATE,done": 3,
        "session_transitions_total TERMINATE,done": 5,
        "session_transitions_total CLEAN,done": 5,
        "session_terminations_total REQUESTED": 2,
        "session_terminations_total SPAWN_FAILED": 2,
        "session_terminations_total AGENT_EXITED": 1,
        "session_duration_seconds_count": 5,
        "session_messages_count": 5,
        "cleanups_total acp,DONE": 5,
        "workspace_prepare_seconds_count": 5,
        "agent_spawn_seconds_count plain": 2,
        "agent_spawn_seconds_count stubborn": 1,
        "agent_spawn_failures_total exits,AgentExited": 1,
        "agent_spawn_failures_total missing,ProgramNotFound": 1,
        "agent_crashes_total": 1,
        "agent_shutdown_seconds_count plain": 2,
        "agent_shutdown_seconds_count stubborn": 1,
        # talks: four prompts and an answer; crashes and stubborn: a prompt each.
        "messages_total to_agent": 7,
        # talks: (update, end), (question, update, end), (update, end), end; stubborn: (update, end).
        "messages_total from_agent": 10,
        "turn_seconds_count done": 4,
        "turn_seconds_count failed": 1,
        "turn_seconds_count interrupted": 1,
        "turn_first_update_seconds_count": 4,
        "question_wait_seconds_count answered": 1,
        "client_attaches_total acp,observer": 1,
        "client_attaches_total ws,controller": 3,
        "entries_replayed_total acp": replayed,
        "agent_shutdown_steps_total eof": 4,
        "agent_shutdown_steps_total term": 1,
        "agent_shutdown_steps_total kill": 1,
        "agent_shutdown_steps_total stray": 1,
    }


def size(frames: Sequence[Frame], *kinds: Kind) -> int:
    return sum(len(frame.body) for frame in frames if frame.kind in kinds)


async def look_at(relay: Relay, session_id: str) -> int:
    """Watch what has been said, and return how many entries that was."""
    attached = relay.attach(session_id, client_id="o", protocol="acp", role=Role.OBSERVER)
    async with attached as cursor:
        while not (await cursor.next(3)).caught_up:
            pass
        return cursor.position


async def test_sleep_and_restarts_are_exact_and_gauges_are_right_at_once(tmp_path: Path) -> None:
    house = House(tmp_path, *RESUME)
    first, second = Metered(), Metered()
    with anyio.fail_after(PATIENCE):
        async with (
            house.relay(plugins={"metered": first}) as relay,
            active_session(relay, agent=REMEMBERING) as client,
        ):
            await client.say("hello", "t1")
            await client.until_turn_end("t1")
            await relay.live(client.session_id).fall_asleep("nobody is here")
            assert first.counts().items() >= {"sessions ACTIVE": 1, "sessions_asleep": 1}.items()
            await client.say("hello", "t2")
            await client.until_turn_end("t2")
            assert "sessions_asleep" not in first.counts()
            await client.say("/ask", "t3")
            await client.until_asked()
        at_the_end = first.counts()
        for name in ("to_agent", "from_agent"):
            at_the_end.pop(f"message_bytes_total {name}")
        assert at_the_end == {
            "session_transitions_total CREATE,done": 1,
            "session_transitions_total SPAWN,done": 1,
            "session_transitions_total ACTIVATE,done": 1,
            "workspace_prepare_seconds_count": 1,
            "agent_spawn_seconds_count remembering": 2,
            "agent_shutdown_seconds_count remembering": 2,
            # To sleep, at the relay's end, and once more when it lets go of a session that might have been woken.
            "cleanups_total acp,DONE": 3,
            "agent_shutdown_steps_total eof": 2,
            "messages_total to_agent": 3,
            "messages_total from_agent": 5,  # twice (update, end), and a question
            "turn_seconds_count done": 2,
            "turn_seconds_count interrupted": 1,
            "turn_first_update_seconds_count": 2,
            "question_wait_seconds_count cancelled": 1,
            "client_attaches_total ws,controller": 1,
        }
        async with house.relay(plugins={"metered": second}) as relay:
            session_id = client.session_id
            # From the first scrape on; what is done to be sure that nothing is left of the agent comes by itself.
            assert second.counts().items() >= {"sessions ACTIVE": 1, "sessions_asleep": 1}.items()
            async with following(relay, session_id) as client:
                await until_presence(relay, session_id, Presence.AWAKE)
                await client.until_turn_end("t3")
                assert second.counts() == {
                    "sessions ACTIVE": 1,
                    "agent_spawn_seconds_count remembering": 1,
                    "cleanups_total acp,DONE": 1,
                    "client_attaches_total ws,controller": 1,
                    "entries_replayed_total ws": relay.live(session_id).conversation.head
                    - 1,  # but for "awake"
                }
            await relay.stop(session_id, "enough")
            await ended(relay, session_id)
            assert (
                second.counts().items()
                >= {
                    "session_transitions_total TERMINATE,done": 1,
                    "session_transitions_total CLEAN,done": 1,
                    "session_duration_seconds_count": 1,
                }.items()
            )
            assert "sessions ACTIVE" not in second.counts()


async def test_what_a_killed_relay_has_left_is_counted_by_the_next(tmp_path: Path) -> None:
    house = House(tmp_path, *FORGETFUL)
    second = Metered()
    with anyio.fail_after(PATIENCE):
        async with house.relay() as relay, active_session(relay, agent=REMEMBERING) as client:
            await client.say("/ask", "t1")
            await client.until_asked()
            await house.snapshot()
        async with house.relay(plugins={"metered": second}) as relay:
            await ended(relay, client.session_id)
            assert second.counts() == {
                "session_transitions_total TERMINATE,done": 1,
                "session_transitions_total CLEAN,done": 1,
                "session_terminations_total RESTART": 1,
                "session_duration_seconds_count": 1,
                "session_messages_count": 1,
                "cleanups_total acp,DONE": 1,
                "turn_seconds_count interrupted": 1,
                "question_wait_seconds_count cancelled": 1,
            }


async def test_an_agent_that_crashes_and_comes_back_is_exact(tmp_path: Path) -> None:
    house, metered = House(tmp_path, *RESUME), Metered()
    with anyio.fail_after(PATIENCE):
        async with house.relay(plugins={"metered": metered}) as relay:
            async with active_session(relay, agent=REMEMBERING) as client:
                await client.say("/crash", "t1")
                await client.until_turn_end("t1")
                await client.until_notice("awake")
                await client.say("hello", "t2")
                await client.until_turn_end("t2")
            await relay.stop(client.session_id, "enough")
            await ended(relay, client.session_id)
            counted = metered.counts()
    for direction in ("to_agent", "from_agent"):
        counted.pop(f"message_bytes_total {direction}")
    events = ("CREATE", "SPAWN", "ACTIVATE", "TERMINATE", "CLEAN")
    assert counted == {
        **{f"session_transitions_total {event},done": 1 for event in events},
        "session_terminations_total REQUESTED": 1,
        "session_duration_seconds_count": 1,
        "session_messages_count": 1,
        "workspace_prepare_seconds_count": 1,
        "agent_crashes_total": 1,
        "agent_spawn_seconds_count remembering": 2,
        "agent_shutdown_seconds_count remembering": 2,
        "agent_shutdown_steps_total eof": 2,
        "cleanups_total acp,DONE": 2,
        "messages_total to_agent": 2,
        "messages_total from_agent": 2,  # update, end
        "turn_seconds_count interrupted": 1,
        "turn_seconds_count done": 1,
        "turn_first_update_seconds_count": 1,
        "client_attaches_total ws,controller": 1,
    }


async def test_gaps_are_counted_and_what_is_gone_is_not_replayed(tmp_path: Path) -> None:
    metered = Metered()
    house = House(tmp_path)
    with anyio.fail_after(PATIENCE):
        async with house.relay(plugins={"metered": metered}) as relay:
            async with active_session(relay, agent=REMEMBERING) as client:
                await client.say("/stream 20", "t1")
                await client.until_turn_end("t1")
                await relay.live(client.session_id).fall_asleep("and keeps nothing in memory")
                await until_presence(relay, client.session_id, Presence.ASLEEP)
                await house.journal.trim(client.session_id, through=10)
            before = metered.counts()
            head = await look_at(relay, client.session_id)
            after = metered.counts()
    assert {key: after[key] for key in after if after[key] != before.get(key)}.items() >= {
        "client_attaches_total acp,observer": 1,
        "gaps_total acp": 1,
        "entries_replayed_total acp": head - 10,
    }.items()


async def test_a_storage_that_fails_is_seen_and_what_it_refuses_is_no_failure(tmp_path: Path) -> None:
    metered = Metered()
    journal = FailingJournal()
    store = StagedStore(MemoryStore())
    plugins = {"metered": metered, "storage": Storage(journal, store)}
    with anyio.fail_after(PATIENCE):
        async with running_relay(tmp_path, plugins=plugins, RELAY__STORAGE="given") as relay:
            async with active_session(relay) as client:
                with pytest.raises(DuplicateRole):
                    await relay.create("auth")
                store.fail("create", StoreError("the disk is full"))
                with pytest.raises(StoreError):
                    await relay.create("db")
                journal.broken = True
                with pytest.raises(JournalError):
                    await client.say("hello", "t1")
                journal.broken = False
            scraped = metered.scrape()
    errors = {
        dict(labels)["operation"]: value
        for (name, labels), value in scraped.items()
        if name == "relaykit_storage_errors_total" and value
    }
    # The conversation looks whether its entry was recorded all the same: it was not.
    assert errors == {"store_create": 1, "journal_append": 1}
    seconds = {
        operation: scraped[series("relaykit_storage_operation_seconds_count", operation=operation)]
        for operation in ("store_create", "journal_open")
    }
    assert seconds == {"store_create": 3, "journal_open": 1}


class FailingJournal(MemoryJournal):
    broken = False

    async def append(self, session_id: str, epoch: str, entries: Sequence[Entry], /) -> None:
        if self.broken:
            raise JournalError("the disk is full")
        await super().append(session_id, epoch, entries)


async def test_the_number_of_series_does_not_depend_on_the_sessions(tmp_path: Path) -> None:
    metered = Metered()
    with anyio.fail_after(PATIENCE):
        async with running_relay(tmp_path, plugins={"metered": metered}) as relay:
            empty = metered.scrape().keys()
            async with AsyncExitStack() as stack:
                for number in range(10):
                    client = await stack.enter_async_context(active_session(relay, f"role-{number}"))
                    await client.say("hello", "t1")
                    await client.until_turn_end("t1")
                assert metered.scrape().keys() == empty
                assert metered.scrape()[series("relaykit_sessions", state="ACTIVE")] == 10
            for live in list(relay._sessions):
                await relay.stop(live.id, "enough")
                await ended(relay, live.id)
            scraped = metered.scrape()
    assert scraped.keys() == empty
    values = {value for _, labels in scraped for _, value in labels}
    assert not [value for value in values if "role-" in value or value in {"local", "auth"}]
