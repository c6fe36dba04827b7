"""AuditFile: lines that are only ever added, and files that follow each other."""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
from anyio import to_thread

from relaykit.errors import PluginError
from relaykit_audit.settings import AuditSettings

if TYPE_CHECKING:
    from relaykit.relay import Relay

NAME = "audit"


class AuditFile:
    """A file of JSON lines, mode 0600. Each record is one write behind everything that is there.

    It blocks in a thread, one record at a time: a disk that hangs delays no session.

    :param max_bytes: a file that would grow over this is put aside first; 0 for never.
    :param keep: so many of those are kept.
    :param sync: a record is on the disk when `write` returns.
    :raises PluginError: it cannot be opened.
    """

    def __init__(self, path: Path, *, max_bytes: int, keep: int, sync: bool) -> None:
        self._path = path
        self._max_bytes = max_bytes
        self._keep = keep
        self._sync = sync
        self._turn = anyio.Lock()
        self._descriptor = -1
        try:
            self._open()
        except OSError as error:
            raise _cannot_write(path, error) from error

    @classmethod
    def of(cls, settings: AuditSettings, directory: Path) -> AuditFile:
        """Return the file that settings choose.

        :param directory: the plugin's own, which is made.
        :raises PluginError: it cannot be opened.
        """
        path = settings.path
        if path is None:
            path = directory / "audit.jsonl"
            try:
                directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            except OSError as error:
                raise _cannot_write(path, error) from error
        return cls(path.expanduser(), max_bytes=settings.max_bytes, keep=settings.keep, sync=settings.sync)

    @asynccontextmanager
    async def held(self, _relay: Relay) -> AsyncIterator[None]:
        """Close the file at the end; what is recorded later opens it again."""
        try:
            yield
        finally:
            with anyio.CancelScope(shield=True):
                async with self._turn:
                    self._close()

    async def write(self, record: Mapping[str, Any]) -> None:
        """Add a record.

        :raises OSError: it could not be written; of a part that was, the next record takes no harm.
        """
        line = json.dumps(record, separators=(",", ":"), default=str).encode() + b"\n"
        async with self._turn:
            with anyio.CancelScope(shield=True):
                await to_thread.run_sync(self._write, line)

    def _write(self, line: bytes) -> None:
        if self._descriptor < 0:
            self._open()
        if self._max_bytes and 0 < os.fstat(self._descriptor).st_size > self._max_bytes - len(line):
            self._rotate()
        written = os.write(self._descriptor, line)
        if written < len(
            line
        ):  # the disk is full: said by the next write, and the line is ended by the next open
            self._close()
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
            self._close()
            raise

    def _rotate(self) -> None:
        self._close()
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

    def _close(self) -> None:
        if self._descriptor >= 0:
            descriptor, self._descriptor = self._descriptor, -1
            os.close(descriptor)


def _cannot_write(path: Path, error: OSError) -> PluginError:
    what_to_do = "correct `path` in [plugins.audit], or make its directory"
    return PluginError(f"cannot write {str(path)!r}: {error.strerror}; {what_to_do}", plugin=NAME)
