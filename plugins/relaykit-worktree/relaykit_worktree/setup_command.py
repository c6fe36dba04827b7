"""The ``setup`` command of settings: run in a new worktree, with a deadline, its output in the transcript."""

from __future__ import annotations

import os
import shlex
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO

import anyio
from anyio import to_thread

from relaykit.agent import Say
from relaykit.environment import safe_environment
from relaykit.process import ChildProcess
from relaykit.session import Session
from relaykit_worktree.errors import SetupFailed
from relaykit_worktree.settings import WorktreeSettings

_GRACE = 5.0  # seconds for the command to end by itself after SIGTERM
_TICK = 0.5  # seconds between two looks at what it has written
_SAID_AT_ONCE = 16 * 1024  # bytes of one notice
_SAID = 256 * 1024  # bytes that go into the transcript
_FILE = 4 << 20  # bytes after which what it has written, and was said, is cut off the file
_LAST_LINES = 20
_LAST_BYTES = 4096
_MASK = "***"


@dataclass(frozen=True, slots=True)
class SetupCommand:
    """What makes a new worktree ready for its agent.

    It has a process group of its own, which is ended with it, nothing on its standard input, and of our
    environment the short safe list, what settings name, and ``RELAYKIT_SESSION``, ``_NODE``, ``_PROJECT``, ``_ROLE``
    and ``_CHECKOUT``, the project's own directory.

    :param environ: whose variables count.
    """

    settings: WorktreeSettings
    environ: Mapping[str, str]

    async def run(self, directory: Path, session: Session, project: Path, say: Say) -> None:
        """Run it to its end in `directory`, if there is one. Cancelled, it is ended first.

        :raises SetupFailed: it cannot be started, fails or overruns.
        """
        command = self.settings.setup
        if not command:
            return
        shown = shlex.join(command)
        granted = {name: self.environ[name] for name in self.settings.setup_env if name in self.environ}
        await say(f"$ {shown}\n")
        # A file and not a pipe, which reaches its end only when all have closed it that ever inherited it; appended
        # to, so that it can be cut off while the command writes to it.
        with tempfile.TemporaryFile("a+b") as output:
            start = partial(
                ChildProcess,
                command,
                stdin=subprocess.DEVNULL,
                stdout=output.fileno(),
                stderr=output.fileno(),
                environment={
                    **safe_environment(self.environ),
                    **granted,
                    # By these two the processes of a session, and of a relay, are known again.
                    "RELAYKIT_SESSION": session.id,
                    "RELAYKIT_NODE": session.node,
                    "RELAYKIT_PROJECT": session.project,
                    "RELAYKIT_ROLE": session.agent_id,
                    "RELAYKIT_CHECKOUT": str(project),
                },
                cwd=directory,
            )
            telling = _Telling(output, say, secrets=tuple(granted.values()))
            try:
                with anyio.CancelScope(shield=True):
                    process = await to_thread.run_sync(start)
            except OSError as error:
                raise SetupFailed(shown, f"cannot be started: {error.strerror or error}") from error
            exit_code = await self._wait(process, telling)
            await telling.finish()
        if exit_code is None:
            raise SetupFailed(
                shown,
                f"did not end within {self.settings.setup_timeout:g} s: raise `setup_timeout` in [plugins.worktree]",
                said=telling.last,
            )
        if exit_code != 0:
            raise SetupFailed(shown, f"exited with {exit_code}", exit_code=exit_code, said=telling.last)

    async def _wait(self, process: ChildProcess, telling: _Telling) -> int | None:
        """Return the exit code; None if it overran. Whatever of its group is left then is ended."""
        exit_code = None
        try:
            with anyio.move_on_after(self.settings.setup_timeout):
                while exit_code is None:
                    with anyio.move_on_after(_TICK):
                        exit_code = await process.wait_end()  # not reaped: what it has left is to end with it
                    await telling.tell()
        finally:
            with anyio.CancelScope(shield=True):
                await process.end_group(grace=_GRACE)
        return exit_code


class _Telling:
    """Says what stands in a file that a command still writes to: whole lines, and not without end."""

    def __init__(self, file: IO[bytes], say: Say, *, secrets: tuple[str, ...]) -> None:
        self._file = file
        self._say = say
        self._secrets = tuple(sorted(filter(None, secrets), key=len, reverse=True))
        self._at = 0
        self._rest = b""
        self._left = _SAID
        self._unsaid = 0
        self._tail = b""

    @property
    def last(self) -> str:
        """The last lines that the command wrote."""
        return "\n".join(self._text(self._tail).rstrip().splitlines()[-_LAST_LINES:])

    async def tell(self) -> None:
        """Say what has come since."""
        while chunk := os.pread(self._file.fileno(), _SAID_AT_ONCE, self._at):
            self._at += len(chunk)
            self._tail = (self._tail + chunk)[-_LAST_BYTES:]
            whole, newline, self._rest = (self._rest + chunk).rpartition(b"\n")
            if len(self._rest) >= _SAID_AT_ONCE:
                whole, newline, self._rest = whole + newline + self._rest, b"", b""
            await self._say_some(whole + newline)
        if self._at > _FILE:  # long after what is said of it: a flood must not fill the disk
            os.truncate(self._file.fileno(), 0)
            self._at = 0

    async def finish(self) -> None:
        """Say all that is left, and how much was not said."""
        await self.tell()
        await self._say_some(self._rest)
        if self._unsaid:
            await self._say(f"… {self._unsaid:,} bytes more\n")

    async def _say_some(self, some: bytes) -> None:
        said, self._left = some[: self._left], max(0, self._left - len(some))
        self._unsaid += len(some) - len(said)
        if said:
            await self._say(self._text(said))

    def _text(self, some: bytes) -> str:
        text = some.decode(errors="replace")
        for secret in self._secrets:
            text = text.replace(secret, _MASK)
        return text
