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
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from types import MappingProxyType

import anyio
import pytest

import relaykit_acp.echo_agent
from relaykit.session import SessionState
from relaykit_postgres.settings import PostgresSettings
from relaykit_postgres.storage import open_postgres
from support import remembering_agent
from support.postgres import Postgres, breakable_postgres, own_postgres
from support.servers import Server, relay
from support.talk import Talker
from support.witness import Storage, Witness, check, sqlite_storage, talk_until
from support.worktrees import IDENTITY, git, make_repository

CRASHES = int(os.environ.get("RELAYKIT_CRASHES", "100"))
DATABASE_CRASHES = max(3, CRASHES // 10)
PATIENCE = 20.0
NODE = f"crash-{os.getpid()}"
ECHO = [sys.executable, "-I", "-S", relaykit_acp.echo_agent.__file__]

__all__ = ["breakable_postgres", "own_postgres"]  # fixtures

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


class Trial:
    """One storage, one repository, one set of clients, and relays over them that are killed.

    :param storage: opens what the relays have written, while none runs.
    """

    def __init__(
        self,
        directory: Path,
        name: str,
        storage: Storage,
        variables: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self.project = make_repository(directory / "project")
        self.storage = storage
        self.clients = witnesses()
        self.left: Counter[str] = Counter()
        self.relay = partial(
            relay,
            workspace="worktree",
            project=self.project,
            agents=agents(directory / "memory"),
            state_dir=directory / "state",
            node=NODE,
            storage=name,
            variables=variables,
        )

    def crash(self, kill: Callable[[Server], None]) -> None:
        """Have all clients talk to a relay until it is killed; nothing that they were told may be missing then."""
        with self.relay() as server:
            talk_until(self.clients, server, partial(kill, server), patience=PATIENCE)
        deadline = time.monotonic() + PATIENCE
        while any("--ignore-eof" not in command for _, command in agents_left()):
            assert time.monotonic() < deadline, "an agent that ends at EOF outlived its relay"
            time.sleep(0.02)
        self.left["processes of agents that ignore EOF"] += len(list(agents_left()))
        anyio.run(check, self.clients, self.storage)

    def end(self) -> str:
        """Check that a last relay takes everything over, and that it leaves nothing; return what there is to report."""
        with self.relay() as server:
            check_that_everything_goes_on(server, self.clients)
        sessions = anyio.run(check, self.clients, self.storage)
        assert {session.state for session in sessions.values()} <= {SessionState.ACTIVE, SessionState.CLEANED}
        assert list(agents_left()) == []  # the last relay has ended in order, and what others left with it
        active = {session.agent_id for session in sessions.values() if session.state is SessionState.ACTIVE}
        check_worktrees(self.project, active)
        assert min(client.turns for client in self.clients) > 0, "a client never came to say anything"
        told = sum(len(told) for client in self.clients for told in client.told.values())
        turns = sum(client.turns for client in self.clients)
        left = dict(+self.left) or "nothing"
        return f"{len(sessions)} sessions, {told} entries told, {turns} turns; left behind: {left}"


@pytest.fixture
def report(capsys: pytest.CaptureFixture[str]) -> Iterator[Callable[[str], None]]:
    """Print what is no failure; and end what a failure has left."""

    def print_it(text: str) -> None:
        with capsys.disabled():
            sys.stdout.write(f"\n{text}\n")

    try:
        yield print_it
    finally:
        for pid, _ in agents_left():
            os.kill(pid, signal.SIGKILL)


def test_nothing_that_was_told_is_lost(tmp_path: Path, report: Callable[[str], None]) -> None:
    trial = Trial(tmp_path, "sqlite", partial(sqlite_storage, tmp_path / "state" / "sqlite" / "relay.db"))
    for number in range(CRASHES):
        moment = random.Random(number).uniform(0.0, 1.0)

        def kill(server: Server, moment: float = moment) -> None:
            time.sleep(moment)  # the moment is what is random here
            os.kill(server.pid, signal.SIGKILL)

        trial.crash(kill)
    report(f"{CRASHES} crashes: {trial.end()}")


def test_nothing_is_lost_though_the_database_is_killed_too(
    tmp_path: Path, own_postgres: Postgres, report: Callable[[str], None]
) -> None:
    storage = partial(open_postgres, PostgresSettings(dsn=own_postgres.dsn))
    trial = Trial(tmp_path, "postgres", storage, {"RELAYKIT_PLUGINS__POSTGRES__DSN": own_postgres.dsn})
    for number in range(DATABASE_CRASHES):
        chance = random.Random(number)

        def kill(server: Server, chance: random.Random = chance) -> None:
            time.sleep(chance.uniform(0.0, 1.0))
            own_postgres.stop(chance.choice((signal.SIGQUIT, signal.SIGINT)))
            with ThreadPoolExecutor(1) as pool:
                started = pool.submit(own_postgres.start)
                time.sleep(chance.uniform(0.0, 2.0))  # while it starts, or when the relay has it again
                os.kill(server.pid, signal.SIGKILL)
                started.result()

        trial.crash(kill)
    report(f"{DATABASE_CRASHES} crashes of relay and PostgreSQL: {trial.end()}")


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
