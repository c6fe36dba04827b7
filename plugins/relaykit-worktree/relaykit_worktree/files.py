"""What lies in a worktree besides what its HEAD has: read from ``git status``, and where that looks away."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path, PurePath

from anyio import to_thread

from relaykit.errors import WorkspaceError
from relaykit_worktree.git import together
from relaykit_worktree.repository import Checkout

_CHUNK = 1 << 20


@dataclass(slots=True)
class Files:
    """Names of files, relative to the worktree's root.

    :param intended: staged as names alone (``git add --intent-to-add``).
    :param hidden: those that git was told not to look at, and that are there.
    :param ignored: files and directories (with a ``/`` at the end) that are not disposable.
    :param copies: the same, of which the project's own checkout has the like.
    :param expendable: ignored and disposable.
    :param sparse: some that git tracks are left out of the checkout on purpose, or marked so.
    :param flagged: submodules that are staged or changed.
    """

    staged: list[str] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)
    unmerged: list[str] = field(default_factory=list)
    intended: list[str] = field(default_factory=list)
    untracked: list[str] = field(default_factory=list)
    ignored: list[str] = field(default_factory=list)
    copies: list[str] = field(default_factory=list)
    expendable: list[str] = field(default_factory=list)
    hidden: list[str] = field(default_factory=list)
    submodules: list[str] = field(default_factory=list)
    flagged: list[str] = field(default_factory=list)
    nested: list[str] = field(default_factory=list)
    sparse: bool = False


async def look_at_files(checkout: Checkout, top_level: Path | None, disposable: Sequence[str]) -> Files:
    """Return what lies in the worktree. Reads alone.

    :param top_level: the checkout beside which the worktree was made; None: it is of no matter what that has.
    :raises WorkspaceError: git fails, or says something that is not understood.
    :raises OSError: a directory cannot be read.
    """
    status, listing = await together(
        partial(
            checkout.run,
            *("status", "--porcelain=v2", "-z", "--no-renames", "--ignore-submodules=none"),
            *("--untracked-files=all", "--ignored=matching"),
        ),
        partial(checkout.run, "ls-files", "-v", "--stage", "-z"),
    )
    files = _parse(status, disposable)
    await to_thread.run_sync(_look_further, files, listing, checkout, top_level)
    return files


def expand(root: Path, names: Sequence[str], disposable: Sequence[str]) -> list[str]:
    """Return the files that are meant: those in directories one by one, without what is disposable. Blocks."""
    found = []
    for name in names:
        if not _is_directory(name):
            found.append(name)
            continue
        for directory, subdirectories, files in os.walk(root / name, onerror=_raise):
            inside = Path(directory).relative_to(root)
            for each in [*subdirectories]:
                if os.path.islink(Path(directory) / each):  # noqa: PTH114 -- a name that may be no text
                    files.append(each)
                    subdirectories.remove(each)
            subdirectories[:] = [each for each in subdirectories if not is_disposable(each, disposable)]
            found += [str(inside / each) for each in files if not is_disposable(each, disposable)]
    return found


def is_disposable(name: str, patterns: Sequence[str]) -> bool:
    """Tell whether an ignored path may be deleted with a worktree."""
    return any(fnmatchcase(part, pattern) for part in PurePath(name).parts for pattern in patterns)


def same_content(one: Path, other: Path) -> bool:
    """Tell whether both are files of the same bytes, or links to the same. Blocks.

    :raises OSError: one of them is not there, or cannot be read.
    """
    here, there = one.lstat(), other.lstat()
    if stat.S_ISLNK(here.st_mode) and stat.S_ISLNK(there.st_mode):
        return os.readlink(one) == os.readlink(other)  # noqa: PTH115 -- as it stands there, not as a path
    if not (stat.S_ISREG(here.st_mode) and stat.S_ISREG(there.st_mode)) or here.st_size != there.st_size:
        return False
    with one.open("rb") as first, other.open("rb") as second:
        while True:
            chunk = first.read(_CHUNK)
            if chunk != second.read(_CHUNK):
                return False
            if not chunk:
                return True


def _parse(status: str, disposable: Sequence[str]) -> Files:
    files = Files()
    for entry in filter(None, status.split("\0")):
        kind, _, rest = entry.partition(" ")
        if kind == "1":
            flags, submodule, *_, name = rest.split(" ", 7)
            if submodule.startswith("S"):
                files.flagged.append(name)
            if flags == ".A":
                files.intended.append(name)
                continue
            if flags[0] != ".":
                files.staged.append(name)
            if flags[1] != ".":
                files.changed.append(name)
        elif kind == "u":
            files.unmerged.append(rest.split(" ", 9)[-1])
        elif kind == "?":
            (files.nested if _is_directory(rest) else files.untracked).append(rest)
        elif kind == "!":
            (files.expendable if is_disposable(rest, disposable) else files.ignored).append(rest)
        else:
            raise WorkspaceError(f"`git status` said {entry!r}, which is not understood")
    return files


def _look_further(files: Files, listing: str, checkout: Checkout, top_level: Path | None) -> None:
    for entry in filter(None, listing.split("\0")):
        facts, _, name = entry.partition("\t")
        tag, mode, *_ = facts.split(" ")
        if mode == "160000":
            if _holds_something(checkout.path / name):
                files.submodules.append(name)
        elif tag == "S" or tag.islower():
            files.sparse = files.sparse or tag in "Ss"
            if os.path.lexists(checkout.path / name):
                files.hidden.append(name)
    if not files.submodules and (checkout.git_dir / "modules").exists():
        files.submodules = ["modules"]
    files.nested += _nested_repositories(checkout.path, [*files.expendable, *files.ignored])
    for name in [*files.ignored]:
        if top_level is not None and _is_copy(checkout.path, top_level, name):
            files.ignored.remove(name)
            files.copies.append(name)


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


def _is_copy(root: Path, top_level: Path, name: str) -> bool:
    """Tell whether the other checkout has the same, byte by byte, at the same place: nothing is lost then."""
    try:
        if any((top_level / parent).is_symlink() for parent in PurePath(name).parents):
            return False
        return all(_are_alike(root / each, top_level / each) for each in _everything(root, name))
    except FileNotFoundError:
        return False


def _everything(root: Path, name: str) -> Iterator[str]:
    yield name.rstrip("/")
    if _is_directory(name):
        for directory, subdirectories, files in os.walk(root / name, onerror=_raise):
            inside = Path(directory).relative_to(root)
            yield from (str(inside / each) for each in (*subdirectories, *files))


def _are_alike(one: Path, other: Path) -> bool:
    here, there = one.lstat(), other.lstat()
    return here.st_mode == there.st_mode and (stat.S_ISDIR(here.st_mode) or same_content(one, other))


def _raise(error: OSError) -> None:
    raise error
