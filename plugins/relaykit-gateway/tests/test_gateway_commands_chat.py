from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Iterator, Mapping
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
    typed = "hello\n\n/ask\nperhaps\nreject\n/ask\n1\n/stream 3 16\n/sleep 0.2\n//hello\n**last**"
    done = place.run("chat", "--role", "script", typed=typed)
    assert (done.returncode, done.stderr) == (0, "")
    session_id = done.stdout.split()[1].removesuffix(":")
    question = ["? Say it", "  1  Allow [y]", "  2  Reject [n]"]
    opened = [f"session {session_id}: echo as script", f"the agent works in {place.work}"]
    assert done.stdout.splitlines() == [
        *opened,
        *("> hello", "hello", "> "),
        *("> /ask", *question, "> perhaps", "'perhaps' is none of the answers"),
        *("> reject", "permission: no"),
        *("> /ask", *question, "> 1", "permission: yes"),
        *("> /stream 3 16", "0000000 xxxxxxxx0000001 xxxxxxxx0000002 xxxxxxxx"),
        *("> /sleep 0.2", "slept"),
        *("> //hello", "/hello"),
        *("> **last**", "**last**"),
        f"the session lives on: relaykit chat {session_id}",
    ]
    again = place.run("chat", session_id, typed="/stop\n")
    assert again.returncode == 0
    said = again.stdout.splitlines()
    assert [line for line in said if line.startswith(">")] == [
        *(
            "> hello",
            "> /ask",
            "> /ask",
            "> /stream 3 16",
            "> /sleep 0.2",
            "> /hello",
            "> **last**",
            "> /stop",
        )
    ]
    assert said[said.index("> **last**") + 1 :][:3] == ["**last**", *opened]
    assert said[-1].startswith("the session has ended: ")


def test_modes_models_help_and_forms(place: Place) -> None:
    typed = "/mode\n/mode whisper\n/mode SHOUT\n/mode\n/model big\n/help\n/image\n/elicit\nAda\n/elicit\n/decline\n"
    done = place.run("chat", "--role", "modes", typed=typed + "/stop\n")
    assert (done.returncode, done.stderr) == (0, "")
    said = done.stdout.splitlines()[2:]
    assert [line for line in said if not line.startswith(("/", "//", "Ctrl-C"))] == [
        *("> /mode", "* 1  echo (echo)", "  2  shout (shout)"),
        *("> /mode whisper", "'whisper' is no mode of the agent's", "* 1  echo (echo)", "  2  shout (shout)"),
        *("> /mode SHOUT", "(mode: shout)", "mode: shout"),
        *("> /mode", "  1  echo (echo)", "* 2  shout (shout)"),
        *("> /model big", "the agent offers no model to choose"),
        "> /help",
        *("> /image", "which image? /image PATH [text]"),
        *("> /elicit", "? Name?", "(/decline answers nothing)", "  name: may be empty", "> Ada"),
        'elicitation: {"action": "accept", "content": {"name": "Ada"}}',
        *("> /elicit", "? Name?", "(/decline answers nothing)", "  name: may be empty", "> /decline"),
        'elicitation: {"action": "decline"}',
        "> /stop",
        said[-1],
    ]
    assert "/stop                end the session" in said


