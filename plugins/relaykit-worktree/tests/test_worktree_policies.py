"""Every state of a worktree under every policy: what is not kept is parked, and comes back byte by byte."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from relaykit.session import Outcome
from relaykit.testing import FakeClock
from relaykit_worktree.bringing_back import bring_back
from relaykit_worktree.git import Git
from relaykit_worktree.parked import PARKED, Parked, list_parked
from relaykit_worktree.repository import Repository, find_repository
from relaykit_worktree.settings import DISPOSABLE, OnDirty, WorktreeSettings
from support.worktrees import IDENTITY, Bench, commit, everything, git, make_repository, make_session

pytestmark = [pytest.mark.anyio, pytest.mark.parametrize("anyio_backend", ["asyncio"])]

NOW = datetime(2030, 1, 1, tzinfo=UTC)


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make the repository from which each test begins, with its configuration, once."""
    root = tmp_path_factory.mktemp("template")
    (root / "gitconfig").write_text(IDENTITY + '[protocol "file"]\n\tallow = always\n')
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GIT_CONFIG_GLOBAL", str(root / "gitconfig"))
        repository = make_repository(root / "shop")
        (repository / "run.sh").write_text("#!/bin/sh\n")
        (repository / "run.sh").chmod(0o755)
        (repository / "link").symlink_to("code.py")
        (repository / "deep" / "er").mkdir(parents=True)
        (repository / "deep" / "er" / "file").write_text("deep\n")
        git(repository, "add", ".")
        git(repository, "commit", "-qm", "two")
        make_repository(root / "library")
    return root


@pytest.fixture
def bench(template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(template / "gitconfig"))
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    shutil.copytree(template / "shop", tmp_path / "shop", symlinks=True)
    shutil.copytree(template / "library", tmp_path / "library", symlinks=True)
    return Bench(tmp_path / "shop", clock=FakeClock(NOW))


# ---------------------------------------------------------------- states


def _write(path: Path, content: bytes = b"work\n", mode: int = 0o644) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    path.chmod(mode)


def _fails(path: Path, *arguments: str) -> None:
    with pytest.raises(Exception, match="non-zero exit status"):
        git(path, *arguments)


def _changed(path: Path) -> None:
    _write(path / "code.py", b"changed\n")


def _made_executable(path: Path) -> None:
    (path / "code.py").chmod(0o755)


def _deleted(path: Path) -> None:
    (path / "code.py").unlink()
    shutil.rmtree(path / "deep")


def _staged(path: Path) -> None:
    _write(path / "new.py")
    git(path, "add", "new.py")
    git(path, "rm", "-q", "docs/guide.md")


def _staged_and_changed_again(path: Path) -> None:
    _write(path / "code.py", b"staged\n")
    git(path, "add", "code.py")
    _write(path / "code.py", b"changed after that\n")
    _write(path / "added.py", b"added\n")
    git(path, "add", "added.py")
    (path / "added.py").unlink()


def _staged_away_but_there(path: Path) -> None:
    git(path, "rm", "-q", "--cached", "code.py")
    _write(path / "code.py", b"still there\n")


def _untracked(path: Path) -> None:
    _write(path / "notes.txt")
    _write(path / "a" / "b" / "c" / "empty", b"")
    _write(path / "binary", bytes(range(256)) * 300)
    (path / "to nowhere").symlink_to("/nonexistent/… \udcff")
    (path / "to a directory").symlink_to("docs")


def _permissions(path: Path) -> None:
    _write(path / "private.key", b"secret\n", 0o600)
    _write(path / "tool", b"#!/bin/sh\n", 0o711)
    _write(path / "read-only", b"fixed\n", 0o444)
    _write(path / "secret.env", b"TOKEN=1\n", 0o400)


def _ignored(path: Path) -> None:
    _write(path / "secret.env", b"TOKEN=1\n")
    _write(path / "debug.log")
    _write(path / "docs" / "private" / "diary.txt")
    _write(path / "docs" / "private" / "node_modules" / "gone.js")
    (path / "docs" / "private" / "link").symlink_to("../..")
    _write(path / "node_modules" / "gone.js")


