"""Makes one worktree: whatever of it was made is taken away again unless it is finished."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import anyio
from anyio import to_thread

from relaykit.errors import WorkspaceError
from relaykit_worktree import removal
from relaykit_worktree.errors import os_failed
from relaykit_worktree.facts import Claim, Facts, unfinished, write_claim
from relaykit_worktree.git import Git
from relaykit_worktree.repository import Checkout, open_checkout

logger = logging.getLogger(__name__)


class Making:
    """A worktree from its first moment until somebody may work in it.

    Each step happens or does not, cancelled or not, so that what is undone is what was done. The worktree is locked
    until it is finished: nobody adopts it before that, and after a crash it is known that nobody has worked in it.

    :param claim: whose it will be.
    """

    def __init__(self, git: Git, facts: Facts, claim: Claim) -> None:
        self._git = git
        self._facts = facts
        self._claim = claim
        self._made_directory = False
        self._made_branch = False

    async def begin(self) -> Checkout:
        """Make directory, branch and worktree, without any file in it. Call it in the repository's turn.

        :raises WorkspaceError: something of it cannot be made.
        """
        git, facts, path = self._git, self._facts, Path(self._facts.path)
        try:
            with anyio.CancelScope(shield=True):
                await to_thread.run_sync(_make_directory, path)
                self._made_directory = True
        except OSError as error:
            raise os_failed(f"cannot make the directory {facts.path!r}", error) from error
        if not facts.branch_existed:
            # The empty old value: only if there is no such branch.
            await git.change(facts.repository, "update-ref", facts.branch, facts.base, "")
            self._made_branch = True
        await git.change(
            facts.repository,
            *("worktree", "add", "--no-checkout", "--lock", "--reason", unfinished(self._claim.session)),
            *(facts.path, facts.short_branch()),
        )
        return await open_checkout(git, path, Path(facts.repository))

    async def finish(self, checkout: Checkout) -> None:
        """Say whose the worktree is, and unlock it: nothing that can fail or be cancelled comes after it.

        :raises WorkspaceError: it cannot be written to.
        """
        try:
            with anyio.CancelScope(shield=True):
                await to_thread.run_sync(write_claim, checkout.git_dir, self._claim)
                await to_thread.run_sync(
                    (checkout.git_dir / "locked").unlink
                )  # as `git worktree unlock` does
        except OSError as error:
            raise os_failed(f"cannot finish the worktree {self._facts.path!r}", error) from error

    async def undo(self, error: BaseException) -> None:
        """Take away what was made, cancelled or not. What is left all the same, `error` gets a note of.

        :param error: why.
        """
        with anyio.CancelScope(shield=True):
            try:
                async with self._git.turn(self._facts.repository):
                    if self._made_directory:
                        await removal.discard_unfinished(
                            self._git, self._facts, self._claim.session, branch=self._made_branch
                        )
                    else:
                        await removal.remove_parents(self._facts)
            except (WorkspaceError, OSError) as left:
                logger.exception("could not undo the worktree %s", self._facts.path)
                error.add_note(f"what was begun could not be undone, {self._facts.path!r} is left: {left}")


def check_own_directories(top_level: Path, parent: Path) -> None:
    """See that none of our directories is a link, or something else. Blocks.

    :raises WorkspaceError: one is.
    """
    # A repository may hold a link of this name, and lead us anywhere.
    while parent != top_level:
        if parent.is_symlink() or (parent.exists() and not parent.is_dir()):
            raise WorkspaceError(f"{str(parent)!r} is not a directory of relaykit's own: move it elsewhere")
        parent = parent.parent


def is_in_the_way(path: Path) -> bool:
    """Tell whether there is anything at the path; an empty directory is none, and goes. Blocks."""
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
