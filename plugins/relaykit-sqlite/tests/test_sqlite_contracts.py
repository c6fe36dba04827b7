"""SqliteStore and SqliteJournal pass the contracts of stores, of journals, and of storages."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from relaykit.conversation import Journal
from relaykit.hooks import StorageFactory
from relaykit.session import Store
from relaykit.testing import JournalContract, StorageContract, StoreContract
from relaykit_sqlite.storage import open_sqlite


class TestSqliteStore(StoreContract):
    @pytest.fixture
    async def store(self, tmp_path: Path) -> AsyncIterator[Store]:
        async with open_sqlite(tmp_path / "relay.db") as (store, _):
            yield store


class TestSqliteJournal(JournalContract):
    @pytest.fixture
    async def journal(self, tmp_path: Path) -> AsyncIterator[Journal]:
        async with open_sqlite(tmp_path / "relay.db") as (_, journal):
            yield journal


class TestSqlite(StorageContract):
    @pytest.fixture
    def open_storage(self, tmp_path: Path) -> StorageFactory:
        return lambda: open_sqlite(tmp_path / "relay.db")
