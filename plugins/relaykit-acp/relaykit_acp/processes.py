"""Processes as the system shows them: who is who, and signals that hit nobody else.

Where there is no ``/proc`` (macOS) nothing can be identified, and nothing is found.
"""

from __future__ import annotations

import logging
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

logger = logging.getLogger(__name__)

_PROC = Path("/proc")
HAS_PROC = (_PROC / "self" / "stat").exists()

# Fields of /proc/PID/stat, counted from the one behind the command's name (man 5 proc).
_STATE, _GROUP, _START_TIME, _ENV_END = 0, 2, 19, 48

_DEAD = frozenset({b"Z", b"X"})

_CHUNK = 65536

_STARTING_CHECKS = 500
_STARTING_PAUSE = 0.002


@dataclass(frozen=True, slots=True)
class ProcessStat:
    """What tells one process from another.

    :param start_time: clock ticks since the machine booted: with the pid, unique for one boot.
    """

    pid: int
    group: int
    start_time: int
    alive: bool


def stat(pid: int) -> ProcessStat | None:
    """Return what is known of a process; None if there is none, or no ``/proc``."""
    try:
        fields = _stat_fields(pid)
    except OSError:
        return None
    return ProcessStat(pid, int(fields[_GROUP]), int(fields[_START_TIME]), fields[_STATE] not in _DEAD)


def _stat_fields(pid: int) -> list[bytes]:
    raw = _read(f"/proc/{pid}/stat")
    # The command's name is in brackets, and may hold brackets and spaces itself.
    return raw[raw.rindex(b")") + 2 :].split()


@cache
def boot_id() -> str | None:
    """Return what tells this boot of the machine from another, where it says so."""
    try:
        return (_PROC / "sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return None


def marked_by(variable: str) -> dict[str, list[int]]:
    """Return the living processes that were started with this variable, by its whole entry (``NAME=value``).

    Looks at every process of the machine, some 10 µs each: call it in a thread.
    """
    prefix = f"{variable}=".encode()
    found: dict[str, list[int]] = {}
    undecided = [pid for pid in _pids() if _has_program(pid)]
    for _ in range(_STARTING_CHECKS):
        starting = []
        for pid in undecided:
            environment = _environment(pid)
            if not environment:
                if _is_starting(pid):
                    starting.append(pid)
                    continue
                environment = _environment(pid)  # it may have come meanwhile
            if prefix in environment:
                for entry in environment.split(b"\0"):
                    if entry.startswith(prefix):
                        found.setdefault(entry.decode(errors="replace"), []).append(pid)
        if not starting:
            break
        undecided = starting
        time.sleep(_STARTING_PAUSE)
    return found


def marked(marker: str) -> list[int]:
    """Return the living processes that were started with this entry. At the cost of `marked_by`."""
    return marked_by(marker.partition("=")[0]).get(marker, [])


def signal_if_marked(pid: int, marker: str, number: signal.Signals) -> None:
    """Signal a process if this entry is in its environment; if it is gone, or another by now, do nothing."""
    # A pidfd names one process for good: if the pid was given to another meanwhile, that is seen here.
    try:
        descriptor = os.pidfd_open(pid)
    except OSError:
        return
    try:
        if marker.encode() in _environment(pid).split(b"\0"):
            signal.pidfd_send_signal(descriptor, number)
    except OSError as error:
        logger.info("process %d takes no %s from us: %s", pid, number.name, error.strerror)
    finally:
        os.close(descriptor)


def group_members(group: int) -> list[int]:
    """Return the living members of a process group; zombies do not count."""
    found = (stat(pid) for pid in _pids())
    return [member.pid for member in found if member is not None and member.group == group and member.alive]


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
    """Signal a process group; one that is gone is no error."""
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


def _pids() -> Iterator[int]:
    if HAS_PROC:
        yield from (int(name) for name in os.listdir(_PROC) if name.isdecimal())  # noqa: PTH208 -- 5 times faster


def _has_program(pid: int) -> bool:
    """Tell whether it can be one of ours; kernel threads, zombies and the processes of other users are not."""
    try:
        os.readlink(f"/proc/{pid}/exe")  # noqa: PTH115 -- of the cost of a look, Paths would be half
    except OSError:
        return False
    return True


def _environment(pid: int) -> bytes:
    """Return what a process was started with, each entry ended by a zero; nothing for zombies."""
    try:
        return _read(f"/proc/{pid}/environ")
    except OSError:
        return b""


def _is_starting(pid: int) -> bool:
    """Tell whether a process is in the midst of ``exec``: it has a program, but no environment yet."""
    try:
        fields = _stat_fields(pid)
    except OSError:
        return False
    return fields[_ENV_END] == b"0" and fields[_STATE] not in _DEAD


def _read(path: str) -> bytes:
    """Return what is in a file of ``/proc``: as `Path.read_bytes`, which takes three times as long.

    :raises OSError: it is gone, or not for us.
    """
    file = os.open(path, os.O_RDONLY)
    try:
        chunks = []
        while chunk := os.read(file, _CHUNK):
            chunks.append(chunk)
        return b"".join(chunks)
    finally:
        os.close(file)
