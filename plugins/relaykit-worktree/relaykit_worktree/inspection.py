"""Why a worktree must be kept: everything that removing it would lose."""

from __future__ import annotations

import os
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path, PurePath

from anyio import to_thread

from relaykit.errors import WorkspaceError
from relaykit_worktree.facts import Facts
from relaykit_worktree.git import Git
from relaykit_worktree.processes import processes_in
from relaykit_worktree.reasons import Reason, Why
from relaykit_worktree.repository import Checkout, ListedWorktree

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


async def reasons_to_keep(
    checkout: Checkout, facts: Facts, worktrees: Sequence[ListedWorktree], disposable: Sequence[str]
) -> list[str]:
    """Return all that speaks against removing the worktree; nothing, if removing it loses nothing.

    Reads alone, and changes nothing.

    :param worktrees: every worktree that git lists, this one included.
    :raises WorkspaceError: it cannot be told. That too is a reason to keep it.
    """
    path = checkout.path
    listed = next(worktree for worktree in worktrees if worktree.path == path)
    reasons: list[str] = []
    if listed.locked is not None:
        how = f"it is locked ({listed.locked})" if listed.locked else "it is locked"
        reasons.append(Reason(Why.LOCKED, how))
    if listed.branch is None:
        reasons.append(Reason(Why.BRANCH, "its HEAD is detached"))
    elif listed.branch != facts.branch:
        on = listed.branch.removeprefix("refs/heads/")
        reasons.append(Reason(Why.BRANCH, f"it is on {on}, not on {facts.short_branch()}"))
    reasons += await to_thread.run_sync(unfinished_operations, checkout.git_dir)
    reasons += await _files(checkout, disposable)
    if (
        await checkout.run("for-each-ref", "--count=1", "refs/worktree", "refs/bisect", "refs/rewritten")
    ).strip():
        reasons.append(Reason(Why.REFERENCES, "it has references of its own, which go with it"))
    processes = await processes_in(path)
    if processes:
        reasons.append(Reason(Why.IN_USE, f"in use by process {_some([str(pid) for pid in processes])}"))
    return reasons


async def reasons_to_keep_branch(
    git: Git, facts: Facts, tip: str, worktrees: Sequence[ListedWorktree]
) -> list[str]:
    """Return all that speaks against deleting the role's branch, which points to `tip`.

    A commit is safe when another ref holds it: a branch, a tag, a remote's branch, the stash …, not a HEAD.
    But where the role's new branch is still at its base, and that was some checkout's detached HEAD, the
    base is nothing of the role's.

    :raises WorkspaceError: it cannot be told.
    """
    others = [worktree for worktree in worktrees if str(worktree.path) != facts.path]
    reasons: list[str] = [
        Reason(Why.BRANCH, f"its branch is checked out in {str(other.path)!r}")
        for other in others
        if other.branch == facts.branch
    ]
    # Not `--all`: that counts every worktree's HEAD, this one's too, and finds each commit held.
    arguments = ["rev-list", "--count", tip, "--not", f"--exclude={facts.branch}", "--glob=refs/*"]
    if tip == facts.base and not facts.branch_existed:
        arguments += [other.head for other in others if other.head is not None]
    answer = (await git.run(facts.repository, *arguments)).strip()
    if not answer.isdecimal():
        raise WorkspaceError(f"git counted {answer!r} commits of {facts.short_branch()}")
    count = int(answer)
    if count:
        reasons.append(Reason(Why.COMMITS, f"{_number(count, 'commit')} that no other ref holds"))
    return reasons


def unfinished_operations(git_dir: Path) -> Sequence[str]:
    """Return what is under way in a worktree: a rebase, a merge …; by git's directory for it. Blocks."""
    found = {what: None for name, what in _OPERATIONS.items() if os.path.lexists(git_dir / name)}
    return [Reason(Why.OPERATION, f"{what} is in progress") for what in found]


