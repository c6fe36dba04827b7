"""What every store and every journal must do, on a real server, on asyncio and trio."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from relaykit.conversation import Journal
from relaykit.session import Store
from relaykit.testing.journal_contract import JournalContract
from relaykit.testing.store_contract import StoreContract
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
