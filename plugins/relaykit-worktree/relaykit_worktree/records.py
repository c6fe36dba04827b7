"""git's own records of refs and worktrees, read from its files: a process for each question costs milliseconds.

The formats are those of gitrepository-layout(5). Where refs are kept otherwise (``extensions.refStorage``), or
something is not as it is described there, nothing is said, and git is to be asked.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

_COMMIT = re.compile(rb"[0-9a-f]{40}(?:[0-9a-f]{24})?")
_SYMBOLIC = b"ref: "
_DEPTH = 5  # as git


class Unreadable(Exception):
    """Something is not as it is described: ask git."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedWorktree:
    """One entry of ``git worktree list``.

    :param branch: the full name, as ``refs/heads/main``; None when HEAD is detached.
    :param locked: why, possibly empty; None when it is not locked.
    :param prunable: why, possibly empty; None when it is whole.
    """

    path: Path
    head: str | None = None
    branch: str | None = None
    locked: str | None = None
    prunable: str | None = None


def read_ref(common_dir: Path, name: str) -> str | None:
    """Return the id of what a ref points to; None without such a ref. Blocks.

    :param name: the full name.
    :raises Unreadable: it cannot be told.
    """
    _check_format(common_dir)
    return _resolve(common_dir, common_dir, name)


def read_head(common_dir: Path, git_dir: Path) -> str | None:
    """Return the id of the commit that a checkout is at; None on a branch without a commit. Blocks.

    :param git_dir: git's own directory of the checkout.
    :raises Unreadable: it cannot be told.
    """
    _check_format(common_dir)
    return _resolve(common_dir, git_dir, "HEAD")


def read_worktrees(common_dir: Path) -> list[ListedWorktree]:
    """Return every worktree of the repository, the main one first, the others by their paths. Blocks.

    :raises Unreadable: it cannot be told.
    """
    _check_format(common_dir)
    found = []
    for entry in (common_dir / "worktrees").glob("*"):
        try:
            named = os.fsdecode((entry / "gitdir").read_bytes().rstrip(b"\n"))
        except FileNotFoundError:  # it is just being made, or removed
            continue
        except OSError as error:
            raise Unreadable from error
        link = Path(os.path.normpath(entry / named))
        found.append(_entry(common_dir, entry, link.parent, whole=os.path.lexists(link)))
    main = common_dir.parent if common_dir.name == ".git" else common_dir
    return [_entry(common_dir, common_dir, main, whole=True), *sorted(found, key=lambda each: each.path)]


def has_own_refs(common_dir: Path, git_dir: Path) -> bool:
    """Tell whether a worktree has refs of its own, as ``refs/worktree/…`` or those of a bisection. Blocks.

    They are never packed.

    :raises Unreadable: it cannot be told.
    """
    _check_format(common_dir)
    return any(files for _, _, files in os.walk(git_dir / "refs"))


def points_there(common_dir: Path, commit: str, *, but: Callable[[str], bool]) -> bool:
    """Tell whether a ref points to this very commit. Blocks.

    :param but: tells of a ref's full name that it does not count. Symbolic ones do not.
    :raises Unreadable: it cannot be told.
    """
    _check_format(common_dir)
    wanted = commit.encode()
    for directory, _, files in os.walk(common_dir / "refs"):
        for name in files:
            path = Path(directory, name)
            if name.endswith(".lock"):  # no ref's name does: it is about to become one, or not
                continue
            if _loose(path) == wanted and not but(str(path.relative_to(common_dir))):
                return True
    for line in _packed_refs(common_dir).splitlines():
        if line.startswith(wanted + b" "):
            name = os.fsdecode(line[len(wanted) + 1 :])
            # One that is loose too is what that says.
            if not but(name) and _loose(common_dir / name) is None:
                return True
    return False


def _entry(common_dir: Path, git_dir: Path, path: Path, *, whole: bool) -> ListedWorktree:
    branch, head = _follow(common_dir, git_dir, "HEAD")
    try:
        locked = os.fsdecode((git_dir / "locked").read_bytes()).strip()
    except OSError:
        locked = None
    return ListedWorktree(
        path=path,
        head=head,
        branch=None if branch == "HEAD" else branch,
        locked=locked,
        prunable=None if whole or locked is not None else "gitdir file points to non-existent location",
    )


def _check_format(common_dir: Path) -> None:
    try:
        if b"refstorage" in (common_dir / "config").read_bytes().lower():
            raise Unreadable
    except OSError as error:
        raise Unreadable from error


def _resolve(common_dir: Path, directory: Path, name: str) -> str | None:
    return _follow(common_dir, directory, name)[1]


def _follow(common_dir: Path, directory: Path, name: str) -> tuple[str, str | None]:
    """Return the name of the ref that a name means in the end, and the id that is there."""
    for _ in range(_DEPTH):
        content = _loose(directory / name) or _packed(common_dir, name)
        if content is None:
            return name, None
        if not content.startswith(_SYMBOLIC):
            if _COMMIT.fullmatch(content) is None:
                raise Unreadable
            return name, content.decode()
        name, directory = os.fsdecode(content.removeprefix(_SYMBOLIC)), common_dir
        if not name.startswith("refs/") or ".." in name:
            raise Unreadable
    raise Unreadable


def _loose(path: Path) -> bytes | None:
    try:
        return path.read_bytes().rstrip(b"\n")
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        return None
    except OSError as error:
        raise Unreadable from error


def _packed(common_dir: Path, name: str) -> bytes | None:
    """Read it after the loose one: whoever packs refs removes those last."""
    wanted = rb"^([0-9a-f]+) %b$" % re.escape(os.fsencode(name))
    found = re.search(wanted, _packed_refs(common_dir), re.MULTILINE)
    return found[1] if found else None


def _packed_refs(common_dir: Path) -> bytes:
    try:
        return (common_dir / "packed-refs").read_bytes()
    except FileNotFoundError:
        return b""
    except OSError as error:
        raise Unreadable from error
