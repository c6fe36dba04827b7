"""Database: runs what is asked of it, in groups of one transaction each. Lives in one thread."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar

from relaykit.errors import JournalError, RelaykitError, StoreError
from relaykit.ids import IdGenerator
from relaykit_sqlite.problems import NAME, explain, is_busy
from relaykit_sqlite.sessions import Sessions
from relaykit_sqlite.transcripts import Transcripts

logger = logging.getLogger(__name__)

T = TypeVar("T")


class Request(Generic[T]):
    """One call of a store or a journal.

    :param work: does it, in the database's thread. What it may refuse (StaleVersion, JournalConflict …) it refuses
        before it writes anything, so that the transaction it shares with others can go on.
    :param writes: it may change something.
    :param one_statement: by one statement at most, which needs no transaction around it when it is alone.
    :param failure: what the call raises if the database fails.
    """

    __slots__ = ("_error", "_failure", "_result", "one_statement", "work", "writes")

    def __init__(
        self,
        work: Callable[[Database], T],
        *,
        writes: bool,
        one_statement: bool,
        failure: type[StoreError | JournalError],
    ) -> None:
        self.work = work
        self.writes = writes
        self.one_statement = one_statement
        self._failure = failure
        self._error: Exception | None = None
        self._result: T

    def run(self, database: Database) -> None:
        """Do the work, and keep what comes of it."""
        self._error = None
        try:
            self._result = self.work(database)
        except RelaykitError as error:
            self._error = error

    def fail(self, error: Exception, path: Path) -> None:
        """Keep why it was not done."""
        if isinstance(error, sqlite3.Error):
            failure = self._failure(explain(error, path), plugin=NAME)
            failure.__cause__ = error
            error = failure
        self._error = error

    def abandon(self, why: str) -> None:
        """Keep that it will not be done."""
        self._error = self._failure(why, plugin=NAME)

    def outcome(self) -> T:
        """Return what the work returned, or raise what it raised."""
        if self._error is not None:
            raise self._error
        return self._result


class Database:
    """A connection, and what is done on it.

    :param release: called when the connection is closed.
    """

    def __init__(
        self, connection: sqlite3.Connection, path: Path, *, ids: IdGenerator, release: Callable[[], None]
    ) -> None:
        self._connection = connection
        self._path = path
        self._release = release
        self.sessions = Sessions(connection)
        self.transcripts = Transcripts(connection, ids)

    def run(self, requests: Sequence[Request[Any]]) -> None:
        """Run requests in order, in one transaction, durably.

        If that fails, each is run once more in a transaction of its own, so that one that cannot be done (it is
        too large for what is left of the disk) takes no other with it. Another process's lock is waited for once.
        """
        try:
            self._run_together(requests)
        except Exception as error:  # noqa: BLE001 -- it is the callers', and the thread goes on
            if len(requests) == 1 or is_busy(error):
                for request in requests:
                    request.fail(error, self._path)
                return
            for request in requests:
                self.run([request])

    def _run_together(self, requests: Sequence[Request[Any]]) -> None:
        # Each statement gives the interpreter's lock away, and waits for it behind a busy event loop: BEGIN and COMMIT
        # are left out where nothing needs them.
        within = any(request.writes for request in requests)
        if len(requests) == 1 and requests[0].one_statement:
            within = False
        execute = self._connection.execute
        try:
            if within:
                execute("BEGIN IMMEDIATE")
            for request in requests:
                request.run(self)
            self.transcripts.flush()
            if within:
                execute("COMMIT")
        except BaseException:
            self._roll_back()
            raise

    def _roll_back(self) -> None:
        self.transcripts.forget()
        if self._connection.in_transaction:  # SQLite may have done so itself
            self._connection.execute("ROLLBACK")

    def close(self) -> None:
        """Put everything from the log into the database file, and let go of it.

        What was acknowledged is safe in the log, so that a failure here is no more than logged.
        """
        try:
            self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        except sqlite3.Error as error:
            logger.warning("the log was left for the next start: %s", explain(error, self._path))
        finally:
            self._connection.close()
            self._release()
