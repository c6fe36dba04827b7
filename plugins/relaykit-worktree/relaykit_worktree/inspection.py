"""Why a worktree must be kept: everything that removing it would lose."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from anyio import to_thread

from relaykit.errors import WorkspaceError
from relaykit_worktree.facts import Facts
from relaykit_worktree.files import look_at_files
from relaykit_worktree.git import Git, together
from relaykit_worktree.processes import processes_in
from relaykit_worktree.reasons import Reason, Why
from relaykit_worktree.records import ListedWorktree, Unreadable, has_own_refs, points_there
from relaykit_worktree.repository import Checkout, branch_tip

_OPERATIONS = {
    "rebase-merge": "a rebase",
    "rebase-apply": "a rebase or `git am`",
    "MERGE_HEAD": "a merge",
    "CHERRY_PICK_HEAD": "a cherry-pick",
    "REVERT_HEAD": "a revert",
    "sequencer": "a sequence of cherry-picks or reverts",
    "BISECT_START": "a bisection",
    "BISECT_LOG": "a bisection",
    "MERGE_AUTOSTASH": "a merge with stashed changes",
    "index.lock": "another git command",
}
"""What lies in git's directory for the worktree while it is unfinished."""

_SHOWN = 3  # names in a reason


@dataclass(slots=True)
class Findings:
    """What speaks against removing a worktree, each in words.

    :param obstacles: states that are left alone.
    :param work: what removing it would lose, and parking keeps.
    :param unparkable: what parking would not bring back as it was; of no matter where there is no work.
    :param names: the files that parking has to take from the worktree, or to look at: those that are not there any
        more were deleted.
    :param tip: the commit that the role's branch points to; None without such a branch.
    """

    obstacles: list[str] = field(default_factory=list)
    work: list[str] = field(default_factory=list)
    unparkable: list[str] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    tip: str | None = None


async def inspect(
    checkout: Checkout, facts: Facts, worktrees: Sequence[ListedWorktree], disposable: Sequence[str]
) -> Findings:
    """Return all that speaks against removing the worktree; nothing, if removing it loses nothing.

    Reads alone, and changes nothing.

    :param worktrees: every worktree that git lists, this one included.
    :raises WorkspaceError: it cannot be told. That too is a reason to keep it.
    """
    path = checkout.path
    listed = next(worktree for worktree in worktrees if worktree.path == path)
    findings = Findings()
    obstacles = findings.obstacles
    if listed.locked is not None:
        how = f"it is locked ({listed.locked})" if listed.locked else "it is locked"
        obstacles.append(Reason(Why.LOCKED, how))
    if listed.branch is None:
        obstacles.append(Reason(Why.BRANCH, "its HEAD is detached"))
    elif listed.branch != facts.branch:
        on = listed.branch.removeprefix("refs/heads/")
        obstacles.append(Reason(Why.BRANCH, f"it is on {on}, not on {facts.short_branch()}"))
    obstacles += await to_thread.run_sync(unfinished_operations, checkout.git_dir)
    files, own_refs, branch = await together(
        partial(inspect_files, checkout, facts, disposable),
        partial(_has_own_refs, checkout, Path(facts.repository)),
        partial(inspect_branch, checkout.git, facts, worktrees),
    )
    obstacles += files.obstacles
    findings.work += files.work
    findings.unparkable += files.unparkable
    findings.names += files.names
    if own_refs:
        obstacles.append(Reason(Why.REFERENCES, "it has references of its own, which go with it"))
    processes = await processes_in(path)  # after them: our own gits work in it too
    if processes:
        obstacles.append(Reason(Why.IN_USE, f"in use by process {_some([str(pid) for pid in processes])}"))
    obstacles += branch.obstacles
    findings.work += branch.work
    findings.tip = branch.tip
    if findings.tip is None:
        obstacles.append(Reason(Why.BRANCH, f"its branch {facts.short_branch()} is gone"))
    return findings


async def inspect_files(checkout: Checkout, facts: Facts, disposable: Sequence[str]) -> Findings:
    """Return all that the files in a worktree say against removing it.

    :raises WorkspaceError: it cannot be told.
    """
    files = await look_at_files(checkout, facts.top_level(), disposable)
    taken = (*files.staged, *files.changed, *files.untracked, *files.ignored, *files.copies)
    unparkable = {
        "file that is staged as a name alone": (Why.CHANGES, files.intended),
        "submodule that is staged or changed": (Why.REPOSITORIES, files.flagged),
    }
    return Findings(
        obstacles=_told(
            {
                "unmerged file": (Why.CHANGES, files.unmerged),
                "file that git was told not to look at (assume-unchanged, skip-worktree)": (
                    Why.CHANGES,
                    files.hidden,
                ),
                "submodule": (Why.REPOSITORIES, files.submodules),
                "nested repository": (Why.REPOSITORIES, files.nested),
            }
        ),
        work=_told(
            {
                "staged file": (Why.CHANGES, files.staged),
                "changed file": (Why.CHANGES, files.changed),
                "file that is staged as a name alone (intent to add)": (Why.CHANGES, files.intended),
                "untracked file": (Why.UNTRACKED, files.untracked),
                "ignored file or directory that is not disposable": (Why.UNTRACKED, files.ignored),
            }
        ),
        unparkable=[*_told(unparkable), *(["its checkout is sparse"] if files.sparse else [])],
        names=list(dict.fromkeys(taken)),
    )


