"""What may go goes; what would be lost stays, with the reason, and is still there."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import anyio
import pytest

from relaykit.session import Outcome
from relaykit_worktree.cleaner import WorktreeCleaner
from relaykit_worktree.facts import unfinished
from relaykit_worktree.git import Git, GitError
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


def _conflict(path: Path) -> None:
    """Leave two branches, `theirs` and the role's, that change the same line."""
    git(path, "switch", "-qc", "theirs")
    commit(path, "code.py", "theirs\n")
    git(path, "switch", "-q", "relaykit/auth")
    commit(path, "code.py", "ours\n")
    git(path, "branch", "ours-too")


def _fails(path: Path, *arguments: str) -> None:
    with pytest.raises(Exception, match="non-zero exit status"):
        git(path, *arguments)


def _dirty(path: Path) -> None:
    _write(path / "code.py", "changed\n")


def _deleted(path: Path) -> None:
    (path / "code.py").unlink()


def _staged(path: Path) -> None:
    _write(path / "new.py")
    git(path, "add", "new.py")


def _untracked(path: Path) -> None:
    _write(path / "notes.txt")


def _untracked_while_git_is_told_not_to_look(path: Path) -> None:
    git(path, "config", "status.showUntrackedFiles", "no")
    _write(path / "notes.txt")


def _untracked_with_a_strange_name(path: Path) -> None:
    _write(path / "two words\nünd → more.txt")


def _untracked_in_a_directory_named_as_disposable(path: Path) -> None:
    _write(path / "dist" / "made by hand.txt")


def _ignored_file(path: Path) -> None:
    _write(path / "secret.env")


def _ignored_directory(path: Path) -> None:
    _write(path / "docs" / "private" / "diary.txt")


def _assume_unchanged(path: Path) -> None:
    git(path, "update-index", "--assume-unchanged", "code.py")
    _dirty(path)


def _skip_worktree(path: Path) -> None:
    git(path, "update-index", "--skip-worktree", "code.py")
    _dirty(path)


def _own_commits(path: Path) -> None:
    commit(path, "work.txt")


def _detached(path: Path) -> None:
    git(path, "switch", "-q", "--detach")


def _detached_commit(path: Path) -> None:
    _detached(path)
    commit(path, "work.txt")


def _other_branch(path: Path) -> None:
    git(path, "switch", "-qc", "elsewhere")
    commit(path, "work.txt")


def _rebase(path: Path) -> None:
    _conflict(path)
    _fails(path, "rebase", "theirs")
    git(path, "checkout", "-q", "--theirs", "code.py")


def _rebase_that_is_clean(path: Path) -> None:
    git(path, "-c", "sequence.editor=sed -i.orig 1ibreak", "rebase", "-q", "-i", "--root")


def _merge(path: Path) -> None:
    _conflict(path)
    _fails(path, "merge", "theirs")


def _clean_merge(path: Path) -> None:
    _conflict(path)
    git(path, "merge", "-q", "-s", "ours", "--no-commit", "theirs")


def _cherry_pick(path: Path) -> None:
    _conflict(path)
    _fails(path, "cherry-pick", "theirs")


def _revert(path: Path) -> None:
    commit(path, "code.py", "two\n")
    commit(path, "code.py", "three\n")
    git(path, "branch", "ours-too")
    _fails(path, "revert", "--no-edit", "HEAD~1")


def _am(path: Path) -> None:
    _conflict(path)
    patch = git(path, "format-patch", "-1", "theirs", "--stdout")
    _write(path / ".." / "a.patch", patch)
    _fails(path, "am", "../a.patch")


def _bisection(path: Path) -> None:
    git(path, "bisect", "start")


def _locked(path: Path) -> None:
    git(path, "worktree", "lock", "--reason", "do not touch", str(path))


def _locked_by_the_making_of_another_session(path: Path) -> None:
    git(path, "worktree", "lock", "--reason", unfinished(make_session("other")), str(path))


def _nested_repository(path: Path) -> None:
    make_repository(path / "tool")


def _nested_repository_in_a_disposable_directory(path: Path) -> None:
    make_repository(path / "build" / "deep" / "tool")


def _bare_repository_in_a_disposable_directory(path: Path) -> None:
    git(path, "init", "-q", "--bare", "node_modules/tool.git")


