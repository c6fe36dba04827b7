"""Full disks, read-only ones, locks of others, people at work meanwhile: a named error, and nothing lost or left."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio
import pytest

from relaykit.errors import NotARepository, WorkspaceError
from relaykit.session import Outcome
from relaykit_worktree.bringing_back import bring_back
from relaykit_worktree.errors import DiskFull, GitError, NotRestored, NotWritable
from relaykit_worktree.git import Git
from relaykit_worktree.parked import PARKED, list_parked
from relaykit_worktree.repository import find_repository
from relaykit_worktree.settings import OnDirty, WorktreeSettings
from support.worktrees import (
    IDENTITY,
    Bench,
    commit,
    everything,
    git,
    git_dir_of,
    make_repository,
    make_session,
)

pytestmark = [pytest.mark.anyio, pytest.mark.parametrize("anyio_backend", ["asyncio"])]

PARKING = WorktreeSettings(on_dirty=OnDirty.PARK)


@pytest.fixture(autouse=True)
def _identity(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "gitconfig").write_text(IDENTITY)
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(tmp_path / "gitconfig"))
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(make_repository(tmp_path / "shop"))


# ---------------------------------------------------------------- disks


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A real file system of 2 MB."""
    path = tmp_path / "disk"
    path.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "relaykit-test", str(path)],
        capture_output=True,
        text=True,
        check=False,
        timeout=20,
    )
    if mounted.returncode != 0:
        pytest.skip(
            f"NO PROOF of full and read-only disks: no file system can be mounted here: {mounted.stderr}"
        )
    try:
        yield path
    finally:
        subprocess.run(["umount", "-l", str(path)], check=True, timeout=20)


def _fill(disk: Path, *, leave: int = 0) -> None:
    """Write until no byte is left, or so many kilobytes."""
    with (disk / "filler").open("wb", buffering=0) as file:
        try:
            while True:
                file.write(os.urandom(4096))
        except OSError:
            pass
        file.truncate(max(0, file.tell() - leave * 1024))


