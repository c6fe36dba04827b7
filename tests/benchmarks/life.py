"""(a) One session's life of seven calls through the Manager, with no I/O."""

from __future__ import annotations

import statistics
import time
from collections.abc import Awaitable, Callable, Sequence

import anyio

from figures import Figure
from relaykit.clock import SystemClock
from relaykit.ids import SystemIds
from relaykit.session import NO_HOOKS, CloseAgent, CloseConnection, Manager, MemoryStore

AIM = 400
LIVES = 1000
ROUNDS = 5
CHANGES = 5  # of the seven calls, those that a worker makes


class Nothing:
    async def aclose(self) -> None:
        pass


async def lives(count: int) -> None:
    async with Manager(
        store=MemoryStore(),
        ids=SystemIds(),
        clock=SystemClock(),
        cleaners=[CloseAgent(), CloseConnection()],
        hooks=NO_HOOKS,
    ) as manager:
        for _ in range(count):
            session = await manager.create("auth", Nothing())
            await manager.begin_spawn(session.id)
            await manager.attach_agent(session.id, "/worktree", Nothing())
            await manager.record_heartbeat(session.id)
            await manager.increment_message_count(session.id)
            await manager.mark_terminating(session.id, "done")
            await manager.complete_cleanup(session.id)


async def bare(count: int) -> None:
    """What any such design costs at least: a task a session, and a hand-over to it and back for each change."""
    async with anyio.create_task_group() as tasks:
        for _ in range(count):
            inbox: list[anyio.Event] = []
            filled = [anyio.Event()]
            tasks.start_soon(_serve, inbox, filled)
            for _ in range(CHANGES):
                answered = anyio.Event()
                inbox.append(answered)
                filled[0].set()
                await answered.wait()


async def _serve(inbox: list[anyio.Event], filled: list[anyio.Event]) -> None:
    for _ in range(CHANGES):
        if not inbox:
            filled[0] = anyio.Event()
            await filled[0].wait()
        inbox.pop().set()


def measure_life(*, scale: float) -> Sequence[Figure]:
    count = int(LIVES * scale)
    figures = []
    for name, backend, options in (
        ("asyncio", "asyncio", {}),
        ("asyncio, uvloop", "asyncio", {"use_uvloop": True}),
        ("trio", "trio", {}),
    ):
        measured: dict[Callable[[int], Awaitable[None]], list[float]] = {lives: [], bare: []}
        for _ in range(ROUNDS):
            for what, times in measured.items():
                started = time.perf_counter()
                anyio.run(what, count, backend=backend, backend_options=options)
                times.append((time.perf_counter() - started) / count * 1e6)
        value = statistics.median(measured[lives])
        figures.append(
            Figure(
                name=f"a session's life ({name})",
                value=value,
                unit="µs",
                reference=statistics.median(measured[bare]),
                reference_name="the hand-overs alone",
                target=f"≤ {AIM} µs",
                met=value <= AIM,
            )
        )
    return figures
