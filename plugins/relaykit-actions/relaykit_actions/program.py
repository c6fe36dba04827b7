"""Program: runs a program for what has happened, and ends it with everything that it started."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from tempfile import TemporaryFile

import anyio
from anyio import CapacityLimiter, to_thread

from relaykit.process import ChildProcess
from relaykit_actions.errors import ActionFailed
from relaykit_actions.happenings import Happening
from relaykit_actions.template import Template

_TERM_GRACE = 1.0
# For what is in the pipe when all have ended; somebody who left the group may hold it open for ever.
_DRAIN_GRACE = 0.1
_LAST_BYTES = 8192
_LAST_LINES = 10
_LINE_LENGTH = 300


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """A program with its arguments; what has happened is its standard input, as JSON.

    :param path: absolute.
    :param environment: all that it has.
    :param timeout: seconds after which it is ended: SIGTERM, a second later SIGKILL, to its whole process group.
    """

    path: str
    arguments: Sequence[Template]
    environment: Mapping[str, str]
    timeout: float

    async def do(self, happening: Happening, slots: CapacityLimiter) -> None:
        """Run it to its end. What it has left in its process group is ended too.

        :raises ActionFailed: it could not be started, took too long, or ended with another code than 0.
        """
        values = {**happening.facts, "event": happening.event, "at": happening.at.isoformat()}
        arguments = [template.fill(values) for template in self.arguments]
        async with slots:
            await run((self.path, *arguments), happening.as_json(), self.environment, seconds=self.timeout)


async def run(
    command: Sequence[str], given: bytes, environment: Mapping[str, str], *, seconds: float
) -> None:
    """Run a program to its end, and end what it has left in its process group; also if this is cancelled.

    :param given: its standard input.
    :param seconds: that it may take.
    :raises ActionFailed: as `Program.do`.
    """
    with anyio.CancelScope(shield=True):  # what was started must be known
        try:
            child, errors = await to_thread.run_sync(_start, command, given, environment)
        except OSError as error:
            raise ActionFailed(f"it could not be started: {error.strerror}") from error
    said = _LastWords(errors)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(said.listen)
        try:
            with anyio.move_on_after(seconds) as within:
                await child.wait_end()
        finally:
            with anyio.CancelScope(shield=True):
                await child.end_group(grace=_TERM_GRACE)
                child.close()
                with anyio.move_on_after(_DRAIN_GRACE):
                    await said.ended.wait()
                tasks.cancel_scope.cancel()
    if within.cancelled_caught:
        raise ActionFailed(f"it took longer than {seconds:g} s, and was ended{said}")
    if child.exit_code != 0:
        raise ActionFailed(f"it ended with {child.exit_code}{said}")


def _start(command: Sequence[str], given: bytes, environment: Mapping[str, str]) -> tuple[ChildProcess, int]:
    """Start it; return it with our end of the pipe at its standard error. It blocks: for a thread."""
    # A file, and no pipe: nobody has to wait for a program that does not read.
    with TemporaryFile() as stdin:
        stdin.write(given)
        stdin.seek(0)
        ours, theirs = os.pipe()
        try:
            child = ChildProcess(
                command,
                stdin=stdin.fileno(),
                stdout=subprocess.DEVNULL,
                stderr=theirs,
                environment=environment,
            )
        except BaseException:
            os.close(ours)
            raise
        finally:
            os.close(theirs)
    os.set_blocking(ours, False)
    return child, ours


class _LastWords:
    """The end of what is written into a pipe. It is read as it comes, so that nobody waits for us there.

    :param descriptor: our end; it is closed once `listen` has ended.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._text = b""
        self.ended = anyio.Event()

    async def listen(self) -> None:
        """Read until nobody writes any more."""
        try:
            while True:
                await anyio.wait_readable(self._descriptor)
                chunk = os.read(self._descriptor, 65536)
                if not chunk:
                    return
                self._text = (self._text + chunk)[-_LAST_BYTES:]
        finally:
            anyio.notify_closing(self._descriptor)
            os.close(self._descriptor)
            self.ended.set()

    def __str__(self) -> str:
        lines = [line.strip() for line in self._text.decode(errors="replace").splitlines() if line.strip()]
        if not lines:
            return ""
        return "; it said last:\n" + "\n".join(line[:_LINE_LENGTH] for line in lines[-_LAST_LINES:])
