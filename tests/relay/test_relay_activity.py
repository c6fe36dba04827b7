"""Activity: counted in memory, and written for all sessions about once a second."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import anyio
import pytest

from relaykit.errors import StoreError
from relaykit.session import Activity, MemoryStore, Session, Store
from support.relays import PATIENCE, Storage, active_session, running_relay
from support.session_stores import StagedStore

pytestmark = pytest.mark.anyio


async def stored(store: MemoryStore, session_id: str) -> Session:
    session = await store.get(session_id)
    assert session is not None
    return session


class WatchedStore(StagedStore):
    """Tells when activity was written."""

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self._touched = anyio.Event()

    async def touch(self, activity: Mapping[str, Activity], /) -> None:
        await super().touch(activity)
        self._touched.set()
        self._touched = anyio.Event()

    async def touched(self) -> None:
        await self._touched.wait()


async def test_messages_are_counted_both_ways_and_written_later(tmp_path: Path) -> None:
    store = MemoryStore()
    own = running_relay(tmp_path, plugins={"storage": Storage(store=store)}, RELAY__STORAGE="given")
    async with own as relay, active_session(relay) as client:
        before = await relay.require(client.session_id)
        written = await stored(store, client.session_id)
        await client.say("/stream 100", "t1")
        await client.until_turn_end("t1")
        after = await relay.require(client.session_id)
        assert after.activity.message_count == before.activity.message_count + 102
        assert after.activity.last_active > before.activity.last_active
        assert after.version == before.version
        await relay.manager.flush_activity()
        flushed = await stored(store, client.session_id)
        assert flushed == written.with_activity(after.activity)


async def test_it_is_written_by_itself_though_the_store_fails(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    memory = MemoryStore()
    store = WatchedStore(memory)
    own = running_relay(tmp_path, plugins={"storage": Storage(store=store)}, RELAY__STORAGE="given")
    async with own as relay, active_session(relay) as client:
        store.fail("touch", StoreError("the disk is full", plugin="staged"))
        await client.say("hello", "t1")
        await client.until_turn_end("t1")
        counted = (await relay.require(client.session_id)).activity
        assert counted.message_count == 3
        with anyio.fail_after(PATIENCE):
            while (await stored(memory, client.session_id)).activity != counted:
                await store.touched()
    assert "activity could not be written, it is kept for later: staged: the disk is full" in caplog.text
