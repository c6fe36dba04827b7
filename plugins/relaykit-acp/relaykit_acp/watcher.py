"""Watcher: ends what a relay has started when the relay itself is gone without having done so."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path

import anyio
from anyio import to_thread
from anyio.abc import TaskGroup

from relaykit.process import ChildProcess
from relaykit_acp import marked
from relaykit_acp.environment import RUN_VARIABLE

logger = logging.getLogger(__name__)

# However long the graces of a living relay are: what a killed one has left is gone within 10 s.
_MOST_EOF_GRACE = 2.0
_MOST_TERM_GRACE = 5.0

_SHORT_LIFE = 5.0
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 300.0

# What the interpreter may need to be loaded, and nothing else: above all no marker.
_LIBRARIES = "LD_LIBRARY_PATH"


class Watcher:
    """A small process beside this one, which ends every process that bears our marker once we are gone.

    It waits at a pipe of which we alone hold the other end: however we end, the kernel closes that. Started with
    the first process that is to bear the marker, and again whenever somebody has ended it; where there is no
    ``/proc`` never, because nothing would be found. If it cannot be started that is logged, and what is left is
    found at the next start only.

    :param run: tells this life of the relay from all others. Its name alone would not: two may share one.
    :param tasks: where it is looked after; ends after `aclose`.
    """

    def __init__(self, run: str, *, eof_grace: float, term_grace: float, tasks: TaskGroup) -> None:
        self.run = run
        self._graces = (min(eof_grace, _MOST_EOF_GRACE), min(term_grace, _MOST_TERM_GRACE))
        self._tasks = tasks
        self._starting = anyio.Lock()
        self._started = False
        self._pipe: int | None = None
        self._process: ChildProcess | None = None
        self._closing = anyio.Event()
        self._ended = anyio.Event()

    @property
    def pid(self) -> int | None:
        """The watcher's process; None while there is none."""
        return self._process.pid if self._process is not None else None

    async def start(self) -> None:
        """Have it run. To be called before any process that is to bear the marker; only the first call costs."""
        if self._started or not marked.HAS_PROC:
            return
        async with self._starting:
            if not self._started:
                await self._launch()
                self._tasks.start_soon(self._look_after)
                self._started = True

    async def aclose(self) -> None:
        """End it. To be called when nothing that bears the marker is left."""
        self._closing.set()
        if self._started:
            self._kill()
            await self._ended.wait()

    def _kill(self) -> None:
        if self._process is not None:
            self._process.kill()  # it may not even have begun: that takes longer than much that it would be told

    async def _look_after(self) -> None:
        pause = _FIRST_PAUSE
        try:
            with anyio.CancelScope(shield=True):
                while True:
                    started = anyio.current_time()
                    if self._process is not None:
                        code = await self._process.wait()
                        self._forget()
                        if self._closing.is_set():
                            return
                        logger.warning("the watcher has ended with %d: it is started again", code)
                    lived = anyio.current_time() - started
                    pause = _FIRST_PAUSE if lived > _SHORT_LIFE else min(pause * 2, _LONGEST_PAUSE)
                    with anyio.move_on_after(pause):
                        await self._closing.wait()
                        return
                    await self._launch()
                    if self._closing.is_set():
                        self._kill()
        finally:
            self._ended.set()

    def _forget(self) -> None:
        if self._pipe is not None:
            os.close(self._pipe)
        self._process = self._pipe = None

    async def _launch(self) -> None:
        with anyio.CancelScope(shield=True):
            try:
                theirs, ours = os.pipe()  # neither is inherited by anybody else
            except OSError as error:
                logger.error("no watcher: %s", error)  # noqa: TRY400 -- there is nothing to trace
                return
            try:
                self._process = await to_thread.run_sync(self._spawn, theirs)
            except OSError as error:
                os.close(ours)
                logger.error("no watcher: %s", error)  # noqa: TRY400 -- as above
            else:
                self._pipe = ours
            finally:
                os.close(theirs)

    def _spawn(self, stdin: int) -> ChildProcess:
        eof_grace, term_grace = self._graces
        program = (sys.executable, "-I", "-S", marked.__file__)
        arguments = (f"{RUN_VARIABLE}={self.run}", str(eof_grace), str(term_grace), str(os.getpid()))
        return ChildProcess(
            (*program, *arguments),
            stdin=stdin,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            environment={name: value for name, value in os.environ.items() if name == _LIBRARIES},
            cwd=Path("/"),
        )
