"""A storage of one's own: what is kept in memory, and a word in the log of each session that is stored.

A real one keeps its own promises: `relaykit.testing.StoreContract`, `JournalContract` and `StorageContract` hold it to
them, and `relaykit new-plugin NAME --storage` writes the beginning.
"""

import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import anyio

from relaykit.conversation import Journal, MemoryJournal
from relaykit.hooks import StorageFactory, hookimpl, load_plugins
from relaykit.relay import open_relay
from relaykit.session import MemoryStore, Session, Store
from relaykit.settings import load_settings


class TalkativeStore(MemoryStore):
    """Says what it stores."""

    async def create(self, session: Session, /) -> None:
        await super().create(session)
        print(f"stored {session.agent_id} ({session.state})")

    async def delete(self, session_id: str, /) -> None:
        await super().delete(session_id)
        print("forgot it")


@asynccontextmanager
async def open_talkative() -> AsyncIterator[tuple[Store, Journal]]:
    yield TalkativeStore(), MemoryJournal()


@hookimpl
def relaykit_register_storages() -> Mapping[str, StorageFactory]:
    return {"talkative": open_talkative}


async def main() -> None:
    with TemporaryDirectory() as scratch:
        environ = {
            "HOME": scratch,
            "RELAYKIT_RELAY__STATE_DIR": f"{scratch}/state",
            "RELAYKIT_RELAY__WORKSPACE": "in_place",
            "RELAYKIT_RELAY__STORAGE": "talkative",
        }
        settings = load_settings(environ=environ, cwd=Path(scratch))
        plugins = load_plugins(settings, extra={"talkative": sys.modules[__name__]})
        async with open_relay(settings, plugins=plugins) as relay:
            session = await relay.create("auth", agent="echo")
            await relay.stop(session.id, "that was all")
            await relay.wait_ended(session.id)


if __name__ == "__main__":
    anyio.run(main)
