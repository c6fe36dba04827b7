from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.programs import RELAYKIT, SECONDS, Place, Program, serving, started, started_in_terminal


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """A place where a relay runs."""
    here = Place(tmp_path_factory.mktemp("chat"))
    with serving(here):
        yield here
    assert here.processes() == []


def begun(chat: Program) -> str:
    """Wait until it can be talked to, and return its session's id."""
    session_id = chat.expect(r"session ([0-9a-f]+): ")[1]
    chat.expect("the agent works in")
    return session_id


def test_a_script_is_said_line_by_line(place: Place) -> None:
    typed = "hello\n\n/ask\nperhaps\nreject\n/ask\n1\n/stream 3 16\n/sleep 0.2\nlast"
    done = place.run("chat", "--role", "script", typed=typed)
    assert (done.returncode, done.stderr) == (0, "")
    session_id = done.stdout.split()[1].removesuffix(":")
    question = ["? Say it", "  1  Allow (yes)", "  2  Reject (no)"]
    assert done.stdout.splitlines() == [
        f"session {session_id}: echo as script",
        f"the agent works in {place.work}",
        *("> hello", "hello", "> "),
        *("> /ask", *question, "> perhaps", "'perhaps' is none of the answers", *question),
        *("> reject", "permission: no"),
        *("> /ask", *question, "> 1", "permission: yes"),
        *("> /stream 3 16", "0000000 xxxxxxxx0000001 xxxxxxxx0000002 xxxxxxxx"),
        *("> /sleep 0.2", "slept"),
        *("> last", "last"),
        f"the session lives on: relaykit chat {session_id}",
    ]
    again = place.run("chat", session_id, typed="/stop\n")
    assert again.returncode == 0
    said = again.stdout.splitlines()
    assert said[0] == f"session {session_id}: script, ACTIVE"
    assert [line for line in said if line.startswith(">")] == [
        *("> hello", "> /ask", "> /ask", "> /stream 3 16", "> /sleep 0.2", "> last", "> /stop")
    ]
    assert said[-1] == "the session has ended: stopped in a chat"


def test_two_chats_in_one_session(place: Place) -> None:
    with started(place, "chat", "--role", "shared") as one:
        session_id = begun(one)
        with started(place, "chat", session_id) as other:
            begun(other)
            one.type("/ask\n")
            other.expect("> /ask")
            for chat in (one, other):
                chat.expect(r"2  Reject \(no\)")
            other.type("no\n")
            one.expect("answered elsewhere: no")
            for chat in (one, other):
                chat.expect("permission: no")
            other.type("and I?\n")
            one.expect("> and I[?]\nand I[?]")
            other.type("/stop\n")
            for chat in (one, other):
                chat.expect("the session has ended")
                assert chat.exit_code() == 0


def test_an_interrupt_cancels_the_turn_and_two_detach(place: Place) -> None:
    with started(place, "chat", "--role", "interrupted") as chat:
        session_id = begun(chat)
        chat.type("/sleep 60\n")
        chat.expect("> /sleep 60")
        chat.interrupt()
        chat.expect("cancelling; Ctrl-C again detaches")
        chat.expect(r"woken\n\(cancelled\)")
        chat.type("hello\n")
        chat.expect("> hello\nhello\n")
        chat.interrupt()
        chat.expect("Ctrl-C again detaches, /stop ends the session")
        chat.interrupt()
        chat.expect(f"the session lives on: relaykit chat {session_id}")
        assert chat.exit_code() == 0
    assert place.run("chat", session_id, typed="/stop\n").returncode == 0


def test_a_second_interrupt_detaches_once_the_turn_is_cancelled(place: Place) -> None:
    with started(place, "chat", "--role", "cancelled") as chat:
        begun(chat)
        chat.type("/sleep 60\n")
        chat.expect("> /sleep 60")
        chat.interrupt()
        chat.expect(r"woken\n\(cancelled\)")
        chat.interrupt()
        chat.expect("the session lives on")
        assert chat.exit_code() == 0


def test_a_second_interrupt_at_once_detaches_from_a_turn_that_does_not_end(place: Place) -> None:
    with started(place, "chat", "--role", "stubborn") as chat:
        session_id = begun(chat)
        chat.type("/deaf\n")
        chat.expect("> /deaf")
        chat.interrupt()
        chat.expect("cancelling")
        time.sleep(1.2)  # the rule is about time: later than a second, it asks once more
        chat.interrupt()
        chat.expect("cancelling")
        chat.interrupt()
        chat.expect("the session lives on")
        assert chat.exit_code() == 0
    assert place.run("sessions", "stop", session_id).returncode == 0


