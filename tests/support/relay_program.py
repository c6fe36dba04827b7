"""A relay in a process of its own, on either loop, with one session of each fault.

``python relay_program.py LOOP DIRECTORY [empty]``. Says ``ready`` when all misbehave; SIGTERM ends it in order.
What goes behind ``RELAYKIT_`` comes from the environment, as for ``relaykit serve``.
"""

from __future__ import annotations

import os
import signal
import sys
from contextlib import suppress
from pathlib import Path

import anyio

from relaykit.errors import SessionNotFound
from relaykit.hooks.loader import load_plugins
from relaykit.orphans import adopted_orphans
from relaykit.relay import Relay, open_relay
from relaykit.relay.notices import ACTIVE, TERMINATING
from relaykit.settings import load_settings
from support.faults import FAULTS, Fault
from support.relays import following


async def misbehave(relay: Relay, fault: Fault, *, shortly: bool = False) -> str:
    """Create a session of this fault, have it misbehave if it gets so far, and return the session's id.

    :param shortly: its turn has an end, if it has another fault than that there is none.
    """
    session = await relay.create(fault.name, agent=fault.name)
    if "--no-initialize" not in fault.flags:
        with suppress(SessionNotFound):  # it has crashed already, and is forgotten
            async with following(relay, session.id) as client:
                await client.until(lambda entry: entry.frame.method in {ACTIVE, TERMINATING})
                if prompt := (fault.short_prompt if shortly else "") or fault.prompt:
                    await client.say(prompt, "t1")
    return session.id


async def misbehave_all(relay: Relay, *, shortly: bool = False) -> dict[str, str]:
    """Do so for all faults, and return their sessions' ids."""
    sessions: dict[str, str] = {}

    async def one(fault: Fault) -> None:
        sessions[fault.name] = await misbehave(relay, fault, shortly=shortly)

    async with anyio.create_task_group() as tasks:
        for fault in FAULTS:
            tasks.start_soon(one, fault)
    return sessions


async def main(directory: Path, *, empty: bool) -> None:
    settings = load_settings(environ=os.environ, cwd=directory)
    plugins = load_plugins(settings)
    with anyio.open_signal_receiver(signal.SIGTERM) as signals:
        async with adopted_orphans(), open_relay(settings, plugins=plugins) as relay:
            if not empty:
                await misbehave_all(relay)
            sys.stdout.write("ready\n")
            sys.stdout.flush()
            async for _ in signals:
                break


if __name__ == "__main__":
    anyio.run(lambda: main(Path(sys.argv[2]), empty="empty" in sys.argv), backend=sys.argv[1])
