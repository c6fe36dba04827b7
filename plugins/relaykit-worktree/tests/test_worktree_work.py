"""`relaykit diff`, `commit`, `push` and `apply`, as a person calls them."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import anyio
import pytest

from relaykit.commands import main
from support.worktrees import IDENTITY, Bench, commit, git, make_repository, make_session

NAME = "ünï code.txt"


@dataclass(frozen=True)
class Said:
    """What a command has said, and how it ended."""

    code: int
    out: str
    err: str


@dataclass(frozen=True)
class Desk:
    """A project, the worktree of a session in it, and the command line."""

    project: Path
    worktree: Path
    terminal: pytest.CaptureFixture[bytes]

    def relaykit(self, *arguments: str) -> Said:
        self.terminal.readouterr()
        code = main(["--config", "relaykit.toml", *arguments])
        said = self.terminal.readouterr()
        return Said(code, os.fsdecode(said.out), said.err.decode())

    def does(self, *arguments: str) -> str:
        said = self.relaykit(*arguments)
        assert said.code == 0, said
        return said.out

    def refuses(self, *arguments: str) -> str:
        said = self.relaykit(*arguments)
        assert (said.code, said.out) == (1, ""), said
        return said.err


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]) -> Desk:
    (tmp_path / "gitconfig").write_text(IDENTITY)
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(tmp_path / "gitconfig"))
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.chdir(tmp_path)
    project = make_repository(tmp_path / "shop")
    (tmp_path / "relaykit.toml").write_text('[projects.shop]\npath = "shop"\n')
    return Desk(project, begin(project), capfdbinary)


def begin(project: Path, session_id: str = "5e55104", *, agent_id: str = "auth") -> Path:
    """Begin a session's worktree."""
    return anyio.run(Bench(project).prepare, make_session(session_id, agent_id=agent_id))


def work_in(worktree: Path) -> None:
    """Do what an agent might: a commit, a change, a new file, a deletion, and something ignored."""
    commit(worktree, "lib.py", "one\n")
    (worktree / "code.py").write_text("print('changed')\n")
    (worktree / NAME).write_bytes(b"new\0binary\n")
    (worktree / "run.sh").write_text("#!/bin/sh\n")
    (worktree / "run.sh").chmod(0o755)
    (worktree / "link").symlink_to("code.py")
    (worktree / "docs" / "guide.md").unlink()
    (worktree / "noise.log").write_text("ignored\n")


CHANGED = sorted(["code.py", "docs/guide.md", "lib.py", "link", "run.sh", NAME])


def state(checkout: Path) -> Mapping[str, object]:
    """Return all that git says of a checkout, and what its files hold."""
    return {
        "status": git(checkout, "status", "--porcelain", "-z", "--untracked-files=all"),
        "index": git(checkout, "ls-files", "--stage", "-z"),
        "head": git(checkout, "rev-parse", "HEAD"),
        "files": {
            str(path.relative_to(checkout)): path.read_bytes()
            for path in checkout.rglob("*")
            if path.is_file() and not {".git", ".relaykit"} & set(path.parts)
        },
    }


def names(listing: str) -> list[str]:
    return sorted(name for name in listing.splitlines() if name)


def test_a_diff_shows_everything_since_the_session_began(desk: Desk) -> None:
    assert desk.does("diff", "auth") == ""
    work_in(desk.worktree)
    before = state(desk.worktree)
    git(desk.worktree, "config", "core.quotePath", "false")
    assert names(desk.does("diff", "5e55104", "--name-only")) == CHANGED
    shown = desk.does("diff", "5e5", "code.py")
    assert "-print('hello')\n+print('changed')" in shown
    assert "lib.py" not in shown
    assert "6 files changed" in desk.does("diff", "auth", "--stat")
    assert names(desk.does("diff", "auth", "--name-only", "--base", "HEAD")) == sorted(
        {*CHANGED} - {"lib.py"}
    )
    assert state(desk.worktree) == before


