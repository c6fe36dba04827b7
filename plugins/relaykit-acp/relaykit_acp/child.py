"""One child process as the system has it: started, its pipes, its end."""

from __future__ import annotations

import errno
import os
import resource
import shutil
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing, suppress
from pathlib import Path

from anyio import to_thread

from relaykit.errors import ProgramNotFound, SpawnError, WorkingDirectoryMissing
from relaykit.process import ChildProcess
from relaykit_acp.pipe import InputPipe, OutputPipe

_NOT_EXECUTABLE = frozenset({errno.ENOENT, errno.ENOTDIR, errno.EACCES, errno.EPERM, errno.ENOEXEC})


class Child:
    """A child process with a pipe at each standard stream. Made by `start_child`; to be waited for and closed."""

    def __init__(
        self, process: ChildProcess, stdin: InputPipe, stdout: OutputPipe, stderr: OutputPipe
    ) -> None:
        self.pid = process.pid
        self.stdin = stdin
        self.stdout = stdout
        self.stderr = stderr
        self._process = process

    @property
    def exit_code(self) -> int | None:
        """The exit code; negative: the signal that ended it; None until `wait` has returned."""
        return self._process.exit_code

    async def wait(self) -> None:
        """Wait for the process to end, and reap it. One caller at a time."""
        await self._process.wait()

    def close(self) -> None:
        """Let go of the pipes, when nobody is in `wait`. Idempotent."""
        self.stdin.close()
        self.stdout.close()
        self.stderr.close()
        self._process.close()


async def start_child(
    command: Sequence[str],
    *,
    environment: Mapping[str, str],
    cwd: Path,
    agent: str,
    joining: Sequence[str] = (),
) -> Child:
    """Start a program as the leader of a session and process group of its own. Not to be cancelled.

    :param agent: the configured agent's name, for errors.
    :param joining: a command that does something first, and then becomes the program behind it.
    :raises ProgramNotFound: the program is not on the child's ``PATH``, or may not or cannot be executed.
    :raises WorkingDirectoryMissing: there is no such directory.
    :raises SpawnError: the system has no room for another process.
    """
    with ExitStack() as pipes, ExitStack() as child_ends:
        try:
            stdin = pipes.enter_context(closing(InputPipe()))
            child_ends.callback(os.close, stdin.child_end)
            stdout = pipes.enter_context(closing(OutputPipe()))
            child_ends.callback(os.close, stdout.child_end)
            stderr = pipes.enter_context(closing(OutputPipe()))
            child_ends.callback(os.close, stderr.child_end)
        except OSError as error:
            raise _no_room(error, agent) from error
        streams = (stdin.child_end, stdout.child_end, stderr.child_end)
        # In a thread, because it looks for files, and waits until the program has been loaded.
        process = await to_thread.run_sync(_start, command, environment, cwd, agent, joining, streams)
        pipes.pop_all()
    return Child(process, stdin, stdout, stderr)


def _start(
    command: Sequence[str],
    environment: Mapping[str, str],
    cwd: Path,
    agent: str,
    joining: Sequence[str],
    streams: tuple[int, int, int],
) -> ChildProcess:
    if not cwd.is_dir():
        raise WorkingDirectoryMissing(str(cwd), agent=agent)
    program = shutil.which(command[0], path=environment.get("PATH", os.defpath))
    if program is None:
        raise ProgramNotFound(command[0], agent=agent)
    # Absolute, because the child looks from its own directory: nothing in a worktree becomes the agent.
    line = (*joining, str(Path(program).absolute()), *command[1:])
    stdin, stdout, stderr = streams
    try:
        process = ChildProcess(
            line, stdin=stdin, stdout=stdout, stderr=stderr, environment=environment, cwd=cwd
        )
    except OSError as error:
        if not cwd.is_dir():
            raise WorkingDirectoryMissing(str(cwd), agent=agent) from error
        if error.errno in _NOT_EXECUTABLE:
            raise ProgramNotFound(command[0], agent=agent) from error
        raise _no_room(error, agent) from error
    _dump_no_core(process.pid)
    return process


def _dump_no_core(pid: int) -> None:
    """Have a child leave no core file: it would hold every secret that it was given, and lie in the worktree.

    The soft limit alone: who looks for a fault in an agent can raise it again there.
    """
    if sys.platform == "linux":
        with suppress(OSError):  # it has ended
            _, hard = resource.prlimit(pid, resource.RLIMIT_CORE)
            resource.prlimit(pid, resource.RLIMIT_CORE, (0, hard))


def _no_room(error: OSError, agent: str) -> SpawnError:
    return SpawnError(f"it could not be started: {os.strerror(error.errno or 0)}", agent=agent)
