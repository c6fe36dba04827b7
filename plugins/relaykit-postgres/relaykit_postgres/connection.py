"""Connections that never wait past a deadline, and what may be told of where they lead."""

from __future__ import annotations

import math
import os
import select
from collections.abc import Mapping
from time import monotonic
from typing import Any, LiteralString, TypeVar

import psycopg
from psycopg import sql
from psycopg.abc import PQGen
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from relaykit.errors import StoreError
from relaykit_postgres import NAME
from relaykit_postgres.settings import PostgresSettings

RV = TypeVar("RV")

OLDEST = 13
"""The oldest PostgreSQL that is supported."""

# psycopg's Wait and Ready are the same numbers: 1 to read, 2 to write, 3 for both.
_EVENTS = {1: select.POLLIN, 2: select.POLLOUT, 3: select.POLLIN | select.POLLOUT}
_READY = {events: number for number, events in _EVENTS.items()}
_LONGEST_POLL = 3600.0  # the system takes no more than a C int of milliseconds
_EITHER = select.POLLIN | select.POLLOUT


class Overdue(psycopg.OperationalError):
    """The deadline of a call has passed while the server said nothing. The connection is closed."""


class CannotConnect(psycopg.OperationalError):
    """There is no connection to be had. The message names the place, and never holds a password."""


class Connection(psycopg.Connection[tuple[Any, ...]]):
    """A connection of one thread at a time, in autocommit, on which nothing waits past `deadline`.

    That is what keeps a thread from hanging on a server that accepts and says nothing: no other thread, and no
    timer, has to interrupt it.
    """

    deadline: float = math.inf
    """By `time.monotonic`."""

    def wait(self, gen: PQGen[RV], *_: Any, **__: Any) -> RV:
        """Run one of psycopg's generators, as psycopg does, until the deadline.

        :raises Overdue: and closes the connection, because its state is unknown then.
        """
        poll = select.poll()
        try:
            waits_for = next(gen)
            poll.register(socket := self.pgconn.socket, _EVENTS[waits_for])
            while True:
                left = self.deadline - monotonic()
                if left <= 0:
                    self.close()
                    raise Overdue("the server did not answer in time")
                # Rounded up, so that it does not spin through the last millisecond.
                found = poll.poll(math.ceil(min(left, _LONGEST_POLL) * 1000))
                if not found:
                    continue
                events = found[0][1]
                # An error alone is for libpq to find: it hears that what it waits for is there.
                wanted = gen.send(_READY.get(events & _EITHER, waits_for))
                if wanted != waits_for:
                    poll.modify(socket, _EVENTS[wanted])
                    waits_for = wanted
        except StopIteration as stop:
            result: RV = stop.value
            return result

    @property
    def usable(self) -> bool:
        """Whether it may be used for another call: open, and in no transaction."""
        return not self.closed and self.pgconn.transaction_status == psycopg.pq.TransactionStatus.IDLE


class Server:
    """Where the settings lead.

    :raises StoreError: the dsn cannot be understood. What it says is not repeated: it may hold a password.
    """

    def __init__(self, settings: PostgresSettings) -> None:
        try:
            facts = conninfo_to_dict(settings.dsn)
        except psycopg.Error:
            facts = None
        self._conninfo = "" if facts is None else _checked(facts, settings)
        if not self._conninfo:
            raise StoreError(
                "`dsn` is neither a connection string nor a URI that libpq understands; in a URI, "
                "percent-encode what is special in the password: '@' as %40, '/' as %2F, ':' as %3A, '%' as %25",
                plugin=NAME,
            )
        self.place = _place(facts or {})
        """Host, port and database, for people."""
        timeout = math.ceil(settings.statement_timeout * 1000)
        self._setup = _SETUP + (b"; SET statement_timeout = %d" % timeout if timeout else b"")

    def connect(self, deadline: float) -> Connection:
        """Return a new connection, ready for use. Blocks for `connect_timeout` at most, for each host.

        :raises CannotConnect: it cannot be had.
        """
        try:
            return self._connect(deadline)
        except psycopg.Error as error:
            said = " ".join(str(error).removeprefix("connection failed: ").split())
        raise CannotConnect(f"cannot connect to {self.place}: {said}")

    def _connect(self, deadline: float) -> Connection:
        connection = Connection.connect(self._conninfo, autocommit=True, prepare_threshold=2)
        try:
            connection.deadline = deadline
            connection.execute(self._setup)
        except BaseException:
            connection.close()
            raise
        return connection


# Statements name their schema. They rely on read committed: a condition that had to wait for a lock looks at what
# was committed meanwhile. Each has an index made for it, which a plan from when the tables were empty must not miss;
# and just-in-time compilation costs more than any of them.
_SETUP = (
    b"SET search_path = ''; SET timezone = 'UTC'; SET default_transaction_isolation = 'read committed'; "
    b"SET idle_in_transaction_session_timeout = '60s'; "
    b"SET enable_seqscan = off; SET enable_bitmapscan = off; SET jit = off"
)


def _checked(facts: dict[str, Any], settings: PostgresSettings) -> str:
    """Return what libpq is given; nothing if a piece of a password may have come into another part of a URI."""
    if "://" in settings.dsn:
        port = str(facts.get("port") or "0").replace(",", "")
        if not port.isdigit() or any("@" in str(facts.get(key) or "") for key in ("host", "dbname")):
            return ""
    facts = {"connect_timeout": math.ceil(settings.connect_timeout), **facts}
    return make_conninfo("", **facts | {"client_encoding": "UTF8", "fallback_application_name": "relaykit"})


def _place(facts: Mapping[str, Any]) -> str:
    def known(key: str, default: str) -> str:
        return str(facts.get(key) or os.environ.get(f"PG{key.upper()}") or default)

    host = known("host", "") or str(
        facts.get("hostaddr") or os.environ.get("PGHOSTADDR") or "the local socket"
    )
    name = facts.get("dbname") or os.environ.get("PGDATABASE")
    if facts.get("service") or os.environ.get("PGSERVICE"):
        return "the service that libpq's configuration names"
    return f"{host}, port {known('port', '5432')}, database {name or 'of the user'}"


def compiled(text: LiteralString, schema: str) -> bytes:
    """Return a statement in which ``{schema}`` is the schema, quoted."""
    return sql.SQL(text).format(schema=sql.Identifier(schema)).as_bytes(None)