def test_what_the_project_did_meanwhile_is_no_work_of_the_session(desk: Desk) -> None:
    commit(desk.worktree, "lib.py")
    commit(desk.project, "other.py")
    assert desk.does("diff", "auth", "--name-only") == "lib.py\n"
    git(desk.worktree, "rebase", "-q", "main")
    assert desk.does("diff", "auth", "--name-only") == "lib.py\n"


def test_the_next_session_of_the_role_shows_the_work_of_both(desk: Desk) -> None:
    commit(desk.worktree, "lib.py")
    begin(desk.project, "5e55105")
    commit(desk.worktree, "more.py")
    assert names(desk.does("diff", "5e55105", "--name-only")) == ["lib.py", "more.py"]
    assert "there is no worktree of a session or a role '5e55104'" in desk.refuses("diff", "5e55104")


def test_which_session_is_meant(desk: Desk) -> None:
    begin(desk.project, "5e55777", agent_id="db")
    said = desk.refuses("diff", "5e55")
    assert "'5e55' may be any of 5e55104 (" in said
    assert "5e55777 (" in said
    assert "there is no worktree of a session or a role 'nobody'" in desk.refuses("diff", "nobody")
    assert "there is no project 'shoe'; there are shop" in desk.refuses("diff", "auth", "--project", "shoe")


def test_a_commit_has_everything_but_what_is_ignored(desk: Desk) -> None:
    work_in(desk.worktree)
    assert "work of an hour" in desk.does("commit", "auth", "-m", "work of an hour")
    assert git(desk.worktree, "status", "--porcelain") == ""
    assert git(desk.worktree, "branch", "--show-current") == "relaykit/auth\n"
    named = git(desk.worktree, "diff", "--name-only", "-z", "--no-renames", "main", "HEAD").split("\0")
    assert sorted(filter(None, named)) == CHANGED
    assert "there is nothing to commit to relaykit/auth" in desk.refuses("commit", "auth", "-m", "again")


def test_a_commit_runs_the_persons_hooks(desk: Desk) -> None:
    hook = desk.project / ".git" / "hooks" / "pre-commit"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text("#!/bin/sh\necho not today >&2\nexit 1\n")
    hook.chmod(0o755)
    (desk.worktree / "code.py").write_text("changed\n")
    assert "not today" in desk.refuses("commit", "auth", "-m", "one")
    desk.does("commit", "auth", "-m", "one", "--no-verify")


def test_nothing_is_committed_amid_something_else(desk: Desk) -> None:
    git(desk.worktree, "switch", "-qc", "aside")
    commit(desk.worktree, "code.py", "theirs\n")
    git(desk.worktree, "switch", "-q", "relaykit/auth")
    commit(desk.worktree, "code.py", "ours\n")
    subprocess.run(["git", "-C", str(desk.worktree), "merge", "aside"], capture_output=True, check=False)
    before = state(desk.worktree)
    assert "a merge is in progress" in desk.refuses("commit", "auth", "-m", "one")
    git(desk.worktree, "merge", "--abort")
    git(desk.worktree, "switch", "-q", "--detach")
    assert "is detached: run `git switch -c NAME`" in desk.refuses("commit", "auth", "-m", "one")
    assert state(desk.worktree) != before


def test_a_push_takes_the_branch_to_the_remote(desk: Desk, tmp_path: Path) -> None:
    tip = commit(desk.worktree, "lib.py")
    (desk.worktree / "code.py").write_text("changed\n")
    assert "it has no remote" in desk.refuses("push", "auth").splitlines()[-1]
    git(tmp_path, "init", "-q", "--bare", "there.git")
    git(desk.project, "remote", "add", "origin", str(tmp_path / "there.git"))
    said = desk.relaykit("push", "auth")
    assert said.code == 0
    assert "not pushed, because not committed: 1 changed file; `relaykit commit` does that" in said.err
    assert git(tmp_path / "there.git", "rev-parse", "relaykit/auth").strip() == tip
    desk.does("push", "auth", "--to", "feature")
    assert git(tmp_path / "there.git", "rev-parse", "feature").strip() == tip


