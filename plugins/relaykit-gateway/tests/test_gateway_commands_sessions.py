from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.programs import Place, serving, started


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """A place where a relay runs."""
    here = Place(tmp_path_factory.mktemp("sessions"))
    with serving(here):
        yield here
    assert here.processes() == []


@pytest.fixture(scope="module")
def session_id(place: Place) -> str:
    """A session that goes on."""
    with started(place, "chat", "--role", "lasting") as chat:
        found = chat.expect(r"session ([0-9a-f]+): echo as lasting")
        chat.expect("the agent works in")
        chat.end_input()
        assert chat.exit_code() == 0
    return found[1]


def test_the_list_as_a_table(place: Place, session_id: str) -> None:
    done = place.run("sessions", "list")
    assert (done.returncode, done.stderr) == (0, "")
    header, *rows = done.stdout.splitlines()
    assert header.split() == [
        "ID",
        "ROLE",
        "AGENT",
        "OWNER",
        "PROJECT",
        "STATE",
        "MESSAGES",
        "CLIENTS",
        "LAST",
        "ACTIVE",
    ]
    lasting = [session_id, "lasting", "echo", "local", "default", "ACTIVE"]
    assert lasting in [row.split()[:6] for row in rows]


def test_the_list_as_json_and_by_state(place: Place, session_id: str) -> None:
    sessions = json.loads(place.run("sessions", "list", "--json").stdout)
    assert [session["agentId"] for session in sessions if session["id"] == session_id] == ["lasting"]
    active = json.loads(place.run("sessions", "list", "--json", "--state", "active").stdout)
    assert session_id in {session["id"] for session in active}
    assert json.loads(place.run("sessions", "list", "--json", "--state", "TERMINATING").stdout) == []


def test_an_unknown_state(place: Place) -> None:
    done = place.run("sessions", "list", "--state", "asleep")
    assert done.returncode == 1
    assert "there is no state 'asleep'; known: CREATED" in done.stderr


def test_one_session(place: Place, session_id: str) -> None:
    shown = place.run("sessions", "show", session_id)
    assert shown.returncode == 0
    assert ["worktreeDir", str(place.work)] in [line.split() for line in shown.stdout.splitlines()]
    assert json.loads(place.run("sessions", "show", session_id, "--json").stdout)["state"] == "ACTIVE"


@pytest.mark.parametrize("action", ["show", "stop"])
def test_an_unknown_session(place: Place, action: str) -> None:
    done = place.run("sessions", action, "nobody?x=1&y")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("relaykit: no session 'nobody?x=1&y'")


def test_stop_tells_those_who_follow_it(place: Place) -> None:
    with started(place, "chat", "--role", "short") as chat:
        session_id = chat.expect(r"session ([0-9a-f]+): ")[1]
        chat.expect("the agent works in")
        done = place.run("sessions", "stop", session_id, "--reason", "enough & done")
        assert (done.returncode, done.stdout) == (0, f"session {session_id} is being ended\n")
        chat.expect("the session has ended: enough & done")
        assert chat.exit_code() == 0
    shown = json.loads(place.run("sessions", "show", session_id, "--json").stdout)
    assert (shown["state"], shown["reason"]) == ("CLEANED", "enough & done")
    assert place.run("sessions", "stop", session_id).returncode == 1


@pytest.mark.parametrize("arguments", [("sessions", "list"), ("sessions", "stop", "x"), ("chat",)])
def test_where_no_relay_runs(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    done = Place(tmp_path).run(*arguments)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("relaykit: no relay runs on the state directory")
    assert done.stderr.endswith("start one with `relaykit serve`\n")


def test_a_wrong_token(place: Place, session_id: str) -> None:
    assert session_id
    for arguments in (("sessions", "list"), ("chat",)):
        done = place.run(*arguments, RELAYKIT_PLUGINS__GATEWAY__TOKEN="x" * 32)
        assert done.returncode == 1
        assert "token is missing or wrong" in done.stderr or "HTTP status 401" in done.stderr
