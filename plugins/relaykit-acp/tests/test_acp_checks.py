"""What `relaykit doctor` says of agents."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from relaykit.agent.launcher import AgentSpec
from relaykit.hooks.registration import Surroundings, Verdict
from relaykit_acp import processes
from relaykit_acp.checks import leftovers, logins
from relaykit_acp.finding import ECHO, offered_agents
from support.acp_agents import new_session
from support.agent_programs import install

NODE = f"doctor-test-{os.getpid()}"


def surroundings(*, running: bool = False, known: str = "") -> Surroundings:
    sessions = {known: new_session()} if known else {}
    return Surroundings(running=running, sessions=sessions, workspace="in_place")


@contextmanager
def process_of(session_id: str, *, node: str = NODE) -> Iterator[int]:
    command = [sys.executable, "-ISc", "import time; time.sleep(600)"]
    variables = {"RELAYKIT_SESSION": session_id, "RELAYKIT_NODE": node}
    with subprocess.Popen(command, env={**os.environ, **variables}) as process:
        try:
            yield process.pid
        finally:
            process.kill()


@pytest.mark.skipif(not processes.HAS_PROC, reason="it shows in /proc alone")
def test_processes_that_are_left() -> None:
    with process_of("stored") as stored, process_of("stored") as more, process_of("unknown") as unknown:
        found = leftovers(surroundings(known="stored"), NODE)
        assert [finding.verdict for finding in found] == [Verdict.WARNING, Verdict.WARNING]
        assert found[0].what == (
            f"processes of session stored are left, of a relay that was killed: "
            f"{min(stored, more)}, {max(stored, more)}"
        )
        assert found[0].fix == "the next `relaykit serve` ends them"
        assert found[1].what == f"processes of session unknown, which is not stored here, run: {unknown}"
        assert found[1].fix.endswith(f"kill {unknown}")
        [running] = leftovers(surroundings(running=True), NODE)
        assert running.verdict is Verdict.OK
        [another] = leftovers(surroundings(), f"{NODE}-2")
        assert (another.verdict, another.what) == (Verdict.OK, "no process of an agent is left")


def test_where_processes_cannot_be_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "HAS_PROC", False)
    [finding] = leftovers(surroundings(), NODE)
    assert finding.verdict is Verdict.OK


def test_logins_of_the_agents_that_are_used(tmp_path: Path) -> None:
    path = install(tmp_path / "bin", "auggie", "gemini", "npx")
    credentials = tmp_path / ".gemini" / "oauth_creds.json"
    credentials.parent.mkdir()
    credentials.touch()
    environment = {"PATH": str(path), "HOME": str(tmp_path)}
    found = {
        finding.what: (finding.verdict, finding.fix)
        for finding in logins(offered_agents(environment), environment)
    }
    assert found["gemini: logged in"] == (Verdict.OK, "")
    assert found["auggie: no login found"] == (Verdict.WARNING, "run `auggie login`")
    assert len(found) == 2  # npx could fetch others, which nobody has asked for


def test_an_agent_of_the_settings_through_npx_is_one_that_is_used(tmp_path: Path) -> None:
    path = install(tmp_path / "bin", "npx")
    environment = {"PATH": str(path), "HOME": str(tmp_path)}
    offered = offered_agents(environment)
    mine = AgentSpec(name="mine", command=offered["auggie"].command)
    [finding] = logins({**offered, "mine": mine}, environment)
    assert finding.what == "mine: no login found"


def test_where_only_echo_answers(tmp_path: Path) -> None:
    path = install(tmp_path / "bin", "npx")
    environment = {"PATH": str(path), "HOME": str(tmp_path)}
    for agents in (offered_agents(environment), {ECHO.name: ECHO}):
        [finding] = logins(agents, environment)
        assert (finding.verdict, finding.what) == (
            Verdict.WARNING,
            "no coding agent is found here: only echo answers",
        )
