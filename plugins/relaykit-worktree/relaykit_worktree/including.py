"""``.worktreeinclude``: ignored files of the project, such as ``.env``, that a new worktree gets copies of."""

from __future__ import annotations

import errno
import logging
import os
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path, PurePath

from anyio import to_thread

from relaykit_worktree.errors import GitError, os_failed
from relaykit_worktree.git import Git
from relaykit_worktree.repository import DIRECTORY

logger = logging.getLogger(__name__)

FILE = ".worktreeinclude"

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
_CHUNK = 1 << 20


async def include(git: Git, common_dir: Path, project: Path, worktree: Path) -> str:
    """Copy into `worktree` what the project's ``.worktreeinclude`` names and git ignores; say what was copied.

    The file has the syntax of ``.gitignore``. Links are copied as links; neither one in the project nor one in the
    worktree is followed. What is in the worktree already stays. Cancelled, it stops after the file that it is at.

    :param common_dir: git's own directory of the repository that the project is in.
    :param worktree: the directory that stands for the project in the worktree.
    :return: a line for people; empty if nothing was named.
    :raises WorkspaceError: git fails, or a file cannot be read or written.
    """
    if not await to_thread.run_sync((project / FILE).is_file):
        return ""
    # The patterns are relative to the project, and git takes those of such a file from the top: so the project is
    # that, for once; with an index of its own, which has nothing.
    named = await git.run(
        project,
        *(f"--git-dir={common_dir}", f"--work-tree={project}"),
        *("ls-files", "-z", "--others", "--ignored", f"--exclude-from={project / FILE}"),
        environment={"GIT_INDEX_FILE": str(common_dir / "relaykit-no-index")},
    )
    if not named:
        return f"{FILE}: it names no file that is there"
    count = size = 0
    for name in await _ignored(git, project, named):
        if PurePath(name).parts[0] == DIRECTORY or name.endswith("/"):  # ours, or a nested repository
            continue
        try:
            copied = await to_thread.run_sync(_copy, project, worktree, name)
        except OSError as error:
            raise os_failed(f"cannot copy {name!r} into the worktree, as {FILE} demands", error) from error
        if copied is not None:
            count += 1
            size += copied
    said = f"{FILE}: copied {count} file{'' if count == 1 else 's'}, {size:,} bytes"
    logger.info("%s into %s", said, worktree)
    return said


async def _ignored(git: Git, project: Path, names: str) -> list[str]:
    try:
        said = await git.run(project, "check-ignore", "-z", "--stdin", stdin=os.fsencode(names))
    except GitError as error:
        if error.exit_code == 1 and not error.stderr:  # none of them is
            return []
        raise
    return [name for name in said.split("\0") if name]


def _copy(project: Path, worktree: Path, name: str) -> int | None:
    """Copy one file; return its size, or None if it was left out: it is there already, or a link is in the way."""
    path = PurePath(name)
    with ExitStack() as stack:
        source = stack.enter_context(_directory(project, path.parent, make=False))
        target = stack.enter_context(_directory(worktree, path.parent, make=True))
        if source is None or target is None:
            logger.warning("%s: %r is left out: a link, or no directory, is in its way", FILE, name)
            return None
        found = os.lstat(path.name, dir_fd=source)
        try:
            if stat.S_ISLNK(found.st_mode):
                os.symlink(os.readlink(path.name, dir_fd=source), path.name, dir_fd=target)
                return 0
            if stat.S_ISREG(found.st_mode):
                return _copy_file(path.name, source, target, stat.S_IMODE(found.st_mode) & 0o777)
        except FileExistsError:
            logger.info("%s: %r is in the worktree already", FILE, name)
            return None
    logger.warning("%s: %r is left out: it is neither a file nor a link", FILE, name)
    return None


def _copy_file(name: str, source: int, target: int, mode: int) -> int:
    size = 0
    with ExitStack() as stack:
        reading = os.open(name, os.O_RDONLY | os.O_NOFOLLOW, dir_fd=source)
        stack.callback(os.close, reading)
        # Readable by its owner alone until it is as it is to be: it may hold secrets.
        writing = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600, dir_fd=target)
        stack.callback(os.close, writing)
        while chunk := os.read(reading, _CHUNK):
            rest = memoryview(chunk)
            while rest:
                rest = rest[os.write(writing, rest) :]
            size += len(chunk)
        os.fchmod(writing, mode)
    return size


@contextmanager
def _directory(root: Path, path: PurePath, *, make: bool) -> Iterator[int | None]:
    """Open a directory below `root` without following a link; give None where one, or something else, is in the way."""
    with ExitStack() as stack:
        current = os.open(root, _DIRECTORY)
        stack.callback(os.close, current)
        for part in path.parts:
            if make:
                with suppress(FileExistsError):
                    os.mkdir(part, dir_fd=current)
            try:
                current = os.open(part, _DIRECTORY, dir_fd=current)
            except OSError as error:
                if error.errno not in {errno.ELOOP, errno.ENOTDIR}:
                    raise
                yield None
                return
            stack.callback(os.close, current)
        yield current
