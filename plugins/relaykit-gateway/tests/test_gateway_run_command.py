from __future__ import annotations

import json
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from relaykit.settings import load_settings
from relaykit_gateway.address import find_relay
from relaykit_gateway.http_client import HttpClient
from support.programs import RELAYKIT, SECONDS, Place, serving, started, started_in_terminal


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """A place where a relay runs."""
    here = Place(tmp_path_factory.mktemp("run"))
    with serving(here):
        yield here
    assert here.processes() == []


def sessions(place: Place) -> list[str]:
    """Return the ids of the sessions that live."""
    relay = HttpClient(find_relay(load_settings(environ=place.environment(), cwd=place.work)))
    return [session["id"] for session in relay.sessions() if session["state"] == "ACTIVE"]


def stop(place: Place, session_id: str) -> None:
    done = place.run("chat", session_id, typed="/stop\n")
    assert "the session has ended" in done.stdout


def kept_in(stderr: str) -> str:
    """Return the session that is told to live on."""
    found = re.search(r"the session lives on: relaykit chat ([0-9a-f]+)$", stderr, re.MULTILINE)
    assert found is not None, stderr
    return found[1]


def events(stdout: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stdout.splitlines()]


def test_the_answer_is_all_of_the_output_and_the_session_is_ended(place: Place) -> None:
    done = place.run("run", "Grüße, **you**")
    assert (done.returncode, done.stdout) == (0, "Grüße, **you**\n")
    assert re.fullmatch(
        r"session [0-9a-f]+: echo as \S+, in \S+\nthe session has ended: .*\n", done.stderr
    ), done.stderr
    assert sessions(place) == []


def test_the_prompt_may_come_from_the_input(place: Place) -> None:
    done = place.run("run", "-", typed="line one\nline two")
    assert (done.returncode, done.stdout) == (0, "line one\nline two\n")


def test_a_session_is_kept_and_used_again(place: Place) -> None:
    done = place.run("run", "remember", "--keep", "--role", "kept")
    assert (done.returncode, done.stdout) == (0, "remember\n")
    assert "echo as kept" in done.stderr
    session_id = kept_in(done.stderr)
    again = place.run("run", "once more", "--session", session_id)
    assert (again.returncode, again.stdout) == (0, "once more\n")
    assert kept_in(again.stderr) == session_id
    assert sessions(place) == [session_id]
    stop(place, session_id)


def test_a_prompt_waits_for_the_turn_of_another(place: Place) -> None:
    with started(place, "chat", "--role", "busy") as chat:
        session_id = chat.expect(r"session ([0-9a-f]+): ")[1]
        chat.expect("the agent works in")
        chat.type("/sleep 0.5\n")
        chat.expect("> /sleep")
        done = place.run("run", "mine", "--session", session_id)
        assert (done.returncode, done.stdout) == (0, "mine\n")
        chat.expect("slept\n> mine\nmine")
        chat.type("/stop\n")
        assert chat.exit_code() == 0


@pytest.mark.parametrize(("option", "decision"), [("--yes", "yes"), ("--no", "no")])
def test_a_policy_answers(place: Place, option: str, decision: str) -> None:
    done = place.run("run", "/ask", option)
    assert (done.returncode, done.stdout) == (0, f"permission: {decision}\n")
    assert f"? Say it: {'Allow' if decision == 'yes' else 'Reject'}\n" in done.stderr


def test_a_question_needs_a_person(place: Place) -> None:
    done = place.run("run", "/ask")
    assert (done.returncode, done.stdout) == (4, "")
    assert "? Say it" in done.stderr
    session_id = kept_in(done.stderr)
    waiting = place.run("run", "later", "--session", session_id, "--yes")
    assert (waiting.returncode, waiting.stdout) == (4, "")
    assert "the prompt was taken back" in waiting.stderr
    with started(place, "chat", session_id) as chat:
        chat.expect(r"1  Allow \[y\]")
        chat.type("y\n")
        chat.expect("permission: yes")
        chat.type("/stop\n")
        assert chat.exit_code() == 0
        assert "later" not in chat.said


def test_a_form_cannot_be_answered_by_yes_but_by_no(place: Place) -> None:
    done = place.run("run", "/elicit", "--no")
    assert (done.returncode, done.stdout) == (0, 'elicitation: {"action": "decline"}\n')
    done = place.run("run", "/elicit", "--yes")
    assert done.returncode == 4
    assert "? Name?" in done.stderr
    stop(place, kept_in(done.stderr))


def test_a_person_is_asked_at_the_terminal(place: Place) -> None:
    with started_in_terminal(place, "run", "/ask", "--ask", NO_COLOR="1") as run:
        run.expect(r"2  Reject \[n\]\r\n\[1/2/y/n\] ")
        run.type("n")
        run.expect("Reject\r\npermission: no\r\nthe session has ended")
        assert run.exit_code() == 0
    with started_in_terminal(place, "run", "/ask", "--ask", NO_COLOR="1") as run:
        run.expect(r"\[1/2/y/n\] ")
        run.type("\x04")
        session_id = run.expect(r"the session lives on: relaykit chat (\w+)")[1]
        assert run.exit_code() == 4
    stop(place, session_id)


def test_every_event_as_json(place: Place) -> None:
    done = place.run("run", "/ask", "--json", "--yes", "--role", "json")
    assert done.returncode == 0
    said = events(done.stdout)
    assert [event["event"] for event in said] == ["session", "question", "update", "turn", "end"]
    session, question, update, turn, end = said
    assert (session["role"], session["agent"], session["cwd"]) == ("json", "echo", str(place.work))
    assert question["answer"] == {"outcome": {"outcome": "selected", "optionId": "yes"}}
    assert question["params"]["toolCall"]["title"] == "Say it"
    assert update["update"]["content"] == {"type": "text", "text": "permission: yes"}
    assert session["sessionId"] not in sessions(place)
    assert question["seq"] < update["seq"]
    assert (turn["stopReason"], turn["error"]) == ("end_turn", None)
    assert (end["exitCode"], end["sessionEnded"]) == (0, True)
    assert {result["outcome"] for result in end["cleanup"]} == {"DONE"}


