"""Several relays on one database, and several sessions in one statement: each is held to its own journal."""

from __future__ import annotations

import struct
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import anyio
import pytest

from relaykit.conversation import Entry, Frame, Journal, Kind
from relaykit.errors import JournalConflict, JournalError, StaleVersion, StoreError
from relaykit.session import Activity, SessionFilter, Store
from relaykit.testing.store_contract import make_session, next_version
from relaykit.testing.transcripts import ended_session, make_entries
from relaykit_postgres import journal as journal_module
from relaykit_postgres.settings import PostgresSettings
from relaykit_postgres.storage import open_postgres
from support.postgres import ask, locked, postgres, schema

__all__ = ["postgres", "schema"]  # fixtures

pytestmark = pytest.mark.anyio

PATIENCE = 60.0


@pytest.fixture
async def relays(postgres: str, schema: str) -> AsyncIterator[list[tuple[Store, Journal]]]:
    """Return what two relays on one database have."""
    async with AsyncExitStack() as stack:
        settings = PostgresSettings(dsn=postgres, schema=schema, call_timeout=10.0)
        yield [await stack.enter_async_context(open_postgres(settings)) for _ in range(2)]


@pytest.fixture
def journals(relays: list[tuple[Store, Journal]]) -> list[Journal]:
    return [journal for _, journal in relays]


async def held(journal: Journal, session_id: str = "s1") -> list[Entry]:
    return list(await journal.read(session_id, after=0, limit=100_000))


async def test_of_two_relays_that_write_one_journal_one_is_fenced_off(journals: list[Journal]) -> None:
    epochs = [(await journal.open(make_session())).epoch for journal in journals]
    assert epochs[0] == epochs[1]
    won: dict[int, list[Entry]] = {}
    conflicts = 0

    async def write(number: int, head: int) -> None:
        nonlocal conflicts
        batch = make_entries(head + 1, head + 3, text=f"relay {number}")
        try:
            await journals[number].append("s1", epochs[number], batch)
        except JournalConflict as error:
            assert (error.plugin, error.session_id) == ("postgres", "s1")  # noqa: PT017 -- of some, one is refused
            conflicts += 1
        else:
            assert head not in won
            won[head] = batch

    with anyio.fail_after(PATIENCE):
        for head in range(0, 90, 3):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(write, 0, head)
                tasks.start_soon(write, 1, head)
    assert conflicts == 30
    assert await held(journals[0]) == [entry for head in sorted(won) for entry in won[head]]


async def test_of_two_relays_that_save_one_session_one_is_fenced_off(
    relays: list[tuple[Store, Journal]],
) -> None:
    await relays[0][0].create(make_session())
    saved: list[str] = []

    async def save(store: Store, name: str) -> None:
        try:
            await store.save(next_version(make_session(), reason=name), expected_version=1)
        except StaleVersion as error:
            assert (error.plugin, error.found) == ("postgres", 2)  # noqa: PT017
        else:
            saved.append(name)

    async with anyio.create_task_group() as tasks:
        for number, (store, _) in enumerate(relays * 3):
            tasks.start_soon(save, store, f"writer {number}")
    session = await relays[1][0].get("s1")
    assert session is not None
    assert [session.reason] == saved


async def test_relays_that_write_the_same_sessions_crosswise_all_end(journals: list[Journal]) -> None:
    """Whole statements, each for many sessions, in both orders: no deadlock takes anything with it."""
    ids = [f"s{number:02}" for number in range(40)]
    epochs = {session_id: (await journals[0].open(make_session(session_id))).epoch for session_id in ids}
    outcomes: list[bool] = []

    async def write(number: int, session_id: str) -> None:
        batch = make_entries(1, 2, text=f"relay {number}")
        try:
            await journals[number].append(session_id, epochs[session_id], batch)
        except JournalConflict:
            outcomes.append(False)
        else:
            outcomes.append(True)

    with anyio.fail_after(PATIENCE):
        async with anyio.create_task_group() as tasks:
            for forth, back in zip(ids, reversed(ids), strict=True):
                tasks.start_soon(write, 0, forth)
                tasks.start_soon(write, 1, back)
    assert sorted(outcomes) == [False] * 40 + [True] * 40


