"""ChildProcess: a program that we started, on either loop; and what it may know of our environment."""

from __future__ import annotations

import math
import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

import anyio
from anyio import CapacityLimiter, to_thread

_SAFE_NAMES = frozenset(
    {
        "HOME",
        "LANG",
        "LANGUAGE",
        "LOGNAME",
        "PATH",
        "SHELL",
        "TERM",
        "TMPDIR",
        "TZ",
        "USER",
    }
)
_SAFE_PREFIXES = ("LC_", "XDG_")


def safe_environment(ours: Mapping[str, str]) -> dict[str, str]:
    """Return what every program that we start gets of our environment: a short list, without anybody's secrets."""
    return {
        name: value for name, value in ours.items() if name in _SAFE_NAMES or name.startswith(_SAFE_PREFIXES)
    }


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
        self._pidfd = _open_pidfd(self.pid)

    @property
    def exit_code(self) -> int | None:
        """The exit code; negative: the signal that ended it; None until `wait` has returned."""
        return self._process.returncode

    async def wait(self) -> int:
        """Wait for the process to end, reap it, and return its exit code. One caller at a time; again at will."""
        if self._process.returncode is None:
            if self._pidfd is None:
                patience = CapacityLimiter(math.inf)
                await to_thread.run_sync(self._process.wait, abandon_on_cancel=True, limiter=patience)
            else:
                await anyio.wait_readable(self._pidfd)
                self._process.wait()  # it has ended: this does not block
        self.close()
        assert self._process.returncode is not None  # noqa: S101 -- for the type checker
        return self._process.returncode

    def close(self) -> None:
        """Let go of the process without waiting for it, when nobody is in `wait`. Idempotent."""
        if self._pidfd is not None:
            anyio.notify_closing(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = None


def _open_pidfd(pid: int) -> int | None:
    """Return what tells of a child's end (pidfd_open(2)); None where the system has no such thing."""
    try:
        return os.pidfd_open(pid)
    except (AttributeError, OSError):
        return None
