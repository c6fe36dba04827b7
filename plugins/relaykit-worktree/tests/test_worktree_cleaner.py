"""What may go goes, and nothing is left of it; what is gone already, half made, or another's is told apart."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import pytest

from relaykit.clock import SystemClock
from relaykit.session import Outcome
from relaykit_worktree.cleaner import WorktreeCleaner
from relaykit_worktree.errors import GitError
from relaykit_worktree.facts import unfinished
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
    config.write_text(IDENTITY + '[protocol "file"]\n\tallow = always\n')
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(config))
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(make_repository(tmp_path / "shop"))


def _write(path: Path, content: str = "work\n") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)


async def test_every_reason_is_told(bench: Bench) -> None:
    path = await bench.prepare(make_session())
    commit(path, "work.txt")
    _write(path / "code.py", "changed\n")
    for name in ("a.txt", "b.txt", "c.txt", "d.txt"):
        _write(path / name)
    assert (await bench.clean(make_session())).detail == (
        f"kept {path}: 1 changed file: code.py; 4 untracked files: a.txt, b.txt, c.txt, …; "
        "1 commit that no other ref holds"
    )


async def test_a_live_process_keeps_it(bench: Bench) -> None:
    path = await bench.prepare(make_session())
    async with process_in(path / "docs") as pid:
        result = await bench.clean(make_session())
        assert result.outcome is Outcome.KEPT
        assert f"in use by process {pid}" in result.detail
        assert (path / "code.py").is_file()
    assert (await bench.clean(make_session())).outcome is Outcome.DONE


async def test_nothing_is_left_of_a_clean_one(bench: Bench) -> None:
    before = everything(bench.repository)
    path = await bench.prepare(make_session())
    result = await bench.clean(make_session())
    assert (result.outcome, result.detail) == (Outcome.DONE, f"removed {path}")
    assert everything(bench.repository) == before
    assert not (bench.repository / ".relaykit").exists()


async def test_disposable_ignored_files_go_with_it(bench: Bench) -> None:
    path = await bench.prepare(make_session())
    _write(path / "node_modules" / "left pad" / "index.js")
    _write(path / "docs" / "build" / "out.log")
    _write(path / "docs" / "__pycache__" / "ünïcode\n.pyc")
    assert (await bench.clean(make_session())).outcome is Outcome.DONE
    assert not path.exists()


async def test_disposable_is_a_setting_and_takes_patterns(bench: Bench) -> None:
    path = await bench.prepare(make_session())
    _write(path / "node_modules" / "index.js")
    _write(path / "debug.log")
    assert (await bench.clean(make_session())).outcome is Outcome.KEPT
    bench.settings = WorktreeSettings(disposable=())
    assert (await bench.clean(make_session())).outcome is Outcome.KEPT
    bench.settings = WorktreeSettings(disposable=("node_modules", "*.log"))
    assert (await bench.clean(make_session())).outcome is Outcome.DONE


async def test_other_roles_stay(bench: Bench) -> None:
    await bench.prepare(make_session())
    other = await bench.prepare(make_session("s2", agent_id="db"))
    assert (await bench.clean(make_session())).outcome is Outcome.DONE
    assert (other / "code.py").is_file()
    assert (
        git(bench.repository, "branch", "--list", "relaykit/*", "--format=%(refname)")
        == "refs/heads/relaykit/db\n"
    )


@pytest.mark.parametrize(
    "hold",
    [("branch", "held"), ("tag", "held"), ("update-ref", "refs/remotes/origin/auth", "HEAD"), ("stash",)],
    ids=["branch", "tag", "remote", "stash"],
)
async def test_commits_that_another_ref_holds_do_not_keep_it(bench: Bench, hold: tuple[str, ...]) -> None:
    path = await bench.prepare(make_session())
    tip = commit(path, "work.txt")
    if hold == ("stash",):
        _write(path / "code.py", "changed\n")
    git(path, *hold)
    assert (await bench.clean(make_session())).outcome is Outcome.DONE
    assert git(bench.repository, "for-each-ref", "--contains", tip, "--format=%(refname)").strip()
    assert not git(bench.repository, "branch", "--list", "relaykit/*")


async def test_a_commit_that_only_a_detached_head_elsewhere_holds_keeps_it(bench: Bench) -> None:
    path = await bench.prepare(make_session())
    tip = commit(path, "work.txt")
    git(bench.repository, "switch", "-q", "--detach", tip)
    assert (await bench.clean(make_session())).outcome is Outcome.KEPT
    await bench.prepare(make_session("s2"))
    assert (await bench.clean(make_session("s2"))).outcome is Outcome.KEPT
    assert git(bench.repository, "rev-parse", "relaykit/auth").strip() == tip


async def test_a_base_that_was_a_detached_head_is_not_the_roles_work(bench: Bench) -> None:
    git(bench.repository, "switch", "-q", "--detach")
    commit(bench.repository, "detached.txt")
    before = everything(bench.repository)
    await bench.prepare(make_session())
    commit(bench.repository, "more.txt")
    assert (await bench.clean(make_session())).outcome is Outcome.DONE
    assert everything(bench.repository)[1] == before[1]


async def test_a_base_that_only_the_branch_still_holds_is_kept(bench: Bench) -> None:
    git(bench.repository, "switch", "-q", "--detach")
    commit(bench.repository, "detached.txt")
    await bench.prepare(make_session())
    git(bench.repository, "switch", "-q", "main")
    assert (await bench.clean(make_session())).outcome is Outcome.KEPT


async def test_an_adopted_one_is_treated_alike(bench: Bench) -> None:
    path = await bench.prepare(make_session())
    tip = commit(path, "work.txt")
    assert (await bench.clean(make_session())).outcome is Outcome.KEPT
    await bench.prepare(make_session("s2"))
    assert (await bench.clean(make_session("s2"))).outcome is Outcome.KEPT
    assert git(bench.repository, "rev-parse", "relaykit/auth").strip() == tip
    await bench.prepare(make_session("s3"))
    git(bench.repository, "merge", "-q", "relaykit/auth")
    assert (await bench.clean(make_session("s3"))).outcome is Outcome.DONE
    assert not path.exists()
    assert git(bench.repository, "rev-parse", "main").strip() == tip


async def test_the_session_before_does_not_clean_what_the_next_one_adopted(bench: Bench) -> None:
    path = await bench.prepare(make_session())
    await bench.prepare(make_session("s2"))
    result = await bench.clean(make_session())
    assert (result.outcome, "but by s2" in result.detail) == (Outcome.KEPT, True)
    assert (path / "code.py").is_file()


async def test_the_settings_of_a_pushed_branch_go_with_it(bench: Bench, tmp_path: Path) -> None:
    git(tmp_path, "init", "-q", "--bare", "origin.git")
    git(bench.repository, "remote", "add", "origin", str(tmp_path / "origin.git"))
    path = await bench.prepare(make_session())
    commit(path, "work.txt")
    git(path, "push", "-qu", "origin", "HEAD")
    assert (await bench.clean(make_session())).outcome is Outcome.DONE
    assert "relaykit" not in (bench.repository / ".git" / "config").read_text()


async def test_a_submodule_that_is_not_checked_out_does_not_keep_it(bench: Bench, tmp_path: Path) -> None:
    library = make_repository(tmp_path / "library")
    git(bench.repository, "submodule", "--quiet", "add", str(library), "library")
    git(bench.repository, "commit", "-qm", "a submodule")
    path = await bench.prepare(make_session())
    assert (await bench.clean(make_session())).outcome is Outcome.DONE
    assert not path.exists()


async def test_a_branch_that_is_another_name_leaves_the_one_that_it_names(bench: Bench) -> None:
    path = await bench.prepare(make_session())
    git(path, "branch", "mine")
    git(path, "symbolic-ref", "refs/heads/relaykit/auth", "refs/heads/mine")
    tip = commit(path, "work.txt")
    assert (await bench.clean(make_session())).outcome is Outcome.KEPT
    git(bench.repository, "worktree", "remove", str(path))
    assert (await bench.clean(make_session())).outcome is Outcome.DONE
    assert git(bench.repository, "for-each-ref", "--format=%(refname)").split() == [
        "refs/heads/main",
        "refs/heads/mine",
    ]
    assert git(bench.repository, "rev-parse", "mine").strip() == tip


async def test_without_a_record_there_is_nothing_to_do(bench: Bench) -> None:
    assert (await bench.clean(make_session())).outcome is Outcome.SKIPPED


@pytest.mark.parametrize(
    "recorded",
    [{}, {"path": 1}, {"branch": "refs/heads/main"}, {"path": "/etc"}, {"adopted": "no"}],
)
async def test_a_record_that_is_not_understood_keeps_everything(
    bench: Bench, recorded: Mapping[str, object]
) -> None:
    path = await bench.prepare(make_session())
    bench.recorded["s1"] = {**bench.recorded["s1"], **recorded} if recorded else {}
    before = everything(bench.repository)
    assert (await bench.clean(make_session())).outcome is Outcome.KEPT
    assert everything(bench.repository) == before
    assert (path / "code.py").is_file()


async def test_cleaning_twice(bench: Bench) -> None:
    before = everything(bench.repository)
    await bench.prepare(make_session())
    for _ in range(2):
        assert (await bench.clean(make_session())).outcome is Outcome.DONE
    assert everything(bench.repository) == before


async def test_one_that_was_recorded_but_never_made(bench: Bench) -> None:
    before = everything(bench.repository)
    await bench.prepare(make_session())
    await bench.clean(make_session())
    assert (await bench.clean(make_session())).outcome is Outcome.DONE
    assert everything(bench.repository) == before


async def test_a_directory_that_somebody_deleted(bench: Bench) -> None:
    before = everything(bench.repository)
    path = await bench.prepare(make_session())
    await anyio.run_process(["rm", "-r", str(path)])
    assert (await bench.clean(make_session())).outcome is Outcome.DONE
    assert everything(bench.repository) == before


async def test_a_directory_that_somebody_deleted_and_commits_that_stay(bench: Bench) -> None:
    path = await bench.prepare(make_session())
    tip = commit(path, "work.txt")
    await anyio.run_process(["rm", "-r", str(path)])
    result = await bench.clean(make_session())
    assert result.outcome is Outcome.KEPT
    assert "the directory is gone, the branch relaykit/auth stays: 1 commit" in result.detail
    assert git(bench.repository, "rev-parse", "relaykit/auth").strip() == tip
    assert await bench.prepare(make_session("s2")) == path
    assert (path / "work.txt").is_file()


@pytest.mark.parametrize("arguments", [("worktree", "lock", "."), ("switch", "-q", "--detach")])
async def test_the_entry_of_a_missing_directory_may_say_more(
    bench: Bench, arguments: tuple[str, ...]
) -> None:
    path = await bench.prepare(make_session())
    git(path, *arguments)
    await anyio.run_process(["rm", "-r", str(path)])
    before = everything(bench.repository)
    assert (await bench.clean(make_session())).outcome is Outcome.KEPT
    assert everything(bench.repository) == before


async def test_a_worktree_that_somebody_removed_and_another_directory_in_its_place(bench: Bench) -> None:
    path = await bench.prepare(make_session())
    git(bench.repository, "worktree", "remove", str(path))
    _write(path / "mine.txt")
    assert (await bench.clean(make_session())).outcome is Outcome.KEPT
    assert (path / "mine.txt").is_file()


async def test_the_whole_repository_is_gone(bench: Bench) -> None:
    await bench.prepare(make_session())
    await anyio.run_process(["rm", "-r", str(bench.repository)])
    assert (await bench.clean(make_session())).outcome is Outcome.SKIPPED


async def test_git_s_own_directory_is_gone(bench: Bench) -> None:
    path = await bench.prepare(make_session())
    await anyio.run_process(["rm", "-r", str(bench.repository / ".git")])
    assert (await bench.clean(make_session())).outcome is Outcome.KEPT
    assert (path / "code.py").is_file()


async def test_what_a_crash_left_half_made_goes(bench: Bench) -> None:
    before = everything(bench.repository)
    session = make_session()
    path = await bench.prepare(session)
    (path / "code.py").unlink()
    git(bench.repository, "worktree", "lock", "--reason", unfinished(session.id), str(path))
    assert (await bench.clean(session)).outcome is Outcome.DONE
    assert everything(bench.repository) == before


async def test_any_git_command_that_fails_keeps_everything(bench: Bench) -> None:
    """The n-th command fails, for every n before the removal itself."""
    path = await bench.prepare(make_session())
    before = everything(bench.repository)
    commands: list[str] = []

    class Failing(Git):
        async def attempt(self, directory: str | Path, /, *arguments: str, **more: Any) -> str:
            if len(commands) == nth:
                raise GitError("it failed")
            commands.append(" ".join(arguments))
            return await super().attempt(directory, *arguments, **more)

    nth = 0
    while path.exists():
        commands.clear()
        cleaner = WorktreeCleaner(
            git=Failing(20), settings=WorktreeSettings(disposable=()), clock=SystemClock()
        )
        result = await cleaner.clean(bench.with_resources(make_session()), None)
        if not any(command.startswith("worktree remove") for command in commands):
            assert result.outcome is Outcome.KEPT
            assert everything(bench.repository) == before
        nth += 1
    assert nth > 3


async def test_a_commit_made_while_it_is_cleaned_is_not_lost(bench: Bench) -> None:
    path = await bench.prepare(make_session())
    late = git(bench.repository, "commit-tree", "-p", "HEAD", "-m", "late", "HEAD^{tree}").strip()

    class Late(Git):
        async def attempt(self, directory: str | Path, /, *arguments: str, **more: Any) -> str:
            if arguments[:1] == ("update-ref",):
                git(bench.repository, "update-ref", "refs/heads/relaykit/auth", late)
            return await super().attempt(directory, *arguments, **more)

    bench.git = Late(20)
    result = await bench.clean(make_session())
    assert result.outcome is Outcome.KEPT
    assert "the branch relaykit/auth stays" in result.detail
    assert git(bench.repository, "rev-parse", "relaykit/auth").strip() == late
    assert not path.exists()


async def test_nothing_is_forced(bench: Bench) -> None:
    commands: list[tuple[str, ...]] = []

    class Watched(Git):
        async def attempt(self, directory: str | Path, /, *arguments: str, **more: Any) -> str:
            commands.append(arguments)
            return await super().attempt(directory, *arguments, **more)

    bench.git = Watched(20)
    await bench.prepare(make_session())
    assert (await bench.clean(make_session())).outcome is Outcome.DONE
    assert not {"-f", "--force", "-B", "-D"} & {argument for command in commands for argument in command}


async def test_a_removal_runs_to_its_end_though_it_is_cancelled(bench: Bench) -> None:
    before = everything(bench.repository)
    await bench.prepare(make_session())
    scope = anyio.CancelScope()

    class Cancelling(Git):
        async def attempt(self, directory: str | Path, /, *arguments: str, **more: Any) -> str:
            if arguments[:2] == ("worktree", "remove"):
                scope.cancel()
            return await super().attempt(directory, *arguments, **more)

    bench.git = Cancelling(20)
    with scope:
        await bench.clean(make_session())
    assert scope.cancel_called
    assert everything(bench.repository) == before


async def test_another_sessions_resources_are_not_touched(bench: Bench) -> None:
    path = await bench.prepare(make_session())
    stranger = replace(make_session("s9"), resources={"worktree": bench.recorded["s1"]})
    result = await WorktreeCleaner(
        git=Git(20), settings=WorktreeSettings(disposable=()), clock=SystemClock()
    ).clean(stranger, None)
    assert result.outcome is Outcome.KEPT
    assert (path / "code.py").is_file()
