"""Cancelled anywhere, by anyio or natively, a call happened or did not, and no connection stays behind."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from typing import Any

import anyio
import pytest
from anyio import to_thread
from anyio.lowlevel import checkpoint

from relaykit.conversation import Journal
from relaykit.session import Activity, SessionFilter, Store
from relaykit.testing import Interruption
from relaykit.testing.store_contract import make_session, next_version
from relaykit.testing.transcripts import ended_session, make_entries
from relaykit_postgres.settings import PostgresSettings
from relaykit_postgres.storage import open_postgres
from support.native import interrupt_natively
from support.postgres import all_gone, connections_of, locked, named, postgres, schema

__all__ = ["postgres", "schema"]  # fixtures

pytestmark = pytest.mark.anyio

PATIENCE = 60.0
NODE = "cancellation-test"
SESSION = make_session("s1")

Call = Coroutine[Any, Any, object]
Interrupt = Callable[[Call, int], Awaitable[bool]]


async def in_a_scope(call: Call, at: int) -> bool:
    """Return whether the call was suspended so often that it could be cancelled."""
    with anyio.CancelScope() as scope:
        interruption = Interruption(call, at=at, cancel=scope.cancel)
        await interruption
    return interruption.happened


async def in_a_native_task(call: Call, at: int) -> bool:
    happened, _ = await interrupt_natively(call, at=at)
    return happened


CALLS: dict[str, Callable[[Store, Journal, str], Call]] = {
    "create": lambda store, _, __: store.create(SESSION),
    "save": lambda store, _, __: store.save(next_version(SESSION), expected_version=1),
    "touch": lambda store, _, __: store.touch({"s1": Activity(SESSION.created_at, 5)}),
    "get": lambda store, _, __: store.get("s1"),
    "get_by_role": lambda store, _, __: store.get_by_role("role-s1", owner="local", project="shop"),
    "list": lambda store, _, __: store.list(SessionFilter()),
    "count": lambda store, _, __: store.count(SessionFilter()),
    "delete": lambda store, _, __: store.delete("s1"),
    "open": lambda _, journal, __: journal.open(SESSION),
    "append": lambda _, journal, epoch: journal.append("s1", epoch, make_entries(4, 6)),
    "read": lambda _, journal, __: journal.read("s1", after=0, limit=10),
    "trim": lambda _, journal, __: journal.trim("s1", through=2),
    "find": lambda _, journal, __: journal.find("s1"),
    "ended": lambda _, journal, __: journal.ended(SessionFilter(), before=SESSION.created_at),
    "close": lambda _, journal, __: journal.close(ended_session("s1")),
    "delete of a transcript": lambda _, journal, __: journal.delete("s1"),
}


async def cancel_everywhere(postgres: str, schema: str, name: str, interrupt: Interrupt) -> None:
    dsn = named(postgres, NODE)
    settings = PostgresSettings(dsn=dsn, schema=schema, pool_size=3)
    with anyio.fail_after(PATIENCE):
        async with open_postgres(settings) as (store, journal):
            at = 0
            happened = True
            while happened:
                at += 1
                await store.delete("s1")
                await journal.delete("s1")
                await store.create(SESSION)
                epoch = (await journal.open(SESSION)).epoch
                await journal.append("s1", epoch, make_entries(1, 3))
                happened = await interrupt(CALLS[name](store, journal, epoch), at)
                # The same again, and it is as if it had never been cancelled.
                if name != "create":
                    await CALLS[name](store, journal, epoch)
            assert at > 1
            assert await to_thread.run_sync(connections_of, postgres, NODE) <= 3
        await all_gone(postgres, NODE)


@pytest.mark.parametrize("name", CALLS)
async def test_cancelled_by_anyio(postgres: str, schema: str, name: str) -> None:
    await cancel_everywhere(postgres, schema, name, in_a_scope)


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.parametrize("name", CALLS)
async def test_cancelled_natively(postgres: str, schema: str, name: str) -> None:
    await cancel_everywhere(postgres, schema, name, in_a_native_task)


async def opened(postgres: str, schema: str) -> None:
    async with open_postgres(PostgresSettings(dsn=named(postgres, NODE), schema=schema)) as (store, _):
        await store.create(make_session("s1"))


@pytest.fixture
async def _nothing_left(postgres: str) -> AsyncIterator[None]:
    yield
    with anyio.fail_after(PATIENCE):
        await all_gone(postgres, NODE)


@pytest.mark.usefixtures("_nothing_left")
async def test_opening_and_closing_cancelled_by_anyio(postgres: str, schema: str) -> None:
    at = 1
    while await in_a_scope(opened(postgres, schema), at):
        at += 1


@pytest.mark.usefixtures("_nothing_left")
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_opening_and_closing_cancelled_natively(postgres: str, schema: str) -> None:
    at = 1
    while await in_a_native_task(opened(postgres, schema), at):
        at += 1


async def test_who_waits_for_a_lock_and_is_cancelled_leaves_at_once(postgres: str, schema: str) -> None:
    """What it asked for ends on its own, when the lock is free or the server gives it up."""
    settings = PostgresSettings(dsn=named(postgres, NODE), schema=schema)
    with anyio.fail_after(PATIENCE):
        async with open_postgres(settings) as (store, _):
            await store.create(SESSION)
            with locked(postgres, schema, "sessions"):
                with anyio.move_on_after(0.2) as scope:
                    await store.delete("s1")
                assert scope.cancelled_caught
            while await store.get("s1") is not None:
                await checkpoint()
