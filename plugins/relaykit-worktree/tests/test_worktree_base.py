"""A base that is a remote's branch is fetched first; one that cannot be is an error, and nothing is left."""

from __future__ import annotations

from pathlib import Path

import anyio
import pytest

from relaykit_worktree.errors import BaseNotFetched
from relaykit_worktree.git import Git
from relaykit_worktree.settings import WorktreeSettings
from support.worktrees import IDENTITY, Bench, commit, everything, git, make_repository, make_session

pytestmark = [pytest.mark.anyio, pytest.mark.parametrize("anyio_backend", ["asyncio"])]

FETCHING = WorktreeSettings(base="origin/main", fetch=True)


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    """A clone of ``tmp_path/origin``, and what came there since."""
    (tmp_path / "gitconfig").write_text(IDENTITY)
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(tmp_path / "gitconfig"))
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    origin = make_repository(tmp_path / "origin")
    git(tmp_path, "clone", "-q", str(origin), "shop")
    commit(origin, "newer.txt")
    git(origin, "tag", "v1")
    git(origin, "branch", "other")
    return Bench(tmp_path / "shop", settings=FETCHING)


def _tip(bench: Bench) -> str:
    return git(bench.repository.parent / "origin", "rev-parse", "main").strip()


@pytest.mark.parametrize("base", ["origin/main", "refs/remotes/origin/main", "remotes/origin/main"])
async def test_the_newest_is_fetched_and_pinned(bench: Bench, base: str) -> None:
    git(bench.repository, "fetch", "-q", "origin", "HEAD")
    fetch_head = (bench.repository / ".git" / "FETCH_HEAD").read_bytes()
    commit(bench.repository.parent / "origin", "newest.txt")
    bench.settings = WorktreeSettings(base=base, fetch=True)
    path = await bench.prepare(make_session())
    assert git(path, "rev-parse", "HEAD").strip() == _tip(bench) == bench.recorded["s1"]["base"]
    assert (path / "newest.txt").exists()
    # That branch alone, and what a person has fetched last is still said.
    assert git(bench.repository, "for-each-ref", "refs/tags", "refs/remotes/origin/other") == ""
    assert (bench.repository / ".git" / "FETCH_HEAD").read_bytes() == fetch_head
    assert "relaykit" not in (bench.repository / ".git" / "config").read_text()


async def test_without_the_setting_nothing_is_fetched(bench: Bench) -> None:
    bench.settings = WorktreeSettings(base="origin/main")
    path = await bench.prepare(make_session())
    assert not (path / "newer.txt").exists()


async def test_a_branch_that_is_there_needs_no_network(bench: Bench) -> None:
    path = await bench.prepare(make_session())
    tip = commit(path, "work.txt")
    git(bench.repository, "remote", "set-url", "origin", "/nonexistent")
    git(bench.repository, "worktree", "remove", str(path))
    assert await bench.prepare(make_session("s2")) == path
    assert git(path, "rev-parse", "HEAD").strip() == tip


@pytest.mark.parametrize(
    ("base", "url", "message"),
    [
        ("origin/main", "/nonexistent", "does not appear to be a git repository"),
        ("origin/gone", None, "couldn't find remote ref refs/heads/gone"),
        ("main", None, "it is no branch of a remote; remotes: origin"),
        ("HEAD", None, "it is no branch of a remote"),
    ],
)
async def test_what_cannot_be_fetched_is_an_error(
    bench: Bench, base: str, url: str | None, message: str
) -> None:
    if url is not None:
        git(bench.repository, "remote", "set-url", "origin", url)
    before = everything(bench.repository)
    bench.settings = WorktreeSettings(base=base, fetch=True)
    with pytest.raises(BaseNotFetched, match=message) as caught:
        await bench.prepare(make_session())
    assert "fetch = false" in str(caught.value)
    assert (caught.value.base, caught.value.repository) == (base, str(bench.repository / ".git"))
    assert everything(bench.repository) == before


async def test_a_remote_that_does_not_answer(bench: Bench) -> None:
    git(bench.repository, "config", "remote.origin.uploadpack", "sleep 100;:")
    before = everything(bench.repository)
    bench.git = Git(0.5)
    with anyio.fail_after(20), pytest.raises(BaseNotFetched, match=r"within 0.5 s"):
        await bench.prepare(make_session())
    assert everything(bench.repository) == before


async def test_many_at_once(bench: Bench) -> None:
    with anyio.fail_after(30):
        async with anyio.create_task_group() as tasks:
            for number in range(6):
                tasks.start_soon(bench.prepare, make_session(f"s{number}", agent_id=f"r{number}"))
    assert {facts["base"] for facts in bench.recorded.values()} == {_tip(bench)}


async def test_a_remote_whose_name_has_slashes(bench: Bench) -> None:
    git(bench.repository, "remote", "rename", "origin", "team/origin")
    git(bench.repository, "remote", "add", "team", "/nonexistent")
    bench.settings = WorktreeSettings(base="team/origin/main", fetch=True)
    path = await bench.prepare(make_session())
    assert (path / "newer.txt").exists()


@pytest.mark.parametrize("kind", ["branch", "tag", "annotated tag", "commit", "relative"])
async def test_other_bases_are_pinned(bench: Bench, kind: str) -> None:
    first = git(bench.repository, "rev-parse", "HEAD").strip()
    git(bench.repository, "branch", "release")
    git(bench.repository, "tag", "v0")
    git(bench.repository, "tag", "-am", "zero", "v0a")
    commit(bench.repository, "later.txt")
    bases = {
        "branch": "release",
        "tag": "v0",
        "annotated tag": "v0a",
        "commit": first[:12],
        "relative": "HEAD~1",
    }
    bench.settings = WorktreeSettings(base=bases[kind])
    path = await bench.prepare(make_session())
    assert git(path, "rev-parse", "HEAD").strip() == first == bench.recorded["s1"]["base"]
