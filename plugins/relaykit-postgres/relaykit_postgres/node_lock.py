"""NodeLock: a node's name belongs to one relay, for as long as that runs."""

from __future__ import annotations

import logging
from contextlib import suppress
from time import monotonic

import anyio
import psycopg
from anyio import to_thread

from relaykit.errors import StoreError
from relaykit_postgres import NAME
from relaykit_postgres.connection import Connection, Server

logger = logging.getLogger(__name__)

_PATIENCE = 5.0
"""Seconds to wait for the lock of a relay that was killed: its server takes a moment to notice."""
_PAUSE = 1.0
_ANSWER = 10.0

_LOCK = "SELECT pg_advisory_lock(hashtext(%s), hashtext(%s))"


class NodeLock:
    """An advisory lock (PostgreSQL manual, 13.3.5) on a connection of its own.

    At its start a relay takes over the sessions of its node: two relays of one name would take each other's. When
    the connection breaks the lock is gone, and is taken again as soon as the server is back; if another relay was
    faster, that is logged, again and again, because nothing here can end the other.

    :param seconds: that connecting may take.
    """

    def __init__(self, server: Server, *, schema: str, node: str, seconds: float) -> None:
        self._server = server
        self._keys = (f"relaykit_postgres node {schema}", node)
        self._node = node
        self._seconds = seconds
        self._connection: Connection | None = None

    async def take(self) -> None:
        """Take the lock.

        :raises StoreError: another relay has it, or there is no connection.
        """
        try:
            await to_thread.run_sync(self._take)
        except psycopg.errors.LockNotAvailable:
            raise StoreError(
                f"another relay is the node {self._node!r} of this database: stop it, or give this one a name of its "
                "own by `node` in [relay]",
                plugin=NAME,
            ) from None
        except psycopg.Error as error:
            raise StoreError(f"the node {self._node!r} could not be locked: {error}", plugin=NAME) from error

    async def keep(self) -> None:
        """Take the lock again whenever it was lost, until cancelled."""
        try:
            while True:
                await self._lost()
                logger.warning(
                    "the connection that locks the node %r was lost: it is locked again", self._node
                )
                await self._take_again()
        finally:
            self._close()

    async def _lost(self) -> None:
        """Wait until the connection has ended. A server says nothing on it but that."""
        while self._connection is not None:
            await anyio.wait_readable(self._connection.fileno())
            if not await to_thread.run_sync(self._answers):
                return

    async def _take_again(self) -> None:
        while True:
            await anyio.sleep(_PAUSE)
            try:
                await self.take()
            except StoreError as error:
                logger.error("%s", error)  # noqa: TRY400 -- it is no failure of ours, and has no traceback to show
            else:
                return

    # ------------------------------------------------------------ in worker threads

    def _take(self) -> None:
        self._close()
        connection = self._server.connect(monotonic() + self._seconds)
        try:
            connection.deadline = monotonic() + _PATIENCE + _ANSWER
            connection.execute(f"SET lock_timeout = '{_PATIENCE * 1000:.0f}'; SET statement_timeout = 0")
            connection.execute(_LOCK, self._keys)
        except BaseException:
            connection.close()
            raise
        self._connection = connection

    def _answers(self) -> bool:
        connection = self._connection
        if connection is None:
            return False
        connection.deadline = monotonic() + _ANSWER
        with suppress(psycopg.Error):
            connection.execute("SELECT 1")
            return True
        return False

    def _close(self) -> None:
        if self._connection is not None:
            with suppress(psycopg.Error):  # it is gone either way
                self._connection.close()
            self._connection = None