async def test_a_refused_append_harms_no_other(journals: list[Journal]) -> None:
    (journal, _) = journals
    ids = [f"s{number}" for number in range(8)]
    epochs = {session_id: (await journal.open(make_session(session_id))).epoch for session_id in ids}
    await journal.close(ended_session("s7"))
    wrong: dict[str, tuple[str, list[Entry]]] = {
        "s1": (epochs["s1"], make_entries(5, 6)),
        "s3": ("another", make_entries(1, 2)),
        "nobody\0": ("", make_entries(1, 2)),
        "s5": ("another", []),
        "s7": (epochs["s7"], make_entries(1, 2)),
    }
    refused: set[str] = set()

    async def append(session_id: str, epoch: str, batch: list[Entry]) -> None:
        try:
            await journal.append(session_id, epoch, batch)
        except JournalConflict:
            refused.add(session_id)

    with anyio.fail_after(PATIENCE):
        async with anyio.create_task_group() as tasks:
            for session_id in ids:
                if session_id not in wrong:
                    tasks.start_soon(append, session_id, epochs[session_id], make_entries(1, 2))
            for session_id, (epoch, batch) in wrong.items():
                tasks.start_soon(append, session_id, epoch, batch)
    assert refused == set(wrong)
    for session_id in ids:
        assert await held(journal, session_id) == ([] if session_id in wrong else make_entries(1, 2))


@pytest.mark.parametrize("seq", [2**63, 2**64], ids=["to the server", "to psycopg"])
async def test_one_that_is_too_large_harms_no_other(journals: list[Journal], seq: int) -> None:
    """A number that is no bigint: the statement as a whole fails."""
    (journal, _) = journals
    ids = [f"s{number}" for number in range(6)]
    epochs = {session_id: (await journal.open(make_session(session_id))).epoch for session_id in ids}
    failed: list[str] = []
    (said,) = make_entries(1, 1)
    too_far = said._replace(seq=seq)

    async def append(session_id: str, batch: list[Entry]) -> None:
        try:
            await journal.append(session_id, epochs[session_id], batch)
        except (JournalError, OverflowError, struct.error):
            failed.append(session_id)

    with anyio.fail_after(PATIENCE):
        async with anyio.create_task_group() as tasks:
            for session_id in ids:
                batch = [too_far] if session_id == "s3" else make_entries(1, 2)
                tasks.start_soon(append, session_id, batch)
    assert failed == ["s3"]
    for session_id in ids:
        assert await held(journal, session_id) == ([] if session_id == "s3" else make_entries(1, 2))


async def test_a_journal_that_somebody_holds_locked_delays_no_other(
    postgres: str, schema: str, journals: list[Journal]
) -> None:
    (journal, _) = journals
    first = (await journal.open(make_session("s1"))).epoch
    with anyio.fail_after(PATIENCE):
        async with anyio.create_task_group() as tasks:
            with locked(postgres, schema, "journals"):
                second = (await journal.open(make_session("s2"))).epoch  # its row is not among those
                tasks.start_soon(journal.append, "s1", first, make_entries(1, 3))
                for head in range(0, 30, 3):
                    await journal.append("s2", second, make_entries(head + 1, head + 3))
                assert await held(journal) == []
    assert await held(journal) == make_entries(1, 3)


