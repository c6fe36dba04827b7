"""What fails while the database is open: the call does, with an error that says why, and the next may succeed."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import anyio.lowlevel
import pytest

from relaykit.conversation import Frame, Kind
from relaykit.errors import JournalConflict, JournalError, StoreError
from relaykit.testing.journal_contract import make_entries
from relaykit.testing.store_contract import make_session, next_version
from relaykit_sqlite.database import Database
from relaykit_sqlite.journal import SqliteJournal
from relaykit_sqlite.storage import open_sqlite
from relaykit_sqlite.store import SqliteStore
from support.databases import locked

pytestmark = pytest.mark.anyio

Opened = tuple[SqliteStore, SqliteJournal]

# A limit on files' sizes is a full disk that needs no disk of its own: writing beyond it fails.
FILL_UP = """
import resource, sys, anyio
from pathlib import Path
from relaykit.conversation import Frame, Kind
from relaykit.errors import JournalError, StoreError
from relaykit.session import SessionFilter
from relaykit.testing.journal_contract import make_entries
from relaykit.testing.store_contract import make_session, next_version
from relaykit_sqlite.storage import open_sqlite

large = Frame(Kind.UPDATE, b'"' + b"x" * 20_000 + b'"')
_, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

async def main():
    path = Path(sys.argv[1])
    async with open_sqlite(path) as (store, journal):
        session = make_session()
        await store.create(session)
        epoch = (await journal.open(session)).epoch
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, hard))
        recorded = 0
        for seq in range(1, 1000):
            try:
                await journal.append("s1", epoch, [make_entries(seq, seq)[0]._replace(frame=large)])
            except JournalError as error:
                print(error)
                break
            recorded = seq
        assert recorded > 10, recorded
        for number in range(100):
            try:
                await store.create(make_session(f"other-{number}"))
            except StoreError as error:
                print(error)
                break
        created = await store.count(SessionFilter())
        assert created == number + 1
        assert len(await journal.read("s1", after=0, limit=1000)) == recorded
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
        await journal.append("s1", epoch, make_entries(recorded + 1, recorded + 1))
        await store.save(next_version(session), expected_version=1)
    async with open_sqlite(path) as (store, journal):
        held = await journal.read("s1", after=0, limit=1000)
        assert [entry.seq for entry in held] == list(range(1, recorded + 2))
        assert (await store.get("s1")).version == 2
        assert await store.count(SessionFilter()) == created
    print("recovered")

