"""Removes a session's worktree where nothing is lost by it, and says why where it is kept."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import anyio
from anyio import to_thread

from relaykit.errors import WorkspaceError
from relaykit.meter import NO_METER, Meter
from relaykit.session import CleanerResult, Handle, Outcome, Phase, Session
from relaykit_worktree import removal
from relaykit_worktree.facts import Facts, read_claim, read_maker
from relaykit_worktree.git import Git
from relaykit_worktree.inspection import reasons_to_keep, reasons_to_keep_branch
from relaykit_worktree.reasons import Reason, Why, count_kept
from relaykit_worktree.repository import ListedWorktree, branch_tip, list_worktrees, open_checkout


class WorktreeCleaner:
    """Removes worktree and branch, or keeps both: every check comes before the first change.

    Any doubt keeps them: also a git command that fails, and an answer of git's that is not understood.

    :param disposable: names, or patterns, of ignored files that may go.
    """

    name = "worktree"
    phase = Phase.WORKSPACE

    def __init__(self, *, git: Git, disposable: Sequence[str], meter: Meter = NO_METER) -> None:
        self._meter = meter
        self._git = git
        self._disposable = tuple(disposable)

    async def clean(self, session: Session, handle: Handle | None, /) -> CleanerResult:
        """Remove the worktree that the session recorded; DONE, KEPT with every reason, or SKIPPED."""
        del handle
        recorded = session.resources.get(self.name)
        if recorded is None:
            return CleanerResult(self.name, Outcome.SKIPPED, "no worktree was made")
        where = str(recorded.get("path"))
        try:
            facts = Facts.from_json(recorded)
            if not await anyio.Path(facts.repository).is_dir():
                return await self._without_repository(facts)
            async with self._git.turn(facts.repository):
                reasons = await self._remove(session, facts)
        except (WorkspaceError, OSError) as error:
            reasons = [str(error)]
        if reasons:
            count_kept(self._meter, reasons)
            return CleanerResult(self.name, Outcome.KEPT, f"kept {where}: {'; '.join(reasons)}")
        return CleanerResult(self.name, Outcome.DONE, f"removed {where}")

    async def _without_repository(self, facts: Facts) -> CleanerResult:
        if await to_thread.run_sync(os.path.lexists, facts.path):
            detail = f"kept {facts.path}: its repository {facts.repository} is gone"
            count_kept(self._meter, [detail])
            return CleanerResult(self.name, Outcome.KEPT, detail)
        return CleanerResult(self.name, Outcome.SKIPPED, f"the repository {facts.repository} is gone")

    async def _remove(self, session: Session, facts: Facts) -> list[str]:
        """Remove what may be removed; return why something was kept."""
        worktrees = await list_worktrees(self._git, Path(facts.repository))
        listed = next((worktree for worktree in worktrees if str(worktree.path) == facts.path), None)
        maker = read_maker(listed.locked) if listed is not None else None
        if maker is not None and maker.session == session.id:
            with anyio.CancelScope(shield=True):
                await removal.discard_unfinished(
                    self._git, facts, session.id, branch=not facts.branch_existed
                )
            return []
        missing = await to_thread.run_sync(_is_missing, Path(facts.path))
        if missing:
            reasons = _reasons_of_missing(listed, facts)
        elif listed is None:
            reasons = [Reason(Why.NOT_OURS, "git does not list it as a worktree, but it holds files")]
        else:
            reasons = await self._reasons(session, facts, worktrees)
        if reasons:
            return reasons
        # Half a removal would look like work that somebody deleted: from here on it runs to its end.
        with anyio.CancelScope(shield=True):
            if missing:
                await removal.remove_empty(facts)
            if listed is not None:
                await removal.remove_worktree(self._git, facts)
            try:
                why = await removal.delete_branch(self._git, facts)
            except WorkspaceError as error:
                why = [str(error)]
            await removal.remove_parents(facts)
        if not why:
            return []
        stays = f"the directory is gone, the branch {facts.short_branch()} stays: {'; '.join(why)}"
        return [Reason(Why.COMMITS, stays)]

    async def _reasons(
        self, session: Session, facts: Facts, worktrees: Sequence[ListedWorktree]
    ) -> list[str]:
        checkout = await open_checkout(self._git, Path(facts.path))
        claim = await to_thread.run_sync(read_claim, checkout.git_dir)
        if claim is None or claim.session != session.id:
            who = f", but by {claim.session}" if claim else ""
            return [Reason(Why.NOT_OURS, f"it is not held by this session{who}")]
        reasons = await reasons_to_keep(checkout, facts, worktrees, self._disposable)
        tip = await branch_tip(self._git, Path(facts.repository), facts.branch)
        if tip is None:
            reasons.append(Reason(Why.BRANCH, f"its branch {facts.short_branch()} is gone"))
        else:
            reasons += await reasons_to_keep_branch(self._git, facts, tip, worktrees)
        return reasons


def _is_missing(path: Path) -> bool:
    return not os.path.lexists(path) or (path.is_dir() and not path.is_symlink() and not any(path.iterdir()))


def _reasons_of_missing(listed: ListedWorktree | None, facts: Facts) -> list[str]:
    if listed is None:
        return []
    if listed.locked is not None:
        return [Reason(Why.LOCKED, "its directory is gone, but it is locked")]
    if listed.branch != facts.branch:
        return [Reason(Why.BRANCH, f"its directory is gone, and its HEAD was not on {facts.short_branch()}")]
    return []
