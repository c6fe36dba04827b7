"""Work: what a session has done in its worktree, found by git alone; and what its owner does with it.

Whoever calls these is a person at a terminal: git is theirs, with their configuration, pager, hooks and credentials.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from relaykit.errors import WorkspaceError
from relaykit_worktree.facts import Claim, read_claim
from relaykit_worktree.git import Git, GitError, persons_environment
from relaykit_worktree.inspection import unfinished_operations
from relaykit_worktree.repository import (
    DIRECTORY,
    ListedWorktree,
    Repository,
    find_repository,
    list_worktrees,
    open_checkout,
)

_BRANCHES = "refs/heads/"


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """A session's worktree.

    :param path: its root.
    :param git_dir: git's own directory for it.
    :param branch: what is checked out in it, the full name; None if HEAD is detached.
    :param checkout: the root of the project's own checkout.
    """

    path: Path
    git_dir: Path
    branch: str | None
    claim: Claim
    checkout: Path

    def ask(self, *arguments: str, index: Path | None = None) -> str:
        """Run git in the worktree and return what it says.

        :param index: instead of the worktree's own.
        :raises GitError: it failed.
        """
        return ask(self.path, *arguments, environment=_with_index(index))

    def pass_on(self, *arguments: str, index: Path | None = None) -> int:
        """Run git in the worktree, on this terminal, and return its exit code."""
        command = ["git", "-C", str(self.path), *arguments]
        return subprocess.run(command, env=_with_index(index), check=False).returncode  # noqa: S603 -- git, no shell

    def short_branch(self) -> str:
        """Return its branch as people write it.

        :raises WorkspaceError: there is none that a commit would go to.
        """
        if self.branch is None:
            raise WorkspaceError(
                f"the HEAD of {str(self.path)!r} is detached: run `git switch -c NAME` in it"
            )
        return self.branch.removeprefix(_BRANCHES)


async def find_work(git: Git, projects: Mapping[str, Path], wanted: str) -> Work:
    """Return the worktree of a session.

    :param wanted: the session's id, or the beginning of one; or a role.
    :raises WorkspaceError: there is none, or more than one.
    """
    every = await _all_work(git, projects)
    for found in (
        [work for work in every if work.claim.session == wanted],
        [work for work in every if work.claim.session.startswith(wanted)],
        [work for work in every if work.path.name == wanted],
    ):
        if len(found) == 1:
            return found[0]
        if found:
            which = ", ".join(f"{work.claim.session} ({work.path})" for work in found)
            raise WorkspaceError(f"{wanted!r} may be any of {which}: say more of it")
    raise WorkspaceError(
        f"there is no worktree of a session or a role {wanted!r}: it was removed, or another project has it "
        "(`git worktree list` shows what there is)"
    )


async def _all_work(git: Git, projects: Mapping[str, Path]) -> Sequence[Work]:
    """Return what is in the worktrees of all projects; two may share a repository."""
    found: dict[Path, Work] = {}
    for project in projects.values():
        try:
            repository = await find_repository(git, project)
        except WorkspaceError:
            if len(projects) == 1:
                raise
            continue  # a project without worktrees
        for listed in await list_worktrees(git, repository.common_dir):
            work = await _work_in(git, repository, listed)
            if work is not None and projects.get(work.claim.project, project) == project:
                found[work.path] = work
    return list(found.values())


async def _work_in(git: Git, repository: Repository, listed: ListedWorktree) -> Work | None:
    """Return the work in a worktree; None if it is not one of ours, or is damaged."""
    if DIRECTORY not in listed.path.parts or listed.prunable is not None:
        return None
    try:
        checkout = await open_checkout(git, listed.path)
        claim = read_claim(checkout.git_dir)
    except (WorkspaceError, OSError):
        return None
    if claim is None:
        return None
    return Work(
        path=listed.path,
        git_dir=checkout.git_dir,
        branch=listed.branch,
        claim=claim,
        checkout=repository.top_level,
    )


def base_of(work: Work, given: str | None) -> str:
    """Return the commit at which the work begins: the latest that the project has too.

    That is where the role's branch began, or the latest commit that it shares with the project's own checkout, if
    that is a later one: it was rebased, or merged.

    :param given: any revision, instead.
    :raises WorkspaceError: there is none.
    """
    if given is not None:
        try:
            return _commit(work, given)
        except GitError as error:
            raise WorkspaceError(f"{given!r} is no commit in {str(work.path)!r}") from error
    try:
        shared = work.ask("merge-base", "HEAD", ask(work.checkout, "rev-parse", "HEAD").strip()).strip()
    except GitError:
        shared = ""  # they have nothing in common
    began = work.claim.base
    if began and _is_ancestor(work, began, "HEAD") and not (shared and _is_ancestor(work, began, shared)):
        return began
    if not shared:
        raise WorkspaceError(
            f"{str(work.path)!r} and {str(work.checkout)!r} have no commit in common: say where the work began, "
            "with --base"
        )
    return shared


def _commit(work: Work, revision: str) -> str:
    return work.ask("rev-parse", "--verify", "--quiet", "--end-of-options", f"{revision}^{{commit}}").strip()


def _is_ancestor(work: Work, commit: str, of: str) -> bool:
    try:
        work.ask("merge-base", "--is-ancestor", commit, of)
    except GitError:
        return False
    return True


def differences(work: Work, *, base: str | None, how: Sequence[str], paths: Sequence[str]) -> int:
    """Show on this terminal what differs from the base, files that git does not know yet too."""
    began = base_of(work, base)
    with index_copy(work) as index:
        work.ask("add", "--intent-to-add", "--", ".", index=index)
        return work.pass_on("diff", *how, began, "--", *paths, index=index)


def uncommitted(work: Work) -> str:
    """Return what is not committed, in a few words; empty if everything is."""
    count = len(work.ask("status", "--porcelain", "-z", "--no-renames").split("\0")) - 1
    return "" if not count else "1 changed file" if count == 1 else f"{count} changed files"


def commit(work: Work, *, message: str | None, verify: bool) -> int:
    """Commit everything but what is ignored to the worktree's branch.

    :raises WorkspaceError: there is nothing to commit, or something else is under way in it.
    """
    branch = work.short_branch()
    if under_way := unfinished_operations(work.git_dir):
        raise WorkspaceError(f"{'; '.join(under_way)} in {str(work.path)!r}: finish or abort it first")
    if not uncommitted(work):
        raise WorkspaceError(f"there is nothing to commit to {branch}")
    work.ask("add", "--all", "--", ".")
    options = [*(["--message", message] if message is not None else []), *([] if verify else ["--no-verify"])]
    return work.pass_on("commit", *options)


def push(work: Work, *, remote: str | None, to: str | None) -> int:
    """Push the worktree's branch, and have it follow the one there.

    :raises WorkspaceError: there is no remote, or more than one and none that is meant.
    """
    branch = work.short_branch()
    where = remote or _remote(work, branch)
    return work.pass_on("push", "--set-upstream", where, f"{_BRANCHES}{branch}:{_BRANCHES}{to or branch}")


def _remote(work: Work, branch: str) -> str:
    for key in (f"branch.{branch}.pushRemote", "remote.pushDefault", f"branch.{branch}.remote"):
        try:
            return work.ask("config", "--get", key).rstrip("\n")
        except GitError:
            continue  # it is not set
    remotes = work.ask("remote").split()
    if "origin" in remotes:
        return "origin"
    if len(remotes) == 1:
        return remotes[0]
    said = f"which of {', '.join(remotes)} is meant: say it with --remote" if remotes else "it has no remote"
    raise WorkspaceError(f"cannot push from {str(work.path)!r}: {said}")


@contextmanager
def index_copy(work: Work) -> Iterator[Path]:
    """Give a copy of the worktree's index, in which everything can be staged while the real one stays as it is."""
    with TemporaryDirectory(prefix="relaykit-") as scratch:
        index = Path(scratch) / "index"
        if (work.git_dir / "index").exists():
            shutil.copyfile(work.git_dir / "index", index)
        yield index


def ask(
    directory: Path, *arguments: str, environment: Mapping[str, str] | None = None, said: bytes = b""
) -> str:
    """Run git and return what it says, bytes that are no text as surrogates.

    :param said: what it is given to read.
    :raises GitError: it failed.
    """
    done = subprocess.run(  # noqa: S603 -- git, no shell
        ["git", "-C", str(directory), *arguments],  # noqa: S607 -- the person's git
        env=environment or persons_environment(),
        input=said,
        capture_output=True,
        check=False,
    )
    if done.returncode:
        stderr = done.stderr.decode(errors="replace").strip()
        raise GitError(
            f"`git {' '.join(arguments)}` failed in {str(directory)!r}: {stderr or done.returncode}",
            arguments=arguments,
            exit_code=done.returncode,
            stderr=stderr,
        )
    return os.fsdecode(done.stdout)


def _with_index(index: Path | None) -> Mapping[str, str]:
    environment = persons_environment()
    return environment if index is None else {**environment, "GIT_INDEX_FILE": str(index)}