async def test_a_statement_that_waits_too_long_is_given_up(postgres: str, schema: str) -> None:
    settings = PostgresSettings(dsn=postgres, schema=schema, statement_timeout=0.2)
    with anyio.fail_after(PATIENCE):
        async with open_postgres(settings) as (store, journal):
            await store.create(make_session())
            epoch = (await journal.open(make_session())).epoch
            with locked(postgres, schema, "sessions"), pytest.raises(StoreError, match="statement_timeout"):
                await store.save(next_version(make_session()), expected_version=1)
            with locked(postgres, schema, "journals"), pytest.raises(JournalError, match="statement_timeout"):
                await journal.append("s1", epoch, make_entries(1, 1))
            await store.save(next_version(make_session()), expected_version=1)
            await journal.append("s1", epoch, make_entries(1, 1))


# ---------------------------------------------------------------- what PostgreSQL makes difficult


async def test_text_that_postgres_cannot_hold(relays: list[tuple[Store, Journal]]) -> None:
    store, journal = relays[0]
    for text in ("a\0", "\ud83d"):
        assert await store.get(text) is None
        assert await store.get_by_role(text, owner="local", project="shop") is None
        assert list(await store.list(SessionFilter(owner=text))) == []
        assert await store.count(SessionFilter(agent_id=text)) == 0
        await store.delete(text)
        await store.touch({text: Activity(make_session().created_at)})
        with pytest.raises(StoreError):
            await store.create(make_session(text))
        assert list(await journal.read(text, after=0, limit=1)) == []
        assert await journal.find(text) is None
        await journal.close(ended_session(text))
        await journal.trim(text, through=1)
        await journal.delete(text)
        with pytest.raises(JournalError):
            await journal.open(make_session(text))
    session = make_session(resources={"acp": {"said": "a\0b \ud83d"}}, reason="a\0")
    await store.create(session)
    assert await store.get("s1") == session
    epoch = (await journal.open(session)).epoch
    odd = [Entry(1, session.created_at, Frame(Kind.UPDATE, b"\0", "r\0\ud83d", "m\0"))]
    await journal.append("s1", epoch, odd)
    await journal.append("s1", epoch, odd)
    assert await held(journal) == odd


async def test_ids_are_in_order_of_code_points(relays: list[tuple[Store, Journal]]) -> None:
    (store, _) = relays[0]
    ids = ["A", "B", "Z", "_", "a", "a-b", "aB", "ab", "b", "ä", "\uffff", "🙂"]
    for session_id in reversed(ids):
        await store.create(make_session(session_id))
    assert ids == sorted(ids)
    assert [session.id for session in await store.list(SessionFilter())] == ids


async def test_long_transcripts_are_forgotten_in_chunks(
    postgres: str, schema: str, journals: list[Journal], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal_module, "_CHUNK", 10)
    (journal, _) = journals
    for session_id in ("s1", "s2"):
        epoch = (await journal.open(make_session(session_id))).epoch
        await journal.append(session_id, epoch, make_entries(1, 45))
    await journal.trim("s1", through=35)
    assert await held(journal) == make_entries(36, 45)
    assert ask(postgres, f'SELECT count(*) FROM "{schema}".entries') == [(55,)]
    await journal.delete("s1")
    await journal.delete("s1")
    assert ask(postgres, f'SELECT count(*) FROM "{schema}".entries') == [(45,)]
    assert ask(postgres, f'SELECT session_id FROM "{schema}".journals') == [("s2",)]


async def test_what_a_delete_left_behind_goes_with_the_next(
    postgres: str, schema: str, journals: list[Journal]
) -> None:
    (journal, _) = journals
    epoch = (await journal.open(make_session())).epoch
    await journal.append("s1", epoch, make_entries(1, 45))
    # As far as a relay came that was killed in the middle.
    ask(postgres, f"""UPDATE "{schema}".journals SET session_id = NULL""")
    assert await held(journal) == []
    await journal.delete("nobody")
    assert ask(postgres, f'SELECT count(*) FROM "{schema}".entries') == [(0,)]
    assert ask(postgres, f'SELECT count(*) FROM "{schema}".journals') == [(0,)]
