"""Who works in a directory right now."""

from __future__ import annotations

import os
from pathlib import Path

from anyio import to_thread


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
