"""A cleaner of one's own: when a session has ended, it is written into a book."""

import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import anyio

from relaykit.hooks import PluginContext, hookimpl, load_plugins
from relaykit.relay import open_relay
from relaykit.session import Cleaner, CleanerResult, Handle, Outcome, Phase, Session
from relaykit.settings import load_settings


class BookKeeper:
    """Works from the session alone: after a restart there is no handle."""

    name = "book"
    phase = Phase.AFTER  # agent and workspace are gone by then

    def __init__(self, path: Path) -> None:
        self._path = path

    async def clean(self, session: Session, handle: Handle | None, /) -> CleanerResult:
        del handle
        async with await anyio.open_file(self._path, "a") as book:
            await book.write(
                f"{session.agent_id}: {session.cause}, {session.activity.message_count} messages\n"
            )
        return CleanerResult(self.name, Outcome.DONE)


@hookimpl
def relaykit_register_cleaners(context: PluginContext) -> Sequence[Cleaner]:
    return [BookKeeper(context.state_dir / "book.txt")]


async def main() -> None:
    with TemporaryDirectory() as scratch:
        environ = {
            "HOME": scratch,
            "RELAYKIT_RELAY__STATE_DIR": f"{scratch}/state",
            "RELAYKIT_RELAY__WORKSPACE": "in_place",
            "RELAYKIT_RELAY__CLEANERS": '["book"]',
        }
        settings = load_settings(environ=environ, cwd=Path(scratch))
        plugins = load_plugins(settings, extra={"book": sys.modules[__name__]})
        async with open_relay(settings, plugins=plugins) as relay:
            session = await relay.create("auth", agent="echo")
            await relay.stop(session.id, "that was all")
            await relay.wait_ended(session.id)
        print((settings.state_dir / "book.txt").read_text(), end="")


if __name__ == "__main__":
    anyio.run(main)
