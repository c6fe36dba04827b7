"""Gives each role a worktree: planned, recorded, made; or unmade."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import anyio
from anyio import to_thread

from relaykit.agent import Record, Say
from relaykit.errors import WorkspaceError
from relaykit.session import Session
from relaykit_worktree import removal, restoring
from relaykit_worktree.errors import os_failed
from relaykit_worktree.facts import Claim, Facts, claim_of, read_claim, read_maker, role_name, write_claim
from relaykit_worktree.fetching import fetch_base
from relaykit_worktree.git import Git
from relaykit_worktree.including import include
from relaykit_worktree.making import Making, check_own_directories, is_in_the_way
from relaykit_worktree.parked import Parked, list_parked, ref_of
from relaykit_worktree.processes import is_gone, processes_in
from relaykit_worktree.records import ListedWorktree
from relaykit_worktree.repository import (
    DIRECTORY,
    Checkout,
    Repositories,
    Repository,
    branch_tip,
    exclude,
    list_worktrees,
    open_checkout,
    resolve_commit,
)
from relaykit_worktree.settings import WorktreeSettings
from relaykit_worktree.setup_command import SetupCommand

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Plan:
    """What is to be done for a session.

    :param parked: what is to be brought back; None: the branch's files are.
    """

    facts: Facts
    parked: Parked | None = None


class WorktreeWorkspace:
    """A worktree and a branch for each role, kept where removing them would lose work.

    Calls may be concurrent, for one repository too.

    :param projects: each project's directory, by name.
    :param state_dir: the relay's: it is in each worktree's claim.
    :param environ: where the variables that ``setup`` is to have come from.
    """

    def __init__(
        self,
        projects: Mapping[str, Path],
        *,
        git: Git,
        settings: WorktreeSettings,
        state_dir: Path,
        environ: Mapping[str, str],
    ) -> None:
        self._projects = projects
        self._git = git
        self._repositories = Repositories(git)
        self._settings = settings
        self._state_dir = state_dir
        self._setup = SetupCommand(settings, environ)

    async def prepare(self, session: Session, record: Record, say: Say, /) -> Path:
        """Return the role's worktree, or the project's subdirectory in it: made, checked out again, or adopted.

        A session that was parked, and is revived, gets back what was in its worktree.

        :raises InvalidAgentId: the role may not name a directory and a branch.
        :raises NotARepository: the project's directory is not in a git repository.
        :raises BaseNotFetched: the base is a remote's branch that could not be fetched.
        :raises SetupFailed: the setup command of settings failed or overran.
        :raises WorkspaceError: git is missing or fails, or something is in the way: the message says what.
        """
        name = role_name(session)
        project = self._projects.get(session.project)
        if project is None:
            raise WorkspaceError(f"there is no project {session.project!r} in the settings")
        if not await anyio.Path(project).is_dir():
            raise WorkspaceError(f"the directory {str(project)!r} of project {session.project!r} is missing")
        git = self._git
        repository = await self._repositories.find(project)
        if self._settings.fetch and not await branch_tip(git, repository.common_dir, _branch(name)):
            await fetch_base(git, repository.common_dir, self._settings.base)
        claim = await to_thread.run_sync(claim_of, session, self._state_dir)
        making: Making | None = None
        try:
            async with git.turn(repository.common_dir):
                plan = await self._plan(session, repository, name)
                facts = plan.facts
                await record(facts.to_json())
                if facts.adopted:
                    checkout = await open_checkout(git, Path(facts.path), repository.common_dir)
                    held = await to_thread.run_sync(read_claim, checkout.git_dir)
                    await self._claim(checkout, replace(claim, base=held.base if held is not None else ""))
                    return await to_thread.run_sync(_working_directory, checkout.path, repository.prefix)
                await exclude(repository.common_dir)
                began = "" if facts.branch_existed or plan.parked is not None else facts.base
                making = Making(git, facts, replace(claim, base=began))
                checkout = await making.begin()
            # Others need not wait for what follows. It may be long, and can be cancelled. It writes index and files
            # alone: a git that is ended while it locks a ref may leave the lock behind, and no ref's lock goes away
            # with the worktree.
            directory = await self._fill(checkout, session, plan.parked, repository, say)
            await making.finish(checkout)
        except BaseException as error:
            if making is not None:
                await making.undo(error)
            raise
        if plan.parked is not None:
            await self._drop(plan.parked, facts)
        return directory

    async def _claim(self, checkout: Checkout, claim: Claim) -> None:
        try:
            await to_thread.run_sync(write_claim, checkout.git_dir, claim)
        except OSError as error:
            raise os_failed(f"cannot take up {str(checkout.path)!r}", error) from error

    async def _fill(
        self, checkout: Checkout, session: Session, parked: Parked | None, repository: Repository, say: Say
    ) -> Path:
        """Check out the files; return the directory that stands for the project's."""
        if parked is not None:
            await restoring.fill(checkout, parked)
            await say(f"brought back from {parked.ref}\n")
            return await to_thread.run_sync(_working_directory, checkout.path, repository.prefix)
        await checkout.run("read-tree", "--reset", "-u", "--no-recurse-submodules", "HEAD")
        directory = await to_thread.run_sync(_working_directory, checkout.path, repository.prefix)
        project = repository.top_level / repository.prefix
        if included := await include(self._git, repository.common_dir, project, directory):
            await say(included + "\n")
        await self._setup.run(directory, session, project, say)
        return directory

    async def _drop(self, parked: Parked, facts: Facts) -> None:
        try:
            await restoring.drop(self._git, Path(facts.repository), parked)
        except WorkspaceError as error:  # it is a copy now, and does no harm
            logger.warning("%s was brought back, and could not be deleted: %s", parked.ref, error)

    async def _plan(self, session: Session, repository: Repository, name: str) -> _Plan:
        root = repository.top_level / DIRECTORY / "worktrees"
        path = root / name
        branch = _branch(name)
        await to_thread.run_sync(check_own_directories, repository.top_level, path.parent)
        tip = await branch_tip(self._git, repository.common_dir, branch)
        parked = await self._parked(session, repository, tip)
        facts = Facts(
            repository=str(repository.common_dir),
            path=str(path),
            branch=branch,
            base=tip or (parked.head if parked else await self._base(session, repository)),
            branch_existed=tip is not None,
            adopted=False,
        )
        for listed in await list_worktrees(self._git, repository.common_dir):
            if listed.path == path and await self._was_given_up(facts, listed):
                break
            if listed.path == path:
                adopted = replace(facts, adopted=True)
                await self._check_adoption(session, adopted, listed)
                return _Plan(adopted)
            if listed.branch == branch:
                raise WorkspaceError(
                    f"the branch {facts.short_branch()!r} is checked out in {str(listed.path)!r}: "
                    "check out another branch there, or choose another role"
                )
        if await to_thread.run_sync(is_in_the_way, path):
            raise WorkspaceError(
                f"{str(path)!r} is in the way: it is no worktree of this repository; move it elsewhere, or remove it"
            )
        return _Plan(facts, parked)

    async def _base(self, session: Session, repository: Repository) -> str:
        project = self._projects[session.project]
        return await resolve_commit(self._git, project, self._settings.base, repository)

    async def _parked(self, session: Session, repository: Repository, tip: str | None) -> Parked | None:
        """Return what is parked of this very session, if the role's branch is still where it was, or gone."""
        try:
            ref = ref_of(session.id)
        except WorkspaceError:  # then nothing was
            return None
        if await branch_tip(self._git, repository.common_dir, ref) is None:
            return None
        found = await list_parked(self._git, repository.common_dir, ref)
        return next((each for each in found if tip in {None, each.head}), None)

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
        if await to_thread.run_sync(is_in_the_way, path):
            return False
        logger.warning("%s is gone, and git still lists it: it is made anew", facts.path)
        await removal.remove_entry(self._git, facts)
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
        checkout = await open_checkout(self._git, listed.path, Path(facts.repository))
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


def _branch(name: str) -> str:
    return f"refs/heads/relaykit/{name}"


def _working_directory(worktree: Path, prefix: Path) -> Path:
    inside = worktree / prefix
    # The base may not have that directory; or have a link in its place, which leads elsewhere.
    return inside if inside.is_dir() and inside.resolve().is_relative_to(worktree.resolve()) else worktree
