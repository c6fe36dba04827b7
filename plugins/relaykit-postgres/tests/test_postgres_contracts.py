"""What every store, every journal and every storage must do, on a real server, on asyncio and trio."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from relaykit.conversation import Journal
from relaykit.hooks import StorageFactory
from relaykit.session import Store
from relaykit.testing import JournalContract, StorageContract, StoreContract
from relaykit_postgres.settings import PostgresSettings
from relaykit_postgres.storage import open_postgres
from support.postgres import postgres, schema

__all__ = ["postgres", "schema"]  # fixtures


class TestPostgresStore(StoreContract):
    @pytest.fixture
    async def store(self, postgres: str, schema: str) -> AsyncIterator[Store]:
        async with open_postgres(PostgresSettings(dsn=postgres, schema=schema)) as (store, _):
            yield store


class TestPostgresJournal(JournalContract):
    @pytest.fixture
    async def journal(self, postgres: str, schema: str) -> AsyncIterator[Journal]:
        async with open_postgres(PostgresSettings(dsn=postgres, schema=schema)) as (_, journal):
            yield journal


class TestPostgres(StorageContract):
    @pytest.fixture
    def open_storage(self, postgres: str, schema: str) -> StorageFactory:
        return lambda: open_postgres(PostgresSettings(dsn=postgres, schema=schema))
