"""What is read from git's own files is what git says; where it could be otherwise, git is asked."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import anyio
import pytest

from relaykit_worktree.git import Git
from relaykit_worktree.records import (
    Unreadable,
    has_own_refs,
    points_there,
    read_head,
    read_ref,
    read_worktrees,
)
from relaykit_worktree.repository import Repositories, branch_tip, list_worktrees, parse_worktrees
from support.worktrees import IDENTITY, commit, git, git_dir_of, make_repository


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with worktrees in every state, and refs of every kind."""
    (tmp_path / "gitconfig").write_text(IDENTITY)
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(tmp_path / "gitconfig"))
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    shop = make_repository(tmp_path / "my\nshop")
    for name in ("plain", "locked", "reason", "gone", "gone-locked", "detached", "two words"):
        git(shop, "worktree", "add", "-q", "-b", f"b/{name.replace(' ', '-')}", str(tmp_path / name))
    git(shop, "worktree", "lock", str(tmp_path / "locked"))
    git(shop, "worktree", "lock", "--reason", "not now\nreally", str(tmp_path / "reason"))
    git(shop, "worktree", "lock", str(tmp_path / "gone-locked"))
    shutil.rmtree(tmp_path / "gone")
    shutil.rmtree(tmp_path / "gone-locked")
    git(tmp_path / "detached", "switch", "-q", "--detach")
    commit(tmp_path / "plain", "x.txt")
    git(shop, "pack-refs", "--all")
    commit(tmp_path / "two words", "y.txt")  # loose over packed
    git(shop, "tag", "-am", "a tag", "v1")
    git(shop, "symbolic-ref", "refs/heads/alias", "refs/heads/b/plain")
    git(shop, "symbolic-ref", "refs/heads/nowhere", "refs/heads/missing")
    return shop


def test_worktrees(shop: Path) -> None:
    read = read_worktrees(shop / ".git")
    told = parse_worktrees(git(shop, "worktree", "list", "--porcelain", "-z"))
    assert len(read) == 8
    assert [replace(each, prunable=each.prunable and "") for each in read] == [
        replace(each, prunable=each.prunable and "") for each in told
    ]
    git(shop.parent / "plain", "symbolic-ref", "HEAD", "refs/heads/alias")
    git(shop.parent / "locked", "symbolic-ref", "HEAD", "refs/heads/unborn")
    read = read_worktrees(shop / ".git")
    told = parse_worktrees(git(shop, "worktree", "list", "--porcelain", "-z"))
    assert [(each.path, each.branch) for each in read] == [(each.path, each.branch) for each in told]


def test_refs(shop: Path) -> None:
    listed = git(shop, "for-each-ref", "--format=%(refname) %(objectname)").splitlines()
    assert len(listed) > 8
    for line in listed:
        name, _, commit_id = line.partition(" ")
        assert read_ref(shop / ".git", name) == commit_id
    for missing in ("refs/heads/b", "refs/heads/nowhere", "refs/heads/none", "refs/heads/b/plain/more"):
        assert read_ref(shop / ".git", missing) is None
    for directory in (shop, shop.parent / "plain", shop.parent / "detached"):
        assert read_head(shop / ".git", git_dir_of(directory)) == git(directory, "rev-parse", "HEAD").strip()


def test_who_points_to_a_commit(shop: Path) -> None:
    tip = git(shop, "rev-parse", "b/plain").strip()
    assert points_there(shop / ".git", tip, but=lambda _: False)
    assert not points_there(shop / ".git", tip, but=lambda name: name == "refs/heads/b/plain")
    old = git(shop, "rev-parse", "main").strip()  # packed for b/two-words too, and no longer so
    others = {"refs/heads/main", "refs/heads/b/locked", "refs/heads/b/reason", "refs/heads/b/detached"}
    others |= {"refs/heads/b/gone", "refs/heads/b/gone-locked"}
    assert points_there(shop / ".git", old, but=lambda name: name in others - {"refs/heads/main"})
    assert not points_there(shop / ".git", old, but=lambda name: name in others)
    (shop / ".git" / "refs" / "heads" / "new.lock").write_text(old + "\n")
    assert not points_there(shop / ".git", old, but=lambda name: name in others)


def test_refs_of_a_worktrees_own(shop: Path) -> None:
    plain = shop.parent / "plain"
    assert not has_own_refs(shop / ".git", git_dir_of(plain))
    git(plain, "update-ref", "refs/worktree/mine", "HEAD")
    assert has_own_refs(shop / ".git", git_dir_of(plain))


@pytest.mark.anyio
@pytest.mark.parametrize("odd", ["storage", "ref", "config"])
async def test_what_is_not_as_described_is_asked_of_git(shop: Path, odd: str) -> None:
    main = git(shop, "rev-parse", "main").strip()
    config = shop / ".git" / "config"
    if odd == "storage":
        config.write_text(config.read_text() + "[extensions]\n\trefStorage = reftable\n")
    elif odd == "config":
        config.unlink()
    else:
        (shop / ".git" / "refs" / "heads" / "main").write_text("garbage")
    with pytest.raises(Unreadable):
        read_ref(shop / ".git", "refs/heads/main")
    with pytest.raises(Unreadable):
        read_worktrees(shop / ".git")
    asked: list[tuple[str, ...]] = []

    class Asked(Git):
        async def run(self, _directory: str | Path, /, *arguments: str, **_more: object) -> str:
            asked.append(arguments)
            return f"refs/heads/main {main}\n" if arguments[0] == "for-each-ref" else ""

    assert await branch_tip(Asked(20), shop / ".git", "refs/heads/main") == main
    assert await list_worktrees(Asked(20), shop / ".git") == []
    assert [arguments[0] for arguments in asked] == ["for-each-ref", "worktree"]


@pytest.mark.anyio
async def test_a_repository_is_looked_for_again_when_it_may_be_another(shop: Path, tmp_path: Path) -> None:
    repositories = Repositories(Git(20))
    docs = shop / "docs"
    found = await repositories.find(docs)
    assert await repositories.find(docs) is found
    # Another repository around the project, or between it and the one before.
    git(docs, "init", "-q")
    assert (await repositories.find(docs)).common_dir == docs / ".git"
    shutil.rmtree(docs / ".git")
    assert (await repositories.find(docs)).common_dir == shop / ".git"
    await anyio.Path(shop).rename(tmp_path / "moved")
    make_repository(shop)
    assert (await repositories.find(docs)) == found
    assert (await repositories.find(docs)) is not found
