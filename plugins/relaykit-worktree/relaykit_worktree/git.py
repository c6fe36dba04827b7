"""Runs git's command line: no shell, no prompts, no hooks, a deadline, and no process left."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import anyio
from anyio import to_thread

from relaykit.errors import WorkspaceError
from relaykit.process import ChildProcess

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

_CONTENTION = re.compile(
    r"unable to create '.*\.lock': file exists"
    r"|could not lock config file .*: file exists"
    # Whoever reads the list of worktrees may meet one that another git is just adding or removing.
    r"|failed to read worktrees/.*/commondir",
    re.IGNORECASE,
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
        """Another git was at work in the same place: the same command may succeed in a moment."""
        return _CONTENTION.search(self.stderr) is not None


@dataclass(frozen=True, slots=True)
class Git:
    """The ``git`` command.

    :param timeout: seconds that one command may take, waiting for locks included.
    """

    timeout: float = 60.0
    _turns: dict[str, anyio.Lock] = field(default_factory=dict, compare=False, repr=False)

    def turn(self, repository: str | Path, /) -> anyio.Lock:
        """Return the lock to hold while worktrees of a repository come or go.

        git locks what it writes, but not what it looks through meanwhile: the list of worktrees may show one
        that another git is just making. Other processes can still be in the way, and are waited for.
        """
        return self._turns.setdefault(str(repository), anyio.Lock())

    async def run(self, directory: str | Path, /, *arguments: str) -> str:
        """Run git in `directory` and return its standard output, bytes that are no text as surrogates.

        Where another git is in the way it is tried again. Cancelled or overrun, git's process group is
        ended and reaped before this returns.

        :raises GitError: git is missing, failed, or took too long.
        """
        return await self._until_deadline(directory, arguments, shield=False)

    async def change(self, directory: str | Path, /, *arguments: str) -> str:
        """Run a quick command that changes the repository: as `run`, but it happens or it does not.

        Only the waiting for another git can be cancelled.
        """
        return await self._until_deadline(directory, arguments, shield=True)

    async def attempt(self, directory: str | Path, /, *arguments: str) -> str:
        """Run git once, without a deadline.

        :raises GitError: git is missing, or failed.
        """
        try:
            exit_code, output, errors = await _communicate(
                ("git", "-C", str(directory), *_OPTIONS, *arguments)
            )
        except FileNotFoundError as error:
            raise GitError(
                "the program 'git' was not found: install git 2.36 or newer, "
                'or set `workspace = "directory"` in [relay]',
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

    async def _until_deadline(
        self, directory: str | Path, arguments: tuple[str, ...], *, shield: bool
    ) -> str:
        deadline = anyio.current_time() + self.timeout
        pause = 0.02
        failure = GitError(
            f"`git {' '.join(arguments)}` in {str(directory)!r} did not end within {self.timeout:g} s: "
            "raise `git_timeout` in [plugins.worktree] if the repository is that large",
            arguments=arguments,
        )
        while True:
            with anyio.CancelScope(deadline=deadline, shield=shield):
                try:
                    return await self.attempt(directory, *arguments)
                except GitError as error:
                    if not error.is_contention:
                        raise
                    failure = error
            if anyio.current_time() + pause > deadline:
                raise failure
            await anyio.sleep(pause)
            pause = min(pause * 2, 0.5)


def persons_environment() -> Mapping[str, str]:
    """Return this process's environment, less what would lead git to another repository than it is run in."""
    return {
        name: value
        for name, value in os.environ.items()
        if name not in _REPOSITORY_VARIABLES and not name.startswith("GIT_TRACE")
    }


def _environment() -> Mapping[str, str]:
    return {**persons_environment(), "LC_ALL": "C", "GIT_TERMINAL_PROMPT": "0", "GIT_OPTIONAL_LOCKS": "0"}


async def _communicate(command: tuple[str, ...]) -> tuple[int, bytes, bytes]:
    # Files and not pipes: a pipe reaches its end only when all have closed it that ever inherited it.
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
        start = partial(
            ChildProcess,
            command,
            stdin=subprocess.DEVNULL,
            stdout=output.fileno(),
            stderr=errors.fileno(),
            environment=_environment(),
        )
        with anyio.CancelScope(shield=True):
            process = await to_thread.run_sync(start)
        try:
            exit_code = await process.wait()
        except BaseException:
            with anyio.CancelScope(shield=True):
                await _end(process)
            raise
        output.seek(0)
        errors.seek(0)
        return exit_code, output.read(), errors.read()


async def _end(process: ChildProcess) -> None:
    # SIGTERM first: git then takes its lock files away by itself.
    _signal_group(process, signal.SIGTERM)
    with anyio.move_on_after(_GRACE):
        await process.wait()
    _signal_group(process, signal.SIGKILL)
    await process.wait()


def _signal_group(process: ChildProcess, number: signal.Signals) -> None:
    # PermissionError is what macOS says of a group that holds only zombies.
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, number)
