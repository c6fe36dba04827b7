"""What goes wrong with git and worktrees, each by its name.

::

    WorkspaceError (relaykit's)
    ├── GitError
    │   ├── DiskFull
    │   └── NotWritable
    ├── RepositoryBusy
    ├── BaseNotFetched
    ├── SetupFailed
    ├── NotParked
    ├── NotRestored
    └── NothingCollected
"""

from __future__ import annotations

import errno
import os
import re

from relaykit.errors import LAST_WORDS, WorkspaceError

_CONTENTION = re.compile(
    r"unable to create '.*\.lock': file exists"
    r"|could not lock config file .*: file exists"
    r"|could not lock config file [^:]*\Z"  # of a section that is to be removed git does not say why
    # Whoever reads the list of worktrees may meet one that another git is just adding or removing.
    r"|failed to read worktrees/.*/commondir"
    # So may whoever sees that all commits are there, as a fetch does.
    r"|bad object worktrees/[^/]*/HEAD",
    re.IGNORECASE | re.DOTALL,
)
_FULL = ("no space left on device", "disk quota exceeded", "file too large")
_READ_ONLY = ("read-only file system", "permission denied")


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


class DiskFull(GitError):
    """git could not write: no space, or no quota, is left."""


class NotWritable(GitError):
    """git could not write: the file system is read-only, or not this user's."""


def git_failed(directory: str, arguments: tuple[str, ...], exit_code: int, stderr: str) -> GitError:
    """Return the error of a git command that failed."""
    said = stderr.lower()
    kind, hint = GitError, ""
    # Of a ref's lock git says that it "couldn't write" it, and not why.
    if any(words in said for words in _FULL) or ("write" in said and _is_full(directory)):
        kind, hint = DiskFull, "the disk is full: make room; "
    elif any(words in said for words in _READ_ONLY):
        kind, hint = (
            NotWritable,
            "the repository cannot be written to: correct its permissions, or its mount; ",
        )
    return kind(
        f"{hint}`git {' '.join(arguments)}` failed in {directory!r} with {exit_code}: {stderr or 'no message'}",
        arguments=arguments,
        exit_code=exit_code,
        stderr=stderr,
    )


def _is_full(directory: str) -> bool:
    try:
        free = os.statvfs(directory)
    except OSError:
        return False
    return free.f_bavail == 0 or (free.f_files > 0 and free.f_favail == 0)


class RepositoryBusy(WorkspaceError):
    """Another process makes, removes or collects worktrees of the repository, and did not end in time."""

    def __init__(self, repository: str, *, seconds: float) -> None:
        super().__init__(
            f"another relay, or `relaykit worktrees`, has been at work in {repository!r} for {seconds:g} s: "
            "wait for it, or raise `git_timeout` in [plugins.worktree]"
        )
        self.repository = repository
        self.seconds = seconds


class BaseNotFetched(WorkspaceError):
    """The remote branch from which a role's new branch is to start could not be fetched.

    :param why: what git said.
    """

    def __init__(self, base: str, repository: str, why: str) -> None:
        super().__init__(
            f"the base {base!r} could not be fetched into {repository!r}: {why}. See that `git fetch` works there "
            "without asking anything, or set `fetch = false` in [plugins.worktree] to begin at what was fetched last"
        )
        self.base = base
        self.repository = repository
        self.why = why


class SetupFailed(WorkspaceError):
    """The ``setup`` command of a new worktree failed or overran, and the worktree was taken away again.

    :param exit_code: negative: the signal that ended it; None: it overran, or could not be started.
    :param said: the last lines of its output.
    """

    def __init__(self, command: str, why: str, *, exit_code: int | None = None, said: str = "") -> None:
        words = f"{LAST_WORDS}{said}" if said else ""
        super().__init__(f"the setup command {command!r} {why}{words}")
        self.command = command
        self.exit_code = exit_code
        self.said = said


class NotParked(WorkspaceError):
    """A worktree could not be parked as it is; it is as it was."""


class NotRestored(WorkspaceError):
    """What was parked could not be brought back; it is still parked."""


class NothingCollected(WorkspaceError):
    """It could not be told for certain what is unused, so that nothing was removed."""


def os_failed(what: str, error: OSError) -> WorkspaceError:
    """Return the error of something that we could not write or make ourselves."""
    message = f"{what}: {error.strerror or error}" + (f" ({error.filename!r})" if error.filename else "")
    if error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}:
        return DiskFull(f"the disk is full: make room; {message}")
    if error.errno in {errno.EROFS, errno.EACCES, errno.EPERM}:
        return NotWritable(
            f"the repository cannot be written to: correct its permissions, or its mount; {message}"
        )
    return WorkspaceError(message)
