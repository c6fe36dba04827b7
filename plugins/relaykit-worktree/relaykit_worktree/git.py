"""Runs git's command line: no shell, no prompts, no hooks, a deadline, and no process left."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import anyio
from anyio.abc import ByteReceiveStream, Process

from relaykit.errors import WorkspaceError

_GRACE = 2.0  # seconds for git to remove its lock files after SIGTERM

_OPTIONS = (
    # A repository's hooks are programs that whoever wrote the repository chose; and some write into the worktree.
    "-c",
    f"core.hooksPath={os.devnull}",
    # The same holds for a file system monitor, and a daemon would outlive us.
    "-c",
    "core.fsmonitor=false",
    "-c",
    "gc.auto=0",
    "-c",
    "maintenance.auto=false",
    # `git worktree remove` asks `git status` once more, which must not be told to look away.
    "-c",
    "status.showUntrackedFiles=all",
)

_REPOSITORY_VARIABLES = frozenset(
    {
        # What `git rev-parse --local-env-vars` lists, but for the variables with which a person configures git.
        "GIT_ALTERNATE_OBJECT_DIRECTORIES",
        "GIT_COMMON_DIR",
        "GIT_CONFIG",
        "GIT_CONFIG_PARAMETERS",
        "GIT_DIR",
        "GIT_GRAFT_FILE",
        "GIT_IMPLICIT_WORK_TREE",
        "GIT_INDEX_FILE",
        "GIT_INTERNAL_SUPER_PREFIX",
        "GIT_NAMESPACE",
        "GIT_NO_REPLACE_OBJECTS",
        "GIT_OBJECT_DIRECTORY",
        "GIT_PREFIX",
        "GIT_QUARANTINE_PATH",
        "GIT_REPLACE_REF_BASE",
        "GIT_SHALLOW_FILE",
        "GIT_WORK_TREE",
    }
)

_LOCKED = re.compile(
    r"unable to create '.*\.lock': file exists|could not lock config file .*: file exists", re.IGNORECASE
)


class GitError(WorkspaceError):
    """A git command failed, overran, or could not be started.

    :param arguments: what followed ``git``.
    :param exit_code: None when there was none.
    :param stderr: what git wrote to its standard error.
    """

    def __init__(
        self, message: str, *, arguments: tuple[str, ...] = (), exit_code: int | None = None, stderr: str = ""
    ) -> None:
        super().__init__(message)
        self.arguments = arguments
        self.exit_code = exit_code
        self.stderr = stderr

    @property
    def is_contention(self) -> bool:
        """Another git held a lock: the same command may succeed in a moment."""
        return _LOCKED.search(self.stderr) is not None


@dataclass(frozen=True, slots=True)
class Git:
    """The ``git`` command.

    :param timeout: seconds that one command may take, waiting for locks included.
    """

    timeout: float = 60.0

    async def run(self, directory: str | Path, /, *arguments: str) -> str:
        """Run git in `directory` and return its standard output, bytes that are no text as surrogates.

        Cancelled or overrun, git's process group is ended and reaped before this returns.

        :raises GitError: git is missing, failed, or took too long.
        """
        try:
            with anyio.fail_after(self.timeout):
                exit_code, output, errors = await _communicate(
                    ("git", "-C", str(directory), *_OPTIONS, *arguments)
                )
        except FileNotFoundError as error:
            raise GitError(
                "the program 'git' was not found: install git 2.36 or newer, "
                'or set `workspace = "directory"` in [relay]',
                arguments=arguments,
            ) from error
        except TimeoutError as error:
            raise GitError(
                f"`git {' '.join(arguments)}` in {str(directory)!r} did not end within {self.timeout:g} s: "
                "raise `git_timeout` in [plugins.worktree] if the repository is that large",
                arguments=arguments,
            ) from error
        if exit_code == 0:
            return os.fsdecode(output)
        stderr = errors.decode(errors="replace").strip()
        raise GitError(
            f"`git {' '.join(arguments)}` failed in {str(directory)!r} with {exit_code}: {stderr or 'no message'}",
            arguments=arguments,
            exit_code=exit_code,
            stderr=stderr,
        )

    async def change(self, directory: str | Path, /, *arguments: str) -> str:
        """Run a quick command that changes the repository: it happens or it does not, cancelled or not.

        Where another git holds a lock it is tried again; only that waiting can be cancelled.

        :raises GitError: as `run`; or the lock was still held at the deadline.
        """
        deadline = anyio.current_time() + self.timeout
        pause = 0.02
        while True:
            try:
                with anyio.CancelScope(shield=True):
                    return await self.run(directory, *arguments)
            except GitError as error:
                if not error.is_contention or anyio.current_time() + pause > deadline:
                    raise
            await anyio.sleep(pause)
            pause = min(pause * 2, 0.5)


def _environment() -> Mapping[str, str]:
    inherited = {
        name: value
        for name, value in os.environ.items()
        if name not in _REPOSITORY_VARIABLES and not name.startswith("GIT_TRACE")
    }
    return {**inherited, "LC_ALL": "C", "GIT_TERMINAL_PROMPT": "0", "GIT_OPTIONAL_LOCKS": "0"}


async def _communicate(command: tuple[str, ...]) -> tuple[int, bytes, bytes]:
    with anyio.CancelScope(shield=True):
        process = await anyio.open_process(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=_environment(),
            start_new_session=True,
        )
    output, errors = bytearray(), bytearray()
    ended = False
    try:
        async with anyio.create_task_group() as readers:
            readers.start_soon(_read, process.stdout, output)
            readers.start_soon(_read, process.stderr, errors)
        exit_code = await process.wait()
        ended = True
    finally:
        with anyio.CancelScope(shield=True):
            if not ended:
                await _end(process)
            await process.aclose()
    return exit_code, bytes(output), bytes(errors)


async def _read(stream: ByteReceiveStream | None, into: bytearray) -> None:
    if stream is not None:
        async for chunk in stream:
            into.extend(chunk)


async def _end(process: Process) -> None:
    # SIGTERM first: git then takes its lock files away by itself.
    _signal_group(process, signal.SIGTERM)
    with anyio.move_on_after(_GRACE):
        await process.wait()
    _signal_group(process, signal.SIGKILL)


def _signal_group(process: Process, number: signal.Signals) -> None:
    # PermissionError is what macOS says of a group that holds only zombies.
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, number)
