"""DatabaseLock: one relay a database."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from relaykit.file_lock import lock as lock_file
from relaykit_sqlite.problems import refusal


class DatabaseLock:
    """A lock file beside the database, held from construction to `release`; the holder's pid is in it.

    The lock, and not the pid, tells whether a relay is there: the kernel takes it away with the process, however
    it ends, and a pid may long be somebody else's. It holds within one process too. (A lock on the database file
    itself would not do: SQLite's own are of another kind, which a process loses when it closes the file anywhere.)

    :raises StoreError: another relay holds it; or the file cannot be made.
    """

    def __init__(self, database: Path) -> None:
        path = database.with_name(database.name + ".lock")
        try:
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise refusal(
                f"the lock file {str(path)!r} cannot be written ({error.strerror}): "
                "its directory must be there, and may be written by the relay's user",
                database,
            ) from error
        try:
            lock_file(self._descriptor)
        except OSError as error:
            holder = os.pread(self._descriptor, 32, 0).decode("ascii", "replace").strip()
            os.close(self._descriptor)
            if not isinstance(error, BlockingIOError):
                raise refusal(
                    f"the lock file {str(path)!r} cannot be locked ({error.strerror}): "
                    "the database must be on a local disk",
                    database,
                ) from error
            who = f"another relay (pid {holder})" if holder else "another relay"
            raise refusal(
                f"{who} holds it: stop that relay, or give this one another `path` in [plugins.sqlite]",
                database,
            ) from None
        with suppress(
            OSError
        ):  # a full disk: the lock holds all the same, and only its message lacks the pid
            os.ftruncate(self._descriptor, 0)
            os.pwrite(self._descriptor, b"%d\n" % os.getpid(), 0)

    def release(self) -> None:
        """Let the next relay in. The file stays: removing it would let two in at once."""
        os.close(self._descriptor)
