"""What is opened, what is refused and left as it was, and what is said then."""

from __future__ import annotations

import os
import sqlite3
import stat
import sys
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory

import anyio
import pytest

from relaykit.errors import StoreError
from relaykit.session import SessionState
from relaykit.testing.journal_contract import ended_session, make_entries
from relaykit.testing.store_contract import make_session, next_version
from relaykit_sqlite import schema
from relaykit_sqlite.storage import open_sqlite
from support.databases import child, locked

pytestmark = pytest.mark.anyio

HOLD_DATABASE = """
import sys, anyio
from pathlib import Path
from relaykit_sqlite.storage import open_sqlite
async def main():
    async with open_sqlite(Path(sys.argv[1])):
        print("ready", flush=True)
        sys.stdin.read()
anyio.run(main)
"""

OPEN_AS_NOBODY = """
import os, sys, anyio
from pathlib import Path
from relaykit.errors import StoreError
import relaykit_sqlite.storage, anyio._backends._asyncio, encodings.idna
os.setgid(65534); os.setuid(65534)
async def main():
    try:
        async with relaykit_sqlite.storage.open_sqlite(Path(sys.argv[1])):
            print("opened")
    except StoreError as error:
        print(error)
anyio.run(main)
"""


async def refused(path: Path, **options: float) -> str:
    """Return what is said when the database cannot be opened."""
    with pytest.raises(StoreError) as caught:
        async with open_sqlite(path, **options):  # type: ignore[arg-type] # the timeout
            pass
    assert caught.value.plugin == "sqlite"
    return str(caught.value)


async def make_database(path: Path) -> None:
    async with open_sqlite(path) as (store, journal):
        await store.create(make_session())
        epoch = (await journal.open(make_session())).epoch
        await journal.append("s1", epoch, make_entries(1, 100))


def contents(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir() if path.suffix != ".lock"}


async def test_what_was_stored_is_there_after_closing(tmp_path: Path) -> None:
    path = tmp_path / "relay.db"
    session = make_session("s1", worktree_dir="/work/\udcff", resources={"acp": {"pid": 7}})
    async with open_sqlite(path) as (store, journal):
        assert store.durable
        await store.create(session)
        await store.save(later := next_version(session, state=SessionState.ACTIVE), expected_version=1)
        state = await journal.open(session)
        await journal.append("s1", state.epoch, make_entries(1, 5))
        await journal.trim("s1", through=2)
        await journal.open(make_session("s2"))
        await journal.close(ended_session("s2"))
    assert list(contents(tmp_path)) == ["relay.db"]
    async with open_sqlite(path) as (store, journal):
        assert await store.get("s1") == later
        found = await journal.open(session)
        assert (found.epoch, found.first, found.head) == (state.epoch, 3, 5)
        assert list(await journal.read("s1", after=0, limit=10)) == make_entries(3, 5)
        assert await journal.find("s2") == ended_session("s2")


async def test_only_its_user_can_read_it(tmp_path: Path) -> None:
    path = tmp_path / "state" / "sqlite" / "relay.db"
    before = os.umask(0)
    try:
        async with open_sqlite(path, make_directory=True) as (store, _):
            await store.create(make_session())
            modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()}
    finally:
        os.umask(before)
    names = ("relay.db", "relay.db-shm", "relay.db-wal", "relay.db.lock")
    assert modes == dict.fromkeys(names, 0o600)
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


async def test_a_copy_that_others_could_read_is_closed_to_them(tmp_path: Path) -> None:
    path = tmp_path / "relay.db"
    await make_database(path)
    path.chmod(0o644)
    async with open_sqlite(path):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize("synchronous", [("full", 2), ("normal", 1)])
async def test_it_is_written_as_durably_as_was_asked(tmp_path: Path, synchronous: tuple[str, int]) -> None:
    async with open_sqlite(tmp_path / "relay.db", synchronous=synchronous[0]) as (store, _):
        found = await store._thread.run(
            lambda database: [
                database._connection.execute(f"PRAGMA {name}").fetchone()[0]
                for name in ("synchronous", "journal_mode", "application_id", "user_version")
            ],
            writes=False,
            failure=StoreError,
        )
    assert found == [synchronous[1], "wal", schema.APPLICATION_ID, len(schema.MIGRATIONS)]


