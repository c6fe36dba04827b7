"""Why a worktree is kept: for people in words, for figures in one of a few kinds."""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from typing import Self

from relaykit.meter import Figure, FigureKind, Meter


class Why(StrEnum):
    """Kinds of reasons."""

    CHANGES = "changes"  # staged, changed or unmerged files, or such as git does not look at
    UNTRACKED = "untracked"  # files that git does not know, or ignores, and that are not disposable
    COMMITS = "commits"  # that no other ref holds
    BRANCH = "branch"  # another branch than the role's, or none, or one that is checked out elsewhere too
    OPERATION = "operation"  # a merge, a rebase … that is not finished
    REPOSITORIES = "repositories"  # submodules, and repositories in it
    REFERENCES = "references"  # that go with the worktree
    IN_USE = "in_use"  # by a process
    LOCKED = "locked"
    NOT_OURS = "not_ours"  # not this session's, or not listed by git
    OTHER = "other"  # git failed, a file could not be read …


class Reason(str):
    """A reason to keep a worktree, as people read it. A plain string is one of the kind OTHER."""

    __slots__ = ("why",)
    why: Why

    def __new__(cls, why: Why, text: str) -> Self:
        """Make one."""
        reason = super().__new__(cls, text)
        reason.why = why
        return reason


WORKTREES_KEPT = Figure(
    "worktrees_kept",
    FigureKind.COUNTER,
    "Worktrees that were kept when their session ended, by the kinds of reasons: one may have several.",
    labels={"reason": tuple(Why)},
)


def count_kept(meter: Meter, reasons: Iterable[str]) -> None:
    """Count a worktree that is kept for these reasons."""
    for why in {reason.why if isinstance(reason, Reason) else Why.OTHER for reason in reasons}:
        meter.count(WORKTREES_KEPT, reason=why)
