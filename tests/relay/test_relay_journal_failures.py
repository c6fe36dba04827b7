"""A journal that fails: what is said, what is shown and what the agent gets still agree, and sessions end."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest

from relaykit.conversation import Entry, Frame, Kind, MemoryJournal
from relaykit.errors import JournalError
from relaykit.hooks import hookimpl
from relaykit.hooks.events import EntriesRecorded
from relaykit.relay import Relay
from relaykit.session import SessionFilter
from support.journals import StagedJournal
from support.relays import (
    PATIENCE,
    Client,
    Storage,
    active_session,
    ended,
    nothing_is_left,
    permission,
    running_relay,
)

pytestmark = pytest.mark.anyio

HOW = pytest.mark.parametrize("how", ["fail", "lose_answer"])
"""The next append does nothing and raises; or it is recorded, and raises all the same."""


@asynccontextmanager
async def relay_with(
    directory: Path,
    journal: StagedJournal,
    *,
    plugins: Mapping[str, object] | None = None,
    **environ: str,
) -> AsyncIterator[Relay]:
    given = {"storage": Storage(journal), **(plugins or {})}
    async with running_relay(directory, plugins=given, RELAY__STORAGE="given", **environ) as relay:
        yield relay


async def transcript(journal: StagedJournal, session_id: str) -> list[Frame]:
    entries = await journal.read(session_id, after=0, limit=100_000)
    assert [entry.seq for entry in entries] == list(range(1, len(entries) + 1))
    return [entry.frame for entry in entries]


async def check_transcript(journal: StagedJournal, client: Client) -> list[Frame]:
    """Check that the client was shown what was recorded, that turns and questions have one end each."""
    frames = await transcript(journal, client.session_id)
    assert [entry.frame for entry in client.entries] == frames
    for begin, end in ((Kind.PROMPT, Kind.TURN_END), (Kind.REQUEST, Kind.DECISION)):
        begun = [frame.ref for frame in frames if frame.kind is begin]
        assert [frame.ref for frame in frames if frame.kind is end] == begun
    return frames


class Confused(MemoryJournal):
    """A journal with a bug: at the first end of a turn it raises what means the end of an agent's stream."""

    confused = True

    async def append(self, session_id: str, epoch: str, entries: Sequence[Entry], /) -> None:
        if self.confused and any(entry.frame.kind is Kind.TURN_END for entry in entries):
            self.confused = False
            raise anyio.EndOfStream
        await super().append(session_id, epoch, entries)


async def test_a_broken_journal_is_not_taken_for_an_agent_that_has_gone(tmp_path: Path) -> None:
    given = {"storage": Storage(Confused())}
    async with (
        running_relay(tmp_path, plugins=given, RELAY__STORAGE="given") as relay,
        active_session(relay) as client,
    ):
        await client.say("hello", "t1")
        assert (await client.until_notice("terminating"))["cause"] == "INTERNAL"
        await ended(relay, client.session_id)


# ---------------------------------------------------------------- prompts


@HOW
async def test_a_prompt_begins_a_turn_if_it_is_recorded(tmp_path: Path, how: str) -> None:
    journal = StagedJournal(MemoryJournal())
    async with relay_with(tmp_path, journal) as relay, active_session(relay) as client:
        getattr(journal, how)("append")
        if how == "fail":
            with pytest.raises(JournalError):
                await client.say("first", "t1")
        else:
            await client.say("first", "t1")
            await client.until_turn_end("t1")
        await client.say("second", "t2")
        await client.until_turn_end("t2")
        frames = await check_transcript(journal, client)
        prompts = [frame.ref for frame in frames if frame.kind is Kind.PROMPT]
        assert prompts == (["t2"] if how == "fail" else ["t1", "t2"])
        assert relay.live(client.session_id).conversation.running_turn == ""


async def test_prompts_behind_one_that_is_not_recorded_get_their_turn(tmp_path: Path) -> None:
    journal = StagedJournal(MemoryJournal())
    async with relay_with(tmp_path, journal) as relay, active_session(relay) as client:
        failed = anyio.Event()

        async def say_first() -> None:
            with pytest.raises(JournalError):
                await client.say("first", "t1")
            await client.say("fourth", "t4")  # at once, and behind those that wait
            failed.set()

        hold = journal.hold("append")
        async with anyio.create_task_group() as tasks:
            with hold:
                tasks.start_soon(say_first)
                with anyio.fail_after(PATIENCE):
                    await hold.reached.wait()
                await client.say("second", "t2")
                await client.say("third", "t3")
                hold.error = JournalError("the disk is full", plugin="staged")
            with anyio.fail_after(PATIENCE):
                await failed.wait()
        for turn in ("t2", "t3", "t4"):
            await client.until_turn_end(turn)
        frames = await check_transcript(journal, client)
        assert [frame.ref for frame in frames if frame.kind is Kind.PROMPT] == ["t2", "t3", "t4"]


# ---------------------------------------------------------------- answers and cancellation


