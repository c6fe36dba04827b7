"""relaykit's contracts over the workspace and the cleaner, in real repositories."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from pathlib import Path

import anyio
import pytest

from relaykit.agent import Workspace
from relaykit.clock import SystemClock
from relaykit.session import Cleaner, Session
from relaykit.testing import Acquire, CleanerContract, IsReleased, WorkspaceContract
from relaykit_worktree.cleaner import WorktreeCleaner
from relaykit_worktree.settings import WorktreeSettings
from support.worktrees import IDENTITY, Bench, everything, make_repository, make_session


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    config = tmp_path / "gitconfig"
    config.write_text(IDENTITY)
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(config))
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    return Bench(make_repository(tmp_path / "shop"))


class TestWorktreeWorkspace(WorkspaceContract):
    @pytest.fixture
    def workspace(self, bench: Bench) -> Workspace:
        return bench.workspace()

    @pytest.fixture
    def impossible(self) -> Session:
        return make_session(project="another")

    @pytest.fixture
    def picture(self, bench: Bench) -> Callable[[], object]:
        return lambda: everything(bench.repository)


class TestWorktreeCleaner(CleanerContract):
    @pytest.fixture
    def cleaner(self, bench: Bench) -> Cleaner:
        return WorktreeCleaner(git=bench.git, settings=WorktreeSettings(), clock=SystemClock())

    @pytest.fixture
    def acquire(self, bench: Bench) -> Acquire:
        numbers = count(1)

        async def acquire() -> Session:
            number = next(numbers)
            session = make_session(f"s{number}", agent_id=f"role{number}")
            await bench.prepare(session)
            return bench.with_resources(session)

        return acquire

    @pytest.fixture
    def keeps(self, acquire: Acquire) -> Acquire:
        async def acquire_with_work() -> Session:
            session = await acquire()
            await anyio.Path(session.resources["worktree"]["path"], "work.py").write_text("print('done')\n")
            return session

        return acquire_with_work

    @pytest.fixture
    def is_released(self) -> IsReleased:
        async def is_released(session: Session) -> bool:
            return not await anyio.Path(session.resources["worktree"]["path"]).exists()

        return is_released
