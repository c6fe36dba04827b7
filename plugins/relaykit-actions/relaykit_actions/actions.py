"""Actions: hands what has happened to the hooks that are for it, and does what they want done."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Protocol

import anyio
from anyio import CapacityLimiter
from anyio.abc import TaskGroup

from relaykit.meter import Meter
from relaykit.tasks import OwnedTasks
from relaykit_actions.errors import ActionFailed
from relaykit_actions.figures import ACTIONS
from relaykit_actions.happenings import Happening
from relaykit_actions.lanes import Lanes
from relaykit_actions.settings import ActionsSettings, HookSettings

if TYPE_CHECKING:
    from relaykit.relay import Relay

logger = logging.getLogger(__name__)


class Action(Protocol):
    """What a hook does."""

    async def do(self, happening: Happening, slots: CapacityLimiter) -> None:
        """Do it, holding one of the slots while it works.

        :raises ActionFailed: it is not done, and will not be.
        """
        ...


class Hook:
    """One table of ``[[hooks]]`` at work: what it does of one session is in order, and sessions go side by side."""

    def __init__(
        self, table: HookSettings, action: Action, *, settings: ActionsSettings, meter: Meter
    ) -> None:
        self.table = table
        self._lanes = Lanes(self._do, limit=settings.max_pending)
        self._action = action
        self._slots = CapacityLimiter(settings.concurrency)
        self._limit = settings.max_pending
        self._meter = meter
        self._kind = "run" if table.run else "post"
        self._dropped = 0  # since there was last room

    def open(self, tasks: TaskGroup) -> None:
        """Begin, in these tasks."""
        self._lanes.start(tasks)

    async def finish(self) -> None:
        """Wait until everything is done."""
        await self._lanes.idle()

    def offer(self, happening: Happening) -> None:
        """Have done what the hook is for. Returns at once."""
        if not self.table.matches(happening):
            return
        if self._lanes.put(happening.lane, happening):
            if self._dropped:
                logger.warning("%s takes what comes again; it has dropped %d", self, self._dropped)
                self._dropped = 0
            return
        self.count("dropped")
        self._dropped += 1
        if self._dropped == 1:
            full = f"has no room for more than {self._limit}"
            why = "has ended with the relay" if self._lanes.closed else full
            logger.warning("%s %s: what comes now is dropped", self, why)

    def close(self) -> None:
        """Take nothing any more, and say what was not done."""
        undone = self._lanes.close()
        if undone:
            self.count("dropped", undone)
            logger.warning("%s: the relay ends, and %d are not done", self, undone)

    def count(self, outcome: str, amount: int = 1) -> None:
        """Count what became of actions."""
        self._meter.count(ACTIONS, amount, kind=self._kind, outcome=outcome)

    async def _do(self, happening: Happening) -> None:
        try:
            await self._action.do(happening, self._slots)
        except ActionFailed as failure:
            failed = f"{self}: {happening.event} of session {happening.lane!r}: {failure}"
            logger.error(failed)  # noqa: TRY400 -- it says all that there is to say
            self.count("failed")
        except Exception:  # no session, and no other action, is to suffer
            logger.exception("%s: %s of session %r failed", self, happening.event, happening.lane)
            self.count("failed")
        else:
            self.count("done")

    def __str__(self) -> str:
        what = f"run {self.table.run[0]}" if self.table.run else f"post to {self.table.url.hostname}"
        return f"{self.table.where.table} ({what})"


class Actions:
    """The hooks of one relay."""

    def __init__(self, hooks: Sequence[Hook], *, shutdown_timeout: float) -> None:
        self._hooks = hooks
        self._wanted = {event for hook in hooks for event in hook.table.on}
        self._shutdown_timeout = shutdown_timeout

    def wants(self, event: str) -> bool:
        """Tell whether any hook is for such events."""
        return event in self._wanted

    def happened(self, happening: Happening) -> None:
        """Hand it to the hooks. Returns at once; before `open` and behind it too."""
        for hook in self._hooks:
            hook.offer(happening)

    @asynccontextmanager
    async def open(self, _relay: Relay) -> AsyncIterator[None]:
        """Do what hooks want; at the end, what is not done yet has a bounded time."""
        try:
            async with OwnedTasks() as tasks:
                for hook in self._hooks:
                    hook.open(tasks)
                try:
                    yield
                finally:
                    with anyio.CancelScope(shield=True), anyio.move_on_after(self._shutdown_timeout):
                        for hook in self._hooks:
                            await hook.finish()
        finally:
            for hook in self._hooks:
                hook.close()
