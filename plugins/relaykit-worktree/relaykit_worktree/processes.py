"""Who works in a directory right now."""

from __future__ import annotations

from pathlib import Path

from anyio import to_thread


async def processes_in(directory: Path, *, proc: Path = Path("/proc")) -> list[int]:
    """Return the ids of the processes whose working directory is `directory` or below it.

    Processes whose working directory this user may not read are not seen; where there is no `proc`
    (macOS), none are.
    """
    return await to_thread.run_sync(_scan, directory, proc)


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