async def _files(checkout: Checkout, disposable: Sequence[str]) -> Sequence[str]:
    status = await checkout.run(
        *("status", "--porcelain=v2", "-z", "--no-renames", "--ignore-submodules=none"),
        *("--untracked-files=all", "--ignored=matching"),
    )
    staged: list[str] = []
    changed: list[str] = []
    unmerged: list[str] = []
    untracked: list[str] = []
    nested: list[str] = []
    ignored: list[str] = []
    expendable: list[str] = []
    for entry in filter(None, status.split("\0")):
        kind, _, rest = entry.partition(" ")
        if kind == "1":
            flags, *_, name = rest.split(" ", 7)
            if flags[0] != ".":
                staged.append(name)
            if flags[1] != ".":
                changed.append(name)
        elif kind == "u":
            unmerged.append(rest.split(" ", 9)[-1])
        elif kind == "?":
            (nested if rest.endswith("/") else untracked).append(rest)
        elif kind == "!":
            (expendable if _is_disposable(rest, disposable) else ignored).append(rest)
        else:
            raise WorkspaceError(f"`git status` said {entry!r}, which is not understood")
    hidden, submodules = await _tracked(checkout)
    nested += await to_thread.run_sync(_nested_repositories, checkout.path, expendable)
    kinds = {
        "staged file": (Why.CHANGES, staged),
        "changed file": (Why.CHANGES, changed),
        "unmerged file": (Why.CHANGES, unmerged),
        "untracked file": (Why.UNTRACKED, untracked),
        "ignored file or directory that is not disposable": (Why.UNTRACKED, ignored),
        "file that git was told not to look at (assume-unchanged, skip-worktree)": (Why.CHANGES, hidden),
        "submodule": (Why.REPOSITORIES, submodules),
        "nested repository": (Why.REPOSITORIES, nested),
    }
    return [
        Reason(why, f"{_number(len(names), kind)}: {_some(names)}")
        for kind, (why, names) in kinds.items()
        if names
    ]


def _is_disposable(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(part, pattern) for part in PurePath(name).parts for pattern in patterns)


async def _tracked(checkout: Checkout) -> tuple[list[str], list[str]]:
    """Return the tracked files that ``git status`` looks away from, and the submodules that are checked out."""
    hidden, submodules = [], []
    for entry in filter(None, (await checkout.run("ls-files", "-v", "--stage", "-z")).split("\0")):
        facts, _, name = entry.partition("\t")
        tag, mode, *_ = facts.split(" ")
        if mode == "160000":
            submodules.append(name)
        elif tag == "S" or tag.islower():
            hidden.append(name)
    return await to_thread.run_sync(_present, checkout, hidden, submodules)


def _present(checkout: Checkout, hidden: list[str], submodules: list[str]) -> tuple[list[str], list[str]]:
    present = [name for name in submodules if _holds_something(checkout.path / name)]
    if not present and (checkout.git_dir / "modules").exists():
        present = ["modules"]
    return [name for name in hidden if os.path.lexists(checkout.path / name)], present


def _holds_something(path: Path) -> bool:
    return os.path.lexists(path) and not (path.is_dir() and not any(path.iterdir()))


def _nested_repositories(root: Path, names: Sequence[str]) -> list[str]:
    """Return the repositories in ignored directories: git's status says nothing of what is in those."""
    found = []
    for name in filter(_is_directory, names):
        for directory, subdirectories, files in os.walk(root / name, onerror=_raise):
            if ".git" in subdirectories or ".git" in files or _is_bare(subdirectories, files):
                found.append(str(Path(directory).relative_to(root)))
                subdirectories.clear()
    return found


def _is_directory(name: str) -> bool:
    return name.endswith("/")  # so git writes them, but not a link to one, which nobody is to follow


def _is_bare(subdirectories: Sequence[str], files: Sequence[str]) -> bool:
    return "HEAD" in files and "objects" in subdirectories and "refs" in subdirectories


def _raise(error: OSError) -> None:
    raise error


def _number(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what.replace('repository', 'repositorie')}s"


def _some(names: Sequence[str]) -> str:
    # As Python writes them: a name may hold newlines, and bytes that are no text.
    shown = ", ".join(name if name.isprintable() else ascii(name) for name in names[:_SHOWN])
    return shown if len(names) <= _SHOWN else f"{shown}, …"
