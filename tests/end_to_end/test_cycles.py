"""Sessions are created and stopped time after time, eight at once: what the relay holds does not grow.

``RELAYKIT_CYCLES=500`` says how often, for each loop; 64 times by default.
"""

from __future__ import annotations

import gc
import os
import re
import sys
import threading
from dataclasses import dataclass
from pathlib import Path

import anyio
import pytest

from relaykit.relay import Relay
from support.faults import descriptors, zombies_of
from support.relays import ended, following, running_relay

CYCLES = int(os.environ.get("RELAYKIT_CYCLES", "64"))
AT_ONCE = 8
WARM_UP = 32

# A cycle leaves nothing. Caches fill up, SQLite's for one, and allocators give back late: however many cycles there
# are, that comes to so much.
BLOCKS = 6_000
BYTES = 20_000_000

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="needs /proc to count"),
    pytest.mark.timeout(120 + CYCLES),
]


@dataclass(frozen=True, slots=True)
class Held:
    """What this process holds.

    :param blocks: of memory, as Python's allocator counts them.
    :param bytes: of anonymous memory, as the kernel counts them.
    """

    descriptors: int
    threads: int
    tasks: int
    zombies: int
    blocks: int
    bytes: int

    @classmethod
    def now(cls) -> Held:
        gc.collect()
        rollup = Path("/proc/self/smaps_rollup").read_text()
        anonymous = re.search(r"^Anonymous: +(\d+) kB", rollup, re.MULTILINE)
        assert anonymous is not None
        return cls(
            descriptors=descriptors(),
            threads=threading.active_count(),
            tasks=len(anyio.get_running_tasks()),
            zombies=len(zombies_of(os.getpid())),
            blocks=sys.getallocatedblocks(),
            bytes=int(anonymous[1]) * 1024,
        )


async def cycle(relay: Relay, role: str) -> None:
    """Live a session's life."""
    session = await relay.create(role)
    async with following(relay, session.id) as client:
        await client.until_notice("active")
        await client.say("hello", "t1")
        await client.until_turn_end("t1")
    await relay.stop(session.id, "the test is over")
    await ended(relay, session.id)


async def cycles(relay: Relay, count: int) -> None:
    async def worker(number: int) -> None:
        for _ in range(number, count, AT_ONCE):
            await cycle(relay, f"role-{number}")

    async with anyio.create_task_group() as tasks:
        for number in range(AT_ONCE):
            tasks.start_soon(worker, number)


@pytest.mark.slow
async def test_what_a_relay_holds_does_not_grow(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], anyio_backend_name: str
) -> None:
    async with running_relay(tmp_path, RELAY__STORAGE="sqlite") as relay:
        await cycles(relay, WARM_UP)
        tasks = len(anyio.get_running_tasks())
        before = Held.now()
        await cycles(relay, CYCLES)
        with anyio.move_on_after(5):
            while len(anyio.get_running_tasks()) > tasks:  # noqa: ASYNC110 -- the last cycle's end, of which nobody tells
                await anyio.sleep(0.02)
        after = Held.now()
    if CYCLES >= 500:
        with capsys.disabled():
            sys.stdout.write(f"\n{CYCLES} cycles, {anyio_backend_name}:\n{before}\n{after}\n")
    assert after.descriptors <= before.descriptors
    assert after.threads <= before.threads + AT_ONCE
    assert after.tasks <= before.tasks
    assert after.zombies <= before.zombies
    assert after.blocks <= before.blocks + BLOCKS
    assert after.bytes <= before.bytes + BYTES
