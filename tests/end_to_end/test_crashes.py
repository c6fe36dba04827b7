"""The relay is killed at random moments: nothing that a client was told is lost, and the next relay goes on.

``RELAYKIT_CRASHES=1000`` says how often; a hundred times by default, which takes some minutes.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import anyio
import pytest

import relaykit_acp.echo_agent
from relaykit.session import SessionState
from support import remembering_agent
from support.servers import Server, relay
from support.talk import Talker
from support.witness import Witness, check, sqlite_storage, talk_until
from support.worktrees import IDENTITY, git, make_repository

CRASHES = int(os.environ.get("RELAYKIT_CRASHES", "100"))
PATIENCE = 20.0
NODE = f"crash-{os.getpid()}"
ECHO = [sys.executable, "-I", "-S", relaykit_acp.echo_agent.__file__]

pytestmark = [
    pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="needs /proc to count processes"),
    pytest.mark.slow,
    pytest.mark.timeout(120 + 10 * CRASHES),
]


@pytest.fixture(autouse=True)
def identity(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "gitconfig").write_text(IDENTITY)
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(tmp_path / "gitconfig"))


def witnesses() -> list[Witness]:
    """Return clients that do what clients do, each in a role of its own."""
    return [
        Witness("talker", "remembering", "hello"),
        Witness("streamer", "remembering", "/stream 500 100"),
        Witness("asker", "remembering", "/ask"),
        Witness("loader", "loading", "hello"),
        Witness("forgetter", "forgetful", "hello"),
        Witness("stubborn", "stubborn", "hello"),
        Witness("shortlived", "remembering", "hello", stops=True),
    ]


def agents(directory: Path) -> dict[str, list[str]]:
    directory.mkdir()
    remembering = [sys.executable, remembering_agent.__file__, str(directory)]
    return {
        "remembering": remembering,
        "loading": [*remembering, "--only-load"],
        "forgetful": [*remembering, "--forgetful"],
        "stubborn": [*ECHO, "--ignore-eof"],
    }


def agents_left() -> Iterator[tuple[int, str]]:
    """Yield pid and command line of every process that bears the mark of our relay."""
    mark = f"RELAYKIT_NODE={NODE}".encode()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if mark in (entry / "environ").read_bytes().split(b"\0"):
                    yield int(entry.name), (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            except OSError:
                continue  # it has ended meanwhile, or is not ours to look at


def kill(server: Server, moment: float) -> None:
    time.sleep(moment)  # the moment is what is random here
    os.kill(server.pid, signal.SIGKILL)


def test_nothing_that_was_told_is_lost(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    project = make_repository(tmp_path / "project")
    state, known = tmp_path / "state", agents(tmp_path / "memory")
    running = partial(
        relay,
        workspace="worktree",
        project=project,
        agents=known,
        state_dir=state,
        node=NODE,
        storage="sqlite",
    )
    storage = partial(sqlite_storage, state / "sqlite" / "relay.db")
    clients = witnesses()
    left: Counter[str] = Counter()
    try:
        for number in range(CRASHES):
            moment = random.Random(number).uniform(0.0, 1.0)
            with running() as server:
                talk_until(clients, server, partial(kill, server, moment), patience=PATIENCE)
            deadline = time.monotonic() + PATIENCE
            while any("--ignore-eof" not in command for _, command in agents_left()):
                assert time.monotonic() < deadline, "an agent that ends at EOF outlived its relay"
                time.sleep(0.02)
            left["processes of agents that ignore EOF"] += len(list(agents_left()))
            anyio.run(check, clients, storage)

        with running() as server:
            check_that_everything_goes_on(server, clients)
        sessions = anyio.run(check, clients, storage)
        assert {session.state for session in sessions.values()} <= {SessionState.ACTIVE, SessionState.CLEANED}
        assert list(agents_left()) == []  # the last relay has ended in order, and what others left with it
        check_worktrees(project, {s.agent_id for s in sessions.values() if s.state is SessionState.ACTIVE})
        told = sum(len(told) for client in clients for told in client.told.values())
        assert min(client.turns for client in clients) > 0, "a client never came to say anything"
    finally:
        for pid, _ in agents_left():
            os.kill(pid, signal.SIGKILL)
    with capsys.disabled():  # a report, not a failure
        sys.stdout.write(
            f"\n{CRASHES} crashes, {len(sessions)} sessions, {told} entries told, "
            f"{sum(client.turns for client in clients)} turns; left behind: {dict(+left) or 'nothing'}\n"
        )


def check_that_everything_goes_on(server: Server, clients: list[Witness]) -> None:
    """Check that each role can be talked to, in its session or in a new one; end those that are not to stay."""
    for client in clients:
        with Talker(server) as talker:
            client._come_back(talker)
            client._one_turn(talker)
            if client.role in {"forgetter", "stubborn", "shortlived"}:
                talker.stop(client.session)


def check_worktrees(project: Path, active: set[str]) -> None:
    """Check that there is a worktree and a branch for each role that is still played, and no other."""
    worktrees = git(project, "worktree", "list", "--porcelain").splitlines()
    prefix = "branch refs/heads/relaykit/"
    assert {line.removeprefix(prefix) for line in worktrees if line.startswith(prefix)} == active
    branches = git(project, "for-each-ref", "--format=%(refname)", "refs/heads/relaykit").splitlines()
    assert {branch.removeprefix("refs/heads/relaykit/") for branch in branches} == active
