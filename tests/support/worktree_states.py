"""Every state that a worktree with work in it may be in, and what must be the same when it is back."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from relaykit_worktree.settings import DISPOSABLE
from support.worktrees import commit, git, make_repository


def write(path: Path, content: bytes = b"work\n", mode: int = 0o644) -> None:
    """Write a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    path.chmod(mode)


def _fails(path: Path, *arguments: str) -> None:
    with pytest.raises(Exception, match="non-zero exit status"):
        git(path, *arguments)


def changed(path: Path) -> None:
    """Change a file."""
    write(path / "code.py", b"changed\n")


def _made_executable(path: Path) -> None:
    (path / "code.py").chmod(0o755)


def _deleted(path: Path) -> None:
    (path / "code.py").unlink()
    shutil.rmtree(path / "deep")


def _staged(path: Path) -> None:
    write(path / "new.py")
    git(path, "add", "new.py")
    git(path, "rm", "-q", "docs/guide.md")


def _staged_and_changed_again(path: Path) -> None:
    write(path / "code.py", b"staged\n")
    git(path, "add", "code.py")
    write(path / "code.py", b"changed after that\n")
    write(path / "added.py", b"added\n")
    git(path, "add", "added.py")
    (path / "added.py").unlink()


def _staged_away_but_there(path: Path) -> None:
    git(path, "rm", "-q", "--cached", "code.py")
    write(path / "code.py", b"still there\n")


def _untracked(path: Path) -> None:
    write(path / "notes.txt")
    write(path / "a" / "b" / "c" / "empty", b"")
    write(path / "binary", bytes(range(256)) * 300)
    (path / "to nowhere").symlink_to("/nonexistent/… \udcff")
    (path / "to a directory").symlink_to("docs")


def _permissions(path: Path) -> None:
    write(path / "private.key", b"secret\n", 0o600)
    write(path / "tool", b"#!/bin/sh\n", 0o711)
    write(path / "read-only", b"fixed\n", 0o444)
    write(path / "secret.env", b"TOKEN=1\n", 0o400)


def _ignored(path: Path) -> None:
    write(path / "secret.env", b"TOKEN=1\n")
    write(path / "debug.log")
    write(path / "docs" / "private" / "diary.txt")
    write(path / "docs" / "private" / "node_modules" / "gone.js")
    (path / "docs" / "private" / "link").symlink_to("../..")
    write(path / "node_modules" / "gone.js")


def _unpushed(path: Path) -> None:
    commit(path, "work.txt")
    commit(path, "more.txt")


def unpushed_and_everything_else(path: Path) -> None:
    """Make several of the others at once."""
    _unpushed(path)
    _staged_and_changed_again(path)
    _untracked(path)
    _ignored(path)
    _permissions(path)


def _strange_names(path: Path) -> None:
    for name in ("two words", "tab\there", "new\nline", 'quote"s', "ünïcodé ✓", "-dash", "back\\slash", " "):
        write(path / name, name.encode())
        write(path / "dir" / name / "file", name.encode())
    write(path / os.fsdecode(b"not utf-8 \xff\xfe"), b"bytes\n", 0o640)
    write(path / "private" / os.fsdecode(b"\xe9t\xe9\n"), b"ignored\n", 0o600)
    git(path, "add", "--", "two words", "new\nline", os.fsdecode(b"not utf-8 \xff\xfe"))


def _file_becomes_directory(path: Path) -> None:
    (path / "code.py").unlink()
    write(path / "code.py" / "inside")
    shutil.rmtree(path / "deep")
    write(path / "deep", b"a file now\n")


def _directory_becomes_link(path: Path) -> None:
    shutil.rmtree(path / "deep")
    (path / "deep").symlink_to("docs")
    (path / "link").unlink()
    (path / "link").write_text("a file now\n")


def _changed_ignore_rules(path: Path) -> None:
    write(path / ".gitignore", b"*.txt\n")
    write(path / "now ignored.txt")
    write(path / "secret.env")


def _converted_line_ends(path: Path) -> None:
    write(path / ".gitattributes", b"*.bat text eol=crlf\n")
    write(path / "run.bat", b"one\r\ntwo\r\n")


def _many(path: Path) -> None:
    for number in range(300):
        write(path / f"d{number % 7}" / f"f{number}", b"%d\n" % number)


def _nothing_tracked(path: Path) -> None:
    git(path, "rm", "-rq", "--cached", ".")


def _empty_commit(path: Path) -> None:
    git(path, "commit", "-q", "--allow-empty", "-m", "empty")


def _same_second(path: Path) -> None:
    """Make a change that has the same size and time as what it changes: git calls such entries racy."""
    before = (path / "code.py").stat()
    write(path / "code.py", b"print('HELLO')\n")
    os.utime(path / "code.py", ns=(before.st_atime_ns, before.st_mtime_ns))


# Those that are left alone.


def _mixed_line_ends(path: Path) -> None:
    write(path / ".gitattributes", b"*.bat text\n")
    write(path / "run.bat", b"one\r\ntwo\n")


