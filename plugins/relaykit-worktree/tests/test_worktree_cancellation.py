"""A worktree that is not made to its end leaves nothing behind, whenever and however it was stopped."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio import to_thread
from anyio.lowlevel import checkpoint

from relaykit_worktree.errors import GitError
from relaykit_worktree.git import Git
from support.worktrees import IDENTITY, Bench, commit, everything, git, make_repository, make_session

pytestmark = pytest.mark.anyio


@pytest.fixture(autouse=True)
def _identity(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tmp_path / "gitconfig"
    config.write_text(IDENTITY)
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(config))
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(make_repository(tmp_path / "shop"))


@dataclass(frozen=True)
class Watched(Git):
    """Tells when the n-th command begins."""

    nth: int = 0
    began: anyio.Event = field(default_factory=anyio.Event)
    commands: list[tuple[str, ...]] = field(default_factory=list)

    async def attempt(self, directory: str | Path, /, *arguments: str, **more: Any) -> str:
        self.commands.append(arguments)
        if len(self.commands) == self.nth:
            self.began.set()
        return await super().attempt(directory, *arguments, **more)


async def _prepare_cancelled(bench: Bench, nth: int, steps: int) -> bool:
    """Cancel `steps` turns of the loop after the n-th command began; tell whether it got that far."""
    watched = Watched(nth=nth)
    bench.git = watched
    scope = anyio.CancelScope()

    async def cancel() -> None:
        await watched.began.wait()
        for _ in range(steps):
            await checkpoint()
        scope.cancel()

    with anyio.fail_after(30):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(cancel)
            with scope:
                await bench.prepare(make_session())
            tasks.cancel_scope.cancel()
    return scope.cancelled_caught


@pytest.mark.parametrize("kept", [False, True], ids=["new", "branch_kept"])
@pytest.mark.parametrize("steps", [0, 2, 8])
async def test_cancelled_at_every_command(bench: Bench, steps: int, kept: bool) -> None:  # noqa: FBT001 -- a parameter
    if kept:
        git(bench.repository, "branch", "relaykit/auth", commit(bench.repository, "kept.txt"))
    before = everything(bench.repository)
    nth = 1
    while await _prepare_cancelled(bench, nth, steps):
        assert everything(bench.repository) == before, f"at command {nth}"
        nth += 1
    # From here on it is complete before the cancellation reaches it, and returns. How early that is depends,
    # where the cancellation waits for some turns of the loop, on how fast git is.
    assert nth > (3 if steps == 0 else 1)
    assert "locked" not in git(bench.repository, "worktree", "list", "--porcelain")
    assert git(bench.repository / ".relaykit" / "worktrees" / "auth", "status", "--porcelain") == ""


async def test_cancelled_in_the_midst_of_a_long_checkout(bench: Bench, tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    (bench.repository / ".gitattributes").write_text("slow.txt filter=slow\n")
    commit(bench.repository, "slow.txt")
    git(bench.repository, "add", ".gitattributes")
    git(bench.repository, "commit", "-qm", "a filter")
    before = everything(bench.repository)
    git(bench.repository, "config", "filter.slow.smudge", f"exec >'{fifo}'; echo began; exec sleep 100")
    scope = anyio.CancelScope()
    rest: list[str] = []

    async def cancel() -> None:
        with await to_thread.run_sync(fifo.open) as reader:
            assert await to_thread.run_sync(reader.readline) == "began\n"
            scope.cancel()
            rest.append(await to_thread.run_sync(reader.read))  # returns once no process holds the other end

    with anyio.fail_after(20):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(cancel)
            with scope:
                await bench.prepare(make_session())
    assert scope.cancelled_caught
    assert rest == [""]
    assert everything(bench.repository) == before


async def test_a_checkout_that_overruns(bench: Bench) -> None:
    (bench.repository / ".gitattributes").write_text("slow.txt filter=slow\n")
    git(bench.repository, "add", ".gitattributes")
    commit(bench.repository, "slow.txt")
    git(bench.repository, "config", "filter.slow.smudge", "exec sleep 100")
    before = everything(bench.repository)
    bench.git = Git(1)
    with anyio.fail_after(20), pytest.raises(GitError, match="raise `git_timeout`"):
        await bench.prepare(make_session())
    assert everything(bench.repository) == before


async def test_a_checkout_that_fails(bench: Bench) -> None:
    (bench.repository / ".gitattributes").write_text("slow.txt filter=broken\n")
    git(bench.repository, "add", ".gitattributes")
    commit(bench.repository, "slow.txt")
    git(bench.repository, "config", "filter.broken.smudge", "false")
    git(bench.repository, "config", "filter.broken.required", "true")
    before = everything(bench.repository)
    with pytest.raises(GitError, match="smudge filter broken failed"):
        await bench.prepare(make_session())
    assert everything(bench.repository) == before


async def test_every_command_that_fails_leaves_nothing(bench: Bench) -> None:
    before = everything(bench.repository)

    class Failing(Watched):
        async def attempt(self, directory: str | Path, /, *arguments: str, **more: Any) -> str:
            if len(self.commands) == self.nth - 1:
                self.commands.append(arguments)
                raise GitError("it failed")
            return await super().attempt(directory, *arguments, **more)

    nth = 1
    while True:
        bench.git = Failing(nth=nth)
        try:
            await bench.prepare(make_session())
        except GitError:
            assert everything(bench.repository) == before, f"at command {nth}"
            nth += 1
        else:
            break
    assert nth > 3


async def test_a_lost_race_for_the_branch_leaves_the_winners(bench: Bench) -> None:
    class Racing(Git):
        async def attempt(self, directory: str | Path, /, *arguments: str, **more: Any) -> str:
            if arguments[0] == "update-ref":
                git(bench.repository, "branch", "relaykit/auth")
            return await super().attempt(directory, *arguments, **more)

    bench.git = Racing(20)
    with pytest.raises(GitError, match="reference already exists"):
        await bench.prepare(make_session())
    assert git(bench.repository, "branch", "--list", "relaykit/auth").strip() == "relaykit/auth"
    assert not (bench.repository / ".relaykit").exists()


async def test_two_at_once_for_one_directory_have_one_winner(bench: Bench) -> None:
    """Two projects that are one repository: the only way in which one role is asked for twice."""
    bench.projects = {"one": bench.repository, "two": bench.repository}
    outcomes: dict[str, Path | BaseException] = {}

    async def one(project: str) -> None:
        try:
            outcomes[project] = await bench.prepare(make_session(project, project=project))
        except Exception as error:  # noqa: BLE001 -- looked at below
            outcomes[project] = error

    with anyio.fail_after(30):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(one, "one")
            tasks.start_soon(one, "two")
    won = [path for path in outcomes.values() if isinstance(path, Path)]
    assert len(won) == 1
    assert (won[0] / "code.py").is_file()
    assert "locked" not in git(bench.repository, "worktree", "list", "--porcelain")


@pytest.mark.parametrize("trap", ["", "trap '' TERM;"], ids=["obeys", "ignores_sigterm"])
async def test_a_cancelled_command_takes_its_whole_group_with_it(
    bench: Bench, tmp_path: Path, trap: str
) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    rest: list[str] = []

    async with anyio.create_task_group() as tasks:

        async def run() -> None:
            await Git(20).run(
                bench.repository,
                "-c",
                f"alias.linger=!{trap} exec >'{fifo}'; echo began; sleep 100",
                "linger",
            )

        with anyio.fail_after(20):
            tasks.start_soon(run)
            with await to_thread.run_sync(fifo.open) as reader:
                assert await to_thread.run_sync(reader.readline) == "began\n"
                tasks.cancel_scope.cancel()
                with anyio.CancelScope(shield=True):
                    rest.append(await to_thread.run_sync(reader.read))
    assert rest == [""]
