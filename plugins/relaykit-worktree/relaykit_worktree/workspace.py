"""Gives each role a worktree: planned, recorded, made; or unmade."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import anyio
from anyio import to_thread

from relaykit.agent import Record
from relaykit.errors import WorkspaceError
from relaykit.session import Session
from relaykit_worktree import removal
from relaykit_worktree.facts import Facts, read_claim, read_maker, role_name, unfinished, write_claim
from relaykit_worktree.git import Git
from relaykit_worktree.processes import is_gone, processes_in
from relaykit_worktree.repository import (
    DIRECTORY,
    ListedWorktree,
    Repository,
    branch_tip,
    exclude,
    find_repository,
    list_worktrees,
    open_checkout,
    resolve_commit,
)

logger = logging.getLogger(__name__)


class WorktreeWorkspace:
    """A worktree and a branch for each role, kept where removing them would lose work.

    Calls may be concurrent, for one repository too.

    :param projects: each project's directory, by name.
    :param base: the revision from which a role's new branch starts.
    """

    def __init__(self, projects: Mapping[str, Path], *, git: Git, base: str) -> None:
        self._projects = projects
        self._git = git
        self._base = base

    async def prepare(self, session: Session, record: Record, /) -> Path:
        """Return the role's worktree, or the project's subdirectory in it: made, checked out again, or adopted.

        :raises InvalidAgentId: the role may not name a directory and a branch.
        :raises NotARepository: the project's directory is not in a git repository.
        :raises WorkspaceError: git is missing or fails, or something is in the way: the message says what.
        """
        name = role_name(session)
        project = self._projects.get(session.project)
        if project is None:
            raise WorkspaceError(f"there is no project {session.project!r} in the settings")
        if not await anyio.Path(project).is_dir():
            raise WorkspaceError(f"the directory {str(project)!r} of project {session.project!r} is missing")
        repository = await find_repository(self._git, project)
        async with self._git.turn(repository.common_dir):
            facts = await self._plan(session, repository, name)
            await record(facts.to_json())
            if facts.adopted:
                checkout = await open_checkout(self._git, Path(facts.path))
                await to_thread.run_sync(_take_over, checkout.git_dir, session)
                return await to_thread.run_sync(_working_directory, checkout.path, repository.prefix)
            await exclude(repository.common_dir)
            return await self._make(session, facts, repository.prefix)

    async def _plan(self, session: Session, repository: Repository, name: str) -> Facts:
        root = repository.top_level / DIRECTORY / "worktrees"
        path = root / name
        branch = f"refs/heads/relaykit/{name}"
        await to_thread.run_sync(_check_own_directories, repository.top_level, path.parent)
        tip = await branch_tip(self._git, repository.common_dir, branch)
        facts = Facts(
            repository=str(repository.common_dir),
            path=str(path),
            branch=branch,
            base=tip or await resolve_commit(self._git, self._projects[session.project], self._base),
            branch_existed=tip is not None,
            adopted=False,
        )
        for listed in await list_worktrees(self._git, repository.common_dir):
            if listed.path == path and await self._was_given_up(facts, listed):
                break
            if listed.path == path:
                adopted = replace(facts, adopted=True)
                await self._check_adoption(session, adopted, listed)
                return adopted
            if listed.branch == branch:
                raise WorkspaceError(
                    f"the branch {facts.short_branch()!r} is checked out in {str(listed.path)!r}: "
                    "check out another branch there, or choose another role"
                )
        if await to_thread.run_sync(_is_in_the_way, path):
            raise WorkspaceError(
                f"{str(path)!r} is in the way: it is no worktree of this repository; move it elsewhere, or remove it"
            )
        return facts

    async def _was_given_up(self, facts: Facts, listed: ListedWorktree) -> bool:
        """Take away what a relay began and was killed over; tell whether there was such a thing."""
        maker = read_maker(listed.locked)
        if maker is None:
            return await self._was_removed(facts, listed)
        if not is_gone(maker.process, maker.started):
            return False
        logger.warning("%s was never finished, by session %s: it is made anew", facts.path, maker.session)
        with anyio.CancelScope(shield=True):
            # The branch stays as it is: it may hold what an earlier session of the role has left there.
            await removal.discard_unfinished(self._git, facts, maker.session, branch=False)
        return True

    async def _was_removed(self, facts: Facts, listed: ListedWorktree) -> bool:
        """Take away the entry of a worktree that is gone: a relay was killed while git removed it."""
        path = Path(facts.path)
        if listed.prunable is None or listed.locked is not None:
            return False
        if await to_thread.run_sync(_is_in_the_way, path):
            return False
        logger.warning("%s is gone, and git still lists it: it is made anew", facts.path)
        await removal.remove_worktree(self._git, facts)
        return True

    async def _check_adoption(self, session: Session, facts: Facts, listed: ListedWorktree) -> None:
        where = f"the kept worktree {facts.path!r} of role {session.agent_id!r}"
        if listed.prunable is not None:
            raise WorkspaceError(
                f"{where} is damaged ({listed.prunable}): restore it, or run `git worktree prune`"
            )
        if listed.locked is not None:
            why = f" ({listed.locked})" if listed.locked else ""
            raise WorkspaceError(
                f"{where} is locked{why}: run `git worktree unlock` on it once nobody needs the lock"
            )
        if listed.branch != facts.branch:
            on = (listed.branch or "a detached HEAD").removeprefix("refs/heads/")
            raise WorkspaceError(
                f"{where} is on {on}, not on {facts.short_branch()}: save what it holds, "
                f"then run `git switch {facts.short_branch()}` in it"
            )
        checkout = await open_checkout(self._git, listed.path)
        claim = await to_thread.run_sync(read_claim, checkout.git_dir)
        if claim is not None and claim.project != session.project:
            raise WorkspaceError(
                f"{where} belongs to project {claim.project!r}, which shares this repository: choose another role"
            )
        processes = await processes_in(Path(facts.path))
        if processes:
            raise WorkspaceError(
                f"{where} is in use by process {', '.join(map(str, processes))}: end it, or choose another role"
            )

    async def _make(self, session: Session, facts: Facts, prefix: Path) -> Path:
        git, path, repository = self._git, Path(facts.path), Path(facts.repository)
        made_directory = made_branch = False
        try:
            # Each of these steps happens or does not, cancelled or not, so that what is undone is what was done.
            with anyio.CancelScope(shield=True):
                await to_thread.run_sync(_make_directory, path)
                made_directory = True
            if not facts.branch_existed:
                # The empty old value: only if there is no such branch.
                await git.change(repository, "update-ref", facts.branch, facts.base, "")
                made_branch = True
            # Locked from its first moment until its checkout is complete: then nobody adopts it before that,
            # and after a crash the cleaner knows that nobody has worked in it.
            await git.change(
                repository,
                *("worktree", "add", "--no-checkout", "--lock", "--reason", unfinished(session)),
                *(str(path), facts.short_branch()),
            )
            checkout = await open_checkout(git, path)
            # This part may be long, and can be cancelled. It writes index and files alone: a git that is ended
            # while it locks a ref may leave the lock behind, and no ref's lock goes away with the worktree.
            await checkout.run("read-tree", "--reset", "-u", "--no-recurse-submodules", "HEAD")
            directory = await to_thread.run_sync(_working_directory, path, prefix)
            with anyio.CancelScope(shield=True):
                base = "" if facts.branch_existed else facts.base
                await to_thread.run_sync(partial(write_claim, base=base), checkout.git_dir, session)
                # Last: nothing that can fail or be cancelled comes after it.
                await git.change(repository, "worktree", "unlock", str(path))
        except BaseException as error:
            with anyio.CancelScope(shield=True):
                try:
                    if made_directory:
                        await removal.discard_unfinished(git, facts, session.id, branch=made_branch)
                    else:
                        await removal.remove_parents(facts)
                except (WorkspaceError, OSError) as left:
                    logger.exception("could not undo the worktree %s", path)
                    error.add_note(f"what was begun could not be undone, {facts.path!r} is left: {left}")
            if isinstance(error, OSError):
                raise WorkspaceError(f"cannot make the worktree {facts.path!r}: {error}") from error
            raise
        return directory


def _take_over(git_dir: Path, session: Session) -> None:
    claim = read_claim(git_dir)
    write_claim(git_dir, session, base=claim.base if claim is not None else "")


def _check_own_directories(top_level: Path, parent: Path) -> None:
    # A repository may hold a link of this name, and lead us anywhere.
    while parent != top_level:
        if parent.is_symlink() or (parent.exists() and not parent.is_dir()):
            raise WorkspaceError(f"{str(parent)!r} is not a directory of relaykit's own: move it elsewhere")
        parent = parent.parent


def _is_in_the_way(path: Path) -> bool:
    """Tell whether there is anything at the path; an empty directory is none, and goes."""
    try:
        path.rmdir()  # a relay was killed just before git began
    except OSError:
        return os.path.lexists(path)
    return False


def _make_directory(path: Path) -> None:
    for _ in range(100):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.mkdir()  # ours alone: it fails if anybody else has just made it
        except FileNotFoundError:  # another role's end has just removed the empty parent
            continue
        else:
            return
    raise WorkspaceError(f"cannot make {str(path)!r}: its parent directory is removed again and again")


def _working_directory(worktree: Path, prefix: Path) -> Path:
    inside = worktree / prefix
    # The base may not have that directory; or have a link in its place, which leads elsewhere.
    return inside if inside.is_dir() and inside.resolve().is_relative_to(worktree.resolve()) else worktree
