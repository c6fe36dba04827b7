"""RunningFile: where a running relay says that it runs, and how it is reached."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, TextIO

from relaykit.errors import RelaykitError
from relaykit.file_lock import lock as lock_file

_FILE = "running.json"
_LOCK = "running.lock"


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """What a running relay says of itself.

    :param url: of its gateway, without a token; empty if it has none.
    :param switched_off: why, by plugin.
    """

    pid: int
    started: datetime
    url: str = ""
    switched_off: Mapping[str, str] = field(default_factory=dict)


class RunningFile:
    """The file of this relay; the lock beside it is held for as long as the relay runs.

    The lock, and not the pid, tells whether a relay runs: a pid may long be somebody else's.
    """

    def __init__(self, directory: Path, *, started: datetime) -> None:
        self._path = directory / _FILE
        self._running: dict[str, Any] = {"pid": os.getpid(), "started": started.isoformat()}
        self._switched_off: dict[str, str] = {}

    def set_url(self, url: str) -> None:
        """Say where the gateway listens."""
        self._running["url"] = url
        self._write()

    def set_switched_off(self, plugin: str, reason: str) -> None:
        """Say that a part of a plugin was switched off."""
        self._switched_off[plugin] = reason
        self._write()

    def _write(self) -> None:
        text = json.dumps({**self._running, "switched_off": self._switched_off})
        new = self._path.with_suffix(".new")
        new.touch(mode=0o600)
        new.write_text(text)
        new.replace(self._path)


@contextmanager
def running_file(state_dir: Path, *, started: datetime) -> Iterator[RunningFile]:
    """Be the one relay of this state directory for as long as the block lasts.

    :raises RelaykitError: another relay is, or the directory cannot be written to.
    """
    with _lock_file(state_dir) as lock:
        try:
            lock_file(lock.fileno())
        except BlockingIOError:
            other = read_running(state_dir)
            where = f" (pid {other.pid}{', ' + other.url if other.url else ''})" if other else ""
            raise RelaykitError(
                f"another relay{where} uses the state directory {str(state_dir)!r}: "
                "stop it, or give this one its own by `state_dir` in [relay]"
            ) from None
        file = RunningFile(state_dir, started=started)
        file.set_url("")
        try:
            yield file
        finally:
            with suppress(FileNotFoundError):
                (state_dir / _FILE).unlink()


def _lock_file(state_dir: Path) -> TextIO:
    try:
        state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        return (state_dir / _LOCK).open("a")
    except OSError as error:
        raise RelaykitError(
            f"the state directory {str(state_dir)!r} cannot be written to by the user {os.geteuid()}: {error}. Make it "
            "that user's own, or give this relay another by `state_dir` in [relay]"
        ) from error


def read_running(state_dir: Path) -> Running | None:
    """Return what the relay of this state directory says of itself, or None if none runs.

    :raises RelaykitError: the directory cannot be looked into: whether one runs is not known.
    """
    try:
        with (state_dir / _LOCK).open() as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                pass  # it is held: a relay runs
            else:
                return None  # what the file says is left from one that was killed
        told = json.loads((state_dir / _FILE).read_text())
    except FileNotFoundError:
        return None
    except OSError as error:
        raise RelaykitError(
            f"the state directory {str(state_dir)!r} cannot be read by the user {os.geteuid()}: {error}. Correct "
            "`state_dir` in [relay], or come as the user whose relay it is"
        ) from error
    return Running(
        pid=told["pid"],
        started=datetime.fromisoformat(told["started"]),
        url=told["url"],
        switched_off=told["switched_off"],
    )
