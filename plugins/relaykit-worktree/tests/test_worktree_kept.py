"""Every state in which removing a worktree would lose work: it is kept, says why, and is as it was."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from relaykit.session import Outcome
from relaykit_worktree.facts import unfinished
from relaykit_worktree.reasons import Why
from support.worktrees import (
    IDENTITY,
    Bench,
    commit,
    everything,
    git,
    make_repository,
    make_session,
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
    git(path, "worktree", "lock", "--reason", unfinished("other"), str(path))


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
    _locked_by_the_making_of_another_session: "it is locked (relaykit: being made for session other by process",
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
    _git_file_that_leads_to_the_main_repository: "`.git` is missing or leads elsewhere",
    _claim_of_another_session: "not held by this session, but by other",
    _unreadable_claim: "cannot be read",
}


WHY: Mapping[Callable[[Path], None], Why] = {
    _dirty: Why.CHANGES,
    _staged: Why.CHANGES,
    _skip_worktree: Why.CHANGES,
    _untracked: Why.UNTRACKED,
    _ignored_file: Why.UNTRACKED,
    _own_commits: Why.COMMITS,
    _detached: Why.BRANCH,
    _other_branch: Why.BRANCH,
    _branch_deleted: Why.BRANCH,
    _branch_checked_out_twice: Why.BRANCH,
    _merge: Why.OPERATION,
    _submodule: Why.REPOSITORIES,
    _nested_repository: Why.REPOSITORIES,
    _reference_of_its_own: Why.REFERENCES,
    _locked: Why.LOCKED,
    _claim_of_another_session: Why.NOT_OURS,
    _broken_index: Why.OTHER,
    _lost_git_file: Why.OTHER,
    _git_file_that_leads_to_the_main_repository: Why.OTHER,
    _unreadable_claim: Why.OTHER,
}
"""What is counted. Where a case is left out it is one of these kinds, but not OTHER."""


def _contents(path: Path) -> dict[str, str]:
    """Return every file of the worktree with a digest of what it holds."""
    return {
        os.fspath(file.relative_to(path)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(path.rglob("*"))
        if file.is_file()
    }


SLICE = [_staged, _own_commits, _merge, _locked, _nested_repository_in_a_disposable_directory, _broken_index]
"""What is looked for in each of the ways that there are: for the loop on which not all of them are tried."""


@pytest.mark.parametrize(
    ("anyio_backend", "make"),
    [*(("asyncio", make) for make in KEPT), *(("trio", make) for make in SLICE)],
    ids=lambda value: value if isinstance(value, str) else value.__name__.strip("_"),
)
async def test_what_would_be_lost_is_kept(bench: Bench, make: Callable[[Path], None]) -> None:
    path = await bench.prepare(make_session())
    make(path)
    before, files = everything(bench.repository), _contents(path)
    for _ in range(2):
        result = await bench.clean(make_session())
        assert result.outcome is Outcome.KEPT, result
        assert result.detail.startswith(f"kept {path}: ")
        assert KEPT[make] in result.detail
        counted = [labels["reason"] for name, _, labels in bench.meter.counted if name == "worktrees_kept"]
        assert len(set(counted)) == len(counted)  # each once
        assert WHY[make] in counted if make in WHY else counted and Why.OTHER not in counted
        bench.meter.counted.clear()
    assert everything(bench.repository) == before
    assert _contents(path) == files
