"""AuditFile: records as lines of a file, written by a thread of its own."""

from __future__ import annotations

import json
import logging
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
from anyio import RunFinishedError, from_thread
from anyio.lowlevel import EventLoopToken, current_token

from relaykit_audit.lines import Lines, cannot_write
from relaykit_audit.settings import AuditSettings

if TYPE_CHECKING:
    from relaykit.relay import Relay

logger = logging.getLogger(__name__)

_LAST_CALL = 5.0
"""Seconds in which what waits must have been written when the relay ends."""
_MOST_WAITING = 10_000
"""Records that may wait for a disk: some megabytes."""


@dataclass(eq=False, slots=True)
class _Waiting:
    """What the thread is to do, and who waits for it."""

    do: Callable[[], None]
    token: EventLoopToken = field(default_factory=current_token)
    done: anyio.Event = field(default_factory=anyio.Event)
    is_over: bool = False
    error: Exception | None = None


class AuditFile:
    """A file of JSON lines.

    A thread writes one record at a time. Who waits for it can be cancelled, so that a disk that hangs holds somebody
    up once, for the deadline of a hook; it is no thread of anyio's, which the end of the process would wait for.

    :raises PluginError: it cannot be opened.
    """

    def __init__(self, path: Path, *, max_bytes: int, keep: int, sync: bool) -> None:
        self._path = path
        self._lines = Lines(path, max_bytes=max_bytes, keep=keep, sync=sync)
        self._lock = threading.Lock()  # of the three below
        self._waiting: deque[_Waiting] = deque()
        self._runs = False
        self._hangs = False  # somebody gave up waiting for what the thread does now
        self._given_up = False

    @classmethod
    def of(cls, settings: AuditSettings, directory: Path) -> AuditFile:
        """Return the file that settings choose.

        :param directory: the plugin's own, which is made.
        :raises PluginError: it cannot be opened.
        """
        path = settings.path
        if path is None:
            path = directory / "audit.jsonl"
            try:
                directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            except OSError as error:
                raise cannot_write(path, error) from error
        return cls(path.expanduser(), max_bytes=settings.max_bytes, keep=settings.keep, sync=settings.sync)

    @asynccontextmanager
    async def held(self, _relay: Relay) -> AsyncIterator[None]:
        """Close the file at the end; what is recorded later opens it again."""
        try:
            yield
        finally:
            with anyio.move_on_after(_LAST_CALL, shield=True) as scope:
                await self.aclose()
            if scope.cancelled_caught:
                self._given_up = True
                logger.error("%s: the last records could not be written within %g s", self._path, _LAST_CALL)

    async def write(self, record: Mapping[str, Any]) -> None:
        """Add a record. If the caller is cancelled it is added all the same, once the disk takes it.

        Until it does, nobody else waits: what is recorded meanwhile is taken, and this raises.

        :raises OSError: it could not be written, or not yet; of a part that was, the next record takes no harm.
        """
        if self._given_up or len(self._waiting) >= _MOST_WAITING:
            raise OSError(f"{self._path}: the disk does not answer")
        line = json.dumps(record, separators=(",", ":"), default=str).encode() + b"\n"
        await self._in_thread(partial(self._lines.append, line))

    async def aclose(self) -> None:
        """Write what waits, and close the file."""
        await self._in_thread(self._lines.close, patient=True)

    async def _in_thread(self, do: Callable[[], None], *, patient: bool = False) -> None:
        """Do something behind all that waits.

        :param patient: wait for it also where somebody has given up.
        :raises OSError: somebody has; it is done all the same, later.
        """
        waiting = _Waiting(do)
        hangs = self._hangs
        with self._lock:
            self._waiting.append(waiting)
            idle, self._runs = not self._runs, True
        if idle:
            threading.Thread(target=self._work, name="relaykit-audit", daemon=True).start()
        if hangs and not patient:
            raise OSError(f"{self._path}: the disk does not answer; what is recorded waits for it")
        try:
            await waiting.done.wait()
        except anyio.get_cancelled_exc_class():
            with self._lock:
                self._hangs = not waiting.is_over
            raise
        if waiting.error is not None:
            raise waiting.error

    def _work(self) -> None:
        """Do what waits, until nothing does."""
        while True:
            with self._lock:
                if not self._waiting:
                    self._runs = False
                    return
                waiting = self._waiting.popleft()
            try:
                waiting.do()
            except Exception as error:  # noqa: BLE001 -- it is raised where it is waited for
                waiting.error = error
            with self._lock:
                waiting.is_over, self._hangs = True, False
            with suppress(RunFinishedError):  # the event loop was abandoned: nobody waits
                from_thread.run_sync(waiting.done.set, token=waiting.token)
