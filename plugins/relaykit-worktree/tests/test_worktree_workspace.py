"""Worktrees are made, adopted, checked out again and refused, in real repositories."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anyio
import pytest

from relaykit.errors import InvalidAgentId, NotARepository, WorkspaceError
from relaykit.session import Json, Outcome
from relaykit_worktree.errors import GitError
from relaykit_worktree.git import Git
from relaykit_worktree.settings import WorktreeSettings
from support.worktrees import (
    IDENTITY,
    Bench,
    commit,
    everything,
    git,
    make_repository,
    make_session,
    process_in,
)

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


async def test_a_role_gets_a_directory_and_a_branch(bench: Bench) -> None:
    head = git(bench.repository, "rev-parse", "HEAD").strip()
    path = await bench.prepare(make_session())
    assert path == bench.repository / ".relaykit" / "worktrees" / "auth"
    assert (path / "code.py").read_text() == "print('hello')\n"
    assert git(path, "symbolic-ref", "HEAD").strip() == "refs/heads/relaykit/auth"
    assert git(path, "status", "--porcelain") == ""
    assert bench.recorded["s1"] == {
        "repository": str(bench.repository / ".git"),
        "path": str(path),
        "branch": "refs/heads/relaykit/auth",
        "base": head,
        "branch_existed": False,
        "adopted": False,
    }
    assert "locked" not in git(bench.repository, "worktree", "list", "--porcelain")


async def test_it_is_recorded_before_anything_is_made(bench: Bench) -> None:
    before = everything(bench.repository)

    async def record(_facts: Json) -> None:
        assert everything(bench.repository) == before
        raise OSError("the store is full")

    async def say(text: str) -> None:
        raise AssertionError(text)

    with pytest.raises(OSError, match="the store is full"):
        await bench.workspace().prepare(make_session(), record, say)
    assert everything(bench.repository) == before


async def test_our_directory_is_excluded_once_and_other_lines_stay(bench: Bench) -> None:
    exclude = bench.repository / ".git" / "info" / "exclude"
    exclude.write_text("*.mine")
    await bench.prepare(make_session())
    await bench.prepare(make_session("s2", agent_id="db"))
    assert exclude.read_text() == "*.mine\n/.relaykit/\n"
    assert git(bench.repository, "status", "--porcelain") == ""


async def test_a_base_other_than_head_is_pinned(bench: Bench) -> None:
    first = git(bench.repository, "rev-parse", "HEAD").strip()
    git(bench.repository, "tag", "-am", "one", "v1")
    commit(bench.repository, "later.txt")
    bench.settings = WorktreeSettings(base="v1")
    path = await bench.prepare(make_session())
    assert git(path, "rev-parse", "HEAD").strip() == first
    assert bench.recorded["s1"]["base"] == first


async def test_a_base_that_is_no_commit(bench: Bench) -> None:
    bench.settings = WorktreeSettings(base="-rf")
    with pytest.raises(WorkspaceError, match="correct `base`"):
        await bench.prepare(make_session())


async def test_eight_roles_at_once(bench: Bench) -> None:
    paths: list[Path] = []

    async def one(number: int) -> None:
        paths.append(await bench.prepare(make_session(f"s{number}", agent_id=f"role{number}")))

    with anyio.fail_after(30):
        async with anyio.create_task_group() as tasks:
            for number in range(8):
                tasks.start_soon(one, number)
    assert len(set(paths)) == 8
    assert all((path / "code.py").is_file() for path in paths)
    assert (bench.repository / ".git" / "info" / "exclude").read_text().count("/.relaykit/") == 1


async def test_a_kept_worktree_is_adopted_with_all_that_is_in_it(bench: Bench) -> None:
    path = await bench.prepare(make_session())
    tip = commit(path, "work.txt")
    (path / "draft.txt").write_text("draft")
    assert await bench.prepare(make_session("s2")) == path
    assert (path / "draft.txt").read_text() == "draft"
    assert bench.recorded["s2"]["adopted"] is True
    assert bench.recorded["s2"]["base"] == tip == git(path, "rev-parse", "HEAD").strip()


async def test_a_branch_without_a_worktree_is_checked_out_again_with_its_commits(bench: Bench) -> None:
    path = await bench.prepare(make_session())
    tip = commit(path, "work.txt")
    git(bench.repository, "worktree", "remove", str(path))
    assert await bench.prepare(make_session("s2")) == path
    assert git(path, "rev-parse", "relaykit/auth").strip() == tip
    assert (path / "work.txt").is_file()
    assert bench.recorded["s2"]["branch_existed"] is True


async def test_no_adoption_while_a_process_lives_in_it(bench: Bench) -> None:
    path = await bench.prepare(make_session())
    async with process_in(path / "docs") as pid:
        with pytest.raises(WorkspaceError, match=f"in use by process {pid}"):
            await bench.prepare(make_session("s2"))
    assert await bench.prepare(make_session("s2")) == path


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("worktree", "lock", "--reason", "mine", "."), r"locked \(mine\): run `git worktree unlock`"),
        (("switch", "-q", "--detach"), "on a detached HEAD, not on relaykit/auth"),
        (("switch", "-qc", "elsewhere"), "on elsewhere, not on relaykit/auth"),
    ],
)
async def test_no_adoption_of_a_worktree_in_another_state(
    bench: Bench, arguments: tuple[str, ...], message: str
) -> None:
    path = await bench.prepare(make_session())
    git(path, *arguments)
    before = everything(bench.repository)
    with pytest.raises(WorkspaceError, match=message):
        await bench.prepare(make_session("s2"))
    assert everything(bench.repository) == before
    assert "s2" not in bench.recorded


async def test_no_adoption_of_a_worktree_that_lost_its_git_file(bench: Bench) -> None:
    path = await bench.prepare(make_session())
    (path / ".git").unlink()
    with pytest.raises(WorkspaceError, match="is damaged"):
        await bench.prepare(make_session("s2"))
    assert (path / "code.py").is_file()


async def test_a_branch_that_is_checked_out_elsewhere(bench: Bench, tmp_path: Path) -> None:
    git(bench.repository, "worktree", "add", "-q", "-b", "relaykit/auth", str(tmp_path / "mine"))
    with pytest.raises(WorkspaceError, match="is checked out in"):
        await bench.prepare(make_session())


async def test_a_directory_in_the_way_is_left_alone(bench: Bench) -> None:
    path = bench.repository / ".relaykit" / "worktrees" / "auth"
    path.mkdir(parents=True)
    (path / "mine.txt").write_text("mine")
    with pytest.raises(WorkspaceError, match="is in the way"):
        await bench.prepare(make_session())
    assert (path / "mine.txt").read_text() == "mine"


async def test_a_link_in_place_of_our_directory_is_not_followed(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (bench.repository / ".relaykit").symlink_to(tmp_path / "outside")
    with pytest.raises(WorkspaceError, match="not a directory of relaykit's own"):
        await bench.prepare(make_session())
    assert list((tmp_path / "outside").iterdir()) == []


@pytest.mark.parametrize("agent_id", ["../x", "-rf", "a/b", "", ".", "..", "a b", "a\n", "@x", "ä", "a" * 65])
async def test_hostile_roles_meet_no_path(bench: Bench, agent_id: str) -> None:
    before = everything(bench.repository)
    with pytest.raises(InvalidAgentId):
        await bench.prepare(make_session(agent_id=agent_id))
    assert everything(bench.repository) == before


async def test_owners_do_not_meet(bench: Bench) -> None:
    owners = ["local", "a/b", "a-b", "../..", "", "ünï côde", "auth"]
    paths = [await bench.prepare(make_session(f"s{n}", owner=owner)) for n, owner in enumerate(owners)]
    root = bench.repository / ".relaykit" / "worktrees"
    assert len(set(paths)) == len(owners)
    assert all(path.resolve().is_relative_to(root) for path in paths)
    for n, owner in enumerate(owners):
        assert (await bench.clean(make_session(f"s{n}", owner=owner))).outcome is Outcome.DONE
    assert not (bench.repository / ".relaykit").exists()


async def test_spaces_newlines_and_unicode_in_the_path(tmp_path: Path) -> None:
    bench = Bench(make_repository(tmp_path / "my shop\n(ünïcode)"))
    path = await bench.prepare(make_session())
    assert path == bench.repository / ".relaykit" / "worktrees" / "auth"
    assert await bench.prepare(make_session("s2")) == path
    assert (await bench.clean(make_session("s2"))).outcome is Outcome.DONE
    assert not path.exists()


async def test_a_project_below_the_top_level_gets_the_same_subdirectory(bench: Bench) -> None:
    bench.projects = {"shop": bench.repository / "docs"}
    path = await bench.prepare(make_session())
    assert path == bench.repository / ".relaykit" / "worktrees" / "auth" / "docs"
    assert (path / "guide.md").is_file()
    assert await bench.prepare(make_session("s2")) == path
    assert (await bench.clean(make_session("s2"))).outcome is Outcome.DONE


async def test_a_subdirectory_that_the_base_does_not_have(bench: Bench) -> None:
    (bench.repository / "new").mkdir()
    bench.projects = {"shop": bench.repository / "new"}
    assert await bench.prepare(make_session()) == bench.repository / ".relaykit" / "worktrees" / "auth"


async def test_two_projects_of_one_repository_do_not_share_a_role(bench: Bench) -> None:
    bench.projects = {"shop": bench.repository, "docs": bench.repository / "docs"}
    path = await bench.prepare(make_session())
    with pytest.raises(WorkspaceError, match="belongs to project 'shop'"):
        await bench.prepare(make_session("s2", project="docs"))
    assert (path / "code.py").is_file()


async def test_outside_a_repository(tmp_path: Path) -> None:
    with pytest.raises(NotARepository, match='workspace = "directory"'):
        await Bench(tmp_path).prepare(make_session())


async def test_a_missing_project_directory(tmp_path: Path) -> None:
    with pytest.raises(WorkspaceError, match="is missing"):
        await Bench(tmp_path / "gone").prepare(make_session())


async def test_an_unknown_project(bench: Bench) -> None:
    with pytest.raises(WorkspaceError, match="no project 'other'"):
        await bench.prepare(make_session(project="other"))


async def test_a_bare_repository(tmp_path: Path) -> None:
    git(tmp_path, "init", "-q", "--bare", "bare.git")
    with pytest.raises(WorkspaceError, match="bare repository"):
        await Bench(tmp_path / "bare.git").prepare(make_session())


async def test_a_repository_without_a_commit(tmp_path: Path) -> None:
    git(tmp_path, "init", "-q", "empty")
    with pytest.raises(WorkspaceError, match="make a first commit"):
        await Bench(tmp_path / "empty").prepare(make_session())


async def test_a_repository_of_somebody_else(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")
    with pytest.raises(GitError, match=r"safe\.directory"):
        await bench.prepare(make_session())


async def test_no_git(bench: Bench, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(GitError, match="install git"):
        await bench.prepare(make_session())


async def test_variables_of_a_surrounding_git_are_not_inherited(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    other = make_repository(tmp_path / "other")
    before = everything(other)
    with monkeypatch.context() as patch:
        patch.setenv("GIT_DIR", str(other / ".git"))
        patch.setenv("GIT_WORK_TREE", str(other))
        patch.setenv("GIT_INDEX_FILE", str(other / ".git" / "index"))
        path = await bench.prepare(make_session())
    assert path.is_relative_to(bench.repository)
    assert everything(other) == before


async def test_the_repositorys_hooks_do_not_run(bench: Bench, tmp_path: Path) -> None:
    for name in ("post-checkout", "reference-transaction"):
        hook = bench.repository / ".git" / "hooks" / name
        hook.write_text(f"#!/bin/sh\ntouch '{tmp_path}/{name}.ran'\n")
        hook.chmod(0o755)
    await bench.prepare(make_session())
    assert (await bench.clean(make_session())).outcome is Outcome.DONE
    assert [path async for path in anyio.Path(tmp_path).glob("*.ran")] == []


async def test_gits_lock_is_waited_for(bench: Bench) -> None:
    lock = bench.repository / ".git" / "refs" / "heads" / "relaykit" / "auth.lock"
    lock.parent.mkdir()
    lock.touch()
    refused = anyio.Event()

    class Watched(Git):
        async def attempt(self, directory: str | Path, /, *arguments: str, **more: Any) -> str:
            try:
                return await super().attempt(directory, *arguments, **more)
            except GitError as error:
                if error.is_contention:
                    refused.set()
                raise

    async def release() -> None:
        await refused.wait()
        lock.unlink()

    bench.git = Watched(20)
    with anyio.fail_after(20):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(release)
            path = await bench.prepare(make_session())
    assert refused.is_set()
    assert (path / "code.py").is_file()


async def test_a_lock_that_stays_is_an_error_and_nothing_is_left(bench: Bench) -> None:
    lock = bench.repository / ".git" / "refs" / "heads" / "relaykit" / "auth.lock"
    lock.parent.mkdir()
    lock.touch()
    before = everything(bench.repository)
    bench.git = Git(0.5)
    with pytest.raises(GitError, match=r"auth\.lock"):
        await bench.prepare(make_session())
    assert everything(bench.repository) == before