def _submodule(path: Path) -> None:
    make_repository(path / ".." / "library")
    git(path, "submodule", "--quiet", "add", str(path / ".." / "library"), "library")
    git(path, "commit", "-qm", "a submodule")
    git(path, "push", "-q", ".", "HEAD:refs/heads/held")


def _reference_of_its_own(path: Path) -> None:
    git(path, "update-ref", "refs/worktree/precious", commit(path, "work.txt"))
    git(path, "reset", "-q", "--hard", "HEAD~1")


def _git_at_work(path: Path) -> None:
    Path(git(path, "rev-parse", "--absolute-git-dir").strip(), "index.lock").touch()


def _branch_deleted(path: Path) -> None:
    git(path, "update-ref", "-d", "refs/heads/relaykit/auth")


def _branch_checked_out_twice(path: Path) -> None:
    git(path, "worktree", "add", "-q", "--force", str(path / ".." / "twice"), "relaykit/auth")


def _broken_index(path: Path) -> None:
    Path(git(path, "rev-parse", "--absolute-git-dir").strip(), "index").write_bytes(b"not an index")


def _lost_git_file(path: Path) -> None:
    (path / ".git").unlink()


def _git_file_that_leads_to_the_main_repository(path: Path) -> None:
    (path / ".git").write_text(f"gitdir: {path.parents[2] / '.git'}\n")


def _claim_of_another_session(path: Path) -> None:
    git_dir = Path(git(path, "rev-parse", "--absolute-git-dir").strip())
    (git_dir / "relaykit.json").write_text('{"session": "other", "project": "shop"}')


def _unreadable_claim(path: Path) -> None:
    Path(git(path, "rev-parse", "--absolute-git-dir").strip(), "relaykit.json").write_text("[")


KEPT: Mapping[Callable[[Path], None], str] = {
    _dirty: "1 changed file: code.py",
    _deleted: "1 changed file: code.py",
    _staged: "1 staged file: new.py",
    _untracked: "1 untracked file: notes.txt",
    _untracked_while_git_is_told_not_to_look: "1 untracked file: notes.txt",
    _untracked_with_a_strange_name: r"1 untracked file: 'two words\n\xfcnd \u2192 more.txt'",
    _untracked_in_a_directory_named_as_disposable: "1 untracked file: dist/made by hand.txt",
    _ignored_file: "not disposable: secret.env",
    _ignored_directory: "not disposable: docs/private/",
    _assume_unchanged: "told not to look at (assume-unchanged, skip-worktree): code.py",
    _skip_worktree: "told not to look at (assume-unchanged, skip-worktree): code.py",
    _own_commits: "1 commit that no other ref holds",
    _detached: "its HEAD is detached",
    _detached_commit: "its HEAD is detached",
    _other_branch: "it is on elsewhere, not on relaykit/auth",
    _rebase: "a rebase is in progress",
    _rebase_that_is_clean: "a rebase is in progress",
    _merge: "a merge is in progress",
    _clean_merge: "a merge is in progress",
    _cherry_pick: "a cherry-pick is in progress",
    _revert: "a revert is in progress",
    _am: "a rebase or `git am` is in progress",
    _bisection: "a bisection is in progress",
    _locked: "it is locked (do not touch)",
    _locked_by_the_making_of_another_session: "it is locked (relaykit: being made for session other)",
    _nested_repository: "1 nested repository: tool/",
    _nested_repository_in_a_disposable_directory: "1 nested repository: build/deep/tool",
    _bare_repository_in_a_disposable_directory: "1 nested repository: node_modules/tool.git",
    _submodule: "1 submodule: library",
    _reference_of_its_own: "references of its own",
    _git_at_work: "another git command is in progress",
    _branch_deleted: "its branch relaykit/auth is gone",
    _branch_checked_out_twice: "its branch is checked out in",
    _broken_index: "index file",
    _lost_git_file: "`.git` is missing or leads elsewhere",
    _git_file_that_leads_to_the_main_repository: "it is not held by this session",
    _claim_of_another_session: "not held by this session, but by other",
    _unreadable_claim: "cannot be read",
}


