"""The storage ``postgres``: store and journal in one database."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

from relaykit.conversation import Journal
from relaykit.errors import StoreError
from relaykit.ids import IdGenerator, SystemIds
from relaykit.session import Store
from relaykit.tasks import OwnedTasks
from relaykit_postgres.connection import Server
from relaykit_postgres.journal import PostgresJournal
from relaykit_postgres.node_lock import NodeLock
from relaykit_postgres.pool import Pool
from relaykit_postgres.schema import PATIENCE, prepare
from relaykit_postgres.settings import PostgresSettings
from relaykit_postgres.store import PostgresStore


@asynccontextmanager
async def open_postgres(
    settings: PostgresSettings, *, ids: IdGenerator | None = None, node: str | None = None
) -> AsyncIterator[tuple[Store, Journal]]:
    """Connect, bring the schema up to date, and keep sessions and transcripts until the block is left.

    Leaving it waits for what is under way, `call_timeout` at most, and closes every connection.

    :param ids: mints the epochs of journals.
    :param node: the relay's name, which no other may bear on this database meanwhile; None: whoever wants to.
    :raises StoreError: the server cannot be reached, does not let us in, or is not one that will do. It is not
        tried again: who starts the relay sees why it does not start.
    """
    server = Server(settings)
    async with OwnedTasks() as tasks:
        pool = Pool(server.connect, tasks=tasks, size=settings.pool_size, timeout=settings.call_timeout)
        try:
            call = pool.begin(
                partial(prepare, schema=settings.schema), seconds=PATIENCE + settings.call_timeout, once=True
            )
            await pool.outcome(call, error=StoreError)
            if node is not None:
                lock = NodeLock(server, schema=settings.schema, node=node, seconds=settings.connect_timeout)
                await lock.take()
                tasks.start_soon(lock.keep)
            journal = PostgresJournal(pool, schema=settings.schema, ids=ids or SystemIds(), tasks=tasks)
            yield PostgresStore(pool, schema=settings.schema), journal
        finally:
            await pool.aclose()