@HOW
async def test_the_agent_gets_the_answer_that_is_recorded(tmp_path: Path, how: str) -> None:
    journal = StagedJournal(MemoryJournal())
    async with relay_with(tmp_path, journal) as relay, active_session(relay) as client:
        await client.say("/ask", "t1")
        ref = (await client.until_asked()).frame.ref
        getattr(journal, how)("append")
        if how == "fail":
            with pytest.raises(JournalError):
                await client.answer(ref, "first")
            await client.answer(ref, "second")
        else:
            await client.answer(ref, "first")
        await client.until_turn_end("t1")
        frames = await check_transcript(journal, client)
        [decision] = [frame for frame in frames if frame.kind is Kind.DECISION]
        chosen = "second" if how == "fail" else "first"
        assert decision.body == permission(chosen)
        await client.until_said(f"permission: {chosen}")


@pytest.mark.parametrize("failures", [1, 2])
@pytest.mark.parametrize("text", ["/ask", "/sleep 600"])
async def test_a_turn_can_be_cancelled_again(tmp_path: Path, text: str, failures: int) -> None:
    journal = StagedJournal(MemoryJournal())
    async with relay_with(tmp_path, journal) as relay, active_session(relay) as client:
        await client.say(text, "t1")
        if text == "/ask":
            await client.until_asked()
        for _ in range(failures):
            journal.fail("append")
            with pytest.raises(JournalError):
                await relay.cancel(client.session_id)
        await relay.cancel(client.session_id)
        end = await client.until_turn_end("t1")
        assert json.loads(end.frame.body) == {"stopReason": "cancelled"}
        await check_transcript(journal, client)


# ---------------------------------------------------------------- sessions end all the same


async def test_a_session_whose_journal_cannot_be_opened_is_not_made(tmp_path: Path) -> None:
    journal = StagedJournal(MemoryJournal())
    async with relay_with(tmp_path, journal) as relay:
        journal.fail("open")
        with pytest.raises(JournalError):
            await relay.create("auth")
        assert list(await relay.list(SessionFilter())) == []
        async with active_session(relay) as client:
            await client.say("hello", "t1")
            await client.until_turn_end("t1")


@pytest.mark.parametrize("text", ["/sleep 600", "/ask", "/stream 1000000"])
async def test_a_session_ends_though_its_journal_is_down(tmp_path: Path, text: str) -> None:
    journal = StagedJournal(MemoryJournal())
    async with relay_with(tmp_path, journal) as relay, active_session(relay) as client:
        session = await relay.require(client.session_id)
        await client.say(text, "t1")
        await client.until(lambda entry: entry.frame.kind is Kind.PROMPT)
        journal.down = True
        await relay.stop(client.session_id, "enough")
        await client.until_the_end()
        await ended(relay, client.session_id)
        await nothing_is_left(relay, session)
        journal.down = False
        async with active_session(relay) as again:
            await again.say("hello", "t1")
            await again.until_turn_end("t1")


async def test_a_journal_that_goes_down_under_an_agent_ends_its_session(tmp_path: Path) -> None:
    journal = StagedJournal(MemoryJournal())
    async with relay_with(tmp_path, journal) as relay, active_session(relay) as client:
        session = await relay.require(client.session_id)
        await client.say("/ask", "t1")
        ref = (await client.until_asked()).frame.ref
        await client.answer(ref)
        await client.until_turn_end("t1")
        await client.say("/sleep 0.05", "t2")
        await client.until(lambda entry: entry.frame.ref == "t2")
        journal.down = True
        await ended(relay, client.session_id)
        await nothing_is_left(relay, session)
        await client.until_the_end()


async def test_a_journal_that_cannot_be_read_for_plugins_hurts_nobody(tmp_path: Path) -> None:
    go_on, archived = anyio.Event(), anyio.Event()
    entries: list[Entry] = []

    class Slow:
        @hookimpl
        async def relaykit_on_entries(self, batch: EntriesRecorded) -> None:
            entries.extend(batch.entries)
            if any(entry.frame.method == "ended" for entry in batch.entries):
                archived.set()
            await go_on.wait()

    journal = StagedJournal(MemoryJournal())
    small = relay_with(
        tmp_path, journal, plugins={"slow": Slow()}, RELAY__TAIL_BYTES="2000", RELAY__HOOK_TIMEOUT="60"
    )
    async with small as relay, active_session(relay) as client:
        # Everything is read from the tail here but what the plugin missed.
        for number in range(20):
            await client.say("hello", f"t{number}")
            await client.until_turn_end(f"t{number}")
        journal.fail("read")
        go_on.set()
        await client.say("and on", "last")
        await client.until_turn_end("last")
        await relay.stop(client.session_id, "done")
        await client.until_the_end()
        with anyio.fail_after(PATIENCE):
            await archived.wait()
        async with active_session(relay, "tests") as other:  # the relay lives
            await other.say("hello", "t1")
            await other.until_turn_end("t1")
    assert [entry for entry in entries if entry in client.entries] == client.entries
