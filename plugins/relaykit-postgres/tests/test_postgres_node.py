"""A node's name belongs to one relay at a time."""

from __future__ import annotations

import logging
import signal

import anyio
import pytest
from anyio import to_thread

from relaykit.errors import StoreError
from relaykit.session import SessionFilter
from relaykit_postgres.settings import PostgresSettings
from relaykit_postgres.storage import open_postgres
from support.postgres import Postgres, ask, breakable_postgres, own_postgres, postgres, schema

__all__ = ["breakable_postgres", "own_postgres", "postgres", "schema"]

pytestmark = pytest.mark.anyio

SECONDS = 60
LOCKS = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND granted"


async def test_the_second_of_a_name_is_refused(postgres: str, schema: str) -> None:
    settings = PostgresSettings(dsn=postgres, schema=schema)
    with anyio.fail_after(SECONDS):
        async with open_postgres(settings, node="n1"):
            with pytest.raises(StoreError, match="another relay is the node 'n1' of this database"):
                async with open_postgres(settings, node="n1"):
                    pass
            async with open_postgres(settings, node="n2") as (store, _):
                assert await store.count(SessionFilter()) == 0
            async with open_postgres(PostgresSettings(dsn=postgres, schema=f"{schema} 2"), node="n1"):
                pass
        async with open_postgres(settings, node="n1"):
            pass
    ask(postgres, f'DROP SCHEMA "{schema} 2" CASCADE')


async def test_it_is_locked_again_when_the_server_was_restarted(
    own_postgres: Postgres, caplog: pytest.LogCaptureFixture
) -> None:
    settings = PostgresSettings(dsn=own_postgres.dsn)
    with anyio.fail_after(SECONDS), caplog.at_level(logging.WARNING):
        async with open_postgres(settings, node="n1"):
            assert ask(own_postgres.dsn, LOCKS) == [(1,)]
            await to_thread.run_sync(own_postgres.stop, signal.SIGQUIT)
            await to_thread.run_sync(own_postgres.start)
            while await to_thread.run_sync(ask, own_postgres.dsn, LOCKS) != [(1,)]:
                await anyio.lowlevel.checkpoint()
            with pytest.raises(StoreError, match="another relay is the node"):
                async with open_postgres(settings, node="n1"):
                    pass
    assert "the connection that locks the node 'n1' was lost" in caplog.text
