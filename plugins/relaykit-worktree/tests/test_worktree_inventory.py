"""The inventory tells what each worktree is; what is collected is certainly ours and unused, else nothing is."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import anyio
import pytest

from relaykit.clock import SystemClock
from relaykit.session import Outcome
from relaykit_worktree.collecting import GRACE, candidates, collect
from relaykit_worktree.errors import GitError, NothingCollected, RepositoryBusy
from relaykit_worktree.facts import unfinished
from relaykit_worktree.git import Git
from relaykit_worktree.inventory import Inventory, Item, Sessions, State
from relaykit_worktree.settings import DISPOSABLE, OnDirty, WorktreeSettings
from support.worktrees import (
    IDENTITY,
    Bench,
    commit,
    everything,
    git,
    git_dir_of,
    make_repository,
    make_session,
    process_in,
    reason_of_a_dead_process,
)

pytestmark = [pytest.mark.anyio, pytest.mark.parametrize("anyio_backend", ["asyncio"])]

LATER = datetime.now(UTC) + timedelta(days=2)  # noqa: TID251 -- files have the system's times


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    (tmp_path / "gitconfig").write_text(IDENTITY)
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(tmp_path / "gitconfig"))
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    return Bench(make_repository(tmp_path / "shop"))


def _inventory(
    bench: Bench,
    *ids: str,
    directories: Collection[str] = (),
    relay: int | None = os.getpid(),
    unknown: bool = False,
    now: datetime = LATER,
) -> Inventory:
    return Inventory(
        bench.git,
        bench.projects or {"shop": bench.repository},
        sessions=None if unknown else Sessions(ids=ids, directories=directories, relay=relay),
        disposable=DISPOSABLE,
        state_dir=bench.repository.parent / "state",
        now=now,
    )


async def _states(inventory: Inventory) -> Mapping[str, tuple[State, str]]:
    items = await inventory.take()
    assert len({item.path for item in items}) == len(items)
    return {Path(item.path).name: (item.state, item.why) for item in items}


async def _collected(bench: Bench, inventory: Inventory) -> list[str]:
    found = await candidates(inventory, now=LATER)
    return [Path(item.path).name for item in found if await collect(bench.git, inventory, item)]


async def test_what_each_of_them_is(bench: Bench, tmp_path: Path) -> None:
    """All at once: what one is must not depend on the others."""
    roles = (
        "used",
        "dirty",
        "ahead",
        "free",
        "half",
        "making",
        "gone",
        "ghost",
        "alien",
        "bare",
        "broken",
        "away",
    )
    path = {role: await bench.prepare(make_session(role, agent_id=role)) for role in roles}
    (path["dirty"] / "notes.txt").write_text("work")
    commit(path["ahead"], "work.txt")
    shop = bench.repository
    dead = reason_of_a_dead_process("half")
    git(shop, "worktree", "lock", "--reason", dead, str(path["half"]))
    git(shop, "worktree", "lock", "--reason", unfinished("making"), str(path["making"]))
    shutil.rmtree(path["gone"])
    commit(path["ghost"], "other.txt")
    shutil.rmtree(path["ghost"])
    claim = git_dir_of(path["alien"]) / "relaykit.json"
    claim.write_text(json.dumps({**json.loads(claim.read_text()), "state_dir": "/elsewhere"}))
    (git_dir_of(path["bare"]) / "relaykit.json").unlink()
    (path["broken"] / ".git").write_text("gitdir: /nonexistent\n")
    git(path["away"], "switch", "-qc", "mine")
    git(shop, "worktree", "add", "-q", "-b", "relaykit/by-hand", str(tmp_path / "by-hand"))
    git(shop, "worktree", "add", "-q", "-b", "topic", str(tmp_path / "topic"))
    (shop / ".relaykit" / "worktrees" / "stranger").mkdir()
    (shop / ".relaykit" / "worktrees" / "@somebody-0" / "lost").mkdir(parents=True)

    assert await _states(_inventory(bench, "used", "making")) == {
        "used": (State.IN_USE, "session used"),
        "dirty": (State.KEPT, "1 untracked file: notes.txt"),
        "ahead": (State.KEPT, "1 commit that no other ref holds"),
        "free": (State.UNUSED, ""),
        "half": (State.UNFINISHED, "a relay was killed over its making"),
        "making": (State.IN_USE, "it is being made"),
        "gone": (State.GONE, ""),
        "ghost": (State.GONE, "1 commit that no other ref holds"),
        "alien": (State.UNKNOWN, "a relay with the state directory /elsewhere has made it"),
        "bare": (State.UNKNOWN, "no relay says that it is its own"),
        "broken": (
            State.UNKNOWN,
            f"{str(path['broken'])!r} is no worktree any more: its `.git` is missing or leads elsewhere",
        ),
        "away": (State.UNKNOWN, "it is not at one of our places, or on none of our branches"),
        "by-hand": (State.UNKNOWN, "it is not at one of our places, or on none of our branches"),
        "stranger": (State.UNKNOWN, "git does not list it as a worktree"),
        "lost": (State.UNKNOWN, "git does not list it as a worktree"),
    }
    # What cannot be told of sessions is said of everything that one may have.
    states = {name: state for name, (state, _) in (await _states(_inventory(bench, unknown=True))).items()}
    assert {name for name, state in states.items() if state is not State.UNKNOWN} == {"making"}

    collected = await _collected(bench, _inventory(bench, "used", "making"))
    assert sorted(collected) == ["free", "ghost", "gone", "half"]
    left = await _states(_inventory(bench, "used", "making"))
    assert left.keys() == {
        *(
            "used",
            "dirty",
            "ahead",
            "making",
            "alien",
            "bare",
            "broken",
            "away",
            "by-hand",
            "stranger",
            "lost",
        )
    }
    branches = git(shop, "branch", "--format=%(refname:short)").split()
    assert "relaykit/ghost" in branches  # its commit is held by nothing else
    assert not {"relaykit/free", "relaykit/gone"} & set(branches)
    assert (path["dirty"] / "notes.txt").exists()


async def test_a_worktree_is_in_use_in_more_ways_than_one(bench: Bench) -> None:
    path = await bench.prepare(make_session())
    used = _inventory(bench, directories=[str(path / "docs")])
    assert (await _states(used))["auth"] == (State.IN_USE, "the agent of a session works in it")
    other = _inventory(bench, relay=1)
    assert (await _states(other))["auth"] == (
        State.IN_USE,
        f"process {os.getpid()}, which has taken it, still runs",
    )
    async with process_in(path) as pid:
        assert (await _states(_inventory(bench)))["auth"] == (State.KEPT, f"in use by process {pid}")
        assert await _collected(bench, _inventory(bench)) == []
    assert await _collected(bench, _inventory(bench)) == ["auth"]


async def test_what_was_used_within_a_day_stays(bench: Bench) -> None:
    await bench.prepare(make_session())
    now = SystemClock().now()
    for hours, expected in ((0, 0), (23, 0), (25, 1)):
        found = await candidates(_inventory(bench), now=now + timedelta(hours=hours))
        assert len(found) == expected
    assert timedelta(hours=24) == GRACE


async def test_parked_ones_go_when_they_expire_and_not_before(bench: Bench) -> None:
    for policy in (OnDirty.PARK, OnDirty.REMOVE):
        bench.settings = WorktreeSettings(on_dirty=policy, parked_days=3)
        path = await bench.prepare(make_session(policy, agent_id=policy))
        (path / "data.bin").write_bytes(os.urandom(50_000))
        assert (await bench.clean(make_session(policy, agent_id=policy))).outcome is Outcome.DONE
    soon, later = (SystemClock().now() + timedelta(days=days) for days in (2, 4))
    items = await _inventory(bench, now=soon).take()
    assert [(item.session, item.state) for item in items] == [
        ("park", State.PARKED),
        ("remove", State.PARKED),
    ]
    assert all(50_000 < item.size < 60_000 for item in items)
    assert items[1].why.startswith("in refs/relaykit/parked/remove, until ")
    assert await _collected(bench, _inventory(bench, now=soon)) == []
    assert await _collected(bench, _inventory(bench, now=later)) == ["remove"]
    assert git(bench.repository, "for-each-ref", "--format=%(refname)", "refs/relaykit").split() == [
        "refs/relaykit/parked/park"
    ]


async def test_a_ref_of_somebody_else_among_the_parked_stops_it(bench: Bench) -> None:
    await bench.prepare(make_session())
    git(bench.repository, "update-ref", "refs/relaykit/parked/mine", "HEAD")
    with pytest.raises(NothingCollected, match=r"refs/relaykit/parked/mine is none of relaykit's"):
        await candidates(_inventory(bench), now=LATER)


async def test_any_git_command_that_fails_stops_it(bench: Bench) -> None:
    """The n-th command fails, for every n of the inventory: nothing is removed."""
    for number in range(2):
        await bench.prepare(make_session(f"s{number}", agent_id=f"r{number}"))
    before = everything(bench.repository)
    failing = Failing(20)
    bench.git = failing
    refused, found = 0, None
    while found is None:
        failing.commands.clear()
        failing.nth[0] = refused + 1
        try:
            found = await candidates(_inventory(bench), now=LATER)
        except NothingCollected as error:
            assert "it failed" in str(error)  # noqa: PT017 -- a loop of them
            assert everything(bench.repository) == before
            refused += 1
    assert refused >= 6
    assert len(found) == 2


@dataclass(frozen=True)
class Failing(Git):
    """Fails at the n-th command."""

    nth: list[int] = field(default_factory=lambda: [0])
    commands: list[tuple[str, ...]] = field(default_factory=list)

    async def attempt(self, directory: str | Path, /, *arguments: str, **more: Any) -> str:
        self.commands.append(arguments)
        if len(self.commands) == self.nth[0]:
            raise GitError("it failed")
        return await super().attempt(directory, *arguments, **more)


@pytest.mark.parametrize("claim", ["[", '{"project": 1}', "\udcff"])
async def test_a_claim_that_cannot_be_read_stops_it(bench: Bench, claim: str) -> None:
    path = await bench.prepare(make_session())
    (git_dir_of(path) / "relaykit.json").write_bytes(os.fsencode(claim))
    with pytest.raises(NothingCollected, match="cannot be read"):
        await candidates(_inventory(bench), now=LATER)
    assert (path / "code.py").exists()


async def test_what_has_changed_since_is_left_alone(bench: Bench) -> None:
    paths = [await bench.prepare(make_session(f"s{n}", agent_id=f"r{n}")) for n in range(4)]
    inventory = _inventory(bench)
    found: list[Item] = list(await candidates(inventory, now=LATER))
    assert len(found) == 4
    await bench.prepare(make_session("next", agent_id="r0"))  # adopted
    (paths[1] / "notes.txt").write_text("work")
    git(bench.repository, "worktree", "remove", str(paths[2]))
    assert [await collect(bench.git, inventory, item) for item in found] == [False, False, False, True]
    assert [path.exists() for path in paths] == [True, True, False, False]


async def test_another_process_at_work_is_waited_for(bench: Bench) -> None:
    """As a relay and `relaykit worktrees gc` are to each other."""
    await bench.prepare(make_session())
    directory = os.open(bench.repository / ".git", os.O_RDONLY)
    try:
        fcntl.flock(directory, fcntl.LOCK_EX)
        bench.git = Git(0.3)
        with pytest.raises(RepositoryBusy, match="another relay, or `relaykit worktrees`"):
            await bench.prepare(make_session("s2", agent_id="other"))
        assert (await bench.clean(make_session())).outcome is Outcome.KEPT
        bench.git = Git(20)
        with anyio.fail_after(20):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(bench.prepare, make_session("s2", agent_id="other"))
                await anyio.wait_all_tasks_blocked()
                fcntl.flock(directory, fcntl.LOCK_UN)
    finally:
        os.close(directory)
    assert (bench.repository / ".relaykit" / "worktrees" / "other" / "code.py").exists()


async def test_projects_that_have_nothing_of_ours(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "plain").mkdir()
    bench.projects = {
        "shop": bench.repository,
        "docs": bench.repository / "docs",
        "plain": tmp_path / "plain",
        "missing": tmp_path / "missing",
    }
    await bench.prepare(make_session())
    assert list(await _states(_inventory(bench))) == ["auth"]