anyio.run(main, backend=sys.argv[2])
"""


@pytest.fixture
async def opened(tmp_path: Path) -> AsyncIterator[Opened]:
    async with open_sqlite(tmp_path / "relay.db", busy_timeout=0.05) as parts:
        yield parts


async def test_a_full_disk_fails_calls_until_there_is_room(tmp_path: Path, anyio_backend_name: str) -> None:
    path = tmp_path / "relay.db"
    run = await anyio.run_process([sys.executable, "-c", FILL_UP, str(path), anyio_backend_name], check=False)
    assert run.stderr.decode() == ""
    first, second, last = run.stdout.decode().splitlines()
    for said in (first, second):
        assert str(path) in said
        assert "disk" in said
    assert last == "recovered"


async def test_a_database_that_may_not_grow_says_so(opened: Opened, tmp_path: Path) -> None:
    store, journal = opened
    epoch = (await journal.open(make_session())).epoch
    large = [make_entries(1, 1)[0]._replace(frame=Frame(Kind.UPDATE, b'"' + b"x" * 100_000 + b'"'))]
    await _pragma(store, "max_page_count = 20")
    with pytest.raises(JournalError, match="the disk is full: make room") as caught:
        await journal.append("s1", epoch, large)
    assert caught.value.plugin == "sqlite"
    assert not isinstance(caught.value, JournalConflict)
    assert str(tmp_path / "relay.db") in str(caught.value)
    assert list(await journal.read("s1", after=0, limit=10)) == []
    with pytest.raises(StoreError, match="the disk is full") as failed:
        await store.create(make_session(resources={"x": {"y": "z" * 100_000}}))
    assert failed.value.plugin == "sqlite"
    await _pragma(store, "max_page_count = 10000")
    await journal.append("s1", epoch, large)
    assert list(await journal.read("s1", after=0, limit=10)) == large


async def test_a_lock_that_another_process_holds_is_waited_for_and_named(
    opened: Opened, tmp_path: Path
) -> None:
    store, journal = opened
    session = make_session()
    await store.create(session)
    epoch = (await journal.open(session)).epoch
    with locked(tmp_path / "relay.db"):
        with anyio.fail_after(30):
            with pytest.raises(StoreError, match="another process holds its lock"):
                await store.save(next_version(session), expected_version=1)
            with pytest.raises(JournalError, match="another process holds its lock"):
                await journal.append("s1", epoch, make_entries(1, 1))
        assert await store.get("s1") == session  # reading needs no lock
    await store.save(next_version(session), expected_version=1)
    await journal.append("s1", epoch, make_entries(1, 1))
    assert list(await journal.read("s1", after=0, limit=10)) == make_entries(1, 1)


async def test_a_lock_that_is_let_go_in_time_is_only_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "relay.db"
    async with open_sqlite(path, busy_timeout=30) as (store, _):
        await store.create(make_session())
        with anyio.fail_after(30):
            async with anyio.create_task_group() as tasks:
                with locked(path):
                    tasks.start_soon(store.create, make_session("s2"))
                    while store._thread._asleep:
                        await anyio.lowlevel.checkpoint()
        assert await store.get("s2") == make_session("s2")


async def test_damage_that_is_found_later_fails_the_call_alone(opened: Opened, tmp_path: Path) -> None:
    store, journal = opened
    session = make_session()
    await store.create(session)
    epoch = (await journal.open(session)).epoch
    await journal.append("s1", epoch, make_entries(1, 2000))
    # Damage what is on the disk, where nothing of it is in memory: behind SQLite's back, through a descriptor that
    # stays open (closing one would take SQLite's locks away).
    await _pragma(store, "wal_checkpoint(TRUNCATE)")
    await _pragma(store, "shrink_memory")
    pages = await _pragma(store, "page_count")
    (root,) = await _rows(store, "SELECT rootpage FROM sqlite_schema WHERE name = 'entries'")
    file = (tmp_path / "relay.db").open("r+b", buffering=0)
    for page in range(root[0], pages[0][0]):
        file.seek(page * 2048)
        file.write(b"\xff" * 2048)
    with pytest.raises(JournalError, match="it is damaged") as caught:
        await journal.read("s1", after=0, limit=10_000)
    assert "restore a backup" in str(caught.value)
    assert await store.get("s1") == session
    file.close()


async def test_what_cannot_be_decoded_is_an_error_that_says_so(opened: Opened) -> None:
    store, journal = opened
    epoch = (await journal.open(make_session())).epoch
    await store.create(make_session())
    await journal.append("s1", epoch, make_entries(1, 1))
    await _rows(store, "UPDATE entries SET kind = 'FUTURE'")
    await _rows(store, """UPDATE sessions SET body = '{"future": 1}'""")
    with pytest.raises(JournalError, match="unknown kind 'FUTURE'"):
        await journal.read("s1", after=0, limit=10)
    with pytest.raises(StoreError, match="a session cannot be read"):
        await store.get("s1")
    await store.delete("s1")


async def test_an_error_of_ours_is_raised_as_it_is(opened: Opened) -> None:
    store, _ = opened

    def wrong(database: Database) -> None:
        database._connection.execute("DELETE FROM sessions")
        raise ZeroDivisionError

    await store.create(make_session())
    with pytest.raises(ZeroDivisionError):
        await store._thread.run(wrong, writes=True, failure=StoreError)
    assert await store.get("s1") == make_session()


async def test_text_that_is_no_unicode_is_kept_and_found(opened: Opened) -> None:
    store, journal = opened
    session = make_session("s\udcff", agent_id="r\udcff", owner="\udc80", project="grüße", node="\ud800")
    await store.create(session)
    assert await store.get("s\udcff") == session
    assert await store.get_by_role("r\udcff", owner="\udc80", project="grüße") == session
    assert await store.get("s\udcfe") is None
    epoch = (await journal.open(session)).epoch
    said = [make_entries(1, 1)[0]._replace(frame=Frame(Kind.CALL, b"{}", "r\udcff", "\ud800/x"))]
    await journal.append(session.id, epoch, said)
    assert list(await journal.read(session.id, after=0, limit=10)) == said
    await journal.append(session.id, epoch, said)


async def test_numbers_that_no_column_holds_are_as_good_as_none(opened: Opened) -> None:
    _, journal = opened
    epoch = (await journal.open(make_session())).epoch
    await journal.append("s1", epoch, make_entries(1, 3))
    assert list(await journal.read("s1", after=10**30, limit=10)) == []
    assert list(await journal.read("s1", after=-(10**30), limit=10**30)) == make_entries(1, 3)
    assert list(await journal.read("s1", after=0, limit=0)) == []
    await journal.trim("s1", through=10**30)
    assert (await journal.open(make_session())).head == 3


async def _pragma(store: SqliteStore, text: str) -> list[tuple[int, ...]]:
    return await _rows(store, f"PRAGMA {text}")


async def _rows(store: SqliteStore, sql: str) -> list[tuple[int, ...]]:
    return await store._thread.run(
        lambda database: database._connection.execute(sql).fetchall(), writes=False, failure=StoreError
    )
