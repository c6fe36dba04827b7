"""What all processes of one launcher share."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import anyio
from anyio import to_thread
from anyio.abc import TaskGroup

from relaykit.ids import IdGenerator
from relaykit.meter import NO_METER, Meter
from relaykit_acp import marked, processes
from relaykit_acp.environment import SESSION_VARIABLE
from relaykit_acp.processes import ProcessStat
from relaykit_acp.watcher import Watcher

if TYPE_CHECKING:
    from relaykit_acp.process import AgentProcess

logger = logging.getLogger(__name__)

NOBODY = -1
"""A leader that no process has."""

_ATTEMPTS = 50
_PAUSE = 0.1


@dataclass(frozen=True, slots=True)
class Left:
    """What is left of one process and all that it started.

    :param led: the living processes in its session or group.
    :param strays: the living processes that have left both, and bear its marker.
    """

    led: Sequence[int] = ()
    strays: Sequence[int] = ()


@dataclass(slots=True)
class _Look:
    leaders: set[int] = field(default_factory=set)
    done: anyio.Event = field(default_factory=anyio.Event)
    led: dict[int, list[ProcessStat]] = field(default_factory=dict)
    marked: dict[str, list[int]] = field(default_factory=dict)


class Census:
    """Finds what a process has started among all processes of the machine.

    A look at every process costs milliseconds, so all who ask while one is under way share the next: a
    thousand sessions that end at once need two or three.
    """

    def __init__(self, tasks: TaskGroup) -> None:
        self._tasks = tasks
        self._looking = anyio.Lock()
        self._next: _Look | None = None

    async def left(self, marker: str, leader: int) -> Left:
        """Return the living processes of a leader and of a marker, as of some moment after the call."""
        look = self._next
        if look is None:
            look = self._next = _Look()
            self._tasks.start_soon(self._look, look)
        look.leaders.add(leader)
        await look.done.wait()
        led = [each.pid for each in look.led.get(leader, ())]
        return Left(led, [pid for pid in look.marked.get(marker, ()) if pid not in led])

    async def _look(self, look: _Look) -> None:
        with anyio.CancelScope(shield=True):
            async with self._looking:
                self._next = None  # who asks from here on may mean a process that this look has passed
                try:
                    await self._look_at_all(look)
                finally:
                    look.done.set()

    @staticmethod
    async def _look_at_all(look: _Look) -> None:
        for _ in range(_ATTEMPTS):
            try:
                look.marked, look.led = await to_thread.run_sync(_look_at_all, look.leaders)
            except OSError as error:
                logger.warning("processes cannot be looked at, and are again in a moment: %s", error)
                await anyio.sleep(_PAUSE)
            else:
                return
        logger.error("processes could not be looked at: some may be left")


def _look_at_all(leaders: set[int]) -> tuple[dict[str, list[int]], dict[int, list[ProcessStat]]]:
    return marked.marked_by(SESSION_VARIABLE), processes.led_by(leaders)


@dataclass(frozen=True, slots=True, kw_only=True)
class Household:
    """What all processes of one launcher share. Made by `open_household`.

    :param eof_grace: seconds that a process gets to end in, after its input was closed.
    :param term_grace: seconds that its group gets, after SIGTERM.
    :param tasks: where background tasks run; closing every process ends them all.
    :param watcher: ends all processes when we are gone.
    :param live: every process that is not closed yet.
    """

    eof_grace: float
    term_grace: float
    tasks: TaskGroup
    census: Census
    watcher: Watcher
    meter: Meter = NO_METER
    live: set[AgentProcess] = field(default_factory=set)

    async def end_all(self) -> None:
        """End every process that is left."""
        async with anyio.create_task_group() as tasks:
            for process in self.live:
                tasks.start_soon(process.aclose)


@asynccontextmanager
async def open_household(
    *, eof_grace: float, term_grace: float, ids: IdGenerator, meter: Meter = NO_METER
) -> AsyncIterator[Household]:
    """Open a household; leaving it ends every process that is left, whatever cancels the block."""
    failure: Exception | None = None
    async with anyio.create_task_group() as tasks:
        household = Household(
            eof_grace=eof_grace,
            term_grace=term_grace,
            tasks=tasks,
            census=Census(tasks),
            watcher=Watcher(ids.new_id(), eof_grace=eof_grace, term_grace=term_grace, tasks=tasks),
            meter=meter,
        )
        try:
            yield household
        except Exception as error:  # noqa: BLE001 -- raised again below, out of the task group, which would wrap it
            failure = error
        finally:
            with anyio.CancelScope(shield=True):
                await household.end_all()
                await household.watcher.aclose()
    if failure is not None:
        raise failure
