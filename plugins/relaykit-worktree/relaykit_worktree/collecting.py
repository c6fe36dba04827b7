"""Collects what is certainly ours and certainly unused; in any doubt, nothing."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path

import anyio

from relaykit.errors import WorkspaceError
from relaykit_worktree import removal, restoring
from relaykit_worktree.errors import NothingCollected
from relaykit_worktree.git import Git
from relaykit_worktree.inventory import REMOVABLE, Inventory, Item, State
from relaykit_worktree.repository import branch_tip, list_worktrees

GRACE = timedelta(hours=24)
"""How long nothing may have happened in a worktree before it is collected."""


async def candidates(inventory: Inventory, *, now: datetime) -> Sequence[Item]:
    """Return what may be removed: all that there is was looked at, and none of it changed.

    :raises NothingCollected: something could not be told.
    """
    try:
        items = await inventory.take()
    except (WorkspaceError, OSError) as error:
        raise NothingCollected(f"nothing was removed, because not everything can be told: {error}") from error
    return [item for item in items if item.state in REMOVABLE and _is_old(item, now)]


async def collect(git: Git, inventory: Inventory, item: Item) -> bool:
    """Remove one of the candidates, if it still is what it was; tell whether it was.

    :raises WorkspaceError: it could not be removed; go no further.
    """
    async with git.turn(item.repository):
        if item.parked is not None:
            with anyio.CancelScope(shield=True):
                await restoring.drop(git, item.repository, item.parked)
            return True
        found = await inventory.look_again(item)
        if found is None or (found.state, found.claim, found.branch) != (item.state, item.claim, item.branch):
            return False
        return await _remove(git, item)


async def _remove(git: Git, item: Item) -> bool:
    tip = await branch_tip(git, item.repository, item.branch) if item.branch else None
    facts = item.facts(tip or "")
    if item.state is State.UNFINISHED:
        with anyio.CancelScope(shield=True):
            # The branch stays: it may hold what an earlier session of the role has left there.
            await removal.discard_unfinished(git, facts, item.session, branch=False)
        return True
    if item.state is State.GONE:
        listing = await list_worktrees(git, item.repository)
        listed = next((each for each in listing if each.path == Path(item.path)), None)
        await removal.remove_missing(git, facts, listed)
        return True
    if tip is None:
        return False
    await removal.remove_whole(git, facts, tip)
    return True


def _is_old(item: Item, now: datetime) -> bool:
    if item.state is State.EXPIRED:
        return True
    return item.used is not None and now - item.used >= GRACE
