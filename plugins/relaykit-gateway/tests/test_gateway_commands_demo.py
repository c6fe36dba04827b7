from __future__ import annotations

import re
import shutil
import signal
import subprocess
import sys
from datetime import UTC, datetime
from io import StringIO
from itertools import pairwise
from pathlib import Path

import pytest

from relaykit.session import Activity, Session
from relaykit_gateway.demo.narrator import Narrator
from relaykit_gateway.demo.witness import Witness
from relaykit_gateway.terminal.screen import Screen
from support.programs import Place, started, started_in_terminal

STATES = ["CREATED", "SPAWNING", "ACTIVE", "TERMINATING", "CLEANED"]


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def nothing_is_left(place: Place) -> bool:
    return not place.processes() and not list(place.temporary.iterdir())


def test_the_demo_shows_a_whole_life_and_leaves_nothing(place: Place) -> None:
    done = place.run("demo")
    assert (done.returncode, done.stderr) == (0, "")
    steps = [f"{before} → {after}" for before, after in pairwise(STATES)]
    story = [
        "connection:established",
        "→ session:create ",
        *("session ● " + step for step in ["CREATED", *steps[:2]]),
        "← session:ready",
        "“hello”",
        "← permission:request    “Say it”: Allow (yes), Reject (no)",
        "→ permission:response   optionId=yes",
        "“permission: yes”",
        *(f"“000000{number} xxxx”" for number in range(5)),
        'relaykit_sessions{state="ACTIVE"} 1.0',
        'relaykit_session_transitions_total{event="ACTIVATE",outcome="done"} 1.0',
        "→ session:stop",
        *("session ● " + step for step in steps[2:]),
        "acp DONE, worktree DONE",
        "✓ " + " → ".join(STATES),
        "✓ no process of the session is left",
        "✓ no worktree and no branch is left",
        f"✓ {place.temporary}",
    ]
    position = 0
    for part in story:
        found = done.stdout.find(part, position)
        assert found >= 0, f"{part!r} is missing behind {position} in:\n{done.stdout}"
        position = found
    assert nothing_is_left(place)


def test_the_demo_needs_nothing_of_the_user_and_touches_nothing(place: Place) -> None:
    (place.work / "relaykit.toml").write_text(
        '[relay]\nworkspace = "in_place"\nstate_dir = "state-file"\ndefault_agent = "other"\n'
        '[agents.other]\ncommand = ["/bin/false"]\n[plugins.gateway]\nport = 1\n'
    )
    (place.home / ".gitconfig").write_text("[commit]\n\tgpgSign = true\n[init]\n\tdefaultBranch = trunk\n")
    before = sorted(place.work.rglob("*")) + sorted(place.home.rglob("*"))
    done = place.run(
        "demo", RELAYKIT_RELAY__STATE_DIR=str(place.work / "state"), RELAYKIT_RELAY__NODE="elsewhere"
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert sorted(place.work.rglob("*")) + sorted(place.home.rglob("*")) == before
    assert nothing_is_left(place)


@pytest.mark.parametrize(
    "moment", ["git +made", "listens on", "● CREATED → SPAWNING", "● SPAWNING → ACTIVE", "stop "]
)
def test_an_interrupt_leaves_nothing(place: Place, moment: str) -> None:
    with started(place, "demo") as demo:
        demo.expect(moment)
        demo.interrupt()
        assert demo.exit_code() == 128 + signal.SIGINT
        demo.expect(r"Interrupted\. Nothing is left\.")
    assert "Traceback" not in demo.said
    assert nothing_is_left(place)


def test_a_plugin_that_is_to_be_seen_must_be_there(place: Place) -> None:
    done = place.run("demo", "--with", "adit", "--with", "audit")
    assert done.returncode == 1
    assert "there is no plugin 'adit' (did you mean 'audit'?)" in done.stdout
    assert nothing_is_left(place)


def test_without_git_it_says_what_to_do(place: Place) -> None:
    done = place.run("demo", PATH=str(place.temporary))
    assert done.returncode == 1
    assert "The demo failed: the program 'git' was not found: install git" in done.stdout
    assert nothing_is_left(place)


@pytest.mark.parametrize(
    ("ignored", "complaint"),
    [
        ("worktree remove", "The demo failed: worktrees are left: .*/project/.relaykit/worktrees/demo"),
        ("update-ref --no-deref -d", "The demo failed: branches are left: relaykit/demo"),
    ],
)
def test_it_fails_if_something_is_left(place: Place, ignored: str, complaint: str) -> None:
    """With a git that does as if it had removed something."""
    git = shutil.which("git")
    programs = place.home / "bin"
    programs.mkdir()
    wrapper = programs / "git"
    wrapper.write_text(f'#!/bin/sh\ncase "$*" in *"{ignored}"*) exit 0;; esac\nexec {git} "$@"\n')
    wrapper.chmod(0o755)
    done = place.run("demo", PATH=f"{programs}:/usr/bin:/bin")
    assert done.returncode == 1, done.stdout
    assert re.search(complaint, done.stdout), done.stdout
    assert nothing_is_left(place)


def test_colours_are_for_terminals(place: Place) -> None:
    with started_in_terminal(place, "demo") as demo:
        assert demo.exit_code() == 0
    assert "\x1b[35m● CREATED" in demo.said
    with started_in_terminal(place, "demo", NO_COLOR="1") as demo:
        assert demo.exit_code() == 0
    assert "\x1b" not in demo.said
    assert "\x1b" not in place.run("demo").stdout


def test_an_output_that_lacks_some_characters(place: Place) -> None:
    done = place.run("demo", PYTHONIOENCODING="ascii")
    assert (done.returncode, done.stderr) == (0, "")
    assert "session ? CREATED ? SPAWNING" in done.stdout


def test_the_witness_finds_the_processes_of_a_session() -> None:
    when = datetime(2025, 1, 1, tzinfo=UTC)
    witness = Witness(Narrator(Screen(StringIO(), colours=False), lambda: 0.0))
    assert witness.processes() == []
    with subprocess.Popen(
        [sys.executable, "-c", "print(flush=True); input()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={"RELAYKIT_SESSION": "witnessed"},
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        witness.session = Session(
            id="witnessed",
            agent_id="demo",
            agent="echo",
            owner="local",
            project="scratch",
            node="local",
            created_at=when,
            activity=Activity(when),
            resources={"acp": {"marker": "RELAYKIT_SESSION=witnessed", "pid": process.pid}},
        )
        assert witness.processes() == [process.pid]
        process.communicate(b"\n", timeout=10)
        assert witness.processes() == []
