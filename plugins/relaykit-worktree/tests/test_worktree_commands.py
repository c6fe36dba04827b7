"""`relaykit worktrees`, as people run it: beside a relay that runs, and without one."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from relaykit.commands import main
from support.programs import Place, Program, started
from support.worktrees import IDENTITY, git, git_dir_of, make_repository

_TWO_DAYS = 2 * 24 * 3600


@dataclass(frozen=True)
class Ran:
    code: int
    out: str
    error: str


Run = Callable[..., Ran]


@pytest.fixture
def run(place: Place, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run ``relaykit worktrees`` in this process, which takes a tenth of the time; it asks a relay all the same."""
    given = place.environment()
    for name in [*os.environ]:
        monkeypatch.delenv(name)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(place.work)

    def run_it(*arguments: str) -> Ran:
        code = main(["worktrees", *arguments])
        said = capsys.readouterr()
        return Ran(code, said.out, said.err)

    return run_it


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    """A project that is a repository, and settings that park."""
    made = Place(tmp_path)
    (made.home / ".gitconfig").write_text(IDENTITY)
    monkeypatch.setenv("HOME", str(made.home))
    made.work.rmdir()
    make_repository(made.work)
    (made.work / "relaykit.toml").write_text(
        "[relay]\nstate_dir = '~/state'\n[plugins.worktree]\non_dirty = 'park'\n"
    )
    git(made.work, "add", ".")
    git(made.work, "commit", "-qm", "settings")
    return made


@contextmanager
def _serving(place: Place) -> Iterator[Program]:
    with started(place, "serve", RELAYKIT_PLUGINS__GATEWAY__PORT="0") as program:
        program.expect(r"http://127\.0\.0\.1:\d+/\?token=\S+")
        yield program
        program.interrupt()
        program.exit_code()


def _json(run: Run, *arguments: str) -> list[dict[str, Any]]:
    done = run(*arguments, "--json")
    assert (done.code, done.error) == (0, "")
    found: list[dict[str, Any]] = json.loads(done.out)
    return found


def _states(run: Run, *arguments: str) -> dict[str, str]:
    return {Path(each["path"]).name: each["state"] for each in _json(run, *arguments)}


def _begin(place: Place, role: str) -> str:
    """Begin a session by one prompt, and leave it; return its id."""
    done = place.run("run", "--role", role, "--keep", "--agent", "echo", "hello")
    assert done.returncode == 0, done.stderr
    listed = json.loads(place.run("sessions", "list", "--json").stdout)
    return next(str(each["id"]) for each in listed if each["agentId"] == role)


def _age(path: Path) -> None:
    """Have nothing happened in a worktree for two days."""
    then = time.time() - _TWO_DAYS  # noqa: TID251 -- files have the system's times
    git_dir = git_dir_of(path)
    for each in (path, *git_dir.rglob("*")):
        os.utime(each, (then, then))


def test_from_the_first_session_to_the_last_file(place: Place, run: Run) -> None:
    root = place.work / ".relaykit" / "worktrees"
    with _serving(place):
        session = _begin(place, "auth")
        _begin(place, "db")
        listed = _json(run, "list")
        assert {each["state"] for each in listed} == {"in use"}
        assert {each["session"] for each in listed} >= {session}
        assert all(each["bytes"] > 0 and each["lastUsed"] for each in listed)
        for role in ("auth", "db"):
            _age(root / role)
        assert _json(run, "gc", "--yes") == []  # the relay says that they are used

        (root / "auth" / "notes.txt").write_text("work\n")
        assert place.run("sessions", "stop", session).returncode == 0
        _wait_until_gone(root / "auth")
        assert _states(run, "list") == {"auth": "parked", "db": "in use"}

    # The other one sleeps: no relay runs, and the storage knows it.
    assert _states(run, "list") == {"auth": "parked", "db": "in use"}
    git(place.work, "worktree", "add", "-q", "-b", "relaykit/left", str(root / "left"))
    claim = (git_dir_of(root / "db") / "relaykit.json").read_text()
    (git_dir_of(root / "left") / "relaykit.json").write_text(
        claim.replace("session", "session", 1).replace(json.loads(claim)["session"], "ended")
    )
    assert _states(run, "list")["left"] == "unused"
    assert _json(run, "gc") == []  # it is too young
    _age(root / "left")
    shown = run("gc")
    assert "1 would be removed" in shown.out
    assert (root / "left" / "code.py").exists()
    assert _states(run, "gc", "--yes") == {"left": "unused"}
    assert not (root / "left").exists()

    restored = run("restore", session[:6])
    assert restored.code == 0, restored.error
    assert restored.out.startswith(
        f"{root / 'auth'} is back, on relaykit/auth; refs/relaykit/parked/{session} was "
    )
    assert (root / "auth" / "notes.txt").read_text() == "work\n"
    assert _states(run, "list") == {"auth": "kept", "db": "in use"}
    table = run("list").out
    assert "1 untracked file: notes.txt" in table
    again = run("restore", session)
    assert (again.code, again.error) == (
        2,
        f"relaykit: nothing is parked of a session '{session}': see `relaykit worktrees list`\n",
    )


def _wait_until_gone(path: Path) -> None:
    deadline = time.monotonic() + 30
    while path.exists():
        assert time.monotonic() < deadline, f"{path} is still there"
        time.sleep(0.05)


def test_in_any_doubt_nothing_is_removed(place: Place, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    root = place.work / ".relaykit" / "worktrees"
    with _serving(place):
        session = _begin(place, "auth")
        (root / "auth" / "notes.txt").write_text("work\n")
        state = place.home / "state"
    # A storage that cannot be read.
    _age(root / "auth")
    database = state / "sqlite" / "relay.db"
    content = database.read_bytes()
    database.write_bytes(b"not a database" * 100)
    for arguments in (("gc",), ("gc", "--yes")):
        refused = run(*arguments)
        assert refused.code == 2
        assert "no SQLite database" in refused.error
    listed = run("list")
    assert (listed.code, "which sessions there are cannot be told" in listed.error) == (0, True)
    assert "unknown" in listed.out
    assert (root / "auth" / "notes.txt").exists()
    database.write_bytes(content)

    # A relay that runs, and cannot be asked: its gateway is not there for whoever would.
    settings = (place.work / "relaykit.toml").read_text()
    with _serving(place) as program:
        (place.work / "relaykit.toml").write_text(
            settings.replace("[relay]", "[relay]\ndisabled = ['gateway']")
        )
        refused = run("gc", "--yes")
        assert refused.code == 2
        pid = program.process.pid
        assert f"the relay with pid {pid} has the sessions, and could not be asked" in refused.error
    (place.work / "relaykit.toml").write_text(settings)
    assert session in run("list").out

    # A git that fails.
    monkeypatch.setenv("PATH", "/nonexistent")
    refused = run("gc", "--yes")
    assert refused.code == 2
    assert "git" in refused.error
    assert (root / "auth" / "notes.txt").exists()
