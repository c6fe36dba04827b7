"""The server restarts, crashes, says nothing: what was acknowledged is there, and every call ends in time."""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from time import monotonic

import anyio
import psycopg
import pytest
from anyio import to_thread

from relaykit.conversation import Entry, Journal
from relaykit.errors import JournalError, StoreError
from relaykit.session import SessionFilter, Store
from relaykit.testing.store_contract import make_session, next_version
from relaykit.testing.transcripts import make_entries
from relaykit_postgres.settings import PostgresSettings
from relaykit_postgres.storage import open_postgres
from support.postgres import Postgres, all_gone, ask, breakable_postgres, own_postgres

__all__ = ["breakable_postgres", "own_postgres"]  # fixtures

pytestmark = pytest.mark.anyio

PATIENCE = 60.0
NODE = "outage-test"  # the application_name: what pg_stat_activity is asked for


@asynccontextmanager
async def storage(server: Postgres, *, call_timeout: float = 20.0) -> AsyncIterator[tuple[Store, Journal]]:
    dsn = server.dsn_of("postgres", application_name=NODE)
    with anyio.fail_after(PATIENCE):
        async with open_postgres(PostgresSettings(dsn=dsn, call_timeout=call_timeout)) as both:
            yield both


class Writers:
    """Sessions that say something all the time, and repeat what was not acknowledged."""

    def __init__(self, journal: Journal) -> None:
        self.journal = journal
        self.acknowledged: dict[str, int] = {}
        self.failed = 0
        self.slowest = 0.0
        self.stopping = False
        self._ended = anyio.Event()

    async def write(self, session_id: str) -> None:
        epoch = (await self.journal.open(make_session(session_id))).epoch
        self.acknowledged[session_id] = 0
        while not self.stopping:
            head = self.acknowledged[session_id]
            began = monotonic()
            try:
                await self.journal.append(
                    session_id, epoch, make_entries(head + 1, head + 3, text=session_id)
                )
            except JournalError as error:
                assert error.plugin == "postgres"  # noqa: PT017 -- and it is no conflict
                self.failed += 1
            else:
                self.acknowledged[session_id] = head + 3
            self._ended.set()
            self.slowest = max(self.slowest, monotonic() - began)

    async def progress(self) -> None:
        """Wait until each of ten sessions has had something acknowledged from now on."""
        before = dict(self.acknowledged)
        await self._until(
            lambda: (
                len(self.acknowledged) == 10
                and all(head > before.get(session_id, 0) for session_id, head in self.acknowledged.items())
            )
        )

    async def all_failed(self) -> None:
        """Wait until as many appends have failed as there are sessions."""
        await self._until(lambda: self.failed >= len(self.acknowledged))

    async def _until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            self._ended = anyio.Event()
            await self._ended.wait()

    async def check(self) -> None:
        """Check that everything acknowledged is there, once, and nothing that was not asked for."""
        for session_id, head in self.acknowledged.items():
            held = [entry async for entry in everything(self.journal, session_id)]
            assert len(held) in {head, head + 3}  # one more batch was under way, at most
            assert held == make_entries(1, len(held), text=session_id)


async def everything(journal: Journal, session_id: str) -> AsyncIterator[Entry]:
    after = 0
    while entries := await journal.read(session_id, after=after, limit=1000):
        for entry in entries:
            yield entry
        after = entries[-1].seq


@pytest.mark.parametrize("mode", [signal.SIGINT, signal.SIGQUIT], ids=["fast", "immediate"])
async def test_a_restart_under_load_loses_nothing(own_postgres: Postgres, mode: signal.Signals) -> None:
    async with storage(own_postgres) as (_, journal):
        writers = Writers(journal)
        async with anyio.create_task_group() as tasks:
            for number in range(10):
                tasks.start_soon(writers.write, f"s{number}")
            for _ in range(2):
                await writers.progress()
                await to_thread.run_sync(own_postgres.stop, mode)
                await to_thread.run_sync(own_postgres.start)
            await writers.progress()
            writers.stopping = True
        assert writers.failed == 0  # it was back within their deadline
        await writers.check()
    with anyio.fail_after(PATIENCE):
        await all_gone(own_postgres.dsn, NODE)


async def test_while_the_server_is_down_calls_fail_by_their_deadline(own_postgres: Postgres) -> None:
    async with storage(own_postgres, call_timeout=1.0) as (store, journal):
        writers = Writers(journal)
        async with anyio.create_task_group() as tasks:
            for number in range(10):
                tasks.start_soon(writers.write, f"s{number}")
            await writers.progress()
            await to_thread.run_sync(own_postgres.stop, signal.SIGQUIT)
            with pytest.raises(
                StoreError, match=r"no answer within 1 s: .*cannot connect to 127\.0\.0\.1"
            ) as caught:
                await store.get("s1")
            assert caught.value.plugin == "postgres"
            await writers.all_failed()
            await to_thread.run_sync(own_postgres.start)
            await writers.progress()
            writers.stopping = True
        assert writers.slowest < 5.0
        await writers.check()