def _remount(disk: Path, how: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{how}", str(disk)], check=True, timeout=20)


def _but_reflogs(bench: Bench) -> tuple[str, str, list[str]]:
    """Return everything but the empty reflog that git leaves itself when it has no room for its first line."""
    listing, refs, paths = everything(bench.repository)
    return listing, refs, [path for path in paths if not path.startswith(".git/logs/refs/heads/relaykit")]


async def test_no_worktree_on_a_full_disk_and_nothing_is_left(disk: Path) -> None:
    """However much there is: the first byte that cannot be written is another one each time."""
    bench = Bench(make_repository(disk / "shop"))
    (bench.repository / "big.bin").write_bytes(os.urandom(60_000))
    git(bench.repository, "add", ".")
    git(bench.repository, "commit", "-qm", "big")
    await bench.prepare(
        make_session("s0")
    )  # so that what stays is there already: .git/worktrees, info/exclude
    assert (await bench.clean(make_session("s0"))).outcome is Outcome.DONE
    before = _but_reflogs(bench)
    failures = 0
    for kilobytes in (0, 4, 8, 12, 16, 24, 32, 48, 64, 200):
        _fill(disk, leave=kilobytes)
        try:
            path = await bench.prepare(make_session())
        except DiskFull as error:
            failures += 1
            assert "make room" in str(error)  # noqa: PT017 -- a loop of them
            (disk / "filler").unlink()
            assert _but_reflogs(bench) == before, kilobytes
        else:
            assert (path / "big.bin").stat().st_size == 60_000
            (disk / "filler").unlink()
            assert (await bench.clean(make_session())).outcome is Outcome.DONE
    assert failures >= 5


async def test_nothing_is_parked_on_a_full_disk_and_nothing_is_lost(disk: Path) -> None:
    bench = Bench(make_repository(disk / "shop"), settings=PARKING)
    path = await bench.prepare(make_session())
    content = os.urandom(100_000)
    (path / "data.bin").write_bytes(content)
    (path / "code.py").write_text("changed\n")
    kept = 0
    for kilobytes in (0, 4, 12, 40, 120, 160, 200, 240, 400):
        _fill(disk, leave=kilobytes)
        result = await bench.clean(make_session())
        (disk / "filler").unlink()
        if result.outcome is Outcome.DONE:
            break
        kept += 1
        assert "the disk is full" in result.detail
        assert (path / "data.bin").read_bytes() == content
        assert (path / "code.py").read_text() == "changed\n"
        assert git(path, "status", "--porcelain").splitlines() == [" M code.py", "?? data.bin"]
        assert not git(bench.repository, "for-each-ref", PARKED)
        assert not list(git_dir_of(path).glob("relaykit-*"))
    else:
        pytest.fail("it is never parked")
    assert kept >= 3
    repository = await find_repository(bench.git, bench.repository)
    [parked] = await list_parked(bench.git, repository.common_dir)
    _fill(disk, leave=20)
    with pytest.raises(DiskFull):
        await bring_back(bench.git, repository, parked, to=None, state_dir=disk)
    (disk / "filler").unlink()
    assert not path.exists()
    assert git(bench.repository, "rev-parse", parked.ref).strip() == parked.commit
    assert await bring_back(bench.git, repository, parked, to=None, state_dir=disk) == path
    assert (path / "data.bin").read_bytes() == content


async def test_a_disk_that_is_read_only(disk: Path) -> None:
    bench = Bench(make_repository(disk / "shop"), settings=PARKING)
    path = await bench.prepare(make_session())
    (path / "notes.txt").write_text("work\n")
    before = everything(bench.repository)
    _remount(disk, "ro")
    try:
        with pytest.raises(NotWritable, match="correct its permissions, or its mount"):
            await bench.prepare(make_session("s2", agent_id="other"))
        with pytest.raises(NotWritable, match="cannot take up"):
            await bench.prepare(make_session("s3"))
        result = await bench.clean(make_session())
        assert result.outcome is Outcome.KEPT
        assert "Read-only file system" in result.detail
        assert everything(bench.repository) == before
    finally:
        _remount(disk, "rw")
    assert (await bench.clean(make_session())).outcome is Outcome.DONE
    assert git(bench.repository, "show", f"{PARKED}s1:notes.txt") == "work\n"


# ---------------------------------------------------------------- locks of others


@dataclass(frozen=True)
class Watched(Git):
    """Tells when a command was refused because of a lock."""

    refused: anyio.Event = field(default_factory=anyio.Event)

    async def attempt(self, directory: str | Path, /, *arguments: str, **more: Any) -> str:
        try:
            return await super().attempt(directory, *arguments, **more)
        except GitError as error:
            if error.is_contention:
                self.refused.set()
            raise


_LOCKS = {
    "packed refs": "packed-refs.lock",
    "the branch": "refs/heads/relaykit/auth.lock",
    "what is parked": "refs/relaykit/parked/s1.lock",
    "configuration": "config.lock",
}


async def _locked(bench: Bench, which: str) -> tuple[Path, str, Path]:
    """Return a worktree with a commit, which has the lock in the way of its parking; the commit; and the lock."""
    bench.settings = PARKING
    path = await bench.prepare(make_session())
    tip = commit(path, "work.txt")
    git(path, "config", "branch.relaykit/auth.remote", "origin")
    git(path, "pack-refs", "--all")
    lock = bench.repository / ".git" / _LOCKS[which]
    lock.parent.mkdir(parents=True, exist_ok=True)
    lock.touch()
    return path, tip, lock


@pytest.mark.parametrize("which", _LOCKS)
async def test_a_lock_of_another_git_is_waited_for(bench: Bench, which: str) -> None:
    path, tip, lock = await _locked(bench, which)
    watched = Watched(20)
    bench.git = watched

    async def release() -> None:
        await watched.refused.wait()
        lock.unlink()

    with anyio.fail_after(30):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(release)
            result = await bench.clean(make_session())
    assert result.outcome is Outcome.DONE, result
    assert not path.exists()
    assert git(bench.repository, "for-each-ref", "--format=%(refname)").split() == [
        "refs/heads/main",
        f"{PARKED}s1",
    ]
    assert git(bench.repository, "rev-parse", f"{PARKED}s1^").strip() == tip
    assert "relaykit" not in (bench.repository / ".git" / "config").read_text()


@pytest.mark.parametrize("which", _LOCKS)
async def test_a_lock_that_stays_is_named_and_nothing_is_lost(bench: Bench, which: str) -> None:
    path, tip, lock = await _locked(bench, which)
    bench.git = Git(1.5)  # git itself waits for the packed refs' for a second
    with anyio.fail_after(30):
        result = await bench.clean(make_session())
    assert result.outcome is Outcome.KEPT
    assert lock.name.removesuffix(".lock") in result.detail
    lock.unlink()
    assert git(bench.repository, "for-each-ref", "--contains", tip)
    assert path.exists() == (which == "what is parked")


# ---------------------------------------------------------------- people


async def test_the_repository_goes_missing(bench: Bench) -> None:
    path = await bench.prepare(make_session())
    moved = bench.repository.with_name("elsewhere")
    bench.repository.rename(moved)
    with pytest.raises(WorkspaceError, match="is missing"):
        await bench.prepare(make_session("s2", agent_id="other"))
    assert (await bench.clean(make_session())).outcome is Outcome.SKIPPED
    bench.repository.mkdir()
    with pytest.raises(NotARepository):
        await bench.prepare(make_session("s2", agent_id="other"))
    bench.repository.rmdir()
    moved.rename(bench.repository)
    assert (path / "code.py").exists()
    assert (await bench.clean(make_session())).outcome is Outcome.DONE


async def test_somebody_rebases_in_another_checkout_meanwhile(bench: Bench) -> None:
    shop = bench.repository
    bench.settings = PARKING
    git(shop, "switch", "-qc", "theirs")
    commit(shop, "code.py", "theirs\n")
    git(shop, "switch", "-q", "main")
    commit(shop, "code.py", "ours\n")
    with pytest.raises(subprocess.CalledProcessError):
        git(shop, "rebase", "theirs")
    before = git(shop, "status", "--porcelain=v2")
    path = await bench.prepare(make_session())
    (path / "notes.txt").write_text("work\n")
    assert (await bench.clean(make_session())).outcome is Outcome.DONE
    assert git(shop, "status", "--porcelain=v2") == before
    assert (shop / ".git" / "rebase-merge").is_dir()
    git(shop, "rebase", "--abort")


async def test_the_branch_itself_is_being_rebased_in_another_checkout(bench: Bench, tmp_path: Path) -> None:
    bench.settings = PARKING
    path = await bench.prepare(make_session())
    commit(path, "code.py", "ours\n")
    git(path, "switch", "-q", "--detach")  # a person takes the branch to a checkout of their own
    other = tmp_path / "other"
    git(bench.repository, "worktree", "add", "-q", str(other), "relaykit/auth")
    git(bench.repository, "branch", "theirs")
    commit(bench.repository, "code.py", "theirs\n")
    with pytest.raises(subprocess.CalledProcessError):
        git(other, "rebase", "main")
    git(path, "symbolic-ref", "HEAD", "refs/heads/relaykit/auth")
    tip = git(bench.repository, "rev-parse", "relaykit/auth")
    result = await bench.clean(make_session())
    assert result.outcome is Outcome.KEPT
    assert "its branch is being rebased in another checkout" in result.detail
    assert git(bench.repository, "rev-parse", "relaykit/auth") == tip


# ---------------------------------------------------------------- what stands in the way of bringing back


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("directory", "is there already, and is not overwritten"),
        ("link", "is there already, and is not overwritten"),
        ("branch", "is at another commit by now"),
        ("session", "is checked out in"),
        ("top", "is not a directory of relaykit's own"),
    ],
)
async def test_nothing_is_overwritten_by_what_comes_back(
    bench: Bench, tmp_path: Path, change: str, message: str
) -> None:
    bench.settings = PARKING
    path = await bench.prepare(make_session())
    (path / "notes.txt").write_text("work\n")
    assert (await bench.clean(make_session())).outcome is Outcome.DONE
    repository = await find_repository(bench.git, bench.repository)
    [parked] = await list_parked(bench.git, repository.common_dir)
    if change == "directory":
        path.mkdir(parents=True)
        (path / "mine.txt").write_text("mine\n")
    elif change == "link":
        path.parent.mkdir(parents=True)
        path.symlink_to(tmp_path)
    elif change == "branch":
        git(bench.repository, "branch", "relaykit/auth", commit(bench.repository, "more.txt"))
    elif change == "session":
        shutil.rmtree(await bench.prepare(make_session("s2")))  # a worktree all the same
    else:
        (bench.repository / ".relaykit").symlink_to(tmp_path)
    before = everything(bench.repository)
    with pytest.raises(NotRestored, match=message):
        await bring_back(bench.git, repository, parked, to=None, state_dir=tmp_path)
    assert everything(bench.repository) == before
    assert git(bench.repository, "rev-parse", parked.ref).strip() == parked.commit
    if change in {"directory", "link", "top"}:
        there = await bring_back(bench.git, repository, parked, to=tmp_path / "a" / "b", state_dir=tmp_path)
        assert (there / "notes.txt").read_text() == "work\n"


