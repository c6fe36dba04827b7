"""Processes as the system shows them: who is who, what belongs to whom, and when it has ended.

Where there is no ``/proc`` (macOS) nothing can be identified, and nothing is found.
"""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import anyio

from relaykit_acp import marked

logger = logging.getLogger(__name__)

HAS_PROC = marked.HAS_PROC

_POLL = 0.02
_KILL_PATIENCE = 1.0


@dataclass(frozen=True, slots=True)
class ProcessStat:
    """What tells one process from another.

    :param start_time: clock ticks since the machine booted: with the pid, unique for one boot.
    """

    pid: int
    group: int
    session: int
    start_time: int
    alive: bool


def stat(pid: int) -> ProcessStat | None:
    """Return what is known of a process; None if there is none, or no ``/proc``.

    :raises OSError: too many files are open.
    """
    try:
        fields = marked.stat_fields(pid)
    except marked.HIDDEN:
        return None
    return ProcessStat(
        pid,
        int(fields[marked.GROUP]),
        int(fields[marked.SESSION]),
        int(fields[marked.START_TIME]),
        fields[marked.STATE] not in marked.DEAD,
    )


@cache
def boot_id() -> str | None:
    """Return what tells this boot of the machine from another, where it says so."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return None


def led_by(leaders: Collection[int]) -> dict[int, list[ProcessStat]]:
    """Return the living processes in the sessions and groups of these leaders; zombies do not count.

    Looks at every process of the machine, some 2 µs each: call it in a thread.

    :raises OSError: too many files are open.
    """
    found: dict[int, list[ProcessStat]] = {}
    for pid in marked.pids():
        for leader in set(_leaders(pid)).intersection(leaders):
            seen = stat(pid)
            if seen is not None and seen.alive and leader in {seen.group, seen.session}:
                found.setdefault(leader, []).append(seen)
    return found


def is_led_apart(pid: int, leader: int) -> bool:
    """Tell whether a process is in the session of this leader, and not in its group."""
    session, group = _leaders(pid) or (0, 0)
    return session == leader != group


def _leaders(pid: int) -> tuple[int, int] | tuple[()]:
    try:
        return os.getsid(pid), os.getpgid(pid)  # a tenth of the time that a look into /proc takes
    except OSError:
        return ()


def group_exists(group: int) -> bool:
    """Tell whether a process group has a member, living or not reaped."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return HAS_PROC  # macOS says this of a group that has only zombies
    return True


def signal_group(group: int, number: signal.Signals) -> None:
    """Signal a process group that is certainly ours: its leader is our child, and not reaped."""
    try:
        os.killpg(group, number)
    except ProcessLookupError:
        pass
    except PermissionError:
        # No member may be signalled: they run as another user, or (macOS) are zombies.
        logger.info("process group %d takes no %s from us", group, number.name)


def pid_exists(pid: int) -> bool:
    """Tell whether some process has this pid now."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


async def kill(pid: int, is_meant: Callable[[int], bool]) -> None:
    """Send SIGKILL to the process that has this pid now, if it is the one that is meant, and wait for its end.

    If we have adopted it (as the subreaper, or the first process of a container), it is reaped.

    :param is_meant: looks at the process.
    """
    try:
        descriptor = marked.open_pidfd(pid)
    except ProcessLookupError:
        return
    except OSError:  # too many files are open
        descriptor = None
    if descriptor is None:
        marked.signal_if(pid, is_meant, signal.SIGKILL)
        await anyio.sleep(_POLL)
        return
    try:
        with suppress(OSError):  # it has just ended, or runs as another user, or is no child of ours
            if is_meant(pid):
                signal.pidfd_send_signal(descriptor, signal.SIGKILL)
                with anyio.move_on_after(_KILL_PATIENCE):
                    await anyio.wait_readable(descriptor)
                os.waitid(os.P_PIDFD, descriptor, os.WEXITED | os.WNOHANG)  # noqa: ASYNC222 -- WNOHANG
    finally:
        os.close(descriptor)


async def until_ended(pid: int, *, seconds: float) -> None:
    """Wait until the process that has this pid now has ended, or the time is up."""
    try:
        descriptor = marked.open_pidfd(pid)
    except ProcessLookupError:
        return
    except OSError:  # too many files are open
        descriptor = None
    if descriptor is None:
        await anyio.sleep(min(_POLL, seconds))
        return
    try:
        with anyio.move_on_after(seconds):
            await anyio.wait_readable(descriptor)
    finally:
        os.close(descriptor)
