"""``relaykit backup``: a copy that is whole, also of a database that is being written to."""

from __future__ import annotations

import os
import sqlite3
import stat
from contextlib import closing
from pathlib import Path

import pytest

from relaykit.commands import main
from relaykit.errors import StoreError
from relaykit.session import SessionFilter
from relaykit.testing.journal_contract import make_entries
from relaykit.testing.store_contract import make_session
from relaykit_sqlite import backup
from relaykit_sqlite.backup import back_up
from relaykit_sqlite.storage import open_sqlite
from support.databases import child

pytestmark = pytest.mark.anyio

# Writes as fast as it can until its stdin ends, and says what it has then.
WRITER = """
import sys, threading, anyio
from pathlib import Path
from relaykit.testing.journal_contract import make_entries
from relaykit.testing.store_contract import make_session
from relaykit_sqlite.storage import open_sqlite

over = threading.Event()
threading.Thread(target=lambda: (sys.stdin.read(), over.set()), daemon=True).start()

async def main():
    async with open_sqlite(Path(sys.argv[1])) as (store, journal):
        session = make_session()
        await store.create(session)
        epoch = (await journal.open(session)).epoch
        head = 0
        while not over.is_set():
            await journal.append("s1", epoch, make_entries(head + 1, head + 50))
            head += 50
            if head == 5000:
                print("ready", flush=True)
        print(head, flush=True)

anyio.run(main)
"""


async def make_database(path: Path) -> None:
    async with open_sqlite(path) as (store, journal):
        await store.create(make_session())
        await journal.append("s1", (await journal.open(make_session())).epoch, make_entries(1, 100))


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir() if not path.name.startswith("relay.db"))


async def head_of(path: Path) -> int:
    async with open_sqlite(path) as (store, journal):
        assert await store.get("s1") == make_session()
        state = await journal.open(make_session())
        held = await journal.read("s1", after=0, limit=state.head + 1)
        assert list(held) == make_entries(1, state.head)
        return state.head


async def test_a_database_at_rest_is_copied(tmp_path: Path) -> None:
    path, target = tmp_path / "relay.db", tmp_path / "copy.db"
    await make_database(path)
    before = path.read_bytes()
    size = back_up(path, target)
    assert size == target.stat().st_size
    assert mode(target) == 0o600
    assert names(tmp_path) == ["copy.db"]
    assert path.read_bytes() == before
    assert await head_of(target) == 100
    assert await head_of(path) == 100


async def test_a_relay_in_another_process_is_copied_while_it_writes(tmp_path: Path) -> None:
    path, target = tmp_path / "relay.db", tmp_path / "copy.db"
    with child(WRITER, path) as writer:
        for _ in range(3):
            back_up(path, target, force=True)
        assert writer.stdin is not None
        assert writer.stdout is not None
        writer.stdin.close()
        written = int(writer.stdout.readline())
        assert writer.wait(30) == 0
    copied = await head_of(target)
    assert 5000 <= copied < written
    assert await head_of(path) == written


async def test_nothing_that_is_there_is_overwritten_unless_forced(tmp_path: Path) -> None:
    path, target = tmp_path / "relay.db", tmp_path / "copy.db"
    await make_database(path)
    target.write_text("mine")
    target.chmod(0o644)
    with pytest.raises(StoreError, match="is there already: choose another name, or say --force"):
        back_up(path, target)
    assert target.read_text() == "mine"
    back_up(path, target, force=True)
    assert mode(target) == 0o600
    assert await head_of(target) == 100


@pytest.mark.parametrize("suffix", ["", "-wal", "-shm", ".lock"])
async def test_the_database_itself_is_never_overwritten(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / "relay.db"
    await make_database(path)
    link = tmp_path / "link"
    link.symlink_to(tmp_path)
    with pytest.raises(StoreError, match="is the database itself"):
        back_up(path, link / f"relay.db{suffix}", force=True)
    assert await head_of(path) == 100


@pytest.mark.parametrize(
    ("target", "said"), [("missing/copy.db", "No such file or directory"), (".", "is a directory")]
)
async def test_where_nothing_can_be_written_is_said(tmp_path: Path, target: str, said: str) -> None:
    await make_database(tmp_path / "relay.db")
    with pytest.raises(StoreError, match=said):
        back_up(tmp_path / "relay.db", tmp_path / target)
    assert names(tmp_path) == []


async def test_what_is_no_database_of_ours_is_not_copied(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="there is no database"):
        back_up(tmp_path / "relay.db", tmp_path / "copy.db")
    (tmp_path / "relay.db").write_bytes(b"hello")
    with pytest.raises(StoreError, match="it is no SQLite database"):
        back_up(tmp_path / "relay.db", tmp_path / "copy.db")
    assert names(tmp_path) == []


async def test_a_damaged_database_gives_no_copy(tmp_path: Path) -> None:
    path = tmp_path / "relay.db"
    await make_database(path)
    with closing(sqlite3.connect(path)) as connection:
        (page,) = connection.execute(
            "SELECT rootpage FROM sqlite_schema WHERE name = 'sessions_by_state'"
        ).fetchone()
    with path.open("r+b") as file:
        file.seek((page - 1) * 2048)
        file.write(b"\xff" * 2048)
    with pytest.raises(StoreError, match="is damaged"):
        back_up(path, tmp_path / "copy.db")
    assert names(tmp_path) == []


async def test_a_copy_that_is_interrupted_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "relay.db"
    await make_database(path)

    def interrupted(_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(backup, "sync_file", interrupted)
    with pytest.raises(KeyboardInterrupt):
        back_up(path, tmp_path / "copy.db")
    assert names(tmp_path) == []


async def test_the_command_copies_the_settings_database(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "elsewhere.db"
    await make_database(path)
    config = tmp_path / "relaykit.toml"
    config.write_text(f'[plugins.sqlite]\npath = "{path}"\n')
    assert main(["--config", str(config), "backup", "copy.db"]) == 0
    out, err = capsys.readouterr()
    assert (out, err) == (
        f"{path}: copied and checked, {os.stat('copy.db').st_size:,} bytes in copy.db\n",  # noqa: PTH116
        "",
    )
    assert main(["--config", str(config), "backup", "copy.db"]) == 2
    assert "say --force" in capsys.readouterr().err
    assert main(["--config", str(config), "backup", "--force", "copy.db"]) == 0
    async with open_sqlite(tmp_path / "copy.db") as (store, _):
        assert await store.count(SessionFilter()) == 1
