"""What `relaykit doctor` says of git and of worktrees."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from relaykit.hooks.registration import Finding, Surroundings, Verdict
from relaykit.session import Session
from relaykit_worktree.checks import Checks
from relaykit_worktree.git import Git
from support.worktrees import IDENTITY, Bench, git, make_repository, make_session

pytestmark = pytest.mark.anyio


@pytest.fixture(autouse=True)
def _identity(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    configuration = tmp_path / "gitconfig"
    configuration.write_text(IDENTITY)
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(configuration))
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")


def checks(**projects: Path) -> Checks:
    return Checks(projects, git=Git(30), base="HEAD", name="worktree")


def surroundings(*sessions: Session, running: bool = False, workspace: str = "worktree") -> Surroundings:
    known = None if running else {session.id: session for session in sessions}
    return Surroundings(running=running, sessions=known, workspace=workspace)


def told(findings: Sequence[Finding]) -> list[tuple[Verdict, str]]:
    return [(finding.verdict, finding.what) for finding in findings]


async def test_git_and_the_projects(tmp_path: Path) -> None:
    good, bare, empty = make_repository(tmp_path / "good"), tmp_path / "bare", tmp_path / "empty"
    bare.mkdir()
    empty.mkdir()
    git(empty, "init", "-q")
    looking = checks(good=good, bare=bare, empty=empty, missing=tmp_path / "missing")
    found = list(await looking.look_at_git(surroundings()))
    assert [finding.verdict for finding in found] == [
        Verdict.OK,
        Verdict.OK,
        Verdict.TROUBLE,
        Verdict.TROUBLE,
    ]
    assert found[0].what.startswith("git version ")
    head = git(good, "rev-parse", "HEAD")[:12]
    assert found[1].what == f"project 'good' is a repository; roles begin at {head}"
    assert found[2].what.startswith("project 'bare': ")
    assert found[2].fix.startswith("`git init`, or set `workspace")
    assert "no commit" in found[3].what
    assert found[3].fix == 'set `workspace = "in_place"` in [relay]'
    assert list(await looking.look_at_git(surroundings(workspace="directory"))) == []


async def test_a_repository_of_somebody_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looking = checks(theirs=make_repository(tmp_path / "theirs"))
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")
    _, finding = await looking.look_at_git(surroundings())
    assert finding.verdict is Verdict.TROUBLE
    assert "safe.directory" in finding.what
    assert "git init" not in finding.fix


async def test_a_git_that_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    repository = make_repository(tmp_path / "good")
    monkeypatch.setenv("PATH", str(tmp_path))
    [finding] = await checks(good=repository).look_at_git(surroundings())
    assert finding.verdict is Verdict.TROUBLE


async def test_worktrees_whose_sessions_are_gone(tmp_path: Path) -> None:
    bench = Bench(make_repository(tmp_path / "shop"))
    mine, other = make_session("s1"), make_session("s2", agent_id="db")
    await bench.prepare(mine)
    await bench.prepare(other)
    looking = checks(shop=bench.repository, again=bench.repository, none=tmp_path / "nowhere")
    found = list(await looking.look_at_worktrees(surroundings(mine)))
    root = bench.repository / ".relaykit" / "worktrees"
    assert told(found) == [
        (Verdict.OK, f"{root / 'auth'} (relaykit/auth) is session {mine.id}'s"),
        (Verdict.WARNING, f"{root / 'db'} (relaykit/db) was kept, and its session is gone"),
    ]
    assert "relaykit worktrees list" in found[1].fix
    assert [finding.verdict for finding in await looking.look_at_worktrees(surroundings(running=True))] == [
        Verdict.OK,
        Verdict.OK,
    ]
    assert (root / "db").is_dir()
