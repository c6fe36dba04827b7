"""A relay that is killed in the middle of writing loses nothing that was acknowledged."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from relaykit.session import SessionFilter
from relaykit.testing.journal_contract import make_entries
from relaykit.testing.store_contract import make_session
from relaykit_sqlite.storage import open_sqlite

pytestmark = pytest.mark.anyio

# Eight sessions talk; each says what was acknowledged, on a line of its own.
WRITER = """
import os, sys, anyio
from pathlib import Path
from relaykit.testing.journal_contract import make_entries
from relaykit.testing.store_contract import make_session, next_version
from relaykit_sqlite.storage import open_sqlite

async def talk(store, journal, name):
    session = make_session(name)
    await store.create(session)
    epoch = (await journal.open(session)).epoch
    for first in range(1, 1_000_000, 3):
        await journal.append(name, epoch, make_entries(first, first + 2, text=name))
        later = next_version(session)
        await store.save(later, expected_version=session.version)
        session = later
        os.write(1, f"{name} {first + 2} {session.version}\\n".encode())

async def main():
    async with open_sqlite(Path(sys.argv[1])) as (store, journal), anyio.create_task_group() as tasks:
        for number in range(8):
            tasks.start_soon(talk, store, journal, f"s{number}")

anyio.run(main, backend=sys.argv[2])
"""


@pytest.mark.parametrize("lines", [1, 50, 400])
async def test_what_was_acknowledged_is_there(tmp_path: Path, lines: int, anyio_backend_name: str) -> None:
    path = tmp_path / "relay.db"
    acknowledged: dict[str, tuple[int, int]] = {}
    told = killed_writer(path, anyio_backend_name, lines=lines)
    for line in told:
        name, said, saved = line.decode().split()
        acknowledged[name] = int(said), int(saved)
    async with open_sqlite(path) as (store, journal):
        assert acknowledged
        for session in await store.list(SessionFilter()):
            head, version = acknowledged.get(session.id, (0, 0))
            found = await journal.open(make_session(session.id))
            held = await journal.read(session.id, after=0, limit=1_000_000)
            assert session.version >= version
            assert found.head >= head
            assert list(held) == make_entries(1, found.head, text=session.id)
            await journal.append(session.id, found.epoch, make_entries(found.head + 1, found.head + 1))


def killed_writer(path: Path, backend: str, *, lines: int) -> list[bytes]:
    """Have a writer killed once it has said so many lines, and return all that it said."""
    with subprocess.Popen([sys.executable, "-c", WRITER, path, backend], stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None
        told = [writer.stdout.readline() for _ in range(lines)]
        writer.kill()
        return [*told, *writer.stdout.readlines()]
