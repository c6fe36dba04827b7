"""Who works in a directory right now, and how a program that we started is ended."""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from pathlib import Path

import anyio
from anyio import to_thread

from relaykit.process import ChildProcess


async def processes_in(directory: Path, *, proc: Path = Path("/proc")) -> list[int]:
    """Return the ids of the processes whose working directory is `directory` or below it.

    Processes whose working directory this user may not read are not seen; where there is no `proc`
    (macOS), none are.
    """
    return await to_thread.run_sync(_scan, directory, proc)


def started(pid: int, *, proc: Path = Path("/proc")) -> int | None:
    """Return when a process was started, in clock ticks since boot; None if it is gone, or that cannot be known."""
    try:
        raw = (proc / str(pid) / "stat").read_bytes()
    except OSError:
        return None
    # The 22nd field (man 5 proc); the command's name is in brackets, and may hold brackets and spaces itself.
    return int(raw[raw.rindex(b")") + 2 :].split()[19])


def is_gone(pid: int, began: int | None) -> bool:
    """Tell whether the process with this pid that was started then has certainly ended."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        pass
    now = started(pid)
    return began is not None and now is not None and now != began


async def end_group(process: ChildProcess, *, grace: float) -> None:
    """End a program with whatever it has started in its process group, and reap it. Call it shielded.

    :param grace: seconds to end by itself after SIGTERM, if it has not ended yet.
    """
    if process.exit_code is None:
        _signal_group(process, signal.SIGTERM)
        with anyio.move_on_after(grace):
            await process.wait_end()
    if not process.reaped:  # else the number of its group may be another's by now
        _signal_group(process, signal.SIGKILL)
    await process.wait()


def _signal_group(process: ChildProcess, number: signal.Signals) -> None:
    # PermissionError is what macOS says of a group that holds only zombies.
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, number)


def _scan(directory: Path, proc: Path) -> list[int]:
    if not proc.is_dir():
        return []
    real = directory.resolve()
    found = []
    for entry in proc.iterdir():
        if not entry.name.isdecimal():
            continue
        try:
            cwd = (entry / "cwd").readlink()
        except OSError:  # it has ended, or is another user's
            continue
        if cwd.is_relative_to(real):
            found.append(int(entry.name))
    return sorted(found)
