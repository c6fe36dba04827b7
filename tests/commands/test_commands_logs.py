"""``relaykit serve --log-format json``: a JSON object a line, whatever is logged."""

from __future__ import annotations

import json
import logging
import signal
import sys
from pathlib import Path

from relaykit.commands.logs import JsonFormatter
from support.programs import Place, serving

SAID = "mellon-mellon-mellon"


def test_a_record_is_one_line() -> None:
    try:
        raise ValueError("two\nlines")
    except ValueError:
        failure = sys.exc_info()
    record = logging.LogRecord("relaykit.x", logging.ERROR, "x.py", 1, "said: %s", ("a\nb \ud800",), failure)
    record.created = 1893456000.25
    record.__dict__.update(event="session.created", facts={"sessionId": "s1", "message": "not this one"})
    line = JsonFormatter().format(record)
    assert line.isascii()
    assert "\n" not in line
    found = json.loads(line)
    assert "ValueError: two\nlines" in found.pop("exception")
    assert found == {
        "time": "2030-01-01T00:00:00.250000+00:00",
        "level": "error",
        "logger": "relaykit.x",
        "message": "said: a\nb \ud800",
        "event": "session.created",
        "sessionId": "s1",
    }


def test_serve_logs_a_session_as_json_without_its_words(tmp_path: Path) -> None:
    place = Place(tmp_path)
    with serving(place, "--log-format", "json") as relay:
        done = place.run("run", SAID)
        assert (done.returncode, done.stdout) == (0, f"{SAID}\n"), done
        relay.expect("session.terminated")
        relay.interrupt(signal.SIGTERM)
        assert relay.exit_code() == 0
        lines = [
            line for line in relay.said.splitlines() if "token=" not in line
        ]  # which is for people, on stdout
    logged = [json.loads(line) for line in lines]
    assert SAID not in relay.said
    events = [entry for entry in logged if "event" in entry]
    assert [entry["event"] for entry in events] == [
        "session.created",
        "session.spawning",
        "session.ready",
        "session.message_sent",
        "session.terminating",
        "session.terminated",
    ]
    assert len({(entry["sessionId"], entry["agentId"], entry["traceId"]) for entry in events}) == 1
    assert events[-1]["messageCount"] > 0
    assert events[-1]["duration"] > 0
    assert any("a second signal stops at once" in entry["message"] for entry in logged)