def _intent_to_add(path: Path) -> None:
    write(path / "new.py")
    git(path, "add", "-N", "new.py")


def _detached_with_commits(path: Path) -> None:
    git(path, "switch", "-q", "--detach")
    commit(path, "work.txt")
    write(path / "notes.txt")


def _conflict(path: Path) -> None:
    git(path, "switch", "-qc", "theirs")
    commit(path, "code.py", "theirs\n")
    git(path, "switch", "-q", "relaykit/auth")
    commit(path, "code.py", "ours\n")


def _mid_rebase(path: Path) -> None:
    _conflict(path)
    _fails(path, "rebase", "theirs")


def _mid_merge(path: Path) -> None:
    _conflict(path)
    _fails(path, "merge", "theirs")


def _unmerged_without_a_merge(path: Path) -> None:
    write(path / "code.py", b"stashed\n")
    git(path, "stash", "-q")
    write(path / "code.py", b"committed\n")
    git(path, "commit", "-qam", "other")
    _fails(path, "stash", "pop")


def _submodule(path: Path) -> None:
    git(path, "submodule", "--quiet", "add", str(path.parents[3] / "library"), "library")
    write(path / "library" / "work.txt")


def _nested(path: Path) -> None:
    make_repository(path / "tool")
    write(path / "tool" / "work.txt")


def _nested_in_an_ignored_directory(path: Path) -> None:
    make_repository(path / "private" / "tool")


def _locked(path: Path) -> None:
    write(path / "notes.txt")
    git(path, "worktree", "lock", "--reason", "mine", str(path))


def _sparse_and_dirty(path: Path) -> None:
    git(path, "sparse-checkout", "set", "docs")
    write(path / "docs" / "guide.md", b"changed\n")


def _dirty_behind_gits_back(path: Path) -> None:
    git(path, "update-index", "--skip-worktree", "code.py")
    changed(path)


@dataclass(frozen=True)
class Case:
    """A state, and what becomes of it.

    :param kept: what is said if it is kept even where dirty ones are parked; None: it is parked.
    """

    make: Callable[[Path], None]
    kept: str | None = None


PARKED_STATES = [
    Case(each)
    for each in (
        changed,
        _made_executable,
        _deleted,
        _staged,
        _staged_and_changed_again,
        _staged_away_but_there,
        _untracked,
        _permissions,
        _ignored,
        _unpushed,
        unpushed_and_everything_else,
        _strange_names,
        _file_becomes_directory,
        _directory_becomes_link,
        _changed_ignore_rules,
        _converted_line_ends,
        _many,
        _nothing_tracked,
        _empty_commit,
        _same_second,
    )
]
KEPT_STATES = [
    Case(_mixed_line_ends, "run.bat' would not come back as it is: git's filters change it"),
    Case(_intent_to_add, "it cannot be parked: 1 file that is staged as a name alone: new.py"),
    Case(_detached_with_commits, "its HEAD is detached"),
    Case(_mid_rebase, "a rebase is in progress"),
    Case(_mid_merge, "a merge is in progress"),
    Case(_unmerged_without_a_merge, "1 unmerged file: code.py"),
    Case(_submodule, "1 submodule: library"),
    Case(_nested, "1 nested repository: tool/"),
    Case(_nested_in_an_ignored_directory, "1 nested repository: private/tool"),
    Case(_locked, "it is locked (mine)"),
    Case(_sparse_and_dirty, "it cannot be parked: its checkout is sparse"),
    Case(_dirty_behind_gits_back, "told not to look at"),
]


def name_of(case: Case) -> str:
    """Return what a case is called."""
    return case.make.__name__.strip("_")


# ---------------------------------------------------------------- what there is


def files(path: Path) -> dict[str, tuple[int, bytes]]:
    """Return kind, permissions and content of everything in a worktree that is not disposable."""
    found = {}
    for directory, subdirectories, names in os.walk(path):
        inside = Path(directory).relative_to(path)
        for name in [*names, *(each for each in subdirectories if Path(directory, each).is_symlink())]:
            if (inside, name) == (Path(), ".git") or name in DISPOSABLE:
                continue
            file = Path(directory, name)
            mode = file.lstat().st_mode
            content = os.fsencode(file.readlink()) if stat.S_ISLNK(mode) else file.read_bytes()
            found[str(inside / name)] = (mode, content)
        subdirectories[:] = [each for each in subdirectories if each not in {*DISPOSABLE, ".git"}]
    return found


def picture(path: Path) -> tuple[object, ...]:
    """Return all that a restored worktree must have as it was."""
    status = git(path, "status", "--porcelain=v2", "-z", "--ignored", "-uall", "--no-renames").split("\0")
    return (
        files(path),
        git(path, "ls-files", "--stage", "-z"),
        git(path, "rev-parse", "HEAD"),
        git(path, "symbolic-ref", "HEAD"),
        [line for line in status if "node_modules" not in line],
    )
