"""ChildProcess: a program that we started, on either loop."""

from __future__ import annotations

import math
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import anyio
from anyio import CapacityLimiter, to_thread

_KILL_GRACE = 5.0  # SIGKILL works at once, but for a process that the kernel cannot wake


class ChildProcess:
    """A child, leader of a session and a process group of its own. To be waited for.

    The standard library starts it, because that uses ``vfork`` where it can: the loops' own ways fork, which
    copies a large process's page tables, and then every page that it touches. Its end is heard of from a
    pidfd, where there is one: no signal handler is needed, and nobody else's children are touched.

    Making one blocks while the system looks for the program and loads it: do it in a thread.

    :param command: the program, looked for on the ``PATH`` of `environment` if it has no slash, and its arguments.
    :param stdin: a file descriptor, a file, or `subprocess.DEVNULL`; so are the other two.
    :raises OSError: the program or the directory is gone or not for us, or the system has no room.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        stdin: int,
        stdout: int,
        stderr: int,
        environment: Mapping[str, str],
        cwd: Path | None = None,
    ) -> None:
        self._process = subprocess.Popen(  # noqa: S603 -- no shell; where the command comes from is the callers' to see to
            command,
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            cwd=cwd,
            env=environment,
            start_new_session=True,
        )
        self.pid = self._process.pid
        self._exit_code: int | None = None
        self._pidfd = _open_pidfd(self.pid)
        _unreaped.add(self.pid)

    @property
    def exit_code(self) -> int | None:
        """The exit code; negative: the signal that ended it; None until `wait` or `wait_end` has returned."""
        return self._exit_code

    @property
    def reaped(self) -> bool:
        """Its pid may be another's by now, and so may its group and its session, once nobody is in them any more.

        A host application may have reaped it, with all its children, or have the system do so.
        """
        if self._process.returncode is None and hasattr(os, "waitid"):
            try:
                os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                return True
        return self._process.returncode is not None

    async def wait(self) -> int:
        """Wait for the process to end, reap it, and return its exit code. One caller at a time; again at will."""
        code = await self.wait_end()
        self.reap()
        return code

    async def wait_end(self) -> int:
        """Wait for the process to end, and return its exit code; leave it to `reap`. As `wait`, otherwise.

        Until it is reaped nobody else is given its pid, and so its process group can be signalled. Where the
        system cannot wait so (macOS, before Python 3.13) it is reaped all the same.
        """
        if self._exit_code is None:
            if self._pidfd is not None:
                await anyio.wait_readable(self._pidfd)
                self._exit_code = self._fetch_exit_code()  # it has ended: this does not block
            else:
                patience = CapacityLimiter(math.inf)
                self._exit_code = await to_thread.run_sync(
                    self._fetch_exit_code, abandon_on_cancel=True, limiter=patience
                )
            self._close_pidfd()
        return self._exit_code

    def reap(self) -> None:
        """Let the system forget the process, which has ended. Idempotent."""
        if self._exit_code is not None:
            self._process.wait()
            _unreaped.discard(self.pid)

    def kill(self) -> None:
        """Send SIGKILL, unless it has been reaped."""
        if not self.reaped:
            os.kill(self.pid, signal.SIGKILL)

    async def end_group(self, *, grace: float) -> None:
        """End all of its process group, and reap it: SIGTERM, unless it has ended, and SIGKILL. Call it shielded.

        What it has left is ended too, as long as it is not reaped. One that the kernel cannot wake is left after 5 s.

        :param grace: seconds to end by itself after SIGTERM.
        """
        if self._exit_code is None:
            self._signal_group(signal.SIGTERM)
            with anyio.move_on_after(grace):
                await self.wait_end()
        self._signal_group(signal.SIGKILL)
        with anyio.move_on_after(_KILL_GRACE):
            await self.wait()

    def _signal_group(self, number: signal.Signals) -> None:
        if not self.reaped:  # else the number of its group may be another's by now
            with suppress(ProcessLookupError, PermissionError):  # macOS says the latter of a group of zombies
                os.killpg(self.pid, number)

    def close(self) -> None:
        """Let go of the process without waiting for it, when nobody is in `wait`. Idempotent."""
        self._close_pidfd()
        _unreaped.discard(self.pid)

    def _close_pidfd(self) -> None:
        if self._pidfd is not None:
            anyio.notify_closing(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = None

    def _fetch_exit_code(self) -> int:
        """Block until it has ended."""
        if hasattr(os, "waitid"):
            with suppress(ChildProcessError):  # it has been reaped: see `reaped`
                if ended := os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT):
                    return ended.si_status if ended.si_code == os.CLD_EXITED else -ended.si_status
        return self._process.wait()


def is_waited_for(pid: int) -> bool:
    """Tell whether a child is a `ChildProcess` that is not reaped yet."""
    return pid in _unreaped


# The children of a process are known to all of it, whichever relay has started them.
_unreaped: set[int] = set()


def _open_pidfd(pid: int) -> int | None:
    """Return what tells of a child's end (pidfd_open(2)); None where the system has no such thing."""
    try:
        return os.pidfd_open(pid)
    except (AttributeError, OSError):
        return None