def _unpushed(path: Path) -> None:
    commit(path, "work.txt")
    commit(path, "more.txt")


def _unpushed_and_everything_else(path: Path) -> None:
    _unpushed(path)
    _staged_and_changed_again(path)
    _untracked(path)
    _ignored(path)
    _permissions(path)


def _strange_names(path: Path) -> None:
    for name in ("two words", "tab\there", "new\nline", 'quote"s', "ünïcodé ✓", "-dash", "back\\slash", " "):
        _write(path / name, name.encode())
        _write(path / "dir" / name / "file", name.encode())
    _write(path / os.fsdecode(b"not utf-8 \xff\xfe"), b"bytes\n", 0o640)
    _write(path / "private" / os.fsdecode(b"\xe9t\xe9\n"), b"ignored\n", 0o600)
    git(path, "add", "--", "two words", "new\nline", os.fsdecode(b"not utf-8 \xff\xfe"))


def _file_becomes_directory(path: Path) -> None:
    (path / "code.py").unlink()
    _write(path / "code.py" / "inside")
    shutil.rmtree(path / "deep")
    _write(path / "deep", b"a file now\n")


def _directory_becomes_link(path: Path) -> None:
    shutil.rmtree(path / "deep")
    (path / "deep").symlink_to("docs")
    (path / "link").unlink()
    (path / "link").write_text("a file now\n")


def _changed_ignore_rules(path: Path) -> None:
    _write(path / ".gitignore", b"*.txt\n")
    _write(path / "now ignored.txt")
    _write(path / "secret.env")


def _converted_line_ends(path: Path) -> None:
    _write(path / ".gitattributes", b"*.bat text eol=crlf\n")
    _write(path / "run.bat", b"one\r\ntwo\r\n")


def _many(path: Path) -> None:
    for number in range(300):
        _write(path / f"d{number % 7}" / f"f{number}", b"%d\n" % number)


def _nothing_tracked(path: Path) -> None:
    git(path, "rm", "-rq", "--cached", ".")


def _empty_commit(path: Path) -> None:
    git(path, "commit", "-q", "--allow-empty", "-m", "empty")


def _same_second(path: Path) -> None:
    """Make a change that has the same size and time as what it changes: git calls such entries racy."""
    before = (path / "code.py").stat()
    _write(path / "code.py", b"print('HELLO')\n")
    os.utime(path / "code.py", ns=(before.st_atime_ns, before.st_mtime_ns))


# Those that are left alone.


def _mixed_line_ends(path: Path) -> None:
    _write(path / ".gitattributes", b"*.bat text\n")
    _write(path / "run.bat", b"one\r\ntwo\n")


def _intent_to_add(path: Path) -> None:
    _write(path / "new.py")
    git(path, "add", "-N", "new.py")


def _detached_with_commits(path: Path) -> None:
    git(path, "switch", "-q", "--detach")
    commit(path, "work.txt")
    _write(path / "notes.txt")


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
    _write(path / "code.py", b"stashed\n")
    git(path, "stash", "-q")
    _write(path / "code.py", b"committed\n")
    git(path, "commit", "-qam", "other")
    _fails(path, "stash", "pop")


def _submodule(path: Path) -> None:
    git(path, "submodule", "--quiet", "add", str(path.parents[3] / "library"), "library")
    _write(path / "library" / "work.txt")


def _nested(path: Path) -> None:
    make_repository(path / "tool")
    _write(path / "tool" / "work.txt")


def _nested_in_an_ignored_directory(path: Path) -> None:
    make_repository(path / "private" / "tool")


def _locked(path: Path) -> None:
    _write(path / "notes.txt")
    git(path, "worktree", "lock", "--reason", "mine", str(path))


def _sparse_and_dirty(path: Path) -> None:
    git(path, "sparse-checkout", "set", "docs")
    _write(path / "docs" / "guide.md", b"changed\n")


def _dirty_behind_gits_back(path: Path) -> None:
    git(path, "update-index", "--skip-worktree", "code.py")
    _changed(path)


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
        _changed,
        _made_executable,
        _deleted,
        _staged,
        _staged_and_changed_again,
        _staged_away_but_there,
        _untracked,
        _permissions,
        _ignored,
        _unpushed,
        _unpushed_and_everything_else,
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


