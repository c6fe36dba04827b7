"""`.worktreeinclude`: what it names and git ignores is copied; no link is followed, nothing is overwritten."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from relaykit.session import Outcome
from relaykit_worktree.errors import NotWritable
from relaykit_worktree.settings import WorktreeSettings
from support.worktrees import IDENTITY, Bench, commit, everything, git, make_repository, make_session

pytestmark = [pytest.mark.anyio, pytest.mark.parametrize("anyio_backend", ["asyncio"])]


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    (tmp_path / "gitconfig").write_text(IDENTITY)
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(tmp_path / "gitconfig"))
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    return Bench(make_repository(tmp_path / "shop"))


def _write(path: Path, content: str = "secret\n", mode: int = 0o644) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    path.chmod(mode)


def _names(path: Path) -> set[str]:
    tracked = set(git(path, "ls-files", "-z").split("\0"))
    found = {str(each.relative_to(path)) for each in path.rglob("*") if each.is_symlink() or each.is_file()}
    return found - tracked - {".git"}


async def test_what_is_named_and_ignored_is_copied(bench: Bench) -> None:
    shop = bench.repository
    _write(shop / ".worktreeinclude", "secret.env\n/private/*\n!/private/not this\n*.log\nnotes.txt\n")
    _write(shop / "secret.env", "TOKEN=1\n", 0o600)
    _write(shop / "docs" / "secret.env", "other\n")
    _write(shop / "private" / "a b" / "ünï\n", "x")
    _write(shop / "private" / "not this")
    _write(shop / "run.log", "log", 0o755)
    _write(shop / "build" / "made")  # ignored, not named
    _write(shop / "notes.txt")  # named, not ignored
    (shop / "private" / "link").symlink_to("../secret.env")
    path = await bench.prepare(make_session())
    assert _names(path) == {
        "secret.env",
        "docs/secret.env",
        "private/a b/ünï\n",
        "private/link",
        "run.log",
    }
    assert (path / "secret.env").read_text() == "TOKEN=1\n"
    assert stat.S_IMODE((path / "secret.env").stat().st_mode) == 0o600
    assert stat.S_IMODE((path / "run.log").stat().st_mode) == 0o755
    assert str((path / "private" / "link").readlink()) == "../secret.env"
    assert bench.said == [".worktreeinclude: copied 5 files, 18 bytes\n"]
    assert git(path, "status", "--porcelain") == ""


async def test_copies_do_not_keep_a_worktree_until_they_differ(bench: Bench) -> None:
    shop = bench.repository
    _write(shop / ".worktreeinclude", "secret.env\nprivate\n")
    _write(shop / "secret.env")
    _write(shop / "private" / "key")
    git(shop, "add", ".worktreeinclude")
    git(shop, "commit", "-qm", "include")
    before = everything(shop)
    await bench.prepare(make_session())
    assert (await bench.clean(make_session())).outcome is Outcome.DONE
    assert everything(shop) == before

    path = await bench.prepare(make_session("s2"))
    for change in ("content", "permissions", "original", "more"):
        if change == "content":
            _write(path / "secret.env", "changed\n")
        elif change == "permissions":
            (path / "secret.env").chmod(0o600)
        elif change == "original":
            (shop / "secret.env").unlink()
        else:
            _write(path / "private" / "another")
        result = await bench.clean(make_session("s2"))
        assert result.outcome is Outcome.KEPT
        assert ("private/" if change == "more" else "secret.env") in result.detail
        _write(path / "secret.env")
        _write(shop / "secret.env")


async def test_no_link_is_followed(bench: Bench, tmp_path: Path) -> None:
    shop = bench.repository
    outside = tmp_path / "outside"
    _write(outside / "secret.env", "not yours\n")
    _write(shop / ".worktreeinclude", "secret.env\nprivate\n")
    (shop / "secret.env").symlink_to(outside / "secret.env")  # named and ignored: a link, and copied as one
    (shop / "elsewhere").symlink_to(outside)  # what is behind it is not looked at
    path = await bench.prepare(make_session())
    assert _names(path) == {"secret.env"}
    assert (path / "secret.env").readlink() == outside / "secret.env"


async def test_a_link_in_the_base_is_not_written_through(bench: Bench, tmp_path: Path) -> None:
    shop, outside = bench.repository, tmp_path / "outside"
    outside.mkdir()
    (shop / "config").symlink_to(outside)
    (shop / ".gitignore").write_text("*.env\n")
    git(shop, "add", ".")
    git(shop, "commit", "-qm", "a link")
    (shop / "config").unlink()
    _write(shop / "config" / "secret.env")
    _write(shop / ".worktreeinclude", "secret.env\n")
    path = await bench.prepare(make_session())
    assert (path / "config").is_symlink()
    assert list(outside.iterdir()) == []
    assert bench.said == [".worktreeinclude: copied 0 files, 0 bytes\n"]


async def test_nothing_is_overwritten(bench: Bench) -> None:
    shop = bench.repository
    commit(shop, "settings.local", "the base's\n")
    git(shop, "branch", "with-it")
    git(shop, "rm", "-q", "settings.local")
    (shop / ".gitignore").write_text("*.local\n")
    git(shop, "commit", "-qam", "ignored by now")
    _write(shop / "settings.local", "mine\n")
    _write(shop / ".worktreeinclude", "*.local\n")
    bench.settings = WorktreeSettings(base="with-it")
    path = await bench.prepare(make_session())
    assert (path / "settings.local").read_text() == "the base's\n"


async def test_worktrees_and_nested_repositories_are_not_copied(bench: Bench) -> None:
    shop = bench.repository
    await bench.prepare(make_session("s0", agent_id="other"))
    make_repository(shop / "private" / "tool")
    _write(shop / ".worktreeinclude", "*\n")
    _write(shop / "secret.env")
    path = await bench.prepare(make_session())
    assert _names(path) == {"secret.env"}


async def test_a_project_below_the_top_level_has_its_own(bench: Bench) -> None:
    docs = bench.repository / "docs"
    bench.projects = {"shop": docs}
    _write(docs / ".worktreeinclude", "/secret.env\n")
    _write(docs / "secret.env", "inner\n")
    _write(bench.repository / "secret.env", "outer\n")
    path = await bench.prepare(make_session())
    assert (path / "secret.env").read_text() == "inner\n"
    assert not (path.parent / "secret.env").exists()


async def test_it_names_nothing_that_is_there(bench: Bench) -> None:
    _write(bench.repository / ".worktreeinclude", "# nothing yet\nmissing\n*.txt\n")
    _write(bench.repository / "notes.txt")
    await bench.prepare(make_session())
    assert bench.said == [".worktreeinclude: copied 0 files, 0 bytes\n"]


async def test_a_file_that_cannot_be_copied_ends_it(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    _write(bench.repository / ".worktreeinclude", "secret.env\n")
    _write(bench.repository / "secret.env")
    before = everything(bench.repository)

    def refuse(*_: object) -> int:
        raise PermissionError(13, "Permission denied", "secret.env")

    monkeypatch.setattr("relaykit_worktree.including._copy_file", refuse)
    with pytest.raises(NotWritable, match=r"cannot copy 'secret\.env' into the worktree"):
        await bench.prepare(make_session())
    assert everything(bench.repository) == before
