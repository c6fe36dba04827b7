"""Removes a session's worktree where nothing is lost by it, and says why where it is kept."""

from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

import anyio
from anyio import to_thread

from relaykit.clock import Clock
from relaykit.errors import WorkspaceError
from relaykit.meter import NO_METER, Meter
from relaykit.session import CleanerResult, Handle, Outcome, Phase, Session
from relaykit_worktree import removal
from relaykit_worktree.errors import os_failed
from relaykit_worktree.facts import Facts, read_claim, read_maker
from relaykit_worktree.files import expand
from relaykit_worktree.git import Git
from relaykit_worktree.inspection import Findings, inspect, inspect_files
from relaykit_worktree.parked import Parked
from relaykit_worktree.parking import park
from relaykit_worktree.reasons import Reason, Why, count_kept
from relaykit_worktree.records import ListedWorktree
from relaykit_worktree.repository import Checkout, list_worktrees, open_checkout
from relaykit_worktree.settings import OnDirty, WorktreeSettings


class WorktreeCleaner:
    """Removes worktree and branch, or keeps both: every check comes before the first change.

    Any doubt keeps them: also a git command that fails, and an answer of git's that is not understood.

    What is dirty is parked instead of kept, where settings want it and it can be.
    """

    name = "worktree"
    phase = Phase.WORKSPACE

    def __init__(
        self, *, git: Git, settings: WorktreeSettings, clock: Clock, meter: Meter = NO_METER
    ) -> None:
        self._meter = meter
        self._git = git
        self._settings = settings
        self._clock = clock

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
                reasons, parked = await self._remove(session, facts)
        except WorkspaceError as error:
            reasons, parked = [str(error)], None
        except OSError as error:
            reasons, parked = [str(os_failed("what is in it cannot be read, or be parked", error))], None
        where_it_is = f"; what was in it is in {parked.ref}" if parked is not None else ""
        if reasons:
            count_kept(self._meter, reasons)
            return CleanerResult(self.name, Outcome.KEPT, f"kept {where}: {'; '.join(reasons)}{where_it_is}")
        if parked is not None:
            until = f" until {parked.expires:%Y-%m-%d}" if parked.expires is not None else ""
            detail = f"removed {where}{where_it_is}{until}: `relaykit worktrees restore {session.id}` brings it back"
            return CleanerResult(self.name, Outcome.DONE, detail)
        return CleanerResult(self.name, Outcome.DONE, f"removed {where}")

    async def _without_repository(self, facts: Facts) -> CleanerResult:
        if await to_thread.run_sync(os.path.lexists, facts.path):
            detail = f"kept {facts.path}: its repository {facts.repository} is gone"
            count_kept(self._meter, [detail])
            return CleanerResult(self.name, Outcome.KEPT, detail)
        return CleanerResult(self.name, Outcome.SKIPPED, f"the repository {facts.repository} is gone")

    async def _remove(self, session: Session, facts: Facts) -> tuple[list[str], Parked | None]:
        """Remove what may be removed; return why something was kept, and what was parked."""
        worktrees = await list_worktrees(self._git, Path(facts.repository))
        listed = next((worktree for worktree in worktrees if str(worktree.path) == facts.path), None)
        maker = read_maker(listed.locked) if listed is not None else None
        if maker is not None and maker.session == session.id:
            with anyio.CancelScope(shield=True):
                await removal.discard_unfinished(
                    self._git, facts, session.id, branch=not facts.branch_existed
                )
            return [], None
        if await to_thread.run_sync(removal.is_missing, Path(facts.path)):
            return await removal.remove_missing(self._git, facts, listed), None
        if listed is None:
            return [Reason(Why.NOT_OURS, "git does not list it as a worktree, but it holds files")], None
        return await self._remove_worktree(session, facts, worktrees)

    async def _remove_worktree(
        self, session: Session, facts: Facts, worktrees: Sequence[ListedWorktree]
    ) -> tuple[list[str], Parked | None]:
        checkout = await open_checkout(self._git, Path(facts.path), Path(facts.repository))
        claim = await to_thread.run_sync(read_claim, checkout.git_dir)
        if claim is None or claim.session != session.id:
            who = f", but by {claim.session}" if claim else ""
            return [Reason(Why.NOT_OURS, f"it is not held by this session{who}")], None
        findings = await inspect(checkout, facts, worktrees, self._settings.disposable)
        parks = self._settings.on_dirty is not OnDirty.KEEP
        if findings.work and parks:
            findings.obstacles += [f"it cannot be parked: {reason}" for reason in findings.unparkable]
        if findings.obstacles or findings.tip is None or (findings.work and not parks):
            return [*findings.obstacles, *findings.work], None
        if not findings.work:
            return await removal.remove_whole(self._git, facts, findings.tip), None
        parked = await self._park(checkout, session, facts, findings)
        reasons: list[str] = []
        with anyio.CancelScope(shield=True):
            try:
                reasons += await self._late(checkout, facts)
                if not reasons:
                    reasons += await removal.remove_whole(self._git, facts, findings.tip)
            except WorkspaceError as error:
                reasons.append(str(error))
        return reasons, parked

    async def _late(self, checkout: Checkout, facts: Facts) -> list[str]:
        """Return what has come into a worktree since it was parked: git would not mind what is ignored."""
        findings = await inspect_files(checkout, facts, self._settings.disposable)
        names = await to_thread.run_sync(expand, checkout.path, findings.names, self._settings.disposable)
        late = [f"since it was parked came {', '.join(map(ascii, names))}"] if names else []
        return [*findings.obstacles, *late]

    async def _park(self, checkout: Checkout, session: Session, facts: Facts, findings: Findings) -> Parked:
        at = self._clock.now()
        expires = None
        if self._settings.on_dirty is OnDirty.REMOVE:
            expires = at + timedelta(days=self._settings.parked_days)
        names = await to_thread.run_sync(expand, checkout.path, findings.names, self._settings.disposable)
        return await park(checkout, facts, session, names, at=at, expires=expires)