async def test_what_comes_back_is_stopped_at_every_command(bench: Bench, tmp_path: Path) -> None:
    """Cancelled or failing: it is still parked, and nothing else is left."""
    bench.settings = PARKING
    path = await bench.prepare(make_session())
    (path / "notes.txt").write_text("work\n")
    git(path, "add", ".")
    commit(path, "work.txt")
    (path / "more.txt").write_text("more\n")
    assert (await bench.clean(make_session())).outcome is Outcome.DONE
    repository = await find_repository(bench.git, bench.repository)
    [parked] = await list_parked(bench.git, repository.common_dir)
    before = everything(bench.repository)
    stopped = 0
    while not path.exists():
        failing = Failing(20, nth=stopped + 1)
        try:
            await bring_back(failing, repository, parked, to=None, state_dir=tmp_path)
        except GitError:
            if not path.exists():
                assert everything(bench.repository) == before, failing.commands[-1]
            stopped += 1
    assert stopped > 10
    assert (path / "more.txt").read_text() == "more\n"


@dataclass(frozen=True)
class Failing(Git):
    """Fails at the n-th command."""

    nth: int = 0
    commands: list[tuple[str, ...]] = field(default_factory=list)

    async def attempt(self, directory: str | Path, /, *arguments: str, **more: Any) -> str:
        self.commands.append(arguments)
        if len(self.commands) == self.nth:
            raise GitError("it failed")
        return await super().attempt(directory, *arguments, **more)