def test_updates_are_as_the_agent_sent_them(place: Place) -> None:
    update = {"sessionUpdate": "something_new", "x": [1.50, {"y": None}], "_meta": {"z": "é"}}
    raw = {
        "jsonrpc": "2.0",
        "method": "session/update",
        "params": {"sessionId": "$SESSION", "update": update},
    }
    done = place.run("run", f"/raw {json.dumps(raw)}", "--json")
    assert done.returncode == 0
    assert [event["update"] for event in events(done.stdout) if event["event"] == "update"] == [update]


def test_a_turn_that_fails(place: Place) -> None:
    done = place.run("run", "/fail")
    assert (done.returncode, done.stdout) == (1, "")
    assert "relaykit: told to fail\n" in done.stderr
    done = place.run("run", "/crash 3", "--json")
    assert done.returncode == 1
    said = events(done.stdout)
    assert "turn" in {event["event"] for event in said}
    assert said[-1]["exitCode"] == 1
    assert sessions(place) == []


def test_what_cannot_be_begun(place: Place, tmp_path: Path) -> None:
    done = place.run("run", "hello", "--agent", "hal")
    assert (done.returncode, done.stdout) == (1, "")
    assert "hal" in done.stderr
    done = place.run("run", "hello", "--session", "nobody", "--json")
    assert done.returncode == 1
    error, end = events(done.stdout)
    assert (error["event"], error["code"], end["exitCode"]) == ("error", -32002, 1)
    (tmp_path / "elsewhere").mkdir()
    done = Place(tmp_path / "elsewhere").run("run", "hello")
    assert done.returncode == 1
    assert "start one with `relaykit serve`" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["hello", "--session", "x", "--role", "y"], "--role is for a new session"),
        (["hello", "--session", "x", "--keep"], "--keep is for a new session"),
        (["hello", "--ask"], "--ask needs a terminal"),
        (["-", "--ask"], "--ask needs a terminal"),
        ([" "], "the prompt is empty"),
        (["-"], "the prompt is empty"),
        (["hello", "--yes", "--no"], "not allowed with"),
        ([], "required"),
    ],
)
def test_wrong_usage(place: Place, arguments: list[str], problem: str) -> None:
    done = place.run("run", *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert problem in done.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_cancels_the_turn_and_ends_the_session(place: Place, number: signal.Signals) -> None:
    with started(place, "run", "/sleep 60") as run:
        run.expect(r"session [0-9a-f]+: ")
        run.interrupt(number)
        run.expect("cancelling; again leaves at once")
        assert run.exit_code() == 130
        run.expect(r"the session has ended")
    assert sessions(place) == []


def test_a_second_signal_leaves_at_once(place: Place) -> None:
    with started(place, "run", "/deaf") as run:
        session_id = run.expect(r"session ([0-9a-f]+): ")[1]
        run.interrupt()
        run.expect("cancelling")
        run.interrupt()
        assert run.exit_code() == 130
    assert place.run("sessions", "stop", session_id).returncode == 0


def test_a_signal_after_the_answer_takes_nothing_of_it_back(place: Place) -> None:
    with started(place, "run", "/ignore-signals") as run:
        run.expect("signals are ignored\n")
        run.interrupt()
        assert run.exit_code() == 0


def test_what_another_client_cancels_is_cancelled(place: Place) -> None:
    with started(place, "run", "/sleep 60") as run:
        session_id = run.expect(r"session ([0-9a-f]+): ")[1]
        with started(place, "chat", session_id) as chat:
            chat.expect("the agent works in")
            chat.interrupt()
            chat.expect(r"\(cancelled\)")
            assert run.exit_code() == 130
            chat.expect("the session has ended")


def test_a_session_that_is_ended_elsewhere(place: Place) -> None:
    with started(place, "run", "/sleep 60") as run:
        session_id = run.expect(r"session ([0-9a-f]+): ")[1]
        assert place.run("sessions", "stop", session_id, "--reason", "enough").returncode == 0
        run.expect("enough")
        assert run.exit_code() == 1


def test_a_reader_that_goes_away_ends_the_session_too(place: Place) -> None:
    command = [*RELAYKIT, "run", "/stream 100000 100"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=place.work, env=place.environment(), stdout=pipe, stderr=pipe) as run:
        assert run.stdout is not None
        assert run.stderr is not None
        assert run.stdout.read(100).startswith(b"0000000 xxx")
        run.stdout.close()
        assert b"the session has ended" in run.stderr.read()
        assert run.wait(SECONDS) == 141
    assert sessions(place) == []


def test_a_relay_that_goes_away(tmp_path: Path) -> None:
    place = Place(tmp_path)
    with serving(place) as relay, started(place, "run", "/sleep 60") as run:
        session_id = run.expect(r"session ([0-9a-f]+): ")[1]
        relay.process.kill()
        run.expect("relaykit: the relay closed the connection")
        run.expect(f"the session may live on: relaykit sessions stop {session_id}")
        assert run.exit_code() == 1


def test_what_is_no_utf8_is_sent_as_it_can_be(place: Place) -> None:
    done = place.run("run", "caf\udce9")
    assert (done.returncode, done.stdout) == (0, "caf\ufffd\n")
