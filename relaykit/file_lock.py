"""File locks between processes: a moment's patience with who holds one by accident."""

from __future__ import annotations

import fcntl
import time

_PATIENCE = 1.0
_PAUSE = 0.02


def lock(descriptor: int, *, patience: float = _PATIENCE) -> None:
    """Take flock(2)'s exclusive lock on an open file. Blocks, for `patience` seconds at most.

    Who holds it may be gone in a moment: a command that looks, or a child that a process which was killed had just
    forked, and which has not come to its exec yet.

    :raises BlockingIOError: somebody else holds it for longer.
    :raises OSError: the file system has no such locks.
    """
    deadline = time.monotonic() + patience
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                raise
            time.sleep(_PAUSE)
        else:
            return
