from __future__ import annotations

import re
import signal
from pathlib import Path

import pytest

from support.programs import Place, serving, started


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def test_sigterm_puts_the_sessions_to_sleep(place: Place) -> None:
    with serving(place) as relay, started(place, "chat") as chat:
        session_id = chat.expect("session ([0-9a-f]+): ")[1]
        chat.expect("the agent works in")
        chat.type("/children 2 setsid\n")
        chat.expect("children: ")
        relay.interrupt(signal.SIGTERM)
        chat.expect(r"\(asleep: the relay is shutting down\)")
        chat.expect(f"the session lives on: relaykit chat {session_id}")
        assert chat.exit_code() == 1
        assert relay.exit_code(seconds=15) == 0
    assert "Traceback" not in relay.said
    assert place.processes() == []
    with serving(place):
        done = place.run("chat", session_id, typed="again\n/stop\n")
        assert done.returncode == 0, done


def test_sigterm_ends_the_sessions_in_order_where_it_should(place: Place) -> None:
    (place.work / "relaykit.toml").write_text('[relay]\non_shutdown = "end"\n')
    with serving(place) as relay, started(place, "chat") as chat:
        chat.expect("the agent works in")
        chat.type("/children 2 setsid\n")
        chat.expect("children: ")
        assert len(place.processes()) == 5  # the relay, the chat, the agent and its children
        relay.interrupt(signal.SIGTERM)
        chat.expect("the session has ended: the relay is shutting down")
        assert chat.exit_code() == 1
        assert relay.exit_code(seconds=15) == 0
        relay.expect(r"ACTIVE -> TERMINATING \(the relay is shutting down\)")
        relay.expect("TERMINATING -> CLEANED")
    assert "Traceback" not in relay.said
    assert place.processes() == []
    assert place.run("sessions", "stop", "x").returncode == 1


def test_a_second_relay_on_the_same_state_is_refused(place: Place) -> None:
    with serving(place) as relay:
        second = place.run("serve", "--port", "0")
        assert second.returncode == 2
        said = re.search(
            r"relaykit: another relay \(pid (\d+), http://.*\) uses the state directory", second.stderr
        )
        assert said is not None, second.stderr
        assert int(said[1]) == relay.process.pid
        assert place.run("sessions", "list").returncode == 0  # the first one goes on


def test_the_token_survives_a_restart(place: Place) -> None:
    tokens = []
    for _ in "ab":
        with serving(place) as relay:
            tokens.append(relay.said.partition("token=")[2].split()[0])
    assert tokens[0] == tokens[1]
