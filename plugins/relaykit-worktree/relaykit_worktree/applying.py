"""Brings a session's work into the project's own checkout, where that overwrites nothing."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from relaykit.errors import WorkspaceError
from relaykit_worktree.git import GitError
from relaykit_worktree.work import Work, ask, base_of, index_copy

_SHOWN = 5


def apply(work: Work, *, base: str | None, check: bool, three_way: bool) -> Sequence[str]:
    """Change the files of the project's checkout as the session has changed its own; return which.

    Nothing is committed, and nothing is staged (but with `three_way`, where git merges in its index). It happens
    whole, or not at all.

    :param check: only find out whether that is possible.
    :param three_way: merge where both sides have changed a file, and leave conflicts marked in it.
    :raises WorkspaceError: there is nothing to apply, or it would overwrite something, or does not fit.
    """
    began = base_of(work, base)
    with index_copy(work) as index:
        work.ask("-c", "advice.addEmbeddedRepo=false", "add", "--all", "--", ".", index=index)
        done = work.ask("write-tree", index=index).strip()
    changed = _names(work.ask("diff-tree", "-r", "-z", "--name-only", "--no-renames", began, done))
    if not changed:
        raise WorkspaceError(f"there is nothing to apply: {str(work.path)!r} is as it began")
    if in_the_way := _in_the_way(work.checkout, changed):
        raise WorkspaceError(
            f"{str(work.checkout)!r} has changes of its own, or files that git does not know, where this would write: "
            f"{_some(in_the_way)}; commit, stash or move them first"
        )
    patch = work.ask(
        *("-c", "core.quotePath=true", "diff-tree", "-r", "-p", "--binary", "--full-index", "--no-renames"),
        *("--no-ext-diff", "--no-textconv", "--no-color", "--src-prefix=a/", "--dst-prefix=b/", began, done),
    )
    how = [*(["--check"] if check else []), *(["--3way"] if three_way else [])]
    try:
        ask(work.checkout, "apply", "--whitespace=nowarn", *how, "-", said=os.fsencode(patch))
    except GitError as error:
        if three_way and not check and "with conflicts" in error.stderr:
            raise WorkspaceError(f"applied with conflicts, which are marked: {error.stderr}") from error
        raise WorkspaceError(
            f"it does not fit {str(work.checkout)!r}, where nothing was changed: {error.stderr}; "
            "--3way merges, or `git merge` the branch"
        ) from error
    return changed


def _in_the_way(checkout: Path, changed: Sequence[str]) -> Sequence[str]:
    """Return which of the files are not as the last commit has them, or are none of git's."""
    listing = ask(
        checkout, "status", "--porcelain", "-z", "--no-renames", "--untracked-files=all", "--ignored=matching"
    )
    touched = [record[3:] for record in listing.split("\0") if record]
    files = {path for path in touched if not path.endswith("/")}
    directories = tuple(path for path in touched if path.endswith("/"))
    return [
        path
        for path in changed
        if path in files or (path.startswith(directories) and os.path.lexists(checkout / path))
    ]


def _names(listing: str) -> list[str]:
    return [name for name in listing.split("\0") if name]


def _some(paths: Sequence[str]) -> str:
    shown = ", ".join(paths[:_SHOWN])
    return shown if len(paths) <= _SHOWN else f"{shown} and {len(paths) - _SHOWN} more"
