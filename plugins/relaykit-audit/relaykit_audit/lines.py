"""Lines: lines that are only ever added, and files that follow each other."""

from __future__ import annotations

import os
from pathlib import Path

from relaykit.errors import PluginError

NAME = "audit"


class Lines:
    """A file of lines, mode 0600. Each is one write behind everything that is there. It blocks: for one thread.

    :param max_bytes: a file that would grow over this is put aside first; 0 for never.
    :param keep: so many of those are kept.
    :param sync: a line is on the disk when `append` returns.
    :raises PluginError: it cannot be opened.
    """

    def __init__(self, path: Path, *, max_bytes: int, keep: int, sync: bool) -> None:
        self._path = path
        self._max_bytes = max_bytes
        self._keep = keep
        self._sync = sync
        self._descriptor = -1
        try:
            self._open()
        except OSError as error:
            raise cannot_write(path, error) from error

    def append(self, line: bytes) -> None:
        """Add a line, its end included. What was closed is opened again.

        :raises OSError: it could not be written; of a part that was, the next line takes no harm.
        """
        if self._descriptor < 0:
            self._open()
        if self._max_bytes and 0 < os.fstat(self._descriptor).st_size > self._max_bytes - len(line):
            self._rotate()
        written = os.write(self._descriptor, line)
        if written < len(
            line
        ):  # the disk is full: said by the next write, and the line is ended by the next open
            self.close()
            raise OSError(f"{self._path}: {written} of {len(line)} bytes were written")
        if self._sync:
            os.fsync(self._descriptor)

    def _open(self) -> None:
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
        self._descriptor = os.open(self._path, flags, 0o600)
        try:
            size = os.fstat(self._descriptor).st_size
            # The end of a record was lost with the power, or is not there because the disk was full.
            if size and os.pread(self._descriptor, 1, size - 1) != b"\n":
                os.write(self._descriptor, b"\n")
        except OSError:  # it is full still: the next record tries again
            self.close()
            raise

    def _rotate(self) -> None:
        self.close()
        names = [
            self._path,
            *(self._path.with_name(f"{self._path.name}.{at}") for at in range(1, self._keep + 1)),
        ]
        for older, newer in zip(reversed(names[1:]), reversed(names[:-1]), strict=True):
            if newer.exists():
                newer.replace(older)
        if not self._keep:
            self._path.unlink()
        self._open()

    def close(self) -> None:
        """Close the file."""
        if self._descriptor >= 0:
            descriptor, self._descriptor = self._descriptor, -1
            os.close(descriptor)


def cannot_write(path: Path, error: OSError) -> PluginError:
    """Return the error of who has no file to write to."""
    what_to_do = "correct `path` in [plugins.audit], or make its directory"
    return PluginError(f"cannot write {str(path)!r}: {error.strerror}; {what_to_do}", plugin=NAME)