def test_images_go_along(place: Place) -> None:
    (place.work / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    (place.work / "b.gif").write_bytes(b"no image")
    typed = "/image a.png what is it?\n/image b.gif\nsee @a.png, not @c.png\n/stop\n"
    done = place.run("chat", "--role", "images", typed=typed)
    assert done.stdout.splitlines()[2:-1] == [
        *("> /image a.png what is it?", "what is it?[image]"),
        *("> /image b.gif", "'b.gif' is no PNG, JPEG, GIF or WebP"),
        *("> see @a.png, not @c.png", "see @a.png, not @c.png[image]"),
        "> /stop",
    ]


def test_tool_calls_and_plans(place: Place) -> None:
    def raw(update: Mapping[str, object]) -> str:
        params = {"sessionId": "$SESSION", "update": update}
        return f"/raw {json.dumps({'jsonrpc': '2.0', 'method': 'session/update', 'params': params})}\n"

    call = {"sessionUpdate": "tool_call", "toolCallId": "c", "title": "Run \x1b[2Jx", "kind": "execute"}
    failed = {"sessionUpdate": "tool_call_update", "toolCallId": "c", "status": "failed"}
    plan = {
        "sessionUpdate": "plan",
        "entries": [{"content": "think", "priority": "low", "status": "pending"}],
    }
    done = place.run(
        "chat",
        "--role",
        "tools",
        typed=raw({**call, "status": "failed"}) + raw(plan) + raw(failed) + "/stop\n",
    )
    assert [line for line in done.stdout.splitlines()[2:-1] if not line.startswith(">")] == [
        *("* Run [2Jx (execute): failed", "[ ] think", "* c: failed"),
    ]


def test_two_chats_in_one_session(place: Place) -> None:
    with started(place, "chat", "--role", "shared") as one:
        session_id = begun(one)
        with started(place, "chat", session_id) as other:
            begun(other)
            one.type("/ask\n")
            other.expect("> /ask")
            for chat in (one, other):
                chat.expect(r"2  Reject \[n\]")
            other.type("no\n")
            one.expect("answered by the relay's own token")
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
            f"the role 'single' of project 'default' is already played by session '{session_id}'"
            in second.stdout
        )
        assert "relaykit chat SESSION_ID attaches" in second.stdout
        chat.type("/stop\n")
        assert chat.exit_code() == 0


def test_an_unknown_session_and_an_unknown_agent(place: Place) -> None:
    done = place.run("chat", "nobody")
    assert (done.returncode, done.stderr) == (1, "")
    assert "no session 'nobody'" in done.stdout
    done = place.run("chat", "--agent", "hal")
    assert (done.returncode, done.stdout) == (1, "")
    assert "'hal'" in done.stderr


def test_an_agent_that_goes_away(place: Place) -> None:
    done = place.run("chat", "--role", "crash", typed="/fail\nstill here\n/crash 3\nback\n/stop\n")
    assert "failed: told to fail" in done.stdout
    assert "> still here\nstill here\n" in done.stdout
    assert "failed: interrupted: agent 'echo': it exited with 3" in done.stdout
    assert "(the agent crashed, and is started again: agent 'echo': it exited with 3" in done.stdout
    assert "(awake again)\nback\n" in done.stdout
    assert "the session has ended: " in done.stdout
    assert (done.returncode, done.stderr) == (0, "")


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
        chat.expect(r"2  Reject \[n\]\r\n\[1/2/y/n\] ")
        chat.type("xy")
        chat.expect("Allow\r\npermission: yes\r\n> ")
        chat.type("/ask\n")
        chat.expect(r"\[1/2/y/n\] ")
        chat.type("2")
        chat.expect("Reject\r\npermission: no\r\n> ")
        chat.type("/elicit\n")
        chat.expect("name: may be empty\r\nname: ")
        chat.type("Ada\n")
        chat.expect('"name": "Ada"')
        chat.expect("> ")
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
        chat.expect(r"\[1/2/y/n\] ")
        chat.type("2")
        chat.expect("permission: no")


def test_markdown_is_rendered_in_a_terminal_that_has_colours(place: Place) -> None:
    with started_in_terminal(place, "chat", "--role", "colours", TERM="xterm") as chat:
        begun(chat)
        chat.type("a **b** `c`\n")
        chat.expect(r"a \x1b\[1mb\x1b\[0m \x1b\[36mc\x1b\[0m\r\n")
        chat.type("/stop\n")
        assert chat.exit_code() == 0
    with started_in_terminal(place, "chat", "--role", "plain", "--plain", TERM="xterm") as chat:
        begun(chat)
        chat.type("a **b** `c`\n")
        chat.expect(r"a \*\*b\*\* `c`\r\n")
        chat.expect(r"a \*\*b\*\* `c`\r\n")
        chat.type("/stop\n")
        assert chat.exit_code() == 0
    assert "\x1b" not in chat.said


def test_an_interrupt_closes_a_question(place: Place) -> None:
    with started_in_terminal(place, "chat", "--role", "doubtful", NO_COLOR="1") as chat:
        begun(chat)
        chat.type("/ask\n")
        chat.expect(r"\[1/2/y/n\] ")
        chat.type("\x03")
        chat.expect("no longer asked")
        chat.expect("permission: cancelled")
        chat.expect("> ")
        chat.type("shown again?\n")
        chat.expect("shown again[?]\r\nshown again[?]\r\n> ")  # the terminal is as it was
        chat.type("/stop\n")
        assert chat.exit_code() == 0


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