def _name(case: Case) -> str:
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


# ---------------------------------------------------------------- proofs


@pytest.mark.parametrize("case", PARKED_STATES, ids=_name)
async def test_what_is_not_kept_comes_back_as_it_was(bench: Bench, case: Case) -> None:
    """Under each policy, one after the other; the next session has what the last one has left."""
    before = everything(bench.repository)
    path = await bench.prepare(make_session())
    case.make(path)
    expected = picture(path)
    repository = await find_repository(bench.git, bench.repository)

    full = everything(bench.repository)
    assert (await bench.clean(make_session())).outcome is Outcome.KEPT
    assert everything(bench.repository) == full
    assert picture(path) == expected

    bench.settings = WorktreeSettings(on_dirty=OnDirty.PARK)
    parked = await _parked(bench, repository, "s1", before)
    assert parked.expires is None
    # By the command: exactly as it was. And it is a worktree like any other.
    assert await bring_back(bench.git, repository, parked, to=None, state_dir=Path("/state")) == path
    assert picture(path) == expected
    assert not git(bench.repository, "for-each-ref", PARKED)
    assert await bench.prepare(make_session("s2")) == path
    assert picture(path) == expected

    bench.settings = WorktreeSettings(on_dirty=OnDirty.REMOVE, parked_days=7)
    parked = await _parked(bench, repository, "s2", before)
    assert parked.expires == NOW + timedelta(days=7)
    # By git alone: every byte, and what git knows of permissions; the index and the HEAD are its parents.
    by_hand = bench.repository.parent / "by hand"
    git(bench.repository, "worktree", "add", "-q", "--detach", str(by_hand), parked.ref)
    assert _without_permissions(files(by_hand)) == _without_permissions(files_of(expected))
    git(by_hand, "read-tree", parked.index or parked.head)
    assert git(by_hand, "ls-files", "--stage", "-z") == expected[1]
    assert parked.head == str(expected[2]).strip()


async def _parked(
    bench: Bench, repository: Repository, session: str, before: tuple[str, str, list[str]]
) -> Parked:
    """End a session and see that nothing is left of its worktree but what is parked."""
    result = await bench.clean(make_session(session))
    assert result.outcome is Outcome.DONE, result
    assert f"relaykit worktrees restore {session}" in result.detail
    listing, refs, paths = everything(bench.repository)
    assert listing == before[0]
    assert [path for path in paths if not path.startswith(".git/refs/relaykit")] == before[2]
    [parked] = await list_parked(bench.git, repository.common_dir)
    assert parked.ref == PARKED + session
    assert refs.count("refs/") == before[1].count("refs/") + 1
    return parked


def files_of(taken: tuple[object, ...]) -> dict[str, tuple[int, bytes]]:
    assert isinstance(taken[0], dict)
    return taken[0]


def _without_permissions(found: dict[str, tuple[int, bytes]]) -> dict[str, tuple[int, bool, bytes]]:
    return {
        name: (stat.S_IFMT(mode), bool(mode & 0o100) and stat.S_ISREG(mode), content)
        for name, (mode, content) in found.items()
    }


@pytest.mark.parametrize("case", KEPT_STATES, ids=_name)
async def test_what_cannot_be_parked_is_kept_as_it_is(bench: Bench, case: Case) -> None:
    path = await bench.prepare(make_session())
    case.make(path)
    before, expected = everything(bench.repository), files(path)
    for policy in OnDirty:
        bench.settings = WorktreeSettings(on_dirty=policy)
        result = await bench.clean(make_session())
        assert result.outcome is Outcome.KEPT, result
        assert case.kept is not None
        assert policy is OnDirty.KEEP or case.kept in result.detail
        assert everything(bench.repository) == before
        assert files(path) == expected


