"""Orphans: what our children have started, and what has outlived its own parent."""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import anyio
from anyio import to_thread

from relaykit.process import is_waited_for
from relaykit.tasks import OwnedTasks

logger = logging.getLogger(__name__)

_PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h
# Fields of /proc/PID/stat, counted from the one behind the command's name (man 5 proc).
_PARENT, _SESSION, _START_TIME = 1, 3, 19

_LOOK = 1.0
_UNCLAIMED = 30.0
_GRACE = 1.0
_KILL_GRACE = 5.0
_POLL = 0.02


@asynccontextmanager
async def adopted_orphans() -> AsyncIterator[None]:
    """Be the parent of all orphans among our descendants while the block lasts: reap them, and end them with it.

    An orphan is a child that this process has not started itself. Two are told from those that it has:

    - one in a session that is neither ours nor its own: who starts a process cannot put it there. It is reaped as
      soon as it has ended.
    - one that leads a session of its own and is no `ChildProcess`: it has daemonised, or somebody here started it
      so by other means. It is reaped when it has been dead for 30 s and nobody has asked for its exit status.

    What shares our session is somebody's here, and never touched. The orphans that live when the block ends get
    SIGTERM, a second, and SIGKILL.

    For a program of one's own: in a host application orphans would be children that it does not expect. Linux
    only; elsewhere nothing is done.
    """
    if not _become_subreaper():
        yield
        return
    orphans = _Orphans()
    async with OwnedTasks() as tasks:
        tasks.start_soon(orphans.reap_on)
        try:
            yield
        finally:
            tasks.cancel_scope.cancel()
            with anyio.CancelScope(shield=True):
                await orphans.end()


def _become_subreaper() -> bool:
    if sys.platform != "linux" or not Path("/proc/self/stat").exists():
        return False
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        logger.info("orphans are not adopted: %s", os.strerror(ctypes.get_errno()))
        return False
    return True


@dataclass(frozen=True, slots=True)
class _Child:
    pid: int
    parent: int
    session: int
    start_time: int

    @classmethod
    def read(cls, pid: int) -> Self:
        """Read it from ``/proc``.

        :raises OSError: there is no such process.
        """
        raw = Path(f"/proc/{pid}/stat").read_bytes()
        fields = raw[raw.rindex(b")") + 2 :].split()  # the command's name may hold brackets and spaces itself
        return cls(pid, int(fields[_PARENT]), int(fields[_SESSION]), int(fields[_START_TIME]))


class _Orphans:
    def __init__(self) -> None:
        self._session = os.getsid(0)
        self._unclaimed: dict[_Child, float] = {}  # since when they are known to be dead

    async def reap_on(self) -> None:
        """Reap those that have ended, until cancelled."""
        while True:
            await anyio.sleep(_LOOK)
            if _has_dead_child():
                await to_thread.run_sync(self.reap, anyio.current_time(), _UNCLAIMED)

    async def end(self) -> None:
        """End those that live, and those that they leave in turn."""
        started = anyio.current_time()
        signalled: set[tuple[_Child, signal.Signals]] = set()
        # Nobody is there any more to ask for exit statuses: whoever has ended is reaped at once.
        while living := await to_thread.run_sync(self.reap, anyio.current_time(), 0.0):
            lasted = anyio.current_time() - started
            if lasted >= _GRACE + _KILL_GRACE:
                logger.error("orphans outlived SIGKILL: %s", [child.pid for child in living])
                return
            number = signal.SIGTERM if lasted < _GRACE else signal.SIGKILL
            if new := {(child, number) for child in living} - signalled:
                logger.warning("orphans are left: %s to %s", number.name, [child.pid for child, _ in new])
                signalled |= new
            for child, _ in new:
                _signal(child, number)
            await anyio.sleep(_POLL)

    def reap(self, now: float, patience: float) -> list[_Child]:
        """Reap those that have ended, and return those that live. Looks at every process: call it in a thread.

        :param patience: seconds that others have to ask for what may be theirs.
        """
        living = []
        unclaimed: dict[_Child, float] = {}
        for child in self._children():
            if not _has_ended(child.pid):
                living.append(child)
            elif child.session == child.pid and now - self._unclaimed.get(child, now) < patience:
                unclaimed[child] = self._unclaimed.get(child, now)
            else:
                with suppress(ChildProcessError):  # somebody has just asked for it
                    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOHANG)
        self._unclaimed = unclaimed
        return living

    def _children(self) -> Iterator[_Child]:
        ours = os.getpid()
        try:
            names = os.listdir("/proc")  # noqa: PTH208 -- 5 times faster
        except OSError as error:
            logger.warning("orphans cannot be looked for now: %s", error)
            return
        for name in names:
            if not name.isdecimal() or is_waited_for(int(name)):
                continue
            # As a system call, because most are neither, and a look into /proc takes ten times as long.
            with suppress(OSError):
                if os.getsid(int(name)) not in {0, self._session}:
                    child = _Child.read(int(name))
                    if child.parent == ours and not is_waited_for(child.pid):
                        yield child


def _has_dead_child() -> bool:
    """Tell whether there is anything to look for: some child has ended, and is not reaped."""
    with suppress(ChildProcessError):  # there is none at all
        return os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
    return False


def _has_ended(pid: int) -> bool:
    with suppress(ChildProcessError):  # somebody has just asked for it
        return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
    return False


def _signal(child: _Child, number: signal.Signals) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.kill(child.pid, number)  # nobody but us reaps it, and until then its pid is its own
