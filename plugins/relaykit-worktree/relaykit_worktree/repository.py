"""What git knows of a repository: where it is, its worktrees, its branches."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from anyio import to_thread

from relaykit.errors import NotARepository, WorkspaceError
from relaykit_worktree.errors import GitError, os_failed
from relaykit_worktree.git import Git
from relaykit_worktree.records import ListedWorktree, Unreadable, read_head, read_ref, read_worktrees

DIRECTORY = ".relaykit"
"""The directory in a repository's top level that is relaykit's own."""


@dataclass(frozen=True, slots=True)
class Repository:
    """The repository around a project.

    :param common_dir: git's own directory, the one that all worktrees share; it names the repository.
    :param git_dir: git's own directory of the checkout that the project is in.
    :param top_level: the root of the checkout that the project is in.
    :param prefix: the project's directory, relative to `top_level`.
    """

    common_dir: Path
    git_dir: Path
    top_level: Path
    prefix: Path


@dataclass(frozen=True, slots=True)
class Checkout:
    """One worktree, and git's own directory for it.

    Every command names both: left to look for itself, git would take the main repository, which lies
    around the worktree, should the worktree's ``.git`` go missing.
    """

    git: Git
    path: Path
    git_dir: Path

    async def run(
        self, *arguments: str, stdin: bytes = b"", environment: Mapping[str, str] | None = None
    ) -> str:
        """Run git on this worktree and return its standard output.

        :raises GitError: as `Git.run`.
        """
        return await self.git.run(
            self.path,
            *(f"--git-dir={self.git_dir}", f"--work-tree={self.path}", *arguments),
            stdin=stdin,
            environment=environment,
        )


async def open_checkout(git: Git, path: Path, common_dir: Path) -> Checkout:
    """Return the worktree of the repository whose root is `path`.

    :param common_dir: git's own directory of the repository.
    :raises WorkspaceError: it is none.
    """
    return Checkout(git, path, await to_thread.run_sync(_git_dir, path, common_dir))


def _git_dir(path: Path, common_dir: Path) -> Path:
    """Return git's own directory for a worktree, if the two name each other: see gitrepository-layout(5)."""
    link = path / ".git"
    try:
        named = None if link.is_symlink() else link.read_bytes()
        if named is not None and named.startswith(b"gitdir: "):
            git_dir = path / os.fsdecode(named.removeprefix(b"gitdir: ").rstrip(b"\n"))
            git_dir = Path(os.path.normpath(git_dir))
            back = git_dir / os.fsdecode((git_dir / "gitdir").read_bytes().rstrip(b"\n"))
            if git_dir.parent == common_dir / "worktrees" and Path(os.path.normpath(back)) == link:
                return git_dir
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        pass
    raise WorkspaceError(f"{str(path)!r} is no worktree any more: its `.git` is missing or leads elsewhere")


async def find_repository(git: Git, project: Path) -> Repository:
    """Return the repository that holds the directory `project`.

    :raises NotARepository: there is none.
    :raises WorkspaceError: it is bare, or git refuses to look at it.
    """
    asked = ("--path-format=absolute", "--git-common-dir", "--git-dir", "--show-toplevel", "--show-prefix")
    try:
        told = await git.run(project, "rev-parse", "--is-inside-work-tree", *asked)
    except GitError as error:
        if "not a git repository" in error.stderr:
            raise NotARepository(str(project)) from error
        if "must be run in a work tree" in error.stderr:
            raise WorkspaceError(
                f"{str(project)!r} is a bare repository or git's own directory, not a checkout: "
                "set the project's `path` to a checkout of it (`git worktree add` makes one)"
            ) from error
        raise
    answers = told.split("\n")
    if len(answers) != len(asked) + 1:  # a path holds a newline: each is asked for alone
        answers = ["true"] + [
            (await git.run(project, "rev-parse", asked[0], each)).removesuffix("\n") for each in asked[1:]
        ]
    _, common_dir, git_dir, top_level, prefix, *_ = answers
    return Repository(
        common_dir=Path(common_dir), git_dir=Path(git_dir), top_level=Path(top_level), prefix=Path(prefix)
    )