CALLS: dict[str, Callable[[Store, Journal], Awaitable[object]]] = {
    "create": lambda store, _: store.create(make_session("s2")),
    "save": lambda store, _: store.save(next_version(make_session("s1")), expected_version=1),
    "get": lambda store, _: store.get("s1"),
    "list": lambda store, _: store.list(SessionFilter()),
    "open": lambda _, journal: journal.open(make_session("s1")),
    "append": lambda _, journal: journal.append("s1", "e", make_entries(1, 1)),
    "read": lambda _, journal: journal.read("s1", after=0, limit=1),
    "close": lambda _, journal: journal.close(make_session("s1")),
}


async def test_a_server_that_says_nothing_makes_calls_fail_by_their_deadline(own_postgres: Postgres) -> None:
    async with storage(own_postgres, call_timeout=1.0) as (store, journal):
        await store.create(make_session("s1"))
        failures: list[tuple[str, float]] = []

        async def call(name: str) -> None:
            began = monotonic()
            with pytest.raises((StoreError, JournalError), match="no answer within 1 s"):
                await CALLS[name](store, journal)
            failures.append((name, monotonic() - began))

        own_postgres.freeze()
        try:
            # More than there are connections, so that some wait for one, and some for a new one.
            async with anyio.create_task_group() as tasks:
                for name in [*CALLS, *CALLS]:
                    tasks.start_soon(call, name)
        finally:
            own_postgres.thaw()
        assert len(failures) == 2 * len(CALLS)
        assert max(took for _, took in failures) < 5.0
        assert await store.get("s1") is not None
    with anyio.fail_after(PATIENCE):
        await all_gone(own_postgres.dsn, NODE)


async def test_leaving_the_block_while_the_server_says_nothing_ends(own_postgres: Postgres) -> None:
    began = monotonic()
    async with storage(own_postgres, call_timeout=1.0) as (store, _):
        own_postgres.freeze()
        with anyio.move_on_after(0.1):
            await store.get("s1")
    own_postgres.thaw()
    assert monotonic() - began < 10.0
    with anyio.fail_after(PATIENCE):
        await all_gone(own_postgres.dsn, NODE)


async def test_idle_connections_that_broke_are_not_noticed(own_postgres: Postgres) -> None:
    async with storage(own_postgres) as (store, _):
        async with anyio.create_task_group() as tasks:
            for _ in range(20):
                tasks.start_soon(store.get, "s1")
        terminate = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = %s"
        for _ in range(3):
            assert await to_thread.run_sync(ask, own_postgres.dsn, terminate, NODE)
            await store.create(make_session("s1"))
            await store.delete("s1")


async def test_a_server_that_is_down_is_told_at_the_start(own_postgres: Postgres) -> None:
    own_postgres.stop()
    with pytest.raises(
        StoreError, match=f"cannot connect to 127.0.0.1, port {own_postgres.port}, database postgres"
    ):
        async with storage(own_postgres):
            pass


async def test_a_server_that_says_nothing_is_told_at_the_start(own_postgres: Postgres) -> None:
    settings = PostgresSettings(dsn=own_postgres.dsn, connect_timeout=2.0)
    own_postgres.freeze()
    try:
        with anyio.fail_after(PATIENCE), pytest.raises(StoreError, match="timeout expired"):
            async with open_postgres(settings):
                pass
    finally:
        own_postgres.thaw()


def set_read_only(server: Postgres, value: str) -> None:
    """Have connections that are made from now on be read-only, or not."""
    with psycopg.connect(
        server.dsn_of("postgres", options="-c default_transaction_read_only=off")
    ) as connection:
        connection.autocommit = True
        connection.execute(f"ALTER SYSTEM SET default_transaction_read_only = {value}".encode())
        connection.execute("SELECT pg_reload_conf()")
    while ask(server.dsn, "SHOW default_transaction_read_only") != [(value,)]:
        pass


async def test_a_server_that_became_a_standby_is_asked_again_on_another_connection(
    own_postgres: Postgres,
) -> None:
    """As after a failover, where the dsn names several hosts and wants the one that can be written."""
    async with storage(own_postgres) as (store, _):
        await store.create(make_session("s1"))
        await to_thread.run_sync(set_read_only, own_postgres, "on")
        terminate = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = %s"
        await to_thread.run_sync(ask, own_postgres.dsn, terminate, NODE)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(store.delete, "s1")
            tasks.start_soon(store.create, make_session("s2"))
            for word in ("DELETE", "INSERT"):
                await own_postgres.logged(f"cannot execute {word} in a read-only transaction")
            await to_thread.run_sync(set_read_only, own_postgres, "off")
        assert await store.get("s1") is None
        assert await store.get("s2") == make_session("s2")