def give_away(directory: Path) -> None:
    for each in (directory, *directory.iterdir()):
        os.chown(each, 65534, 65534)


@pytest.mark.parametrize(
    ("sql", "index"),
    [
        (
            "SELECT id FROM sessions WHERE id > '' AND +owner = 'x' AND state = 'x' ORDER BY id",
            "sessions_by_state",
        ),
        ("SELECT count(*) FROM sessions WHERE state = 'x'", "sessions_by_state"),
        (
            "SELECT id FROM sessions WHERE owner = 'x' AND project = 'x' AND agent_id = 'x'",
            "sessions_by_role",
        ),
        (
            "SELECT ended FROM journals WHERE ended_at < 7 AND TRUE ORDER BY ended_at DESC, session_id",
            "journals_by_end",
        ),
        ("SELECT id FROM entries WHERE id > 7 AND id <= 9 ORDER BY id DESC LIMIT 1", "PRIMARY KEY"),
    ],
)
async def test_what_is_looked_for_is_found_by_an_index(tmp_path: Path, sql: str, index: str) -> None:
    async with open_sqlite(tmp_path / "relay.db") as (store, _):
        plan = await store._thread.run(
            lambda database: database._connection.execute(f"EXPLAIN QUERY PLAN {sql}").fetchall(),
            writes=False,
            failure=StoreError,
        )
    assert len(plan) == 1  # no sort besides
    assert index in plan[0][3]


# ---------------------------------------------------------------- migrations


async def test_an_older_database_is_migrated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "relay.db"
    await make_database(path)
    newer = (*schema.MIGRATIONS, ("CREATE TABLE more (x)", "INSERT INTO more VALUES (7)"))
    monkeypatch.setattr(schema, "MIGRATIONS", newer)
    async with open_sqlite(path) as (store, _):
        assert await store.get("s1") == make_session()
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT x FROM more").fetchall() == [(7,)]
        assert connection.execute("PRAGMA user_version").fetchone() == (len(newer),)


async def test_a_migration_that_fails_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "relay.db"
    await make_database(path)
    released = schema.MIGRATIONS
    wrong = (*released, ("CREATE TABLE more (x)",), ("ALTER TABLE absent ADD COLUMN y",))
    with monkeypatch.context() as patch:
        patch.setattr(schema, "MIGRATIONS", wrong)
        assert "no such table: absent" in await refused(path)
    async with open_sqlite(path) as (store, _):
        assert await store.get("s1") == make_session()
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (len(released),)
        assert connection.execute("SELECT name FROM sqlite_schema WHERE name = 'more'").fetchall() == []


async def test_a_newer_database_is_refused_untouched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "relay.db"
    with monkeypatch.context() as patch:
        patch.setattr(schema, "MIGRATIONS", (*schema.MIGRATIONS, ("CREATE TABLE more (x)",)))
        await make_database(path)
    before = contents(tmp_path)
    known = len(schema.MIGRATIONS)
    assert f"newer relaykit-sqlite (its version is {known + 1}, this one knows {known})" in await refused(
        path
    )
    assert contents(tmp_path) == before


async def test_a_version_that_only_the_log_has_counts(tmp_path: Path) -> None:
    """A newer relay was killed before its first checkpoint: the file's header is still the old one."""
    path, copy = tmp_path / "relay.db", tmp_path / "copy" / "relay.db"
    await make_database(path)
    copy.parent.mkdir()
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA wal_autocheckpoint = 0")
        connection.execute("PRAGMA user_version = 99")
        for suffix in ("", "-wal"):
            copy.with_name(copy.name + suffix).write_bytes(path.with_name(path.name + suffix).read_bytes())
    before = contents(copy.parent)
    assert "its version is 99" in await refused(copy)
    after = contents(copy.parent)
    assert {name: after[name] for name in before} == before


# ---------------------------------------------------------------- what is no database of ours


