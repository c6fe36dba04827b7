"""Runs git's command line: no shell, no prompts, no hooks, a deadline, and no process left."""

from __future__ import annotations

import errno
import fcntl
import os
import subprocess
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import anyio
from anyio import to_thread

from relaykit.process import ChildProcess
from relaykit_worktree.errors import GitError, RepositoryBusy, git_failed, os_failed

_GRACE = 2.0  # seconds for git to remove its lock files after SIGTERM
_PAUSE = 0.02  # seconds between two looks at a lock of ours
_NO_LOCKS = {errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS}

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


@dataclass(frozen=True, slots=True)
class Git:
    """The ``git`` command.

    :param timeout: seconds that one command may take, waiting for locks included.
    """

    timeout: float = 60.0
    _turns: dict[str, anyio.Lock] = field(default_factory=dict, compare=False, repr=False)

    @asynccontextmanager
    async def turn(self, repository: str | Path, /) -> AsyncIterator[None]:
        """Have a repository's worktrees to oneself, among relays and commands of ours, while they come or go.

        git locks what it writes, but not what it looks through meanwhile: the list of worktrees may show one
        that another git is just making. Gits of others can still be in the way, and are waited for.

        :raises RepositoryBusy: another process of ours has it, until the deadline.
        """
        async with (
            self._turns.setdefault(str(repository), anyio.Lock()),
            _locked(repository, seconds=self.timeout),
        ):
            yield

    def turn_to_fetch(self, repository: str | Path, /) -> anyio.Lock:
        """Return the lock to hold while something is fetched into a repository: its worktrees need not wait."""
        return self._turns.setdefault(f"{repository} fetch", anyio.Lock())

    async def run(
        self,
        directory: str | Path,
        /,
        *arguments: str,
        stdin: bytes = b"",
        environment: Mapping[str, str] | None = None,
    ) -> str:
        """Run git in `directory` and return its standard output, bytes that are no text as surrogates.

        Where another git is in the way it is tried again. Cancelled or overrun, git's process group is
        ended and reaped before this returns.

        :param environment: besides what every git gets, as ``GIT_INDEX_FILE``.
        :raises GitError: git is missing, failed, or took too long.
        """
        return await self._until_deadline(
            directory, arguments, shield=False, stdin=stdin, environment=environment
        )

    async def change(
        self,
        directory: str | Path,
        /,
        *arguments: str,
        stdin: bytes = b"",
        environment: Mapping[str, str] | None = None,
    ) -> str:
        """Run a quick command that changes the repository: as `run`, but it happens or it does not.

        Only the waiting for another git can be cancelled.
        """
        return await self._until_deadline(
            directory, arguments, shield=True, stdin=stdin, environment=environment
        )

    async def attempt(
        self,
        directory: str | Path,
        /,
        *arguments: str,
        stdin: bytes = b"",
        environment: Mapping[str, str] | None = None,
    ) -> str:
        """Run git once, without a deadline.

        :raises GitError: git is missing, or failed.
        """
        command = ("git", "-C", str(directory), *_OPTIONS, *arguments)
        try:
            exit_code, output, errors = await _communicate(command, stdin, environment or {})
        except FileNotFoundError as error:
            raise GitError(
                "the program 'git' was not found: install git 2.36 or newer, "
                'or set `workspace = "directory"` in [relay]',
                arguments=arguments,
            ) from error
        if exit_code == 0:
            return os.fsdecode(output)
        raise git_failed(str(directory), arguments, exit_code, errors.decode(errors="replace").strip())

    async def _until_deadline(
        self,
        directory: str | Path,
        arguments: tuple[str, ...],
        *,
        shield: bool,
        stdin: bytes,
        environment: Mapping[str, str] | None,
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
                    return await self.attempt(directory, *arguments, stdin=stdin, environment=environment)
                except GitError as error:
                    if not error.is_contention:
                        raise
                    failure = error
            if anyio.current_time() + pause > deadline:
                raise failure
            await anyio.sleep(pause)
            pause = min(pause * 2, 0.5)


async def together(*calls: Callable[[], Awaitable[Any]]) -> Sequence[Any]:
    """Ask several things at once, and return all answers; where some fail, the first failure is raised, as it is."""
    answers: list[Any] = [None] * len(calls)
    failures: list[Exception] = []

    async def ask(number: int, call: Callable[[], Awaitable[Any]]) -> None:
        try:
            answers[number] = await call()
        except Exception as error:  # noqa: BLE001 -- raised below
            failures.append(error)

    async with anyio.create_task_group() as tasks:
        for number, call in enumerate(calls):
            tasks.start_soon(ask, number, call)
    if failures:
        raise failures[0]
    return answers


@asynccontextmanager
async def _locked(directory: str | Path, *, seconds: float) -> AsyncIterator[None]:
    """Hold a lock on the directory itself: it leaves no file, and goes with the process."""
    try:
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise os_failed("the repository cannot be opened", error) from error
    try:
        deadline = anyio.current_time() + seconds
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if anyio.current_time() + _PAUSE > deadline:
                    raise RepositoryBusy(str(directory), seconds=seconds) from None
            except OSError as error:
                if error.errno not in _NO_LOCKS:  # a file system without them: then there is none
                    raise
                break
            else:
                break
            await anyio.sleep(_PAUSE)
        yield
    finally:
        os.close(descriptor)


def persons_environment() -> Mapping[str, str]:
    """Return this process's environment, less what would lead git to another repository than it is run in."""
    return {
        name: value
        for name, value in os.environ.items()
        if name not in _REPOSITORY_VARIABLES and not name.startswith("GIT_TRACE")
    }


def _environment(more: Mapping[str, str]) -> Mapping[str, str]:
    quiet = {"LC_ALL": "C", "GIT_TERMINAL_PROMPT": "0", "GIT_OPTIONAL_LOCKS": "0"}
    return {**persons_environment(), **quiet, **more}


async def _communicate(
    command: tuple[str, ...], stdin: bytes, environment: Mapping[str, str]
) -> tuple[int, bytes, bytes]:
    # Files and not pipes: a pipe reaches its end only when all have closed it that ever inherited it.
    with ExitStack() as stack:
        output = stack.enter_context(tempfile.TemporaryFile())
        errors = stack.enter_context(tempfile.TemporaryFile())
        source = subprocess.DEVNULL
        if stdin:
            given = stack.enter_context(tempfile.TemporaryFile())
            given.write(stdin)
            given.seek(0)
            source = given.fileno()
        start = partial(
            ChildProcess,
            command,
            stdin=source,
            stdout=output.fileno(),
            stderr=errors.fileno(),
            environment=_environment(environment),
        )
        with anyio.CancelScope(shield=True):
            process = await to_thread.run_sync(start)
        try:
            exit_code = await process.wait()
        except BaseException:
            with anyio.CancelScope(shield=True):
                # SIGTERM first: git then takes its lock files away by itself.
                await process.end_group(grace=_GRACE)
            raise
        output.seek(0)
        errors.seek(0)
        return exit_code, output.read(), errors.read()
