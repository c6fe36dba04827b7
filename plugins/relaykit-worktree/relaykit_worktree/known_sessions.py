"""Which sessions there are: from the storage, or, while a relay has that open, from the relay."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import anyio
from anyio import run_process

from relaykit.relay.choice import chosen_storage, plugin_contexts
from relaykit.relay.running import read_running
from relaykit.session import Session, SessionFilter, Store
from relaykit_worktree.errors import NothingCollected
from relaykit_worktree.inventory import Sessions

if TYPE_CHECKING:
    from relaykit.commands.invocation import Invocation
    from relaykit.relay.running import Running

_PAGE = 500
_SECONDS = 30.0


@asynccontextmanager
async def known_sessions(invocation: Invocation) -> AsyncIterator[Sessions]:
    """Give the sessions that there are.

    While no relay runs the storage is held open, so that none can begin to use it meanwhile.

    :raises NothingCollected: a relay runs, and cannot be asked.
    :raises RelaykitError: the storage cannot be opened or read.
    """
    settings = invocation.load_settings()
    running = read_running(settings.state_dir)
    if running is not None:
        yield await _asked(invocation, running)
        return
    plugins = invocation.load_plugins(forgiving=False)
    contexts = plugin_contexts(settings, plugins, agents={})
    _, open_storage = chosen_storage(settings, plugins, contexts)
    async with open_storage() as (store, _):
        sessions = await _all(store)
        recorded = [str(session.resources.get("worktree", {}).get("path", "")) for session in sessions]
        worked_in = [session.worktree_dir for session in sessions if session.worktree_dir]
        yield Sessions(
            ids=frozenset(session.id for session in sessions),
            directories=[directory for directory in (*recorded, *worked_in) if directory],
        )


async def _asked(invocation: Invocation, running: Running) -> Sessions:
    """Ask the relay as a person would, by the command that a gateway brings: no plugin need know another."""
    config = ("--config", invocation.config) if invocation.config is not None else ()
    command = (sys.executable, "-m", "relaykit", "sessions", "list", "--json", *config)
    try:
        with anyio.fail_after(_SECONDS):
            done = await run_process(command, check=False, stdin=subprocess.DEVNULL)
    except TimeoutError:
        raise NothingCollected(
            f"the relay with pid {running.pid} did not say within {_SECONDS:g} s which sessions it has"
        ) from None
    try:
        if done.returncode != 0:
            raise ValueError(done.stderr.decode(errors="replace").strip())
        listed = json.loads(done.stdout)
        return Sessions(
            ids=frozenset(str(each["id"]) for each in listed),
            directories=[str(each["worktreeDir"]) for each in listed if each["worktreeDir"]],
            relay=running.pid,
        )
    except (ValueError, KeyError, TypeError) as error:
        raise NothingCollected(
            f"the relay with pid {running.pid} has the sessions, and could not be asked: {error}"
        ) from error


async def _all(store: Store) -> Sequence[Session]:
    found: list[Session] = []
    while page := await store.list(SessionFilter(), after=found[-1].id if found else "", limit=_PAGE):
        found += page
    return found
