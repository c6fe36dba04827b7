"""Removes a worktree, or what there is of one. Nothing here uses ``--force``."""

from __future__ import annotations

import shutil
from contextlib import suppress
from pathlib import Path

from anyio import to_thread

from relaykit.errors import WorkspaceError
from relaykit_worktree.facts import Facts, read_maker
from relaykit_worktree.git import Git, GitError
from relaykit_worktree.inspection import reasons_to_keep_branch
from relaykit_worktree.repository import DIRECTORY, branch_tip, list_worktrees


async def discard_unfinished(git: Git, facts: Facts, session_id: str, *, branch: bool) -> None:
    """Take away a worktree that a session began to make, and in which nobody has worked yet.

    Call it shielded. Safe to repeat.

    :param branch: that session made the branch, too; it goes where it is still at its base.
    :raises WorkspaceError: something of it is left.
    """
    path = Path(facts.path)
    listed = next(
        (one for one in await list_worktrees(git, Path(facts.repository)) if one.path == path), None
    )
    if listed is not None:
        maker = read_maker(listed.locked)
        if maker is None or maker.session != session_id:
            raise WorkspaceError(f"{facts.path!r} is not unfinished any more")
        await to_thread.run_sync(_remove_tree, path)
        await git.change(facts.repository, "worktree", "unlock", facts.path)
        await git.change(facts.repository, "worktree", "remove", facts.path)
    else:
        await to_thread.run_sync(_remove_empty, path)
    if branch and await branch_tip(git, Path(facts.repository), facts.branch) == facts.base:
        await _delete_ref(git, facts, facts.base)
    await remove_parents(facts)


async def remove_worktree(git: Git, facts: Facts) -> None:
    """Remove the worktree, or the entry of one whose directory is gone. Call it shielded.

    :raises GitError: git looked once more, and refused: it is dirty or locked, and as it was.
    """
    await git.change(facts.repository, "worktree", "remove", facts.path)


async def delete_branch(git: Git, facts: Facts) -> list[str]:
    """Delete the role's branch if that loses no commit, and return why it was kept. Call it shielded."""
    repository = Path(facts.repository)
    tip = await branch_tip(git, repository, facts.branch)
    if tip is None:
        return []
    reasons = await reasons_to_keep_branch(git, facts, tip, await list_worktrees(git, repository))
    if not reasons:
        await _delete_ref(git, facts, tip)
    return reasons


async def remove_parents(facts: Facts) -> None:
    """Remove the directories of ours that hold nothing any more, ``.relaykit`` included."""
    await to_thread.run_sync(_remove_parents, Path(facts.path))


async def remove_empty(facts: Facts) -> None:
    """Remove the worktree's directory if it is there and empty.

    :raises OSError: it holds something.
    """
    await to_thread.run_sync(_remove_empty, Path(facts.path))


async def _delete_ref(git: Git, facts: Facts, tip: str) -> None:
    # Compare and delete, so that a commit made in this very moment is not lost; and only this name, should
    # it be a symbolic one.
    await git.change(facts.repository, "update-ref", "--no-deref", "-d", facts.branch, tip)
    try:
        await git.change(
            facts.repository, "config", "--local", "--remove-section", f"branch.{facts.short_branch()}"
        )
    except GitError as error:
        if "no such section" not in error.stderr.lower():
            raise


def _remove_tree(path: Path) -> None:
    with suppress(FileNotFoundError):
        shutil.rmtree(path)


def _remove_empty(path: Path) -> None:
    with suppress(FileNotFoundError):
        path.rmdir()


def _remove_parents(path: Path) -> None:
    for parent in path.parents:
        try:
            parent.rmdir()
        except FileNotFoundError:
            pass
        except OSError:  # another role's, or a person's, is in it
            return
        if parent.name == DIRECTORY:
            return
