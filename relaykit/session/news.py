"""News: tells hooks what happened, in order, outside of the task in which it happened."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable

import anyio
from anyio.abc import TaskGroup

logger = logging.getLogger(__name__)

Telling = Callable[[], Awaitable[None]]


class News:
    """What is still to be told about one session. One thing at a time, in the order of `tell`.

    :param tasks: where the telling runs; it outlives the session. Nothing runs while there is no news.
    :param enter: called first in a telling task, to set its context variables.
    """

    __slots__ = ("_enter", "_tasks", "_telling", "_untold")

    def __init__(self, tasks: TaskGroup, enter: Callable[[], None] = lambda: None) -> None:
        self._tasks = tasks
        self._enter = enter
        self._untold: list[
            tuple[Telling, anyio.Event]
        ] = []  # it is short, and an empty deque takes 600 bytes
        self._telling = False

    def tell(self, telling: Telling) -> anyio.Event:
        """Have `telling` called and awaited in its turn; the event is set once it has been."""
        told = anyio.Event()
        self._untold.append((telling, told))
        if not self._telling:
            self._telling = True
            self._tasks.start_soon(self._tell_all)
        return told

    async def _tell_all(self) -> None:
        self._enter()
        with anyio.CancelScope(shield=True):  # hooks have their own deadlines
            while self._untold:
                telling, told = self._untold.pop(0)
                try:
                    await telling()
                except Exception:
                    logger.exception("telling the hooks failed")
                except BaseException:
                    self._go_on()  # this task ends here; nobody may wait for ever because of it
                    raise
                finally:
                    told.set()
            self._telling = False

    def _go_on(self) -> None:
        self._telling = bool(self._untold)
        if self._telling:
            self._tasks.start_soon(self._tell_all)