def test_a_push_never_forces(desk: Desk, tmp_path: Path) -> None:
    git(tmp_path, "init", "-q", "--bare", "there.git")
    git(desk.project, "remote", "add", "hub", str(tmp_path / "there.git"))
    tip = commit(desk.worktree, "lib.py")
    desk.does("push", "auth")
    git(desk.worktree, "commit", "-q", "--amend", "-m", "another")
    said = desk.relaykit("push", "auth")
    assert said.code != 0
    assert "rejected" in said.err
    assert git(tmp_path / "there.git", "rev-parse", "relaykit/auth").strip() == tip


def test_apply_brings_everything_and_commits_nothing(desk: Desk) -> None:
    work_in(desk.worktree)
    before = state(desk.project)
    assert f"6 changed files can be applied to {desk.project}" in desk.does("apply", "auth", "--check")
    assert state(desk.project) == before
    (desk.project / "mine.txt").write_text("mine\n")
    assert f"6 changed files applied to {desk.project}" in desk.does("apply", "auth")
    after = state(desk.project)
    assert (after["index"], after["head"]) == (before["index"], before["head"])
    for name in ("code.py", "lib.py", NAME, "run.sh"):
        assert (desk.project / name).read_bytes() == (desk.worktree / name).read_bytes()
    assert os.access(desk.project / "run.sh", os.X_OK)
    assert (desk.project / "link").readlink() == Path("code.py")
    assert not (desk.project / "docs" / "guide.md").exists()
    assert not (desk.project / "noise.log").exists()
    assert (desk.project / "mine.txt").read_text() == "mine\n"


def change(path: str) -> Callable[[Path], None]:
    def do(project: Path) -> None:
        (project / path).parent.mkdir(parents=True, exist_ok=True)
        (project / path).write_text("mine\n")

    return do


def stage(project: Path) -> None:
    change("code.py")(project)
    git(project, "add", "code.py")


def ignore(project: Path) -> None:
    (project / ".git" / "info" / "exclude").write_text("/.relaykit/\nlib.py\n")
    change("lib.py")(project)


def ignore_directory(project: Path) -> None:
    (project / ".git" / "info" / "exclude").write_text("/.relaykit/\n/sub/\n")
    change("sub/new.py")(project)


@pytest.mark.parametrize(
    ("mine", "named"),
    [
        pytest.param(change("code.py"), "code.py", id="changed"),
        pytest.param(stage, "code.py", id="staged"),
        pytest.param(change("lib.py"), "lib.py", id="untracked"),
        pytest.param(ignore, "lib.py", id="ignored"),
        pytest.param(ignore_directory, "sub/new.py", id="in an ignored directory"),
        pytest.param(lambda project: (project / "docs" / "guide.md").unlink(), "docs/guide.md", id="deleted"),
    ],
)
def test_apply_overwrites_nothing(desk: Desk, mine: Callable[[Path], None], named: str) -> None:
    work_in(desk.worktree)
    commit(desk.worktree, "sub/new.py", "theirs\n")
    mine(desk.project)
    before = state(desk.project)
    assert f"where this would write: {named}; commit, stash or move" in desk.refuses("apply", "auth")
    assert state(desk.project) == before


def test_what_does_not_fit_changes_nothing_or_is_merged(desk: Desk) -> None:
    commit(desk.worktree, "code.py", "print('the session says')\n")
    commit(desk.worktree, "lib.py", "new\n")
    commit(desk.project, "code.py", "print('I say')\n")
    before = state(desk.project)
    said = desk.refuses("apply", "auth")
    assert "does not fit" in said
    assert "code.py" in said
    assert state(desk.project) == before
    assert "applied with conflicts, which are marked" in desk.refuses("apply", "auth", "--3way")
    assert "<<<<<<<" in (desk.project / "code.py").read_text()
    assert (desk.project / "lib.py").read_text() == "new\n"


def test_there_may_be_nothing_to_apply(desk: Desk) -> None:
    assert "there is nothing to apply" in desk.refuses("apply", "auth")
