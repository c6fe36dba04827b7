"""The relay is killed at random moments: what is left behind is counted, and the next relay goes on.

``RELAYKIT_CRASHES=50`` says how often; a few times by default.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from threading import Thread

import pytest

import relaykit_acp.echo_agent
from support.servers import Server, relay
from support.talk import Refusal, Talker
from support.worktrees import IDENTITY, git, make_repository

CRASHES = int(os.environ.get("RELAYKIT_CRASHES", "5"))
PATIENCE = 10.0
NODE = f"crash-{os.getpid()}"
ECHO = [sys.executable, "-I", "-S", relaykit_acp.echo_agent.__file__]
AGENTS = {"plain": ECHO, "stubborn": [*ECHO, "--ignore-eof"]}
# Each conversation is one client's: a role, its agent, and what it says over and over until the relay is gone.
CONVERSATIONS = (
    ("talker", "plain", "hello"),
    ("streamer", "plain", "/stream 2000 100"),
    ("asker", "plain", "/ask"),
    ("sleeper", "plain", "/sleep 30"),
    ("stubborn", "stubborn", "hello"),
)

pytestmark = [
    pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="needs /proc to count processes"),
    pytest.mark.slow,
    pytest.mark.timeout(60 + 30 * CRASHES),
]


@pytest.fixture(autouse=True)
def identity(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "gitconfig").write_text(IDENTITY)
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(tmp_path / "gitconfig"))


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


def converse(server: Server, role: str, agent: str, text: str) -> None:
    """Talk until the relay is gone."""
    with suppress(ConnectionError, Refusal), Talker(server) as talker:
        session = talker.create(role, agent=agent)
        while True:
            talker.say("agent:message", sessionId=session, content=text)
            while (message := json.loads(talker.socket.receive()))["type"] != "agent:response":
                if message["type"] == "permission:request":
                    talker.say(
                        "permission:response",
                        sessionId=session,
                        requestId=message["requestId"],
                        optionId=message["options"][0]["optionId"],
                    )


def crash(project: Path, state_dir: Path, moment: float) -> None:
    """Start a relay, hold all conversations, and kill it after `moment` seconds."""
    with relay(
        workspace="worktree", project=project, agents=AGENTS, state_dir=state_dir, node=NODE
    ) as server:
        threads = [Thread(target=converse, args=(server, *each)) for each in CONVERSATIONS]
        for thread in threads:
            thread.start()
        time.sleep(moment)  # the moment is what is random here
        os.kill(server.pid, signal.SIGKILL)
        for thread in threads:
            thread.join(PATIENCE)
            assert not thread.is_alive()


def test_what_a_killed_relay_leaves_behind(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    project = make_repository(tmp_path / "project")
    left: Counter[str] = Counter()
    refused: list[str] = []
    try:
        for number in range(CRASHES):
            moment = random.Random(number).uniform(0.0, 1.5)
            crash(project, tmp_path / "state", moment)
            deadline = time.monotonic() + PATIENCE
            while any("--ignore-eof" not in command for _, command in agents_left()):
                assert time.monotonic() < deadline, "an agent that ends at EOF outlived its relay"
                time.sleep(0.02)
            for pid, _ in agents_left():
                left["processes of agents that ignore EOF"] += 1
                os.kill(pid, signal.SIGKILL)
            deadline = time.monotonic() + PATIENCE
            while list(agents_left()):
                assert time.monotonic() < deadline
                time.sleep(0.02)

        # What was kept is whole, and the next relay takes it over: every role is played again.
        kept = git(project, "worktree", "list", "--porcelain").count("branch refs/heads/relaykit/")
        left["worktrees, to be adopted"] = kept
        with relay(
            workspace="worktree", project=project, agents=AGENTS, state_dir=tmp_path / "state", node=NODE
        ) as server:
            for role, agent, _ in CONVERSATIONS:
                with Talker(server) as talker:
                    try:
                        session = talker.create(role, agent=agent)
                    except Refusal as refusal:  # killed in the midst of git's own work
                        refused.append(str(refusal))
                        continue
                    assert talker.prompt(session, "hello")["content"] == "hello"
                    talker.stop(session)
        stuck = left["roles that somebody has to free"] = len(refused)
        assert all("is damaged" in refusal for refusal in refused), refused  # it says what to do
        assert git(project, "worktree", "list", "--porcelain").count("branch refs/heads/relaykit/") == stuck
        assert git(project, "branch", "--list", "relaykit/*").count("relaykit/") == stuck
        assert list(agents_left()) == []
    finally:
        for pid, _ in agents_left():
            os.kill(pid, signal.SIGKILL)
    with capsys.disabled():  # a report, not a failure
        sys.stdout.write(f"\n{CRASHES} crashes left behind: {dict(+left) or 'nothing'}\n")