class Repositories:
    """The repositories of projects: git is asked once for each, and again when what it said may be so no longer."""

    def __init__(self, git: Git) -> None:
        self._git = git
        self._known: dict[Path, tuple[Repository, object]] = {}

    async def find(self, project: Path) -> Repository:
        """Return the repository that holds the directory `project`.

        :raises WorkspaceError: as `find_repository`.
        """
        known = self._known.get(project)
        if known is not None and await to_thread.run_sync(_signature, project, known[0]) == known[1]:
            return known[0]
        repository = await find_repository(self._git, project)
        signature = await to_thread.run_sync(_signature, project, repository)
        if signature is not None:
            self._known[project] = (repository, signature)
        return repository


def _signature(project: Path, repository: Repository) -> object:
    """Return what stays as it is while a project is in the same repository; None if that cannot be told."""
    try:
        links = [repository.top_level / ".git", repository.git_dir, repository.common_dir / "config"]
        stats = [each.stat() for each in links]
        directory = repository.top_level / repository.prefix
        if project.resolve() != directory.resolve():
            return None
        while directory != repository.top_level:  # a repository of its own may have been made between
            if os.path.lexists(directory / ".git"):
                return None
            directory = directory.parent
    except OSError:
        return None
    return [(each.st_dev, each.st_ino, each.st_mtime_ns if each is stats[-1] else 0) for each in stats]


async def list_worktrees(git: Git, directory: Path) -> list[ListedWorktree]:
    """Return every worktree of the repository, the main one first.

    :param directory: git's own directory of it.
    """
    try:
        return await to_thread.run_sync(read_worktrees, directory)
    except Unreadable:
        pass
    return parse_worktrees(await git.run(directory, "worktree", "list", "--porcelain", "-z"))


def parse_worktrees(listing: str) -> list[ListedWorktree]:
    """Read ``git worktree list --porcelain -z``: attributes end with NUL, an entry with one more."""
    found = []
    for block in listing.split("\0\0"):
        attributes = dict(line.partition(" ")[::2] for line in block.split("\0") if line)
        if "worktree" in attributes:
            found.append(
                ListedWorktree(
                    path=Path(attributes["worktree"]),
                    head=attributes.get("HEAD"),
                    branch=attributes.get("branch"),
                    locked=attributes.get("locked"),
                    prunable=attributes.get("prunable"),
                )
            )
    return found


async def branch_tip(git: Git, directory: Path, branch: str) -> str | None:
    """Return the id of the commit that `branch` (``refs/heads/…``) points to, or None without such a branch.

    :param directory: git's own directory of the repository.
    """
    try:
        return await to_thread.run_sync(read_ref, directory, branch)
    except Unreadable:
        pass
    listing = await git.run(directory, "for-each-ref", "--format=%(refname) %(objectname)", branch)
    for line in listing.splitlines():
        name, _, commit = line.partition(" ")
        if name == branch:  # a pattern also matches what is below it
            return commit
    return None


async def resolve_commit(
    git: Git, directory: Path, revision: str, repository: Repository | None = None
) -> str:
    """Return the id of the commit that `revision` means now.

    :param repository: that of the directory, where it is known.
    :raises WorkspaceError: it means none.
    """
    if repository is not None and revision == "HEAD":
        with suppress(Unreadable):
            head = await to_thread.run_sync(read_head, repository.common_dir, repository.git_dir)
            if head is not None:
                return head
    try:
        commit = await git.run(
            directory, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{revision}^{{commit}}"
        )
    except GitError as error:
        if error.exit_code is None:
            raise
        raise WorkspaceError(
            f"{revision!r} is no commit in {str(directory)!r}: make a first commit there, "
            "or correct `base` in [plugins.worktree]"
        ) from error
    return commit.strip()


async def exclude(common_dir: Path) -> None:
    """See that git ignores our directory, in this clone alone: ``info/exclude``, not ``.gitignore``."""
    try:
        await to_thread.run_sync(_exclude, common_dir / "info" / "exclude")
    except OSError as error:
        raise os_failed(f"cannot add {DIRECTORY}/ to git's info/exclude", error) from error


def _exclude(path: Path) -> None:
    line = f"/{DIRECTORY}/".encode()
    content = path.read_bytes() if path.exists() else b""
    if line in content.splitlines():
        return
    path.parent.mkdir(exist_ok=True)
    if content and not content.endswith(b"\n"):
        content += b"\n"
    # Whole or not at all: a person's own lines are in this file.
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix="exclude.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content + line + b"\n")
        Path(temporary).chmod(path.stat().st_mode & 0o777 if path.exists() else 0o644)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
