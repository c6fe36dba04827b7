"""Every state of a worktree under every policy: what is not kept is parked, and comes back byte by byte."""

from __future__ import annotations

import shutil
import stat
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from relaykit.session import Outcome
from relaykit.testing import FakeClock
from relaykit_worktree.bringing_back import bring_back
from relaykit_worktree.git import Git
from relaykit_worktree.parked import PARKED, Parked, list_parked
from relaykit_worktree.repository import Repository, find_repository
from relaykit_worktree.settings import OnDirty, WorktreeSettings
from support.worktree_states import (
    KEPT_STATES,
    PARKED_STATES,
    Case,
    changed,
    files,
    name_of,
    picture,
    unpushed_and_everything_else,
    write,
)
from support.worktrees import IDENTITY, Bench, everything, git, make_repository, make_session

pytestmark = [pytest.mark.anyio, pytest.mark.parametrize("anyio_backend", ["asyncio"])]

NOW = datetime(2030, 1, 1, tzinfo=UTC)


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make the repository from which each test begins, with its configuration, once."""
    root = tmp_path_factory.mktemp("template")
    (root / "gitconfig").write_text(IDENTITY + '[protocol "file"]\n\tallow = always\n')
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GIT_CONFIG_GLOBAL", str(root / "gitconfig"))
        repository = make_repository(root / "shop")
        (repository / "run.sh").write_text("#!/bin/sh\n")
        (repository / "run.sh").chmod(0o755)
        (repository / "link").symlink_to("code.py")
        (repository / "deep" / "er").mkdir(parents=True)
        (repository / "deep" / "er" / "file").write_text("deep\n")
        git(repository, "add", ".")
        git(repository, "commit", "-qm", "two")
        make_repository(root / "library")
    return root


@pytest.fixture
def bench(template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(template / "gitconfig"))
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    shutil.copytree(template / "shop", tmp_path / "shop", symlinks=True)
    shutil.copytree(template / "library", tmp_path / "library", symlinks=True)
    return Bench(tmp_path / "shop", clock=FakeClock(NOW))


# ---------------------------------------------------------------- proofs


@pytest.mark.parametrize("case", PARKED_STATES, ids=name_of)
async def test_what_is_not_kept_comes_back_as_it_was(bench: Bench, case: Case) -> None:
    """Under each policy, one after the other; the next session has what the last one has left."""
    before = everything(bench.repository)
    path = await bench.prepare(make_session())
    case.make(path)
    expected = picture(path)
    repository = await find_repository(bench.git, bench.repository)

    full = everything(bench.repository)
    assert (await bench.clean(make_session())).outcome is Outcome.KEPT
    assert everything(bench.repository) == full
    assert picture(path) == expected

    bench.settings = WorktreeSettings(on_dirty=OnDirty.PARK)
    parked = await _parked(bench, repository, "s1", before)
    assert parked.expires is None
    # By the command: exactly as it was. And it is a worktree like any other.
    assert await bring_back(bench.git, repository, parked, to=None, state_dir=Path("/state")) == path
    assert picture(path) == expected
    assert not git(bench.repository, "for-each-ref", PARKED)
    assert await bench.prepare(make_session("s2")) == path
    assert picture(path) == expected

    bench.settings = WorktreeSettings(on_dirty=OnDirty.REMOVE, parked_days=7)
    parked = await _parked(bench, repository, "s2", before)
    assert parked.expires == NOW + timedelta(days=7)
    # By git alone: every byte, and what git knows of permissions; the index and the HEAD are its parents.
    by_hand = bench.repository.parent / "by hand"
    git(bench.repository, "worktree", "add", "-q", "--detach", str(by_hand), parked.ref)
    assert _without_permissions(files(by_hand)) == _without_permissions(files_of(expected))
    git(by_hand, "read-tree", parked.index or parked.head)
    assert git(by_hand, "ls-files", "--stage", "-z") == expected[1]
    assert parked.head == str(expected[2]).strip()


async def _parked(
    bench: Bench, repository: Repository, session: str, before: tuple[str, str, list[str]]
) -> Parked:
    """End a session and see that nothing is left of its worktree but what is parked."""
    result = await bench.clean(make_session(session))
    assert result.outcome is Outcome.DONE, result
    assert f"relaykit worktrees restore {session}" in result.detail
    listing, refs, paths = everything(bench.repository)
    assert listing == before[0]
    assert [path for path in paths if not path.startswith(".git/refs/relaykit")] == before[2]
    [parked] = await list_parked(bench.git, repository.common_dir)
    assert parked.ref == PARKED + session
    assert refs.count("refs/") == before[1].count("refs/") + 1
    return parked


def files_of(taken: tuple[object, ...]) -> dict[str, tuple[int, bytes]]:
    assert isinstance(taken[0], dict)
    return taken[0]


def _without_permissions(found: dict[str, tuple[int, bytes]]) -> dict[str, tuple[int, bool, bytes]]:
    return {
        name: (stat.S_IFMT(mode), bool(mode & 0o100) and stat.S_ISREG(mode), content)
        for name, (mode, content) in found.items()
    }


@pytest.mark.parametrize("case", KEPT_STATES, ids=name_of)
async def test_what_cannot_be_parked_is_kept_as_it_is(bench: Bench, case: Case) -> None:
    path = await bench.prepare(make_session())
    case.make(path)
    before, expected = everything(bench.repository), files(path)
    for policy in OnDirty:
        bench.settings = WorktreeSettings(on_dirty=policy)
        result = await bench.clean(make_session())
        assert result.outcome is Outcome.KEPT, result
        assert case.kept is not None
        assert policy is OnDirty.KEEP or case.kept in result.detail
        assert everything(bench.repository) == before
        assert files(path) == expected


@pytest.mark.parametrize("policy", OnDirty)
async def test_what_is_clean_goes_without_a_trace(bench: Bench, policy: OnDirty) -> None:
    before = everything(bench.repository)
    bench.settings = WorktreeSettings(on_dirty=policy)
    await bench.prepare(make_session())
    assert (await bench.clean(make_session())).outcome is Outcome.DONE
    assert everything(bench.repository) == before


async def test_a_sparse_checkout_that_is_clean_goes(bench: Bench) -> None:
    before = everything(bench.repository)
    bench.settings = WorktreeSettings(on_dirty=OnDirty.PARK)
    path = await bench.prepare(make_session())
    git(path, "sparse-checkout", "set", "docs")
    assert not (path / "deep").exists()
    assert (await bench.clean(make_session())).outcome is Outcome.DONE
    assert everything(bench.repository)[:2] == before[:2]


async def test_a_bare_clone_with_a_checkout_beside_it(bench: Bench) -> None:
    """As many people have their repositories: the project is a worktree itself."""
    bare, project = bench.repository.parent / "shop.git", bench.repository.parent / "main checkout"
    git(bench.repository, "clone", "-q", "--bare", str(bench.repository), str(bare))
    git(bare, "worktree", "add", "-q", str(project), "main")
    bench.projects = {"shop": project}
    bench.settings = WorktreeSettings(on_dirty=OnDirty.PARK)
    path = await bench.prepare(make_session())
    assert path == project / ".relaykit" / "worktrees" / "auth"
    unpushed_and_everything_else(path)
    expected = picture(path)
    assert (await bench.clean(make_session())).outcome is Outcome.DONE
    assert not (project / ".relaykit").exists()
    repository = await find_repository(bench.git, project)
    [parked] = await list_parked(bench.git, bare)
    assert await bring_back(bench.git, repository, parked, to=None, state_dir=Path("/state")) == path
    assert picture(path) == expected


async def test_a_session_that_is_parked_and_revived_gets_its_work_back(bench: Bench) -> None:
    bench.settings = WorktreeSettings(on_dirty=OnDirty.PARK)
    path = await bench.prepare(make_session())
    unpushed_and_everything_else(path)
    expected = picture(path)
    assert (await bench.clean(make_session())).outcome is Outcome.DONE
    assert await bench.prepare(make_session()) == path
    assert picture(path) == expected
    assert bench.said[-1] == "brought back from refs/relaykit/parked/s1\n"
    assert not git(bench.repository, "for-each-ref", PARKED)


async def test_a_file_that_is_changed_while_it_is_parked_stays(bench: Bench) -> None:
    """Whatever git command is about to run: what is written at that moment is not lost."""
    bench.settings = WorktreeSettings(on_dirty=OnDirty.PARK)
    outcomes: list[Outcome] = []
    for nth in count(1):
        session = make_session(f"s{nth}", agent_id=f"r{nth}")
        path = await bench.prepare(session)
        changed(path)
        write(path / "notes.txt")
        late = Late(20, path=path / "notes.txt", nth=nth)
        bench.git = late
        result = await bench.clean(session)
        if not late.wrote:  # it had been parked, and was not there any more
            assert result.outcome is Outcome.DONE
            break
        outcomes.append(result.outcome)
        if result.outcome is Outcome.KEPT:
            assert (path / "notes.txt").read_bytes() == b"late\n"
            assert (path / "code.py").read_bytes() == b"changed\n"
        else:
            assert git(bench.repository, "show", f"{PARKED}s{nth}:notes.txt") == "late\n"
    assert outcomes.count(Outcome.DONE) >= 4
    assert outcomes.count(Outcome.KEPT) >= 5


async def test_an_ignored_file_that_comes_while_it_is_parked_stays(bench: Bench) -> None:
    """git would remove it without a word."""
    bench.settings = WorktreeSettings(on_dirty=OnDirty.PARK)
    path = await bench.prepare(make_session())
    changed(path)

    class Ignored(Git):
        async def attempt(self, directory: str | Path, /, *arguments: str, **more: Any) -> str:
            if "-m" in arguments and "-u" in arguments:
                write(path / "secret.env", b"late\n")
            return await super().attempt(directory, *arguments, **more)

    bench.git = Ignored(20)
    result = await bench.clean(make_session())
    assert result.outcome is Outcome.KEPT
    assert (
        "since it was parked came 'secret.env'; what was in it is in refs/relaykit/parked/s1" in result.detail
    )
    assert (path / "secret.env").read_bytes() == b"late\n"
    assert git(bench.repository, "show", f"{PARKED}s1:code.py") == "changed\n"


@dataclass(frozen=True)
class Late(Git):
    """Changes a file, if it is still there, before the n-th command."""

    path: Path = Path()
    nth: int = 0
    commands: list[tuple[str, ...]] = field(default_factory=list)
    wrote: list[bool] = field(default_factory=list)

    async def attempt(self, directory: str | Path, /, *arguments: str, **more: Any) -> str:
        self.commands.append(arguments)
        if len(self.commands) == self.nth and self.path.exists():
            self.path.write_bytes(b"late\n")
            self.wrote.append(True)
        return await super().attempt(directory, *arguments, **more)
