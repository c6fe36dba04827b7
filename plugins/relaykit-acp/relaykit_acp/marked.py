"""Processes that bear a marker in their environment: found, signalled, and ended when their relay is gone.

This file is also a program, the watcher of `relaykit_acp.watcher`::

    python -I -S marked.py MARKER EOF_GRACE TERM_GRACE PID

Its standard input is a pipe whose other end the relay with this PID holds; a relay that ends in order kills it. When
the relay is gone, it ends every process that bears MARKER: those that read their input have heard of the end already,
and get EOF_GRACE seconds; then SIGTERM, and TERM_GRACE seconds; then SIGKILL, until none is left.

It imports the standard library's small modules alone, because it stays in memory as long as the relay.
"""

from __future__ import annotations

import errno
import os
import select
import signal
import sys
import time

# `typing` and `collections.abc` are not imported, nor is `pathlib`: each costs the watcher memory.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

HAS_PROC = os.path.exists("/proc/self/stat")  # noqa: PTH110 -- as said

# Fields of /proc/PID/stat, counted from the one behind the command's name (man 5 proc).
STATE, PARENT, GROUP, SESSION, START_TIME, _ENV_END = 0, 1, 2, 3, 19, 48
DEAD = frozenset({b"Z", b"X"})

_CHUNK = 65536

# A process that has ended, or is another user's. Any other error says that we cannot look, not that it is not there.
HIDDEN = (FileNotFoundError, ProcessLookupError, PermissionError)

_NO_PIDFDS = frozenset({errno.ENOSYS, errno.EPERM, errno.EINVAL})
_STARTING_CHECKS = 500
_STARTING_PAUSE = 0.002

_LOOK_AGAIN = 0.05
# A process that was forked behind our back, or that the relay was just starting, shows within this time.
_QUIET = 1.0
_KILL_PATIENCE = 60.0


# ---------------------------------------------------------------- looking


def marked_by(variable: str) -> dict[str, list[int]]:
    """Return the living processes that were started with this variable, by its whole entry (``NAME=value``).

    Looks at every process of the machine, some 10 µs each: call it in a thread.

    :raises OSError: we have too many files open to look.
    """
    prefix = f"{variable}=".encode()
    found: dict[str, list[int]] = {}
    undecided = [pid for pid in pids() if _has_program(pid)]
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


def is_marked(pid: int, marker: str) -> bool:
    """Tell whether a process was started with this entry."""
    return marker.encode() in _environment(pid).split(b"\0")


def pids() -> Iterator[int]:
    """Yield the processes that the system shows."""
    if HAS_PROC:
        yield from (int(name) for name in os.listdir("/proc") if name.isdecimal())  # noqa: PTH208 -- as said


def stat_fields(pid: int) -> list[bytes]:
    """Return the fields of ``/proc/PID/stat`` from the state on.

    :raises OSError: there is no such process (one of `HIDDEN`), or we have too many files open to look.
    """
    raw = _read(f"/proc/{pid}/stat")
    # The command's name is in brackets, and may hold brackets and spaces itself.
    return raw[raw.rindex(b")") + 2 :].split()


def _has_program(pid: int) -> bool:
    """Tell whether it can be one of ours; kernel threads, zombies and the processes of other users are not."""
    try:
        os.readlink(f"/proc/{pid}/exe")  # noqa: PTH115 -- as said
    except OSError:
        return False
    return True


def _environment(pid: int) -> bytes:
    """Return what a process was started with, each entry ended by a zero; nothing for zombies.

    :raises OSError: we have too many files open to look.
    """
    try:
        return _read(f"/proc/{pid}/environ")
    except HIDDEN:
        return b""


def _is_starting(pid: int) -> bool:
    """Tell whether a process is in the midst of ``exec``: it has a program, but no environment yet."""
    try:
        fields = stat_fields(pid)
    except HIDDEN:
        return False
    return fields[_ENV_END] == b"0" and fields[STATE] not in DEAD


def _read(path: str) -> bytes:
    """Return what is in a file of ``/proc``: as `Path.read_bytes`, which takes three times as long.

    :raises OSError: it is gone or not for us (one of `HIDDEN`), or we have too many files open.
    """
    file = os.open(path, os.O_RDONLY)
    try:
        chunks = []
        while chunk := os.read(file, _CHUNK):
            chunks.append(chunk)
        return b"".join(chunks)
    finally:
        os.close(file)


# ---------------------------------------------------------------- signalling


def open_pidfd(pid: int) -> int | None:
    """Return a descriptor of the process that has this pid now; None where the kernel has no such thing.

    :raises ProcessLookupError: there is none.
    :raises OSError: we have too many files open.
    """
    if not hasattr(os, "pidfd_open"):  # macOS
        return None
    try:
        return os.pidfd_open(pid)
    except OSError as error:
        if error.errno in _NO_PIDFDS:  # Linux before 5.3; a sandbox
            return None
        raise


def signal_if(pid: int, is_meant: Callable[[int], bool], number: signal.Signals) -> bool:
    """Signal the process that has this pid now if it is the one that is meant; tell whether that was so.

    A pidfd names one process for good: if the pid is given to another while we look, that one hears nothing.

    :param is_meant: looks at the process.
    """
    try:
        descriptor = open_pidfd(pid)
    except OSError:
        return False
    try:
        if not is_meant(pid):
            return False
        if descriptor is None:
            os.kill(pid, number)
        else:
            signal.pidfd_send_signal(descriptor, number)
    except OSError:  # it has just ended, or runs as another user
        return False
    finally:
        if descriptor is not None:
            os.close(descriptor)
    return True


# ---------------------------------------------------------------- the watcher


def end_marked(marker: str, *, eof_grace: float, term_grace: float) -> bool:
    """End every process that bears the marker; tell whether none is left. Takes the graces and a moment at most."""
    if _ended(marker, within=eof_grace):
        return True
    _signal_marked(marker, signal.SIGTERM)
    if _ended(marker, within=term_grace):
        return True
    deadline = time.monotonic() + _KILL_PATIENCE
    while time.monotonic() < deadline:
        _signal_marked(marker, signal.SIGKILL)
        if _ended(marker, within=0):
            return True
        time.sleep(_LOOK_AGAIN)
    return False


def _signal_marked(marker: str, number: signal.Signals) -> None:
    for pid in marked(marker):
        signal_if(pid, lambda pid: is_marked(pid, marker), number)


def _ended(marker: str, *, within: float) -> bool:
    """Wait until no process bears the marker, and none has for a while; tell whether that was in time."""
    deadline = time.monotonic() + within
    quiet_since = None
    while True:
        now = time.monotonic()
        if marked(marker):
            quiet_since = None
            if now >= deadline:
                return False
        elif quiet_since is None:
            quiet_since = now
        elif now - quiet_since >= _QUIET:
            return True
        time.sleep(_LOOK_AGAIN)


def _wait_until_gone(relay: int) -> None:
    poll = select.poll()
    poll.register(0, select.POLLIN)
    # The pipe alone would not tell of the end of a relay whose host has forked: that child has the pipe too.
    try:
        descriptor = open_pidfd(relay)
    except OSError:
        descriptor = None
    if os.getppid() == relay:  # if it is gone, somebody else is our parent, and perhaps has its pid
        if descriptor is not None:
            poll.register(descriptor, select.POLLIN)
        poll.poll()


def main() -> None:
    """Run as the watcher."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    marker, eof_grace, term_grace, relay = sys.argv[1:]
    _wait_until_gone(int(relay))
    end_marked(marker, eof_grace=float(eof_grace), term_grace=float(term_grace))


if __name__ == "__main__":
    main()