def _contents(path: Path) -> dict[str, str]:
    """Return every file of the worktree with a digest of what it holds."""
    return {
        os.fspath(file.relative_to(path)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(path.rglob("*"))
        if file.is_file()
    }


@pytest.mark.parametrize("make", KEPT, ids=lambda make: make.__name__.strip("_"))
async def test_what_would_be_lost_is_kept(bench: Bench, make: Callable[[Path], None]) -> None:
    path = await bench.prepare(make_session())
    make(path)
    before, files = everything(bench.repository), _contents(path)
    for _ in range(2):
        result = await bench.clean(make_session())
        assert result.outcome is Outcome.KEPT, result
        assert result.detail.startswith(f"kept {path}: ")
        assert KEPT[make] in result.detail
    assert everything(bench.repository) == before
    assert _contents(path) == files


async def test_every_reason_is_told(bench: Bench) -> None:
    path = await bench.prepare(make_session())
    _own_commits(path)
    _dirty(path)
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
    assert (await bench.clean(make_session(), disposable=())).outcome is Outcome.KEPT
    assert (await bench.clean(make_session(), disposable=("node_modules", "*.log"))).outcome is Outcome.DONE


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
    _dirty(path) if hold == ("stash",) else None
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
    git(bench.repository, "worktree", "lock", "--reason", unfinished(session), str(path))
    assert (await bench.clean(session)).outcome is Outcome.DONE
    assert everything(bench.repository) == before


async def test_any_git_command_that_fails_keeps_everything(bench: Bench) -> None:
    """The n-th command fails, for every n before the removal itself."""
    path = await bench.prepare(make_session())
    before = everything(bench.repository)
    commands: list[str] = []

    class Failing(Git):
        async def run(self, directory: str | Path, /, *arguments: str) -> str:
            if len(commands) == nth:
                raise GitError("it failed")
            commands.append(" ".join(arguments))
            return await super().run(directory, *arguments)

    nth = 0
    while path.exists():
        commands.clear()
        cleaner = WorktreeCleaner(git=Failing(20), disposable=())
        result = await cleaner.clean(bench.with_resources(make_session()), None)
        if not any(command.startswith("worktree remove") for command in commands):
            assert result.outcome is Outcome.KEPT
            assert everything(bench.repository) == before
        nth += 1
    assert nth > 7


async def test_a_commit_made_while_it_is_cleaned_is_not_lost(bench: Bench) -> None:
    path = await bench.prepare(make_session())
    late = git(bench.repository, "commit-tree", "-p", "HEAD", "-m", "late", "HEAD^{tree}").strip()

    class Late(Git):
        async def run(self, directory: str | Path, /, *arguments: str) -> str:
            if arguments[:1] == ("update-ref",):
                git(bench.repository, "update-ref", "refs/heads/relaykit/auth", late)
            return await super().run(directory, *arguments)

    bench.git = Late(20)
    result = await bench.clean(make_session())
    assert result.outcome is Outcome.KEPT
    assert "the branch relaykit/auth stays" in result.detail
    assert git(bench.repository, "rev-parse", "relaykit/auth").strip() == late
    assert not path.exists()


async def test_nothing_is_forced(bench: Bench) -> None:
    commands: list[tuple[str, ...]] = []

    class Watched(Git):
        async def run(self, directory: str | Path, /, *arguments: str) -> str:
            commands.append(arguments)
            return await super().run(directory, *arguments)

    bench.git = Watched(20)
    await bench.prepare(make_session())
    assert (await bench.clean(make_session())).outcome is Outcome.DONE
    assert not {"-f", "--force", "-B", "-D"} & {argument for command in commands for argument in command}


async def test_a_removal_runs_to_its_end_though_it_is_cancelled(bench: Bench) -> None:
    before = everything(bench.repository)
    await bench.prepare(make_session())
    scope = anyio.CancelScope()

    class Cancelling(Git):
        async def run(self, directory: str | Path, /, *arguments: str) -> str:
            if arguments[:2] == ("worktree", "remove"):
                scope.cancel()
            return await super().run(directory, *arguments)

    bench.git = Cancelling(20)
    with scope:
        await bench.clean(make_session())
    assert scope.cancel_called
    assert everything(bench.repository) == before


async def test_another_sessions_resources_are_not_touched(bench: Bench) -> None:
    path = await bench.prepare(make_session())
    stranger = replace(make_session("s9"), resources={"worktree": bench.recorded["s1"]})
    result = await WorktreeCleaner(git=Git(20), disposable=()).clean(stranger, None)
    assert result.outcome is Outcome.KEPT
    assert (path / "code.py").is_file()
