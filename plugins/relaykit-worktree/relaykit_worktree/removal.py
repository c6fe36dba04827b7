"""Removes a worktree, or what there is of one. Nothing here uses ``--force``."""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from pathlib import Path

import anyio
from anyio import to_thread

from relaykit.errors import WorkspaceError
from relaykit_worktree.errors import GitError
from relaykit_worktree.facts import Facts, read_maker
from relaykit_worktree.git import Git
from relaykit_worktree.inspection import Findings, inspect_branch
from relaykit_worktree.records import ListedWorktree
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


async def remove_entry(git: Git, facts: Facts) -> None:
    """Remove the worktree, or the entry of one whose directory is gone. Call it shielded.

    :raises GitError: git looked once more, and refused: it is dirty or locked, and as it was.
    """
    await git.change(facts.repository, "worktree", "remove", facts.path)


async def remove_whole(git: Git, facts: Facts, tip: str) -> list[str]:
    """Remove the worktree and its branch, and return why the branch was kept: half a removal is not given up.

    :param tip: where the branch was when all its commits were held elsewhere.
    :raises GitError: git looked once more, and refused to remove the worktree.
    """
    reasons: list[str] = []
    # Half a removal would look like work that somebody deleted: from here on it runs to its end.
    with anyio.CancelScope(shield=True):
        await remove_entry(git, facts)
        reasons += await _remove_rest(git, facts, tip, [])
    return reasons


async def remove_missing(git: Git, facts: Facts, listed: ListedWorktree | None) -> list[str]:
    """Remove what is left of a worktree whose directory is gone, or empty; return why something was kept."""
    if listed is not None:
        if listed.locked is not None:
            return ["its directory is gone, but it is locked"]
        if listed.branch != facts.branch:
            return [f"its directory is gone, and its HEAD was not on {facts.short_branch()}"]
    reasons: list[str] = []
    with anyio.CancelScope(shield=True):
        await to_thread.run_sync(_remove_empty, Path(facts.path))
        if listed is not None:
            await remove_entry(git, facts)
        try:
            findings = await inspect_branch(git, facts, await list_worktrees(git, Path(facts.repository)))
        except WorkspaceError as error:
            findings = Findings(obstacles=[str(error)])
        reasons += await _remove_rest(git, facts, findings.tip, [*findings.obstacles, *findings.work])
    return reasons


def is_missing(path: Path) -> bool:
    """Tell whether there is nothing, or an empty directory. Blocks."""
    return not os.path.lexists(path) or (path.is_dir() and not path.is_symlink() and not any(path.iterdir()))


async def _remove_rest(git: Git, facts: Facts, tip: str | None, reasons: list[str]) -> list[str]:
    if tip is not None and not reasons:
        try:
            await _delete_ref(git, facts, tip)
        except WorkspaceError as error:
            reasons = [str(error)]
    await remove_parents(facts)
    if not reasons:
        return []
    return [f"the directory is gone, the branch {facts.short_branch()} stays: {'; '.join(reasons)}"]


async def remove_parents(facts: Facts) -> None:
    """Remove the directories of ours that hold nothing any more, ``.relaykit`` included."""
    await to_thread.run_sync(_remove_parents, Path(facts.path))


async def _delete_ref(git: Git, facts: Facts, tip: str) -> None:
    # Compare and delete, so that a commit made in this very moment is not lost; and only this name, should
    # it be a symbolic one.
    await git.change(facts.repository, "update-ref", "--no-deref", "-d", facts.branch, tip)
    # `git push -u` has written there; the file is read first because it is nearly always in vain.
    if facts.short_branch() in await anyio.Path(facts.repository, "config").read_text(errors="replace"):
        await _remove_section(git, facts)


async def _remove_section(git: Git, facts: Facts) -> None:
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
    if DIRECTORY not in path.parts:  # a person has chosen the place
        return
    for parent in path.parents:
        try:
            parent.rmdir()
        except FileNotFoundError:
            pass
        except OSError:  # another role's, or a person's, is in it
            return
        if parent.name == DIRECTORY:
            return
