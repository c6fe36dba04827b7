"""StorageContract: the tests that every storage must pass as a whole: what it says it keeps is there again.

::

    class TestSqlite(StorageContract):
        @pytest.fixture
        def open_storage(self, tmp_path: Path) -> StorageFactory:
            return lambda: open_sqlite(tmp_path / "relay.db")

What store and journal must do while they are open: `StoreContract` and `JournalContract`.
"""
# ruff: noqa: S101, D102 -- a test suite: it asserts, and its tests' names say what they show

from __future__ import annotations

from datetime import timedelta

import pytest

from relaykit.conversation import JournalState
from relaykit.errors import DuplicateRole, JournalConflict, StaleVersion
from relaykit.hooks import StorageFactory
from relaykit.session import Activity, SessionState, Store
from relaykit.testing.sessions import CREATED_AT, make_session, next_version
from relaykit.testing.transcripts import ALL, ended_ids, ended_session, make_entries, opened, read_all


class StorageContract:
    """What holds for every storage. Override `open_storage`."""

    pytestmark = pytest.mark.anyio

    @pytest.fixture
    def open_storage(self) -> StorageFactory:
        """Return what opens the storage, as ``relaykit_register_storages`` offers it: the same one each time."""
        raise NotImplementedError("a subclass of StorageContract overrides the fixture `open_storage`")

    async def test_it_can_be_opened_again(self, open_storage: StorageFactory) -> None:
        for number in range(2):
            session = make_session(f"s{number}")
            async with open_storage() as (store, journal):
                await store.create(session)
                epoch = (await journal.open(session)).epoch
                await journal.append(session.id, epoch, make_entries(1, 2))
                assert await store.get(session.id) == session
                assert await read_all(journal, session.id) == make_entries(1, 2)

    async def test_sessions_are_as_durable_as_it_says(self, open_storage: StorageFactory) -> None:
        saved = next_version(
            make_session("s1", agent_id="auth"),
            state=SessionState.SPAWNING,
            resources={"acp": {"pid": 7, "argv": ["a", "ünï"]}},
        )
        active = Activity(CREATED_AT + timedelta(minutes=1), 3)
        async with open_storage() as (store, _):
            await store.create(make_session("s1", agent_id="auth"))
            await store.save(saved, expected_version=1)
            await store.touch({"s1": active})
            await store.create(make_session("s2"))
            await store.delete("s2")
            _skip_unless_durable(store)
        async with open_storage() as (store, _):
            assert list(await store.list(ALL)) == [saved.with_activity(active)]
            with pytest.raises(DuplicateRole):
                await store.create(make_session("s3", agent_id="auth"))
            with pytest.raises(StaleVersion):
                await store.save(next_version(saved), expected_version=1)
            await store.delete("s1")
        async with open_storage() as (store, _):
            assert await store.count(ALL) == 0

    async def test_and_so_are_transcripts(self, open_storage: StorageFactory) -> None:
        ended = ended_session("ended")
        async with open_storage() as (store, journal):
            epoch = await opened(journal)
            await journal.append("s1", epoch, make_entries(1, 5))
            await journal.trim("s1", through=2)
            old = await opened(journal, "ended")
            await journal.append("ended", old, make_entries(1, 1))
            await journal.close(ended)
            await opened(journal, "deleted")
            await journal.delete("deleted")
            _skip_unless_durable(store)
        async with open_storage() as (_, journal):
            assert await read_all(journal) == make_entries(3, 5)
            assert await journal.open(make_session()) == JournalState(epoch, 3, 5)
            await journal.append("s1", epoch, make_entries(5, 5))  # its answer was lost
            await journal.append("s1", epoch, make_entries(6, 6))
            assert await journal.find("ended") == ended
            assert await ended_ids(journal) == ["ended"]
            assert await read_all(journal, "ended") == make_entries(1, 1)
            with pytest.raises(JournalConflict):
                await journal.append("ended", old, make_entries(2, 2))
        async with open_storage() as (_, journal):
            assert await read_all(journal) == make_entries(3, 6)


def _skip_unless_durable(store: Store) -> None:
    if not store.durable:
        pytest.skip("it says that it keeps nothing")
