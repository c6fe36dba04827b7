"""A program that has children of every kind, and tells what has become of them: ``python orphanage.py LOOP``."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import anyio
from anyio import to_thread

import relaykit.orphans
from relaykit.orphans import adopted_orphans
from relaykit.process import ChildProcess
from support.faults import zombies_of

_PATIENCE = 20.0
_NULL = subprocess.DEVNULL

# All say who they are, and are orphans at once: the first and the last in their parent's session, the other in a
# session of its own. That bears nothing by which it could be known, and ends only when it is killed.
_ORPHANS = """
sleep 600 & echo lives $!
env -i setsid sh -c 'trap "" TERM; echo daemon $$; while :; do sleep 0.1; done' &
(sleep 0.1 & echo ends $!)
"""
_DAEMON = "setsid sh -c 'echo daemon $$' &"


async def _run(script: str) -> dict[str, int]:
    """Run a shell's script to its end, and return the pids that were said, by name."""
    ours, theirs = os.pipe()
    start = partial(
        ChildProcess, ["sh", "-c", script], stdin=_NULL, stdout=theirs, stderr=2, environment=os.environ
    )
    process = await to_thread.run_sync(start)
    os.close(theirs)
    await process.wait()
    said = b""
    with anyio.fail_after(_PATIENCE):
        while said.count(b"\n") < script.count("echo"):
            await anyio.wait_readable(ours)
            said += os.read(ours, 1000)
    os.close(ours)
    return {name: int(pid) for name, pid in (line.split() for line in said.decode().splitlines())}


async def _started(script: str, *, start_new_session: bool) -> subprocess.Popen[bytes]:
    return await to_thread.run_sync(
        lambda: subprocess.Popen(["sh", "-c", script], start_new_session=start_new_session)
    )


async def _until(is_so: Callable[[], bool]) -> bool:
    with anyio.move_on_after(_PATIENCE):
        while not is_so():  # noqa: ASYNC110 -- nobody tells of it
            await anyio.sleep(0.02)
        return True
    return False


async def main() -> None:
    told: dict[str, Any] = {}
    relaykit.orphans._LOOK = 0.05
    async with adopted_orphans():
        kept = {
            "in our session": await _started("exit 7", start_new_session=False),
            "in its own": await _started("exit 8", start_new_session=True),
        }
        child = await to_thread.run_sync(
            partial(
                ChildProcess,
                ["sh", "-c", "exit 9"],
                stdin=_NULL,
                stdout=_NULL,
                stderr=2,
                environment=os.environ,
            )
        )
        await child.wait_end()
        orphans = await _run(_ORPHANS)
        ends = orphans.pop("ends")
        told["living"] = list(orphans.values())
        # The pid of a shell's job is its parent's to know: who it is now shows in /proc.
        told["adopted"] = await _until(lambda: all(_parent(pid) == os.getpid() for pid in told["living"]))
        daemon = (await _run(_DAEMON))["daemon"]
        told["daemon was a zombie"] = await _until(lambda: daemon in zombies_of(os.getpid()))
        told["orphan was reaped"] = await _until(lambda: not Path(f"/proc/{ends}").exists())
        told["exit codes"] = {name: process.wait() for name, process in kept.items()}
        relaykit.orphans._UNCLAIMED = 0.1
        told["daemon is a zombie"] = not await _until(lambda: daemon not in zombies_of(os.getpid()))
        await anyio.sleep(0.2)  # time to steal in
        told["exit codes"]["ChildProcess"] = await child.wait()
    sys.stdout.write(json.dumps(told))


def _parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


if __name__ == "__main__":
    anyio.run(main, backend=sys.argv[1])
