"""What a relay was killed over while it made it is made anew; what another is making is left alone."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from relaykit.errors import WorkspaceError
from relaykit.session import Outcome
from relaykit_worktree.facts import unfinished
from support.worktrees import IDENTITY, Bench, git, make_repository, make_session, reason_of_a_dead_process

pytestmark = pytest.mark.anyio


@pytest.fixture(autouse=True)
def _identity(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "gitconfig").write_text(IDENTITY)
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(tmp_path / "gitconfig"))


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(make_repository(tmp_path / "shop"))


async def test_a_worktree_that_was_never_finished_is_made_anew(bench: Bench) -> None:
    path = await bench.prepare(make_session("dead"))
    git(bench.repository, "worktree", "lock", "--reason", reason_of_a_dead_process(), str(path))
    (path / "code.py").unlink()  # the checkout had not come so far
    assert await bench.prepare(make_session("next")) == path
    assert (path / "code.py").read_text() == "print('hello')\n"
    assert "locked" not in git(bench.repository, "worktree", "list", "--porcelain")
    assert (await bench.clean(make_session("next"))).outcome is Outcome.DONE
    assert not path.exists()


async def test_an_empty_directory_is_not_in_the_way(bench: Bench) -> None:
    (bench.repository / ".relaykit" / "worktrees" / "auth").mkdir(parents=True)
    path = await bench.prepare(make_session())
    assert (path / "code.py").exists()


async def test_a_worktree_that_is_being_made_is_left_alone(bench: Bench) -> None:
    path = await bench.prepare(make_session("busy"))
    git(bench.repository, "worktree", "lock", "--reason", unfinished("busy"), str(path))
    (path / "code.py").unlink()
    with pytest.raises(WorkspaceError, match="is locked"):
        await bench.prepare(make_session("next"))
    assert not (path / "code.py").exists()


async def test_a_worktree_that_is_gone_is_made_anew(bench: Bench) -> None:
    path = await bench.prepare(make_session("dead"))
    shutil.rmtree(path)  # as far as git had come when its relay was killed: the entry is still there
    assert await bench.prepare(make_session("next")) == path
    assert (path / "code.py").exists()
    assert (await bench.clean(make_session("next"))).outcome is Outcome.DONE


async def test_what_is_left_of_a_removal_is_not_touched(bench: Bench) -> None:
    path = await bench.prepare(make_session("dead"))
    (path / ".git").unlink()
    with pytest.raises(WorkspaceError, match="is damaged"):
        await bench.prepare(make_session("next"))
    assert (path / "code.py").exists()