@pytest.mark.parametrize("content", [b"hello", b"x" * 5000, b"SQLite format 3\0"])
async def test_what_is_no_database_is_refused_untouched(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "relay.db"
    path.write_bytes(content)
    assert f"{str(path)!r}: it is no SQLite database" in await refused(path)
    assert contents(tmp_path) == {"relay.db": content}


async def test_another_programs_database_is_refused_untouched(tmp_path: Path) -> None:
    path = tmp_path / "relay.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE sessions (x)")
    before = contents(tmp_path)
    assert "not one of relaykit" in await refused(path)
    assert contents(tmp_path) == before


async def test_an_empty_file_becomes_a_database(tmp_path: Path) -> None:
    path = tmp_path / "relay.db"
    path.touch()
    (tmp_path / "relay.db.new").write_bytes(b"left by a relay that was killed")
    await make_database(path)
    async with open_sqlite(path) as (store, _):
        assert await store.get("s1") == make_session()


# ---------------------------------------------------------------- damaged, missing, forbidden


async def test_a_file_that_lost_its_end_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "relay.db"
    await make_database(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    said = await refused(path)
    assert str(path) in said
    assert "damaged" in said
    assert "restore a backup" in said


async def test_a_table_whose_first_page_is_damaged_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "relay.db"
    await make_database(path)
    with closing(sqlite3.connect(path)) as connection:
        (page,) = connection.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'entries'").fetchone()
    with path.open("r+b") as file:
        file.seek((page - 1) * schema.PAGE_SIZE)
        file.write(b"\xff" * schema.PAGE_SIZE)
    assert "damaged" in await refused(path)


async def test_a_missing_directory_is_named(tmp_path: Path) -> None:
    path = tmp_path / "nowhere" / "relay.db"
    assert f"the directory {str(path.parent)!r} is not there: make it" in await refused(path)
    assert contents(tmp_path) == {}


async def test_a_directory_in_its_place_is_named(tmp_path: Path) -> None:
    path = tmp_path / "relay.db"
    path.mkdir()
    assert "Is a directory" in await refused(path)


async def test_a_file_in_the_directorys_place_is_named(tmp_path: Path) -> None:
    (tmp_path / "sqlite").touch()
    with pytest.raises(StoreError, match="sqlite"):
        async with open_sqlite(tmp_path / "sqlite" / "relay.db", make_directory=True):
            pass


@pytest.mark.parametrize("what", ["file", "directory", "lock"])
@pytest.mark.skipif(os.geteuid() != 0, reason="to become somebody who may not write takes root")
async def test_what_may_not_be_written_is_named(what: str) -> None:
    with TemporaryDirectory() as scratch:  # not in pytest's own, which nobody else may enter
        directory = Path(scratch)
        path = directory / "relay.db"
        await make_database(path)
        give_away(directory)
        {
            "file": lambda: path.chmod(0o400),
            "directory": lambda: directory.chmod(0o500),
            "lock": lambda: path.with_name("relay.db.lock").chmod(0o400),
        }[what]()
        before = contents(directory)
        run = await anyio.run_process([sys.executable, "-c", OPEN_AS_NOBODY, str(path)])
        assert run.stderr == b""
        said = run.stdout.decode()
        assert str(path) in said
        assert "permissions" in said or "may be written by the relay's user" in said
        assert contents(directory) == before


# ---------------------------------------------------------------- held by somebody else


async def test_a_second_relay_is_told_who_holds_it(tmp_path: Path) -> None:
    path = tmp_path / "relay.db"
    async with open_sqlite(path) as (store, _):
        said = await refused(path)
        assert f"another relay (pid {os.getpid()}) holds it" in said
        await store.create(make_session())  # the first is none the worse
        (tmp_path / "link.db").symlink_to(path)
        assert "another relay" in await refused(tmp_path / "link.db")
    with child(HOLD_DATABASE, path) as holder:
        assert f"another relay (pid {holder.pid}) holds it" in await refused(path)
        holder.kill()
        holder.wait(30)
        async with open_sqlite(path) as (store, _):
            assert await store.get("s1") == make_session()


async def test_another_process_that_holds_sqlites_lock_is_waited_for_and_named(tmp_path: Path) -> None:
    path = tmp_path / "relay.db"
    await make_database(path)
    with locked(path):
        said = await refused(path, busy_timeout=0.05)
    assert "another process holds its lock" in said
    assert "waited 0.05 s" in said
    async with open_sqlite(path):
        pass
