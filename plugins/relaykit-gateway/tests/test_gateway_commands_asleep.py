"""The commands, where sessions sleep."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from relaykit_gateway.acp_client import AgentCrashed, SessionAsleep, SessionAwake, WakeFailed
from relaykit_gateway.acp_client.reading import event_of
from relaykit_gateway.commands.sessions import _state_of
from support.programs import SECONDS, Place, Program, serving, started


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    """A place where a relay runs, whose agents sleep as soon as nobody is there."""
    here = Place(tmp_path)
    (here.work / "relaykit.toml").write_text("[relay]\nidle_timeout = 0.1\n")
    with serving(here):
        yield here
    assert here.processes() == []


def left_asleep(place: Place) -> str:
    """Talk in a session, leave it, wait until it sleeps, and return its id."""
    done = place.run("chat", "--role", "lasting", typed="hello\n")
    session_id = done.stdout.split()[1].removesuffix(":")
    deadline = time.monotonic() + SECONDS
    # The relay looks once a second, and tells nobody who is not there.
    while "ACTIVE, asleep" not in (listed := place.run("sessions", "list").stdout):
        assert time.monotonic() < deadline, listed
    return session_id


def test_chat_says_that_it_slept_and_goes_on(place: Place) -> None:
    session_id = left_asleep(place)
    shown = json.loads(place.run("sessions", "show", session_id, "--json").stdout)
    assert (shown["state"], shown["presence"]) == ("ACTIVE", "ASLEEP")
    with started(place, "chat", session_id) as chat:
        chat.expect("> hello")
        chat.expect(r"\(asleep: nobody used it for 0\.1 s\)")
        chat.expect(r"\(awake again\)")
        chat.expect("the agent works in")
        said(chat, "again")
        chat.end_input()
        assert chat.exit_code() == 0


def said(chat: Program, text: str) -> None:
    chat.type(f"{text}\n")
    chat.expect(rf"> {text}\r?\n{text}")


def test_run_wakes_a_session(place: Place) -> None:
    session_id = left_asleep(place)
    done = place.run("run", "--session", session_id, "once more")
    assert (done.returncode, done.stdout) == (0, "once more\n")


@pytest.mark.parametrize(
    ("state", "presence", "login", "shown"),
    [
        ("ACTIVE", "AWAKE", False, "ACTIVE"),
        ("ACTIVE", "ASLEEP", False, "ACTIVE, asleep"),
        ("ACTIVE", "DROWSY", False, "ACTIVE, falling asleep"),
        ("ACTIVE", "WAKING", False, "ACTIVE, waking"),
        ("ACTIVE", "AWAKE", True, "ACTIVE, needs login"),
        ("SPAWNING", "SPAWNING", False, "SPAWNING"),
        ("TERMINATING", "ASLEEP", False, "TERMINATING"),
    ],
)
def test_what_the_list_says_of_a_session(state: str, presence: str, *, login: bool, shown: str) -> None:
    assert _state_of({"state": state, "presence": presence, "needsLogin": login}) == shown


@pytest.mark.parametrize(
    ("method", "more", "event"),
    [
        ("agent_crashed", {"reason": "dead"}, AgentCrashed(session_id="s", seq=7, reason="dead")),
        ("session_asleep", {"reason": "idle"}, SessionAsleep(session_id="s", seq=7, reason="idle")),
        ("session_awake", {}, SessionAwake(session_id="s", seq=7)),
        ("wake_failed", {"reason": "no"}, WakeFailed(session_id="s", seq=7, reason="no")),
    ],
)
def test_a_client_of_acp_reads_it(method: str, more: dict[str, Any], event: object) -> None:
    params = {"sessionId": "s", "_meta": {"relaykit": {"seq": 7}}, **more}
    assert event_of(f"_relaykit/{method}", params) == event
