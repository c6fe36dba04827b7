"""What all processes of one launcher share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import anyio
from anyio import to_thread
from anyio.abc import TaskGroup

from relaykit.meter import NO_METER, Meter
from relaykit_acp import processes
from relaykit_acp.environment import SESSION_VARIABLE

if TYPE_CHECKING:
    from relaykit_acp.process import AgentProcess


@dataclass(slots=True)
class _Look:
    done: anyio.Event = field(default_factory=anyio.Event)
    found: Mapping[str, Sequence[int]] = field(default_factory=dict)


class Census:
    """Finds the processes of a session among all of the machine's.

    A look at every process costs milliseconds, so all who ask while one is under way share the next: a
    thousand sessions that end at once need two or three.
    """

    def __init__(self, tasks: TaskGroup) -> None:
        self._tasks = tasks
        self._looking = anyio.Lock()
        self._next: _Look | None = None

    async def marked(self, marker: str) -> Sequence[int]:
        """Return the living processes that have this marker, as of some moment after the call."""
        look = self._next
        if look is None:
            look = self._next = _Look()
            self._tasks.start_soon(self._look, look)
        await look.done.wait()
        return look.found.get(marker, ())

    async def _look(self, look: _Look) -> None:
        with anyio.CancelScope(shield=True):
            async with self._looking:
                self._next = None  # who asks from here on may mean a process that this look has passed
                try:
                    look.found = await to_thread.run_sync(processes.marked_by, SESSION_VARIABLE)
                finally:
                    look.done.set()


@dataclass(frozen=True, slots=True, kw_only=True)
class Household:
    """What all processes of one launcher share.

    :param eof_grace: seconds that a process gets to end in, after its input was closed.
    :param term_grace: seconds that its group gets, after SIGTERM.
    :param tasks: where background tasks run; closing every process ends them all.
    :param live: every process that is not closed yet.
    """

    eof_grace: float
    term_grace: float
    tasks: TaskGroup
    census: Census
    meter: Meter = NO_METER
    live: set[AgentProcess] = field(default_factory=set)
