"""``relaykit sessions list --watch``."""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Iterator

import pytest

from relaykit_gateway.commands.watching import Rates
from support.programs import Place, serving, started, started_in_terminal


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """A place where a relay runs."""
    here = Place(tmp_path_factory.mktemp("watch"))
    with serving(here):
        yield here
    assert here.processes() == []


def test_a_question_shows_on_the_terminal_and_goes_once_it_is_answered(place: Place) -> None:
    with (
        started_in_terminal(place, "chat", "--role", "asking") as chat,
        started_in_terminal(place, "sessions", "list", "--watch", "0.1") as watching,
    ):
        watching.expect("1 sessions, .* 0 questions wait")
        chat.expect("the agent works in")
        chat.type("/ask\r")
        watching.expect("1 questions wait")
        watching.expect(r"asking +echo +local +default +ACTIVE +\d+ .* 1 +1 ")
        chat.type("y")
        watching.expect("0 questions wait")
        watching.interrupt()
        assert watching.exit_code() == 0
        assert watching.said.startswith("\x1b[?1049h")
        assert re.search(r"\x1b\[\?1049l\s*$", watching.said)


def test_who_is_ended_leaves_the_terminal_as_it_was(place: Place) -> None:
    with started_in_terminal(place, "sessions", "list", "--watch", "0.1") as watching:
        watching.expect("sessions, .* questions wait")
        watching.interrupt(signal.SIGTERM)
        assert watching.exit_code() == 128 + signal.SIGTERM
        assert re.search(r"\x1b\[\?1049l\s*$", watching.said)


def test_as_json_it_is_a_line_each_time(place: Place) -> None:
    with (
        started(place, "chat", "--role", "busy") as chat,
        started(place, "sessions", "list", "--watch", "0.1", "--json") as watching,
    ):
        chat.expect("the agent works in")
        watching.expect(r'"agentId":"busy"[^}]*"turn":false')
        chat.type("/stream 3000 10\n")
        watching.expect(r'"messagesPerSecond":[1-9]')
        watching.interrupt(signal.SIGINT)
        assert watching.exit_code() == 0
        lines = [json.loads(line) for line in watching.said.splitlines()]
        assert len(lines) > 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--watch"], "add --json"),
        (["--watch", "--ended"], "leave out --watch"),
    ],
)
def test_what_cannot_be_watched_is_said(place: Place, arguments: list[str], said: str) -> None:
    done = place.run("sessions", "list", *arguments)
    assert (done.returncode, done.stdout) == (1, "")
    assert said in done.stderr


@pytest.mark.parametrize("seconds", ["0", "nan", "x", "-1", "1e9"])
def test_how_often_is_checked(place: Place, seconds: str) -> None:
    done = place.run("sessions", "list", f"--watch={seconds}")
    assert done.returncode == 2
    assert "is no number of seconds from 0.1 to 3600" in done.stderr


def test_rates_are_of_the_time_between_two_looks() -> None:
    times = iter([10.0, 12.0, 12.5])
    rates = Rates(lambda: next(times))
    assert rates.of([{"id": "a", "messageCount": 5}]) == {"a": 0}
    assert rates.of([{"id": "a", "messageCount": 9}, {"id": "b", "messageCount": 7}]) == {"a": 2, "b": 0}
    assert rates.of([{"id": "b", "messageCount": 8}]) == {"b": 2}