def test_a_role_that_is_played_already(place: Place) -> None:
    with started(place, "chat", "--role", "single") as chat:
        session_id = begun(chat)
        second = place.run("chat", "--role", "single")
        assert second.returncode == 1
        assert (
            f"DUPLICATE_ROLE: the role 'single' of project 'default' is already played by session '{session_id}'"
            in second.stdout
        )
        assert "relaykit chat SESSION_ID attaches" in second.stdout
        chat.type("/stop\n")
        assert chat.exit_code() == 0


def test_an_unknown_session_and_an_unknown_agent(place: Place) -> None:
    done = place.run("chat", "nobody")
    assert (done.returncode, done.stdout[:18]) == (1, "SESSION_NOT_FOUND:")
    done = place.run("chat", "--agent", "hal")
    assert (done.returncode, done.stdout[:14]) == (1, "UNKNOWN_AGENT:")


def test_an_agent_that_goes_away(place: Place) -> None:
    done = place.run("chat", "--role", "crash", typed="/fail\nstill here\n/crash 3\n")
    assert done.returncode == 1
    assert "AGENT_FAILED: told to fail" in done.stdout
    assert "> still here\nstill here\n" in done.stdout
    assert "the session has ended: " in done.stdout
    assert "lives on" not in done.stdout
    assert done.stderr == ""


def test_a_last_turn_that_fails_is_a_failure(place: Place) -> None:
    done = place.run("chat", "--role", "failing", typed="/fail")
    assert done.returncode == 1
    session_id = done.stdout.splitlines()[-1].removeprefix("the session lives on: relaykit chat ")
    assert place.run("chat", session_id, typed="hello\n").returncode == 0


def test_a_file_is_a_script_too(place: Place) -> None:
    script = place.work / "script.txt"
    script.write_text("from a file\n/stop\n")
    with script.open() as file, started(place, "chat", "--role", "file", stdin=file) as chat:
        chat.expect("> from a file\nfrom a file")
        assert chat.exit_code() == 0


def test_without_input_it_begins_and_leaves(place: Place) -> None:
    with (
        Path(os.devnull).open() as nothing,
        started(place, "chat", "--role", "silent", stdin=nothing) as chat,
    ):
        begun(chat)
        chat.expect("the session lives on")
        assert chat.exit_code() == 0


def test_in_a_terminal(place: Place) -> None:
    with started_in_terminal(place, "chat", "--role", "terminal", NO_COLOR="1") as chat:
        session_id = begun(chat)
        chat.expect("> ")
        chat.type("hello\n")
        chat.expect("hello\r\n")  # as the terminal shows what is typed
        chat.expect("hello\r\n> ")
        chat.type("/ask\n")
        chat.expect(r"2  Reject \(no\)\r\n")
        chat.type("1\n")
        chat.expect("permission: yes\r\n> ")
        chat.type("\x03")
        chat.expect("Ctrl-C again detaches")
        chat.type("/stream 1 9\n")
        chat.expect("0000000 x\r\n> ")
        chat.type("\x04")
        chat.expect(f"the session lives on: relaykit chat {session_id}")
        assert chat.exit_code() == 0
    assert "\x1b" not in chat.said


def test_what_was_typed_ahead_answers_no_question(place: Place) -> None:
    with started_in_terminal(place, "chat", "--role", "hasty", NO_COLOR="1") as chat:
        begun(chat)
        chat.type("/ask\n1\n")
        chat.expect(r"2  Reject \(no\)\r\n")
        chat.type("2\n")
        chat.expect("permission: no")


def test_a_reader_that_goes_away_is_no_error(place: Place) -> None:
    command = [*RELAYKIT, "chat", "--role", "unread"]
    pipe = subprocess.PIPE
    with subprocess.Popen(
        command, cwd=place.work, env=place.environment(), stdin=pipe, stdout=pipe, stderr=pipe
    ) as chat:
        assert chat.stdin is not None
        assert chat.stdout is not None
        assert chat.stderr is not None
        while b"the agent works in" not in chat.stdout.readline():
            assert chat.poll() is None
        chat.stdout.close()
        chat.stdin.write(b"hello\n")
        chat.stdin.flush()
        assert chat.wait(SECONDS) == 141
        assert chat.stderr.read() == b""
