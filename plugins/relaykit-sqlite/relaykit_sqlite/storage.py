"""open_sqlite: a store and a journal in one file."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

from relaykit.ids import IdGenerator, SystemIds
from relaykit_sqlite.journal import SqliteJournal
from relaykit_sqlite.opening import open_database
from relaykit_sqlite.store import SqliteStore
from relaykit_sqlite.thread import DatabaseThread


@asynccontextmanager
async def open_sqlite(
    path: Path,
    *,
    synchronous: str = "full",
    busy_timeout: float = 5.0,
    make_directory: bool = False,
    ids: IdGenerator | None = None,
) -> AsyncIterator[tuple[SqliteStore, SqliteJournal]]:
    """Open the database at `path` for as long as the block lasts, alone; it is made if there is none.

    When the block ends, however it does, what was asked for is finished and the database closed.

    :param synchronous: ``full`` or ``normal``, as the setting.
    :param busy_timeout: seconds to wait for another process that holds the database's lock.
    :param make_directory: make its directory, private to this user; otherwise it must be there.
    :raises StoreError: it cannot be opened, and why.
    """
    thread = DatabaseThread(
        partial(
            open_database,
            path,
            ids=ids or SystemIds(),
            synchronous=synchronous,
            busy_timeout=busy_timeout,
            make_directory=make_directory,
        )
    )
    try:
        await thread.start()
        yield SqliteStore(thread), SqliteJournal(thread)
    finally:
        await thread.aclose()