def _told(kinds: Mapping[str, tuple[Why, Sequence[str]]]) -> list[str]:
    return [
        Reason(why, f"{_number(len(names), kind)}: {_some(names)}")
        for kind, (why, names) in kinds.items()
        if names
    ]


async def inspect_branch(git: Git, facts: Facts, worktrees: Sequence[ListedWorktree]) -> Findings:
    """Return all that speaks against deleting the role's branch, if there is one.

    A commit is safe when another ref holds it: a branch, a tag, a remote's branch, the stash …, not a HEAD, and
    not something parked, which may go one day. But where the role's new branch is still at its base, and that was
    some checkout's detached HEAD, the base is nothing of the role's.

    :raises WorkspaceError: it cannot be told.
    """
    tip = await branch_tip(git, Path(facts.repository), facts.branch)
    findings = Findings(tip=tip)
    if tip is None:
        return findings
    others = [worktree for worktree in worktrees if str(worktree.path) != facts.path]
    findings.obstacles += [
        Reason(Why.BRANCH, f"its branch is checked out in {str(other.path)!r}")
        for other in others
        if other.branch == facts.branch
    ]
    if await to_thread.run_sync(_is_rebased, Path(facts.repository), facts.branch):
        findings.obstacles.append(Reason(Why.BRANCH, "its branch is being rebased in another checkout"))
    count = await _count_own(git, facts, tip, others)
    if count:
        findings.work.append(Reason(Why.COMMITS, f"{_number(count, 'commit')} that no other ref holds"))
    return findings


async def _count_own(git: Git, facts: Facts, tip: str, others: Sequence[ListedWorktree]) -> int:
    """Return how many commits of the branch no other ref holds."""
    repository = Path(facts.repository)

    def does_not_count(name: str) -> bool:
        return name == facts.branch or name.startswith("refs/relaykit/")

    with suppress(Unreadable):  # nearly always there is one, such as the branch from which the role's began
        if await to_thread.run_sync(partial(points_there, repository, tip, but=does_not_count)):
            return 0
    # Not `--all`: that counts every worktree's HEAD, this one's too, and finds each commit held.
    excluded = (f"--exclude={facts.branch}", "--exclude=refs/relaykit/*")
    arguments = ["rev-list", "--count", tip, "--not", *excluded, "--glob=refs/*"]
    if tip == facts.base and not facts.branch_existed:
        arguments += [other.head for other in others if other.head is not None]
    answer = (await git.run(repository, *arguments)).strip()
    if not answer.isdecimal():
        raise WorkspaceError(f"git counted {answer!r} commits of {facts.short_branch()}")
    return int(answer)


async def _has_own_refs(checkout: Checkout, common_dir: Path) -> bool:
    try:
        return await to_thread.run_sync(has_own_refs, common_dir, checkout.git_dir)
    except Unreadable:
        namespaces = ("refs/worktree", "refs/bisect", "refs/rewritten")
        return bool((await checkout.run("for-each-ref", "--count=1", *namespaces)).strip())


def _is_rebased(common_dir: Path, branch: str) -> bool:
    """Tell whether a rebase of the branch waits somewhere: HEAD is detached there, and the branch moves at its end."""
    for git_dir in (common_dir, *(common_dir / "worktrees").glob("*")):
        for operation in ("rebase-merge", "rebase-apply"):
            with suppress(FileNotFoundError, NotADirectoryError):
                if (git_dir / operation / "head-name").read_text().strip() == branch:
                    return True
    return False


def unfinished_operations(git_dir: Path) -> list[str]:
    """Return what is under way in a worktree: a rebase, a merge …; by git's directory for it. Blocks."""
    found = {what: None for name, what in _OPERATIONS.items() if os.path.lexists(git_dir / name)}
    return [Reason(Why.OPERATION, f"{what} is in progress") for what in found]


def _number(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what.replace('repository', 'repositorie')}s"


def _some(names: Sequence[str]) -> str:
    # As Python writes them: a name may hold newlines, and bytes that are no text.
    shown = ", ".join(name if name.isprintable() else ascii(name) for name in names[:_SHOWN])
    return shown if len(names) <= _SHOWN else f"{shown}, …"