@pytest.mark.parametrize("policy", OnDirty)
async def test_what_is_clean_goes_without_a_trace(bench: Bench, policy: OnDirty) -> None:
    before = everything(bench.repository)
    bench.settings = WorktreeSettings(on_dirty=policy)
    await bench.prepare(make_session())
    assert (await bench.clean(make_session())).outcome is Outcome.DONE
    assert everything(bench.repository) == before


async def test_a_sparse_checkout_that_is_clean_goes(bench: Bench) -> None:
    before = everything(bench.repository)
    bench.settings = WorktreeSettings(on_dirty=OnDirty.PARK)
    path = await bench.prepare(make_session())
    git(path, "sparse-checkout", "set", "docs")
    assert not (path / "deep").exists()
    assert (await bench.clean(make_session())).outcome is Outcome.DONE
    assert everything(bench.repository)[:2] == before[:2]


async def test_a_bare_clone_with_a_checkout_beside_it(bench: Bench) -> None:
    """As many people have their repositories: the project is a worktree itself."""
    bare, project = bench.repository.parent / "shop.git", bench.repository.parent / "main checkout"
    git(bench.repository, "clone", "-q", "--bare", str(bench.repository), str(bare))
    git(bare, "worktree", "add", "-q", str(project), "main")
    bench.projects = {"shop": project}
    bench.settings = WorktreeSettings(on_dirty=OnDirty.PARK)
    path = await bench.prepare(make_session())
    assert path == project / ".relaykit" / "worktrees" / "auth"
    _unpushed_and_everything_else(path)
    expected = picture(path)
    assert (await bench.clean(make_session())).outcome is Outcome.DONE
    assert not (project / ".relaykit").exists()
    repository = await find_repository(bench.git, project)
    [parked] = await list_parked(bench.git, bare)
    assert await bring_back(bench.git, repository, parked, to=None, state_dir=Path("/state")) == path
    assert picture(path) == expected


async def test_a_session_that_is_parked_and_revived_gets_its_work_back(bench: Bench) -> None:
    bench.settings = WorktreeSettings(on_dirty=OnDirty.PARK)
    path = await bench.prepare(make_session())
    _unpushed_and_everything_else(path)
    expected = picture(path)
    assert (await bench.clean(make_session())).outcome is Outcome.DONE
    assert await bench.prepare(make_session()) == path
    assert picture(path) == expected
    assert bench.said[-1] == "brought back from refs/relaykit/parked/s1\n"
    assert not git(bench.repository, "for-each-ref", PARKED)


async def test_a_file_that_is_changed_while_it_is_parked_stays(bench: Bench) -> None:
    """Whatever git command is about to run: what is written at that moment is not lost."""
    bench.settings = WorktreeSettings(on_dirty=OnDirty.PARK)
    outcomes: list[Outcome] = []
    for nth in count(1):
        session = make_session(f"s{nth}", agent_id=f"r{nth}")
        path = await bench.prepare(session)
        _changed(path)
        _write(path / "notes.txt")
        late = Late(20, path=path / "notes.txt", nth=nth)
        bench.git = late
        result = await bench.clean(session)
        if not late.wrote:  # it had been parked, and was not there any more
            assert result.outcome is Outcome.DONE
            break
        outcomes.append(result.outcome)
        if result.outcome is Outcome.KEPT:
            assert (path / "notes.txt").read_bytes() == b"late\n"
            assert (path / "code.py").read_bytes() == b"changed\n"
        else:
            assert git(bench.repository, "show", f"{PARKED}s{nth}:notes.txt") == "late\n"
    assert outcomes.count(Outcome.DONE) >= 5
    assert outcomes.count(Outcome.KEPT) >= 5


@dataclass(frozen=True)
class Late(Git):
    """Changes a file, if it is still there, before the n-th command."""

    path: Path = Path()
    nth: int = 0
    commands: list[tuple[str, ...]] = field(default_factory=list)
    wrote: list[bool] = field(default_factory=list)

    async def attempt(self, directory: str | Path, /, *arguments: str, **more: Any) -> str:
        self.commands.append(arguments)
        if len(self.commands) == self.nth and self.path.exists():
            self.path.write_bytes(b"late\n")
            self.wrote.append(True)
        return await super().attempt(directory, *arguments, **more)
